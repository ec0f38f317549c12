"""What the keeper deletes, and what it leaves alone whatever else happens."""

import os
import subprocess
import sys
import time

import msgspec
import pytest

from adam.contract import schema
from adam.contract.checkpoints import MANIFEST, FileEntry, Manifest, checkpoint_name, read_manifest, seal
from adam.contract.clock import stamp
from adam.contract.durable import sha256_file
from adam.contract.pins import change_pins, held, with_pin, without_pin
from adam.contract.records import Plan
from adam.contract.shared import Pulse, SharedWord
from adam.watchdog.keeper import Keeper
from adam.watchdog.keeper_words import Answer, Prune, Settle
from adam.watchdog.store import Store


def make(paths, *steps: int) -> None:
    for step in steps:
        directory = paths.checkpoints / checkpoint_name(step, 1)
        directory.mkdir()
        (directory / "rank-00000.safetensors").write_bytes(b"weights")
        entry = FileEntry("rank-00000.safetensors", 7, sha256_file(directory / "rank-00000.safetensors"))
        manifest = Manifest(
            run="r", step=step, attempt=1, token=1, tokens=step, samples=step, parent="", why="interval",
            fingerprint="f", config_digest="c", stamp=stamp(), files=(entry,),
        )  # fmt: skip
        (directory / MANIFEST).write_bytes(seal(manifest))


def name(step: int) -> str:
    return checkpoint_name(step, 1)


def steps_of(answer: Answer) -> list[int]:
    return [kept.step for kept in answer.checkpoints]


@pytest.fixture
def store(paths) -> Store:
    """Ten to fifty, all of them verified; two are kept."""
    make(paths, 10, 20, 30, 40, 50)
    store = Store(paths, keep_last=2)
    for step in (10, 20, 30, 40, 50):
        store.check(name(step))
    return store


def test_pinned_and_held_ones_are_not_deleted(paths, store):
    change_pins(paths, lambda pins: with_pin(pins, name(10), "human"))
    with held(paths.checkpoints / name(20)):
        answer = Keeper(store).answer(Prune())
    assert steps_of(answer) == [10, 20, 40, 50] and not answer.note
    change_pins(paths, lambda pins: without_pin(pins, name(10), "human"))
    assert Keeper(store).answer(Prune()).pruned == (name(10), name(20))


def test_a_pin_that_comes_while_others_are_deleted_counts(paths, store, monkeypatch):
    reads = iter([{}, {}, {name(20): ("human",)}, {}])
    monkeypatch.setattr("adam.watchdog.store.read_pins", lambda _: next(reads))
    store.prune()
    assert store.take_pruned() == (name(10), name(30))


@pytest.mark.parametrize("text", [b"{torn", b'{"schema": 9}'])
def test_pins_that_can_not_be_read_stop_every_deletion_and_nothing_else(paths, store, text):
    paths.pins.write_bytes(text)
    store.prune(keep_last=1)  # not even where room is needed
    answer = Keeper(store).answer(Prune())
    assert steps_of(answer) == [10, 20, 30, 40, 50] and not answer.trouble
    assert answer.note.startswith("no checkpoint is deleted: ") and "pins.json" in answer.note
    paths.pins.unlink()
    answer = Keeper(store).answer(Prune())
    assert steps_of(answer) == [40, 50] and not answer.note


def test_one_from_before_the_chip_was_last_seen_to_compute_right_stays(paths, store):
    """An hour may lie behind that, and the newest three are half an hour old: a wrong chip is gone back from to before."""
    SharedWord(paths.pulse("0"), Pulse, write=True).write(Pulse(sound=25))
    assert steps_of(Keeper(store).answer(Prune())) == [20, 40, 50]
    paths.pulse("0").unlink()  # the next attempt has not begun: what is known stands in its plan
    schema.save(paths.plan, Plan(program="trainer", attempt=2, token=2, sound=20))
    assert steps_of(Keeper(store).answer(Prune())) == [20, 40, 50]
    store.prune(keep_last=1)  # where room is needed
    assert [kept.step for kept in store.listing()] == [50]


def test_where_room_is_needed_fewer_are_kept_but_no_pinned_one_goes(paths, store):
    change_pins(paths, lambda pins: with_pin(pins, name(40), "upload"))
    store.prune(keep_last=1)
    assert [kept.step for kept in store.listing()] == [40, 50]


def test_the_time_of_a_checkpoint_is_read_once_while_it_is_untouched(paths, store, monkeypatch):
    reads = []
    monkeypatch.setattr("adam.watchdog.store.read_manifest", lambda path: reads.append(path) or read_manifest(path))
    fresh = Store(paths, 2)
    made = [fresh.listing()[0].made for _ in range(3)]
    assert made[0] is not None and abs(made[0] - time.time()) < 60 and made == made[:1] * 3 and len(reads) == 5
    manifest = paths.checkpoints / name(10) / MANIFEST
    manifest.write_bytes(manifest.read_bytes().replace(b"interval", b"Interval"))
    assert fresh.listing()[0].made is None and len(reads) == 6


def test_hours_reach_the_keeper(paths, store):
    command = [
        sys.executable,
        "-P",
        "-m",
        "adam.watchdog.keeper",
        "--run",
        str(paths.root),
        "--parent",
        str(os.getpid()),
    ]
    command += ["--keep-last", "1", "--milestone-every", "40", "--keep-every-hours", "1e6"]
    requests = b"".join(msgspec.json.encode(request) + b"\n" for request in (Settle(1, 5), Prune()))
    done = subprocess.run(command, input=requests, capture_output=True, check=True)
    answer = msgspec.json.decode(done.stdout.splitlines()[-1], type=Answer)
    assert steps_of(answer) == [10, 40, 50] and answer.pruned == (name(20), name(30))


def test_a_status_says_that_nothing_is_deleted(box, await_):
    def notes() -> tuple[str, ...]:
        status = box.status()
        return status.notes if status else ()

    box.configure(step_ms=20.0)
    box.paths.pins.write_bytes(b"{torn")
    box.up()
    await_(lambda: any("no checkpoint is deleted" in note for note in notes()), 30)
    await_(lambda: len(box.names()) > 3, 30)  # keep_last
    box.paths.pins.unlink()
    await_(lambda: len(box.names()) <= 3 and not notes(), 30)
