"""Several ranks, as real processes with FSDP2 over gloo: one snapshot of all their files, loaded by any number of ranks."""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adam.contract import schema
from adam.contract.checkpoints import rank_file
from adam.contract.lease import take_lease
from adam.contract.paths import RunPaths
from adam.contract.records import Staging
from adam.contract.slots import read_head
from adam.contract.snapshots import complete_snapshots, read_snapshot
from adam.watchdog.commit import reading
from adam.watchdog.keeper import Keeper
from adam.watchdog.keeper_words import Commit, Settle
from adam.watchdog.store import Store

WORKER = Path(__file__).with_name("rank_worker.py")
pytestmark = pytest.mark.timeout(300)


class Group:
    """The ranks of one training. `do` has all of them do something at once and gives their answers, in order."""

    def __init__(self, world: int, place: Path) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONSAFEPATH": "1"}
        self.place, self.world = place, world
        self.logs = [(place / f"rank-{rank}.log").open("w") for rank in range(world)]
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(WORKER), str(rank), str(world), str(place / "meet")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.logs[rank],
                env=environment,
                text=True,
            )
            for rank in range(world)
        ]
        assert self.answers() == ["ready"] * world

    def tell(self, rank: int, what: str, **arguments: object) -> None:
        stdin = self.processes[rank].stdin
        assert stdin is not None
        stdin.write(json.dumps([what, arguments]) + "\n")
        stdin.flush()

    def answer(self, rank: int) -> Any:
        stdout = self.processes[rank].stdout
        assert stdout is not None
        line = stdout.readline()
        assert line, (self.place / f"rank-{rank}.log").read_text()
        return json.loads(line)

    def answers(self) -> list[Any]:
        return [self.answer(rank) for rank in range(self.world)]

    def do(self, what: str, **arguments: object) -> list[Any]:
        for rank in range(self.world):
            self.tell(rank, what, **arguments)
        return self.answers()

    def same(self, what: str, **arguments: object) -> Any:
        """What all ranks answer alike."""
        answers = self.do(what, **arguments)
        assert all(answer == answers[0] for answer in answers), answers
        return answers[0]

    def end(self) -> None:
        for process in self.processes:
            process.kill()
        for process, log in zip(self.processes, self.logs, strict=True):
            process.communicate()
            log.close()


class Groups:
    """Groups of any number of ranks, started when they are asked for."""

    def __init__(self, place: Path) -> None:
        self.place, self.started = place, {}

    def of(self, world: int) -> Group:
        if world not in self.started:
            self.started[world] = self.fresh(world)
        return self.started[world]

    def fresh(self, world: int) -> Group:
        place = self.place / f"{world}-{len(list(self.place.iterdir()))}"
        place.mkdir()
        return Group(world, place)


@pytest.fixture(scope="module")
def groups(tmp_path_factory) -> Iterator[Groups]:
    groups = Groups(tmp_path_factory.mktemp("groups"))
    yield groups
    for group in groups.started.values():
        group.end()


@pytest.fixture
def pair(groups: Groups) -> Iterator[Group]:
    """Two ranks of one model, healthy again afterwards."""
    group = groups.of(2)
    group.do("make", arch="mamba2", seed=1)
    yield group
    group.do("unstage")


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    paths = RunPaths(tmp_path / "run")
    for directory in (paths.run, paths.logs, paths.checkpoints):
        directory.mkdir(parents=True)
    return paths


@pytest.fixture
def keeper(paths: RunPaths) -> Keeper:
    return Keeper(Store(paths, keep_last=10, milestone_every=0))


