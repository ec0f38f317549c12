"""The model card (README.md) of an upload: what was trained, how far, on what, and under which licences. Pure."""

from adam.contract.checkpoints import Manifest
from adam.contract.clock import iso
from adam.contract.config import Config
from adam.contract.model import ModelConfig, parameter_count
from adam.contract.records import StepRow
from adam.contract.shards import ShardManifest, TokensManifest

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
        "tokenizer": tokens.tokenizer_origin if tokens else "",
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
        "| source | kind | revision | licence | documents | characters | dropped |",
        "|---|---|---|---|---|---|---|",
    ]
    notes = []
    for source in shards.sources:
        name = f"{source.name} ({source.path})" if source.kind == "hub" else source.name
        cells = (name, source.kind, source.revision[:16], source.licence or "not stated")
        dropped = ", ".join(f"{reason} {count:,}" for reason, count in sorted(source.dropped.items()))
        counts = (f"{source.documents_written:,}", f"{source.characters_written:,}", dropped)
        lines.append("| " + " | ".join(cell(text) for text in (*cells, *counts)) + " |")
        notes += [f"- {source.name}: {note}" for note in source.notes]
        notes += [f"- {source.name} was given up: {source.given_up}"] if source.given_up else []
    for phase in shards.phases:
        taken = ", ".join(f"{name} {count:,}" for name, count in phase.taken.items())
        notes.append(f"- mix {phase.name}, {phase.unit}: {taken}" + "".join(f"; {note}" for note in phase.notes))
    return lines + ([""] if notes else []) + [" ".join(note.split()) for note in notes]


def cell(text: str) -> str:
    """`text` for a cell of a table: whatever somebody has called a source, it ends no cell and no line."""
    return " ".join(text.replace("|", "\\|").split())
