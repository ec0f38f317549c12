"""Small snapshots without a trainer: bytes that follow from the step, so that a wrong one shows."""

import random
from pathlib import Path

from adam.contract.checkpoints import rank_file
from adam.contract.paths import RunPaths
from adam.contract.ram import claim
from adam.contract.slots import SlotHead, SlotWriter, TensorEntry
from adam.contract.snapshots import slot_path
from adam.contract.sums import page_sum

SIZE = 100_000


def payload(step: int, size: int = SIZE, rank: int = 0) -> bytes:
    return random.Random(f"{step} {rank}").randbytes(size)


def slot_file(paths: RunPaths, number: int = 0, rank: int = 0) -> Path:
    return slot_path(paths.staging, number) / rank_file(rank)


def write_slot(
    paths: RunPaths,
    step: int,
    number: int = 0,
    *,
    token: int = 5,
    attempt: int = 1,
    size: int = SIZE,
    world: int = 1,
    in_ram: bool = False,
    **head,
) -> Path:
    """A complete snapshot of `step` in slot `number`; its directory."""
    slot = slot_path(claim(paths) if in_ram else paths.staging, number)
    slot.mkdir(parents=True, exist_ok=True)
    fields = {"saves": 0, "sequence": step, "run": paths.identity, "why": "interval", "parent": ""} | head
    for rank in range(world):
        data = payload(step, size, rank)
        writer = SlotWriter(slot / rank_file(rank), [TensorEntry("w", "U8", (size,))])
        assert writer.begin()
        writer.buffer("w")[:] = data
        writer.complete(
            SlotHead(
                attempt=attempt,
                token=token,
                step=step,
                tokens=step,
                samples=step,
                rank=rank,
                world=world,
                fingerprint="f",
                config_digest="c",
                state={"position": step},
                sums={"w": page_sum([data])},
                **fields,
            )
        )
        writer.close()
    return slot