def wait_until(look: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def step_of(file: Path) -> int:
    """The step of a complete file; -1: it is being written."""
    found = read_head(file)
    return found[0].step if found else -1


def lease(paths: RunPaths, token: int) -> None:
    fd, _ = take_lease(paths, "trainer", token, 1)
    os.close(fd)


def trained(group: Group) -> dict[str, Any]:
    """What the ranks have together: weights, moments and AdamW's count of steps."""
    states = group.do("state")
    for state in states:
        assert (state["whole"], state["steps"]) == (states[0]["whole"], states[0]["steps"])
    return {"whole": states[0]["whole"], "steps": states[0]["steps"]}


def random_states(group: Group) -> list[str]:
    return [state["random"] for state in group.do("state")]


def go_on_from(group: Group, arch: str, directory: Path, *, committed: bool, **shape: int) -> dict[str, Any]:
    """What new models of these ranks hold after loading."""
    group.do("make", arch=arch, seed=99, **shape)
    group.same("restore", directory=str(directory), committed=committed)
    return trained(group)


@pytest.mark.parametrize("arch", ["mamba1", "mamba2"])
def test_a_training_goes_on_exactly_on_one_two_one_and_four_ranks(groups, paths, keeper, arch: str) -> None:
    checkpoint, saved, ahead = None, None, None
    for attempt, world in enumerate((1, 2, 1, 4), 1):
        group = groups.of(world)
        if checkpoint is None:
            group.do("make", arch=arch, seed=1)
        else:
            assert go_on_from(group, arch, checkpoint, committed=True) == saved
        lease(paths, attempt)
        assert group.same("stage", run=str(paths.root), attempt=attempt, use_ram=True)["in_ram"]
        losses = group.same("train", updates=2)
        assert ahead is None or losses == pytest.approx(ahead, rel=1e-5)
        saved, random = trained(group), random_states(group)
        assert saved["steps"] == [2.0 * attempt] and len(set(random)) == world
        assert group.same("take")
        ahead = group.same("train", updates=2)
        end = trained(group)
        group.do("unstage")

        (snapshot,) = complete_snapshots(paths)
        assert snapshot.head.world == len(snapshot.files) == world
        for other in (1, 2):
            if other != world:
                assert go_on_from(groups.of(other), arch, snapshot.path, committed=False) == saved
        answer = keeper.answer(Commit())
        assert answer.committed is not None, answer
        checkpoint = paths.checkpoints / answer.committed.name
        for directory, committed in ((snapshot.path, False), (checkpoint, True)):
            assert go_on_from(group, arch, directory, committed=committed) == saved
            assert random_states(group) == random
            assert group.same("train", updates=2) == ahead
            assert trained(group) == end
        assert not keeper.answer(Settle(attempt, attempt)).trouble
        assert not paths.ram.exists()


@pytest.mark.parametrize(("arch", "name"), [("mamba1", "x_proj.weight"), ("mamba2", "dt_bias")])
def test_parts_may_be_uneven_and_empty(groups, arch: str, name: str) -> None:
    """That they are the right rows is asserted by the worker, against the whole tensor."""
    groups.of(4).do("make", arch=arch, seed=1)
    rows = [state["rows"] for state in groups.of(4).do("state")]
    assert [part["model.backbone.embedding.weight"] for part in rows] == [[0, 16], [16, 16], [32, 16], [48, 13]]
    counts = [part[f"exp_avg.backbone.layers.1.mixer.{name}"][1] for part in rows]
    assert counts[3] == 0 and sum(counts) == {"x_proj.weight": 9, "dt_bias": 3}[name]


def test_a_flipped_bit_is_found_by_the_rank_that_loads_it(pair, groups, paths) -> None:
    pair.do("stage", run=str(paths.root), attempt=1, use_ram=True)
    assert pair.same("take")
    pair.do("unstage")
    (snapshot,) = complete_snapshots(paths)
    found = read_head(snapshot.files[1])
    assert found is not None
    with snapshot.files[1].open("r+b") as file:
        file.seek(found[1]["exp_avg.backbone.embedding.weight"].end - 1)
        file.write(b"\x01")
    where = {"directory": str(snapshot.path), "committed": False}
    refused = f"{snapshot.files[1]}: the bytes of exp_avg.backbone.embedding.weight are not those that were written"
    assert pair.do("refused", **where) == ["", refused]
    groups.of(4).do("make", arch="mamba2", seed=1)
    assert groups.of(4).same("refused", **where) == refused


def test_a_rank_killed_while_it_writes_leaves_the_snapshot_before(groups, paths, keeper) -> None:
    lease(paths, 1)
    doomed = groups.fresh(2)
    doomed.do("make", arch="mamba2", seed=1)
    doomed.do("stage", run=str(paths.root), attempt=1, use_ram=True)
    doomed.do("train", updates=1)
    assert doomed.same("take")
    saved = trained(doomed)
    doomed.do("train", updates=1)
    doomed.tell(1, "stand_still_while_writing")
    doomed.answer(1)
    for rank in range(2):
        doomed.tell(rank, "take")
    assert doomed.answer(1) == "standing still"
    wait_until(lambda: any(step_of(file) == 2 for file in paths.ram.rglob(rank_file(0))))
    doomed.processes[1].kill()
    assert doomed.processes[0].wait(30) != 0  # it does not wait for ever
    doomed.end()

    answer = keeper.answer(Settle(1, 1, commit=False))
    assert {item.reason for item in answer.dropped} == {"the snapshot was not complete"}
    assert answer.snapshot is not None and answer.snapshot.step == 1
    assert go_on_from(groups.of(2), "mamba2", Path(answer.snapshot.slot), committed=False) == saved
    answer = keeper.answer(Settle(2, 1, commit=True))
    assert answer.committed is not None and answer.committed.step == 1


@pytest.mark.parametrize(
    ("rank", "what", "in_ram"),
    [(0, "no_room", False), (1, "no_room", False), (0, "see_little_memory", False), (1, "see_little_memory", True)],
)
def test_all_ranks_have_their_slots_at_the_same_place(pair, paths, rank: int, what: str, in_ram: bool) -> None:
    pair.tell(rank, what, **({"where": str(paths.ram)} if what == "no_room" else {}))
    pair.answer(rank)
    assert pair.same("stage", run=str(paths.root), attempt=1, use_ram=True) == {"in_ram": in_ram, "trouble": ""}
    assert pair.same("take")
    (snapshot,) = complete_snapshots(paths)
    assert snapshot.path.parent == (paths.ram if in_ram else paths.staging)
    report = schema.load(paths.staging_report, Staging)
    assert report is not None and report.tier == ("ram" if in_ram else "disk")
    if what == "no_room":
        assert report.why.startswith("rank 1: no room" if rank else "no room")
    if not in_ram:
        assert not list(paths.ram.rglob("*.safetensors"))


def test_where_one_rank_has_no_room_anywhere_none_takes_snapshots(pair, paths) -> None:
    pair.tell(1, "no_room", where="/")
    pair.answer(1)
    staged = pair.same("stage", run=str(paths.root), attempt=1, use_ram=True)
    assert staged["trouble"].startswith("rank 1: no room")
    assert not pair.same("take")
    report = schema.load(paths.staging_report, Staging)
    assert report is not None and (report.tier, report.slots) == ("none", 0)


def test_ranks_leave_the_slot_alone_that_the_keeper_copies(pair, paths) -> None:
    pair.do("stage", run=str(paths.root), attempt=1, use_ram=True)
    for _ in range(3):
        pair.do("train", updates=1)
        assert pair.same("take")
    oldest = complete_snapshots(paths)[-1]
    pair.do("train", updates=1)
    with reading(oldest) as files:
        assert files
        assert pair.same("take")
    assert {snapshot.head.step for snapshot in complete_snapshots(paths)} == {1, 3, 4}


def test_a_rank_waits_for_a_keeper_that_is_about_to_let_go(pair, paths) -> None:
    pair.do("stage", run=str(paths.root), attempt=1, use_ram=True)
    for _ in range(3):
        pair.do("train", updates=1)
        assert pair.same("take")
    oldest = complete_snapshots(paths)[-1]
    pair.do("train", updates=1)
    with oldest.files[1].open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        for rank in range(2):
            pair.tell(rank, "take")
        wait_until(lambda: step_of(oldest.files[0]) == 4)
        assert step_of(oldest.files[1]) == 1 and read_snapshot(oldest.path) is None
    assert pair.answers() == [True, True]
    assert complete_snapshots(paths)[0].head.step == 4


def test_a_snapshot_counts_when_all_ranks_have_it_and_none_begins_the_next_before(pair, paths) -> None:
    pair.do("stage", run=str(paths.root), attempt=1, use_ram=True)
    pair.tell(1, "hold_copies", hold=True)
    pair.answer(1)
    assert pair.same("begin")
    pair.do("train", updates=1)
    assert not pair.same("begin")
    assert pair.same("counted") == 0 and not complete_snapshots(paths)
    pair.tell(1, "hold_copies", hold=False)
    pair.answer(1)
    wait_until(lambda: pair.do("counted") == [1, 1])
    assert pair.same("take")
    assert [snapshot.head.step for snapshot in complete_snapshots(paths)] == [1, 0]


def test_where_one_rank_is_not_ready_none_begins_and_the_slot_is_free_again(pair, paths) -> None:
    pair.do("stage", run=str(paths.root), attempt=1, use_ram=True)
    for ready in (False, True):
        pair.tell(1, "be_ready", ready=ready)
        pair.answer(1)
        assert pair.same("take") == ready
        for file in paths.ram.rglob("*.safetensors"):
            with file.open("rb") as taken:
                fcntl.flock(taken, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert len(complete_snapshots(paths)) == 1


def test_what_other_ranks_left_in_memory_stays_until_there_is_a_newer_one(groups, pair, paths) -> None:
    """Of tensors of several pages, so that the files of two ranks are not as large as that of one."""
    one = groups.of(1)
    one.do("make", arch="mamba2", seed=1, d_model=48)
    one.do("stage", run=str(paths.root), attempt=1, use_ram=True)
    for _ in range(3):
        one.do("train", updates=1)
        assert one.same("take")
    saved = trained(one)
    one.do("unstage")
    newest = complete_snapshots(paths)[0]
    assert go_on_from(pair, "mamba2", newest.path, committed=False, d_model=48) == saved

    assert pair.same("stage", run=str(paths.root), attempt=2, use_ram=True)["in_ram"]
    assert complete_snapshots(paths) == [newest]
    assert go_on_from(one, "mamba2", newest.path, committed=False, d_model=48) == saved
    pair.do("train", updates=1)
    assert pair.same("take")
    wait_until(lambda: not newest.path.exists())
    assert [snapshot.order for snapshot in complete_snapshots(paths)] == [(2, 1)]
