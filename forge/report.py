"""What the forge made, in a few lines for people."""

from collections.abc import Iterator

from adam.contract.config import Trainer
from adam.contract.curriculum import first_steps
from adam.contract.durable import human_bytes
from adam.contract.shards import ShardManifest, TokensManifest


def lines(shards: ShardManifest, tokens: TokensManifest, trainer: Trainer) -> Iterator[str]:
    """A line a source (documents read = written + dropped), a split and a phase, one for what encoded them, one for the floor."""
    for source in shards.sources:
        counts = {**source.dropped, **{f"files {reason}": number for reason, number in source.files_skipped.items()}}
        dropped = ", ".join(f"{reason} {number}" for reason, number in sorted(counts.items()))
        yield (
            f"{source.name}: {source.files} files, {source.documents_read} documents read, {source.documents_written} written"
            f" ({source.characters_written:,} characters)" + (f"; dropped: {dropped}" if dropped else "")
        )
    for name, split in tokens.splits.items():
        yield (
            f"{name}: {split.documents} documents, {human_bytes(split.text_bytes)} of text, {split.count:,} tokens"
            f" ({split.text_bytes / split.count:.2f} bytes each)"
            + (f", {split.prompt_tokens:,} of them prompt" if split.prompt_tokens else "")
        )
    for name, step in first_steps(tokens, trainer.seq_len, trainer.batch_size):
        yield f"phase {name}: from step {step:,} on"
    yield f"tokens by {tokens.encoder}"
    yield f"an order-2 byte model counted on train needs {tokens.order2_bits_per_byte:.3f} bits per byte on val"
