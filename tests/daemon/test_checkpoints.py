"""`adamctl checkpoints`: list, verify, pin, unpin."""

import json
import re
from pathlib import Path

import msgspec
import pytest
from small_slots import write_slot

from adam.contract.checkpoints import MANIFEST
from adam.contract.config import Checkpoint
from adam.contract.config_file import load_config, write_lock
from adam.contract.paths import RunPaths
from adam.contract.pins import change_pins, read_pins, with_pin
from adam.contract.shared import Pulse, SharedWord
from adam.contract.states import Exit

FIRST, SECOND = "step-00000040-a01", "step-00000080-a01"


@pytest.fixture
def paths(world) -> RunPaths:
    paths = world.run()
    world.checkpoint(paths, 40)
    world.checkpoint(paths, 80)
    return paths


def listed(world) -> dict[str, dict]:
    return {entry["name"]: entry for entry in json.loads(world.adamctl("checkpoints", "--json", "--run", "run").stdout)}


def spoil(checkpoint: Path) -> None:
    (checkpoint / "rank-00000.safetensors").write_bytes(b"weightz")


def keep(paths: RunPaths, **rules) -> None:
    write_lock(paths.lock, msgspec.structs.replace(load_config(paths.lock), checkpoint=Checkpoint(**rules)))


def test_a_list_for_people(world, paths) -> None:
    keep(paths, keep_last=1)
    world.adamctl("checkpoints", "pin", "newest", "--run", "run")
    lines = world.adamctl("checkpoints", "--run", "run").stdout.splitlines()
    rows = [re.split(r" {2,}", line) for line in lines]
    assert rows[0] == ["checkpoint", "step", "tier", "age", "size", "state", "pinned by", "kept as"]
    assert rows[1][:3] == [FIRST, "40", "disk"] and rows[1][4:] == ["7 B", "sealed", "may go"]
    assert rows[2][:3] == [SECOND, "80", "disk"] and rows[2][4:] == ["7 B", "sealed", "human", "newest, pinned"]
    assert world.adamctl("checkpoints", "list", "--run", "run").stdout.splitlines()[0] == lines[0]


def test_why_each_is_kept(world, paths) -> None:
    keep(paths, keep_last=1, milestone_every=40, keep_every_hours=1e6)
    assert listed(world)[FIRST]["kept"] == ["milestone", "hourly"]
    assert listed(world)[SECOND]["kept"] == ["newest", "milestone"]


def test_one_from_before_the_chip_was_last_seen_to_compute_right_is_kept(world, paths) -> None:
    keep(paths, keep_last=1)
    SharedWord(paths.pulse("0"), Pulse, write=True).write(Pulse(sound=60))
    assert listed(world)[FIRST]["kept"] == ["sound"]


def test_snapshots_in_memory_are_a_tier_of_their_own(world, paths) -> None:
    slot = write_slot(paths, 95, in_ram=True, durable=False, why="ram")
    write_slot(paths, 90, 1)  # staged on disk: not of that tier
    entries = json.loads(world.adamctl("checkpoints", "--json", "--run", "run").stdout)
    told = [(entry["name"], entry["tier"], entry["state"]) for entry in entries]
    assert told == [
        (FIRST, "disk", "sealed"), (SECOND, "disk", "sealed"), ("step-00000095-a01", "ram", "complete"),
    ]  # fmt: skip
    assert entries[2]["path"] == str(slot) and entries[2]["bytes"] > 100_000
    assert "ram" in world.adamctl("checkpoints", "--run", "run").stdout


def test_those_in_quarantine_are_listed_with_the_reason(world, paths) -> None:
    paths.quarantine.mkdir()
    for number, name in enumerate((f"{FIRST}.2", "half")):
        world.checkpoint(paths, 20 + number).rename(paths.quarantine / name)
    (paths.quarantine / f"{FIRST}.2" / "REASON.txt").write_text("a flipped bit\n")
    (paths.quarantine / "half" / MANIFEST).unlink()
    entries = listed(world)
    told = [(entries[name]["step"], entries[name]["state"], entries[name]["error"]) for name in (f"{FIRST}.2", "half")]
    assert told == [(40, "quarantined", "a flipped bit"), (0, "quarantined", "its reason was not written down")]
    assert "a flipped bit" in world.adamctl("checkpoints", "--run", "run").stdout


