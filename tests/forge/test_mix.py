"""Shares: exact at every moment, whatever ran dry; the same after a kill."""

import json
import random
from collections import Counter
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adam.contract.config_file import parse_config
from adam.contract.config_forge import Forge, Phase, Source
from adam.contract.errors import ConfigError, DataError, StoppedError
from adam.contract.shards import changed_sources, load_shards
from adam.forge import build, reading
from adam.forge.documents import Document, document_hash, split_of
from adam.forge.hub import HubError
from adam.forge.mix import Mix, PhaseState, chairman, largest_remainder

WEIGHTS = st.lists(st.integers(0, 1000), min_size=1, max_size=9).filter(any)


@settings(deadline=None)
@given(WEIGHTS, st.integers(1, 500))
def test_every_source_is_less_than_a_document_from_its_share_at_every_moment(weights, turns) -> None:
    given_, total = [0] * len(weights), sum(weights)
    for turn in range(1, turns + 1):
        given_[chairman(weights, given_)] += 1
        for weight, have in zip(weights, given_, strict=True):
            assert abs(Fraction(weight * turn, total) - have) < 1


@settings(deadline=None)
@given(st.lists(st.fractions(0.01, 1), min_size=1, max_size=8), st.integers(0, 10_000))
def test_largest_remainders_are_whole_and_nearest(shares, seats) -> None:
    named = {str(number): share for number, share in enumerate(shares)}
    whole = largest_remainder(named, seats)
    assert sum(whole.values()) == seats
    for name, share in named.items():
        assert abs(share * seats / sum(shares) - whole[name]) < 1


def drawn(phase: Phase, have: dict[str, int], sizes=lambda: 1) -> tuple[list[str], PhaseState]:
    """The names that a mix takes from sources with so many documents."""
    mix, left, order = Mix(phase, list(have), state := PhaseState()), dict(have), []
    while (name := mix.next()) is not None:
        if left[name]:
            left[name] -= 1
            mix.took(name, sizes())
            order.append(name)
        elif mix.may_repeat(name):
            mix.repeat(name)
            left[name] = have[name]
        else:
            mix.dry(name, "dry")
    return order, state


SEED = {"stories": 0.2, "math": 0.2, "wiki": 0.3, "code": 0.3}
PLENTY = dict.fromkeys(SEED, 10**6)


@pytest.mark.parametrize("target", [1, 7, 10, 997, 1000])
def test_at_the_target_it_is_the_largest_remainder(target: int) -> None:
    order, state = drawn(Phase(SEED, target=target), PLENTY)
    shares = {name: Fraction(repr(share)) for name, share in SEED.items()}
    assert Counter(order) == {name: count for name, count in largest_remainder(shares, target).items() if count}
    assert state.ended == "target"


def test_redistributed_the_others_keep_their_proportions() -> None:
    order, state = drawn(Phase(SEED, target=1000), PLENTY | {"math": 50})
    counts = Counter(order)
    assert counts["math"] == 50
    assert (counts["stories"], counts["wiki"], counts["code"]) == (238, 356, 356)  # of 950: 237.5, 356.25, 356.25
    assert state.notes == ["math dry at 253 documents"]  # at its next turn


def test_repeated_no_more_often_than_asked_then_redistributed() -> None:
    order, state = drawn(Phase(SEED, target=1000, when_dry="repeat", repeats=2), PLENTY | {"math": 50})
    assert Counter(order)["math"] == 150
    assert [note.split(" at ")[0] for note in state.notes] == ["math begun again", "math begun again", "math dry"]
    assert len(order) == 1000


def test_stopped_where_one_is_dry() -> None:
    order, state = drawn(Phase(SEED, target=1000, when_dry="stop"), PLENTY | {"math": 50})
    assert Counter(order) == {"stories": 51, "math": 50, "wiki": 76, "code": 76}
    assert state.ended == "math dry"


def test_all_dry_is_an_end() -> None:
    order, state = drawn(Phase({"a": 1, "b": 3}), {"a": 10, "b": 10})
    assert (len(order), state.ended) == (20, "dry")


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from(["characters", "tokens"]))
def test_characters_are_shared_to_a_document(seed: int, unit) -> None:
    rng, largest = random.Random(seed), 5000
    _, state = drawn(Phase(SEED, unit=unit, target=300_000), PLENTY, lambda: rng.randint(1, largest))
    total = sum(state.taken.values())
    assert 300_000 <= total < 300_000 + largest
    for name, share in SEED.items():
        assert abs(state.taken[name] - share * total) <= largest


