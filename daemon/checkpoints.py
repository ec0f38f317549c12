"""`adamctl checkpoints`: list them, or check every byte. Only the keeper ever changes them."""

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from adam.contract.checkpoints import list_checkpoints, parse_name, read_manifest, verify
from adam.contract.clock import Stamp, stamp
from adam.contract.durable import human_bytes
from adam.contract.errors import CheckpointError, NotRunningError
from adam.contract.states import Exit
from adam.daemon.report import human_time
from adam.daemon.run_of import run_of


def run(arguments: argparse.Namespace) -> int:
    paths = run_of(arguments)
    found = list_checkpoints(paths.checkpoints)
    if arguments.what == "verify":
        if not found:
            raise NotRunningError(f"{paths.checkpoints} has no checkpoint")
        return show([verified(path) for path in (found if arguments.all else found[-1:])], as_json=arguments.json)
    now = stamp()
    return show([listed(path, now) for path in found], as_json=arguments.json)


def listed(path: Path, now: Stamp) -> dict[str, Any]:
    """What the manifest says; `error` where it can't be read."""
    step, attempt = parse_name(path.name) or (0, 0)
    entry: dict[str, Any] = {"name": path.name, "path": str(path), "step": step, "attempt": attempt}
    try:
        manifest = read_manifest(path)
    except CheckpointError as error:
        return {**entry, "error": str(error)}
    size = sum(file.size for file in manifest.files)
    facts = {"tokens": manifest.tokens, "bytes": size, "age_s": manifest.stamp.age_s(now), "why": manifest.why}
    return {**entry, **facts, "parent": manifest.parent, "error": ""}


def verified(path: Path) -> dict[str, Any]:
    """The same entry, after every byte was read."""
    try:
        verify(path)
    except CheckpointError as error:
        return {**listed(path, stamp()), "verified": False, "error": str(error)}
    return {**listed(path, stamp()), "verified": True}


def show(entries: list[dict[str, Any]], *, as_json: bool) -> int:
    """Print the entries; Exit.CHECKPOINT where one is bad."""
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(entries), indent=2).decode())
    elif not entries:
        print("there are no checkpoints yet")
    for entry in entries if not as_json else []:
        print(line_of(entry))
    bad = [entry for entry in entries if entry["error"]]
    for entry in bad:
        print(f"adamctl: {entry['error']}; the keeper puts it into quarantine at the next start", file=sys.stderr)
    return Exit.CHECKPOINT if bad else Exit.OK


def line_of(entry: dict[str, Any]) -> str:
    if entry["error"]:
        return f"{entry['name']}  BAD"
    facts = [
        human_bytes(entry["bytes"]),
        f"{human_time(entry['age_s'])} old",
        f"{entry['tokens']:,} tokens",
        entry["why"],
    ]
    return f"{entry['name']}  " + ", ".join(facts) + (", every byte is right" if entry.get("verified") else "")
