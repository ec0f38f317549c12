"""`adamctl checkpoints pin` and `unpin`: what people want kept, whatever the rules of retention say."""

import argparse

from adam.contract.checkpoints import list_checkpoints
from adam.contract.paths import RunPaths
from adam.contract.pins import change_pins, held, read_pins, with_pin, without_pin
from adam.daemon.named import named_checkpoint, no_such
from adam.daemon.run_of import run_of
from adam.daemon.wishes import HUMAN


def pin(arguments: argparse.Namespace) -> int:
    """Keep a checkpoint until `unpin`."""
    paths = run_of(arguments)
    checkpoint = named_checkpoint(paths, arguments.name)
    with held(checkpoint):  # so that the keeper does not delete it while its pin is written
        change_pins(paths, lambda pins: with_pin(pins, checkpoint.name, HUMAN))
    print(f"{checkpoint.name} is kept until `adamctl checkpoints unpin {checkpoint.name}`")
    return 0


def unpin(arguments: argparse.Namespace) -> int:
    """Take the pin back; also that of a checkpoint that is in quarantine by now."""
    paths = run_of(arguments)
    name = pinned_name(paths, arguments.name)
    left = change_pins(paths, lambda pins: without_pin(pins, name, HUMAN)).get(name, ())
    print(
        f"{name} stays pinned by: {', '.join(left)}" if left else f"{name} is not pinned; the rules of retention apply"
    )
    return 0


def pinned_name(paths: RunPaths, name: str) -> str:
    """`name`, where it is pinned or there. Raises CheckpointError naming the nearest pinned one, else the nearest of all."""
    pinned = read_pins(paths)
    if name in pinned:
        return name
    there = [path.name for path in list_checkpoints(paths.checkpoints)]
    if name in there:
        return name
    raise no_such(paths, name, pinned or there)