@settings(deadline=None, max_examples=60)
@given(
    shares=st.lists(st.sampled_from([0.1, 0.5, 1, 2, 5, 20]), min_size=1, max_size=9),
    unit=st.sampled_from(["characters", "tokens"]),
    sizes=st.sampled_from([(100, 100), (1, 5000)]),
    seed=st.integers(0, 2**32),
)
def test_characters_are_shared_to_a_document_at_every_moment(shares, unit, sizes, seed: int) -> None:
    rng, named, largest = random.Random(seed), {str(number): share for number, share in enumerate(shares)}, 0
    mix = Mix(Phase(named, unit=unit), list(named), state := PhaseState())
    for _ in range(200):
        size = rng.randint(*sizes)
        mix.took(mix.next(), size)
        largest, total = max(largest, size), mix.total
        for name, share in named.items():
            assert abs(state.taken.get(name, 0) - share / sum(shares) * total) <= largest


@settings(deadline=None, max_examples=60)
@given(
    unit=st.sampled_from(["documents", "characters", "tokens"]),
    have=st.lists(st.integers(0, 20), min_size=1, max_size=7),
    shares=st.lists(st.sampled_from([0.5, 1, 2]), min_size=9, max_size=9),
    seed=st.integers(0, 2**32),
)
def test_however_many_run_dry_the_others_are_shared_to_a_document(unit, have, shares, seed: int) -> None:
    """Sources of which one after the other is at its end, and two that have plenty."""
    rng, left = random.Random(seed), {str(number): count for number, count in enumerate([10**6, 10**6, *have])}
    named, largest = {name: shares[int(name)] for name in left}, 0
    mix = Mix(Phase(named, unit=unit), list(named), state := PhaseState())
    while sum(state.taken.get(name, 0) for name in "01") < 100 * max(1, largest):
        name = mix.next()
        if left[name]:
            left[name], size = left[name] - 1, 1 if unit == "documents" else rng.randint(1, 50)
            mix.took(name, size)
            largest = max(largest, size)
        else:
            mix.dry(name, "dry")
    live = {name: share for name, share in named.items() if name not in state.out}
    total = sum(state.taken.get(name, 0) for name in live)
    for name, share in live.items():
        assert abs(state.taken.get(name, 0) - share / sum(live.values()) * total) <= largest


@settings(deadline=None, max_examples=200)
@given(
    have=st.lists(st.integers(0, 20), max_size=5),
    shares=st.lists(st.sampled_from([0.1, 0.5, 1, 2, 7]), min_size=8, max_size=8),
    target=st.integers(1, 300),
)
def test_however_many_run_dry_the_target_is_shared_by_largest_remainders(have, shares, target: int) -> None:
    plenty = dict.fromkeys("abc", 10**6) | {str(number): count for number, count in enumerate(have)}
    named = dict(zip(plenty, shares, strict=False))
    order, state = drawn(Phase(named, target=target), plenty)
    live = {name: Fraction(repr(share)) for name, share in named.items() if name not in state.out}
    counts = Counter(order)
    fair = largest_remainder(live, target - sum(counts[name] for name in state.out))
    dealt_at = int(state.notes[-1].split()[-2]) if state.notes else 0
    before = Counter(order[:dealt_at])
    # Whoever had more than that when shares were last dealt out keeps it.
    owed = {name: max(0, fair[name] - before[name]) for name in live}
    if sum(owed.values()) == target - dealt_at:
        assert {name: counts[name] - before[name] for name in live} == owed
    assert all(abs(counts[name] - fair[name]) <= 1 for name in live)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_a_journal_in_between_changes_nothing(seed: int) -> None:
    """The state goes through JSON at random moments."""
    rng, phase, have = random.Random(seed), Phase(SEED, target=300), PLENTY | {"wiki": 20, "code": 31}
    order, _ = drawn(phase, have)
    state, left, again = PhaseState(), dict(have), []
    while True:
        state = msgspec.json.decode(msgspec.json.encode(state), type=PhaseState)
        mix = Mix(phase, list(have), state)
        for _ in range(rng.randint(1, 20)):
            name = mix.next()
            if name is None:
                assert again == order
                return
            if left[name]:
                left[name] -= 1
                mix.took(name, 1)
                again.append(name)
            else:
                mix.dry(name, "dry")


# ---- in the forge


