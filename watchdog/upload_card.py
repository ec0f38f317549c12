"""The model card (README.md) of an upload: what was trained, how far, on what, and under which licences. Pure."""

import re

from adam.contract.checkpoints import Manifest
from adam.contract.clock import iso
from adam.contract.config import Config
from adam.contract.model import ModelConfig, parameter_count
from adam.contract.records import StepRow
from adam.contract.shards import ShardManifest, SourceSummary, TokensManifest

NUMBERED = re.compile(r"<(\w+)_(\d+)>")

HEAD = """---
library_name: mamba-ssm
pipeline_tag: text-generation
tags:
- mamba
- adam
---
"""
USE = """
```python
config = MambaConfig(**json.load(open("config.json")))
model = MambaLMHeadModel(config)
model.load_state_dict(safetensors.torch.load_file("model.safetensors"))
```
"""


def model_card(
    name: str,
    config: Config,
    shape: ModelConfig,
    manifest: Manifest,
    rows: tuple[StepRow | None, StepRow | None],
    shards: ShardManifest | None,
    tokens: TokensManifest | None,
) -> str:
    """`rows`: the last step's of the checkpoint, and the last one before it that was validated."""
    trainer = config.trainer
    facts = {
        "architecture": f"{shape.arch}, {shape.n_layer} blocks, width {shape.d_model}, state {shape.d_state}",
        "parameters": f"{parameter_count(shape):,}",
        "vocabulary": f"{shape.vocab_size:,}",
        **(tokenizer_facts(tokens) if tokens else {}),
        "checkpoint": f"{manifest.step:,} of {trainer.steps:,} steps, {iso(manifest.stamp.wall)}",
        "tokens trained on": f"{manifest.tokens:,}",
        **losses(*rows),
        "batch": f"{trainer.batch_size} × {trainer.seq_len} tokens",
        "learning rate": f"{trainer.lr:g} to {trainer.min_lr:g}, {trainer.warmup_steps:,} steps of warm-up",
        "seed": str(trainer.seed),
        "weights": config.upload.dtype,
        "numerics": manifest.fingerprint,
    }
    table = [f"| {key} | {cell(value)} |" for key, value in facts.items() if value]
    lines = [HEAD, f"# {name}", "", "Trained with Adam. The weights are named as mamba_ssm names them.", USE]
    lines += ["| | |", "|---|---|", *table, "", "## Data", "", *ledger(shards), ""]
    return "\n".join(lines)


def tokenizer_facts(tokens: TokensManifest) -> dict[str, str]:
    """Where the ids are from, who gave them, and which of them are no text."""
    splits = (f"{name} {split.documents:,} documents, {split.count:,} tokens" for name, split in tokens.splits.items())
    special = [f"{tokens.end_of_text} between documents"]
    if tokens.marks:
        ids = sorted(tokens.marks.values())
        special.append(f"{ids[0]:,} to {ids[-1]:,}: {marks(tokens.marks)}")
    return {
        "tokenizer": tokens.tokenizer_origin,
        "encoded by": tokens.encoder,
        "special tokens": "; ".join(special),
        "splits": "; ".join(splits),
    }


def marks(known: dict[str, int]) -> str:
    """The marks that masking writes, the numbered ones of a kind as one."""
    last: dict[str, int] = {}
    for mark in known:
        if found := NUMBERED.fullmatch(mark):
            last[found[1]] = max(last.get(found[1], 0), int(found[2]))
    plain = [mark for mark in known if not NUMBERED.fullmatch(mark)]
    return ", ".join(f"`{mark}`" for mark in [*plain, *(f"<{kind}_1…{number}>" for kind, number in last.items())])


def losses(last: StepRow | None, validated: StepRow | None) -> dict[str, str]:
    found = {}
    if last is not None and last.loss is not None:
        found["loss"] = f"{last.loss:.4f} nats per token (step {last.step:,})"
    if validated is not None and validated.val_loss is not None:
        found["validation loss"] = f"{validated.val_loss:.4f} nats per token (step {validated.step:,})"
    if validated is not None and validated.val_bits_per_byte is not None:
        found["validation bits per byte"] = f"{validated.val_bits_per_byte:.4f}"
    return found


def ledger(shards: ShardManifest | None) -> list[str]:
    """What the model was trained on, source by source, with the licences as people wrote them down."""
    if shards is None:
        return ["Nothing is known of the data."]
    lines = [
        "| source | kind | revision | licence | read | documents | characters | dropped | files skipped |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for source in shards.sources:
        lines.append("| " + " | ".join(map(cell, cells(source))) + " |")
        if found := source.masked.documents:
            notes.append(
                f"- {source.name}, masked: {counted(found)}; placeholders: {counted(source.masked.entities) or 'none'}"
            )
        notes += [f"- {source.name}: {note}" for note in source.notes]
        notes += [f"- {source.name} was given up: {source.given_up}"] if source.given_up else []
    for phase in shards.phases:
        taken = ", ".join(f"{name} {count:,}" for name, count in phase.taken.items())
        notes.append(f"- mix {phase.name}, {phase.unit}: {taken}" + "".join(f"; {note}" for note in phase.notes))
    notes += [f"- entities were found by {shards.ner_model}"] if shards.ner_model else []
    notes += [f"- no document shares a run of words with the evaluation set {name}" for name in shards.evaluation]
    return lines + ([""] if notes else []) + [" ".join(note.split()) for note in notes]


def cells(source: SourceSummary) -> tuple[str, ...]:
    """A source's row. read = documents + dropped."""
    parts = filter(None, (source.path, source.config, source.split))
    return (
        f"{source.name} ({', '.join(parts)})" if source.kind == "hub" else source.name,
        source.kind,
        source.revision,
        source.licence or "not stated",
        f"{source.documents_read:,}",
        f"{source.documents_written:,}",
        f"{source.characters_written:,}",
        counted(source.dropped),
        counted(source.files_skipped),
    )


def counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def cell(text: str) -> str:
    """`text` for a cell of a table: whatever somebody has called a source, it ends no cell and no line."""
    return " ".join(text.replace("|", "\\|").split())
