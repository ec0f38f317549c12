"""Snapshots: the whole state of training as named tensors and integers, written into slots and read back from checkpoints.

The trainer only writes slots; the keeper makes checkpoints of them.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import torch
from safetensors import safe_open

from adam.contract.checkpoints import rank_file, verify
from adam.contract.errors import CheckpointError, ConfigError, DataError
from adam.contract.slots import SlotHead, SlotWriter, TensorEntry, read_head
from adam.trainer.model.lm import MambaLM
from adam.trainer.optim import moments, set_step

SLOTS = 2
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64", torch.uint8: "U8"}


class Position(msgspec.Struct, frozen=True):
    """Where training stands: all integers."""

    step: int = 0  # updates done
    samples: int = 0  # data position: the first that is not yet trained on
    tokens: int = 0  # trained on


class Identity(msgspec.Struct, frozen=True):
    """What a snapshot belongs to, the same for a whole attempt."""

    run: str
    attempt: int
    token: int
    parent: str
    fingerprint: str
    config_digest: str
    data_digest: str  # of the train tokens: a position means nothing in other data


def named_state(model: MambaLM, optimizer: torch.optim.AdamW) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of all that training changes: weights, both moments, the state of every random generator."""
    for name, parameter in model.named_parameters():
        yield f"model.{name}", parameter.detach()
    yield from moments(model, optimizer)
    yield "rng.cpu", torch.get_rng_state()
    if torch.cuda.is_available():
        yield "rng.cuda", torch.cuda.get_rng_state()


class Snapshots:
    """Writes snapshots into slots in turn; a slot that the keeper is copying is left alone.

    Raises DiskError (when it is made) where there is no room for the slots.
    """

    def __init__(self, directory: Path, model: MambaLM, optimizer: torch.optim.AdamW, identity: Identity) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._model, self._optimizer, self._identity = model, optimizer, identity
        entries = [TensorEntry(name, _DTYPES[t.dtype], tuple(t.shape)) for name, t in named_state(model, optimizer)]
        self._slots = [SlotWriter(directory / f"slot-{number}.safetensors", entries) for number in range(SLOTS)]
        self.taken = 0

    def take(self, position: Position, *, why: str, saves: int) -> bool:
        """Write a snapshot of now. False where the keeper is still copying the slot whose turn it is: try again later."""
        # The other slot holds the newest snapshot: that one is never given up for a new one.
        slot = self._slots[self.taken % SLOTS]
        if not slot.begin():
            return False
        for name, tensor in named_state(self._model, self._optimizer):
            into = torch.frombuffer(slot.buffer(name), dtype=tensor.dtype).view(tensor.shape)
            into.copy_(tensor)
        identity = self._identity
        self.taken += 1
        slot.complete(
            SlotHead(
                run=identity.run,
                attempt=identity.attempt,
                token=identity.token,
                sequence=self.taken,
                step=position.step,
                tokens=position.tokens,
                samples=position.samples,
                saves=saves,
                why=why,
                parent=identity.parent,
                fingerprint=identity.fingerprint,
                config_digest=identity.config_digest,
                state={"data_digest": identity.data_digest},
            )
        )
        return True

    def close(self) -> None:
        for slot in self._slots:
            slot.close()


def restore(directory: Path, model: MambaLM, optimizer: torch.optim.AdamW, expected: Identity) -> Position:
    """Fill model, moments and random generators from a checkpoint, after every byte of it was verified.

    Raises CheckpointError (not whole, not the bytes that were written), ConfigError (another model), DataError (other data).
    """
    manifest = verify(directory)
    path = directory / rank_file(0)
    found = read_head(path)
    if found is None:
        raise CheckpointError(f"{path} is missing or was never completed")
    head, _ = found
    _check_belongs(directory, head, expected)
    targets = dict(named_state(model, optimizer))
    with safe_open(path, framework="pt") as file:
        stored = set(file.keys())
        # A run may move between a GPU box and one without: only the generator of the device that is there matters.
        missing = [name for name in targets if name not in stored and name != "rng.cuda"]
        if missing:
            raise CheckpointError(f"{path} has no tensor {missing[0]}")
        for name, target in targets.items():
            if name in stored:
                _fill(name, target, file.get_tensor(name), path)
    set_step(optimizer, manifest.step)
    return Position(step=manifest.step, samples=manifest.samples, tokens=manifest.tokens)


def _check_belongs(directory: Path, head: SlotHead, expected: Identity) -> None:
    if head.config_digest != expected.config_digest:
        raise ConfigError(
            f"{directory} is of another model than adam.toml describes", "use the [model] that it was trained with"
        )
    if head.state.get("data_digest") != expected.data_digest:
        raise DataError(
            f"{directory} was trained on other tokens than are in tokens/",
            "use `adamctl fork` to go on with other data",
        )


def _fill(name: str, target: torch.Tensor, value: torch.Tensor, path: Path) -> None:
    if value.shape != target.shape or value.dtype != target.dtype:
        raise CheckpointError(
            f"{path}: {name} is {value.dtype} {tuple(value.shape)}, the model has {target.dtype} {tuple(target.shape)}"
        )
    if name == "rng.cpu":
        torch.set_rng_state(value)
    elif name == "rng.cuda":
        torch.cuda.set_rng_state(value)
    else:
        target.copy_(value)