@pytest.fixture
def three(tmp_path):
    """Sources of 40, 15 and 60 documents; each fifth record of the last is a duplicate or too short."""
    for name, count in (("a", 40), ("b", 15), ("c", 60)):
        (tmp_path / "mix" / name).mkdir(parents=True)
        lines = [
            json.dumps({"text": f"{name} {number} " + "words of a text " * (4 + number % 7)}) for number in range(count)
        ]
        if name == "c":
            lines[4::10] = [lines[0]] * len(lines[4::10])
            lines[9::10] = ['{"text": "short"}'] * len(lines[9::10])
        (tmp_path / "mix" / name / "1.jsonl").write_text("\n".join(lines[: count // 2]))
        (tmp_path / "mix" / name / "2.jsonl").write_text("\n".join(lines[count // 2 :]))
    return tuple(Source(path=str(tmp_path / "mix" / name)) for name in "abc")


def test_what_is_read_is_written_or_dropped_and_shares_hold(bench, three) -> None:
    bench.keys |= {"sources": three, "phases": (Phase({"a": 1, "b": 1, "c": 2}, target=40),)}
    manifest = bench.shards()
    assert {source.name: source.documents_written for source in manifest.sources} == {"a": 10, "b": 10, "c": 20}
    for source in manifest.sources:
        assert source.documents_read == source.documents_written + sum(source.dropped.values())
    dropped = manifest.sources[2].dropped
    assert set(dropped) == {"duplicate", "too_short"}
    assert {reason: example[0].text for reason, example in manifest.sources[2].examples.items()}["too_short"] == "short"
    assert manifest.phases[0].taken == {"a": 10, "b": 10, "c": 20}
    assert manifest.phases[0].ended == "target"


def test_files_that_a_full_mix_left_unread_are_no_change(bench, three, tmp_path) -> None:
    bench.keys |= {"sources": three, "val_fraction": 0.4, "phases": (Phase({"a": 1, "b": 1}, target=16),)}
    bench.shards()
    (tmp_path / "mix" / "c" / "1.jsonl").write_text("other")
    (tmp_path / "mix" / "a" / "2.jsonl").unlink()
    assert list(changed_sources(bench.paths)) == []
    (tmp_path / "mix" / "a" / "1.jsonl").write_text("other")
    assert [line.rpartition("/")[2] for line in changed_sources(bench.paths)] == ["1.jsonl has changed"]


PHASES = (
    Phase({"a": 1, "c": 1}, name="first", target=20),
    Phase({"a": 2, "b": 3, "c": 1}, name="second", unit="characters", target=9000, when_dry="repeat", repeats=2),
    Phase({"c": 1, "b": 1}, name="last", unit="tokens"),
)


def test_phases_follow_one_another_and_go_on_in_their_sources(bench, three) -> None:
    bench.keys |= {"sources": three, "phases": PHASES}
    manifest = bench.shards()
    assert [phase.ended for phase in manifest.phases] == ["target", "target", "dry"]
    assert manifest.phases[0].taken == {"a": 10, "c": 10}
    assert any("b begun again" in note for note in manifest.phases[1].notes)
    records = bench.records()
    starts = manifest.phases[1].starts
    assert sum(starts.values()) == 20
    for split in ("train", "val"):
        lines = [
            json.loads(line)
            for path in sorted(bench.paths.shards.glob(f"{split}-*"))
            for line in path.read_text().splitlines()
        ]
        assert {line["source"] for line in lines[: starts[split]]} <= {"a", "c"}
    times = Counter(record["id"] for record in records)
    assert max(times.values()) > 1
    for record in records:
        if times[record["id"]] > 1:
            assert record["source"] in ("a", "b")


def test_a_repeated_document_stays_on_its_side(bench, three) -> None:
    bench.keys |= {"sources": three, "val_fraction": 0.3, "phases": PHASES}
    manifest = bench.shards()
    splits = {}
    for split in ("train", "val"):
        for path in bench.paths.shards.glob(f"{split}-*"):
            splits |= {(json.loads(line)["id"], split): 1 for line in path.read_text().splitlines()}
    assert len({digest for digest, _ in splits}) == len(splits)
    assert manifest.sources[1].dropped["val_repeated"] >= 1


def test_stopped_at_every_step_the_bytes_are_the_same(bench, bench_at, three) -> None:
    whole = bench_at("whole")
    for one in (whole, bench):
        one.keys |= {"sources": three, "phases": PHASES, "shard_mb": 1}
    whole.shards()
    starts = 0
    while True:
        left = iter(range(2))
        try:
            bench.shards(stop=lambda left=left: next(left, None) is None)
            break
        except StoppedError:
            starts += 1
    assert starts > 50
    assert bench.digests() == whole.digests()


class Killed(BaseException):
    """Stands for SIGKILL."""


def test_killed_at_random_the_bytes_are_the_same(bench, bench_at, three, monkeypatch) -> None:
    """A hundred kills, each at a random write, document or journal, with journals at random places."""
    whole, rng, kills, round_ = bench_at("whole"), random.Random(11), 0, 0
    whole.keys |= {"sources": three, "phases": PHASES}
    whole.shards()
    while kills < 100:
        round_ += 1
        one = bench_at(f"killed-{round_}")
        one.keys |= {"sources": three, "phases": PHASES}
        while load_shards(one.paths) is None:
            with monkeypatch.context() as context:
                context.setattr(build, "JOURNAL_BYTES", rng.choice([300, 1500, 6000]))
                owner, name = rng.choice(
                    [
                        (build.ShardWriter, "write"),
                        (build.Build, "_take"),
                        (build.Build, "_write_journal"),
                        (build, "revisions"),
                    ]
                )
                real, left = getattr(owner, name), iter(range(rng.randint(0, 40)))

                def dying(*arguments, real=real, left=left, **keys):
                    if next(left, None) is None:
                        raise Killed
                    return real(*arguments, **keys)

                context.setattr(owner, name, dying)
                try:
                    one.shards()
                except Killed:
                    kills += 1
        assert one.digests() == whole.digests()


def test_a_share_for_no_source_is_named(bench, three) -> None:
    bench.keys |= {"sources": three, "phases": (Phase({"a": 1, "nobody": 1}),)}
    with pytest.raises(DataError, match=r"shares names 'nobody', which is no source; the sources are called a, b, c"):
        bench.shards()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("shares = {}", r"forge.phases\[0\].shares is empty"),
        ("shares = { a = 0.0 }", r"shares.a = 0.0: must be above 0"),
        ('shares = { a = 1.0 }\nwhen_dry = "repeat"', r"target = 0: must be above 0 where"),
        ('shares = { a = 1.0 }\nunit = "words"', r"expected one of"),
    ],
)
def test_what_a_phase_can_not_be(text: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        parse_config(f"[[forge.phases]]\n{text}\n", "adam.toml")


def test_a_mix_of_nothing_asks_for_no_room(bench, three) -> None:
    """The target bounds what is written, however large the sources are."""
    from adam.forge.room import text_bytes_expected
    from adam.forge.sources import open_sources

    large = Forge(sources=three)
    small = Forge(sources=three, phases=(Phase({"a": 1}, unit="characters", target=100),))
    origins = open_sources(large, bench.paths.root)
    assert text_bytes_expected(small, origins) == 110 < text_bytes_expected(large, origins)


def test_a_source_that_gives_nothing_again_is_not_read_for_ever(bench, three, tmp_path) -> None:
    """All that was kept of `b` is validation text, which is not repeated."""
    bench.keys |= {"sources": three, "val_fraction": 0.4}
    lines = (tmp_path / "mix" / "b" / "1.jsonl").read_text().splitlines()
    held_out = [
        line for line in lines if split_of(Document("", id=document_hash(json.loads(line)["text"])), 0.4) == "val"
    ]
    assert held_out
    (tmp_path / "mix" / "b" / "1.jsonl").write_text("\n".join(held_out))
    (tmp_path / "mix" / "b" / "2.jsonl").unlink()
    bench.keys["phases"] = (Phase({"a": 1, "b": 1}, target=40, when_dry="repeat", repeats=1000),)
    (phase,) = bench.shards().phases
    assert phase.taken == {"a": 40 - len(held_out), "b": len(held_out)}
    assert [note.split(" at ")[0] for note in phase.notes] == ["b begun again", "b dry"]


def test_a_source_that_came_back_was_not_given_up(bench, three, monkeypatch) -> None:
    """It fails for good in the first phase and is well in the second."""
    real, calls = reading.SourceReader.next, iter(range(1000))

    def failing(self):
        if self.origin.name == "b" and next(calls) == 5:
            raise HubError("the Hub is away", "wait", lasting=True)
        return real(self)

    monkeypatch.setattr(reading.SourceReader, "next", failing)
    bench.keys |= {
        "sources": three,
        "phases": (Phase({"a": 1, "b": 1}, target=20), Phase({"b": 1}), Phase({"b": 1}, when_dry="stop")),
    }
    manifest = bench.shards()
    first, second, third = manifest.phases
    assert [note.split(" at ")[0] for note in first.notes] == ["b given up (the Hub is away; wait)"]
    assert (first.taken, second.taken) == ({"a": 15, "b": 5}, {"b": 10})
    assert (third.taken, third.ended) == ({}, "b dry")
    assert manifest.sources[1].given_up == ""
    tokens = bench.tokens(manifest)
    train = tokens.splits["train"]
    assert [phase.first for phase in tokens.phases[::2]] == [0, train.count - 1]
    assert 0 < tokens.phases[1].first < train.count - 1
