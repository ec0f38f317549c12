"""`adamctl checkpoints`: list them, or check every byte. Only the keeper ever changes them."""

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from adam.contract.checkpoints import list_checkpoints, verify
from adam.contract.durable import human_bytes
from adam.contract.errors import CheckpointError, NotRunningError, SchemaError
from adam.contract.paths import RunPaths
from adam.contract.pins import held
from adam.contract.states import Exit
from adam.daemon.checkpoint_list import DAMAGED, UNKNOWN, VERIFIED, Entry, everything, on_disk
from adam.daemon.named import NEWEST, named_checkpoint
from adam.daemon.report import human_time
from adam.daemon.run_of import run_of

HEADINGS = ("checkpoint", "step", "tier", "age", "size", "state", "pinned by", "kept as")
NUMBERS = (1, 3, 4)  # columns that are aligned to the right


def show_list(arguments: argparse.Namespace) -> int:
    return show(everything(run_of(arguments)), as_json=arguments.json)


def show_verified(arguments: argparse.Namespace) -> int:
    """Read every byte of the named ones, of all, or of the newest."""
    paths = run_of(arguments)
    chosen = list_checkpoints(paths.checkpoints)
    if not chosen:
        raise NotRunningError(f"{paths.checkpoints} has no checkpoint")
    if not arguments.all:
        chosen = [named_checkpoint(paths, name) for name in arguments.names or [NEWEST]]
    code = show(verified(paths, chosen), as_json=arguments.json)
    if code == Exit.OK and not arguments.json:
        print("every byte is right")
    return code


def verified(paths: RunPaths, chosen: list[Path]) -> list[Entry]:
    """The entries of checkpoints, after every byte was read. The keeper deletes none of them meanwhile."""
    from adam.daemon.bars import byte_bar

    with ExitStack() as stack:
        for path in chosen:
            stack.enter_context(held(path))
        entries = {entry.name: entry for entry in on_disk(paths)}
        sizes = [file.stat().st_size for path in chosen for file in path.iterdir()]
        told = stack.enter_context(byte_bar("verifying", sum(sizes)))
        return [checked(entries[path.name], told) for path in chosen]


def checked(entry: Entry, told: Callable[[int], None]) -> Entry:
    try:
        verify(Path(entry.path), told)
    except CheckpointError as error:
        return msgspec.structs.replace(entry, state=DAMAGED, error=str(error))
    except SchemaError as error:
        return msgspec.structs.replace(entry, state=UNKNOWN, error=str(error))
    return msgspec.structs.replace(entry, state=VERIFIED)


def show(entries: list[Entry], *, as_json: bool) -> int:
    """Print the entries; the exit code says whether one is damaged, or of a newer Adam."""
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(entries), indent=2).decode())
    elif entries:
        print("\n".join(table([HEADINGS, *map(cells, entries)])))
    else:
        print("there are no checkpoints yet")
    damaged = [entry for entry in entries if entry.state == DAMAGED]
    for entry in damaged:
        print(f"adamctl: {entry.error}; the keeper puts it into quarantine at the next start", file=sys.stderr)
    unknown = [entry for entry in entries if entry.state == UNKNOWN]
    for entry in unknown:
        print(f"adamctl: {entry.error}", file=sys.stderr)
    return Exit.CHECKPOINT if damaged else Exit.SCHEMA if unknown else Exit.OK


def cells(entry: Entry) -> tuple[str, ...]:
    """An entry for people, a text a column."""
    return (
        entry.name,
        f"{entry.step:,}",
        entry.tier,
        "" if entry.age_s is None else human_time(entry.age_s),
        "" if entry.bytes is None else human_bytes(entry.bytes),
        entry.state,
        ", ".join(entry.pinned_by),
        entry.error or ", ".join(entry.kept) or "may go",
    )


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    aligned = [
        [
            text.rjust(width) if column in NUMBERS else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    return ["  ".join(row).rstrip() for row in aligned]