def test_damage_that_shows_without_reading_all_is_listed(world, paths) -> None:
    (paths.checkpoints / FIRST / "rank-00000.safetensors").write_bytes(b"short")
    done = world.adamctl("checkpoints", "--json", "--run", "run", expect=Exit.CHECKPOINT)
    states = {entry["name"]: entry["state"] for entry in json.loads(done.stdout)}
    assert states == {FIRST: "damaged", SECOND: "sealed"} and "its 7 bytes" in done.stderr


def test_verify_the_newest_the_named_or_all(world, paths) -> None:
    spoil(paths.checkpoints / FIRST)
    before = world.snapshot()
    assert "every byte is right" in world.adamctl("checkpoints", "verify", "--run", "run").stdout
    world.adamctl("checkpoints", "verify", SECOND, "newest", "--run", "run")
    for which in (["--all"], [FIRST], [SECOND, FIRST]):
        done = world.adamctl("checkpoints", "verify", *which, "--run", "run", expect=Exit.CHECKPOINT)
        assert "SHA-256 differs" in done.stderr and re.search(f"{FIRST}.*damaged", done.stdout)
        assert "every byte" not in done.stdout
    entries = json.loads(
        world.adamctl("checkpoints", "verify", "--all", "--json", "--run", "run", expect=Exit.CHECKPOINT).stdout
    )
    assert [(entry["step"], entry["state"]) for entry in entries] == [(40, "damaged"), (80, "verified")]
    assert world.snapshot() == before


def test_nothing_there(world) -> None:
    world.run()
    assert "no checkpoints yet" in world.adamctl("checkpoints", "--run", "run").stdout
    world.adamctl("checkpoints", "verify", "--run", "run", expect=Exit.NOT_RUNNING)
    assert "see `adamctl checkpoints`" in world.adamctl(
        "checkpoints", "pin", "newest", "--run", "run", expect=Exit.CHECKPOINT
    ).stderr  # fmt: skip


def test_a_name_that_is_none_is_refused_with_the_nearest(world, paths) -> None:
    before = world.snapshot()
    for command in (["pin"], ["unpin"], ["verify"]):
        done = world.adamctl("checkpoints", *command, "step-00000041-a01", "--run", "run", expect=Exit.CHECKPOINT)
        assert f"did you mean {FIRST}?" in done.stderr
    assert world.snapshot() == before


def test_pins_come_and_go_and_leave_others_alone(world, paths) -> None:
    world.adamctl("checkpoints", "pin", FIRST, "--run", "run")
    change_pins(paths, lambda pins: with_pin(with_pin(pins, FIRST, "upload"), "step-00000001-a01", "human"))
    assert listed(world)[FIRST]["pinned_by"] == ["human", "upload"]
    assert "stays pinned by: upload" in world.adamctl("checkpoints", "unpin", FIRST, "--run", "run").stdout
    # One that was pinned and is gone; and one that was never pinned.
    assert "is not pinned" in world.adamctl("checkpoints", "unpin", "step-00000001-a01", "--run", "run").stdout
    assert "is not pinned" in world.adamctl("checkpoints", "unpin", SECOND, "--run", "run").stdout
    assert read_pins(paths) == {FIRST: ("upload",)}


def test_pins_that_can_not_be_read_are_told_and_left_as_they_are(world, paths) -> None:
    paths.pins.write_bytes(b"{")
    for command in ([], ["pin", FIRST], ["unpin", FIRST]):
        done = world.adamctl("checkpoints", *command, "--run", "run", expect=Exit.DATA)
        assert "pins.json can't be read" in done.stderr and "pin again" in done.stderr
    assert paths.pins.read_bytes() == b"{"
