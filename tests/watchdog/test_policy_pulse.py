"""Deadlines that are learnt: nothing usual is a hang, every hang is seen in time, and what is remembered stays small."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_bench import Bench

from adam.contract.shared import Pulse
from adam.contract.states import Phase
from adam.watchdog.policy_gaps import GAP_STEP, TIMES_LONGEST, TIMES_P99, add_gap, longest, p99
from adam.watchdog.policy_pulse import (
    LEARNT,
    LONGEST_TICK_S,
    SAVES_LEARNT,
    SAVING_S,
    deadline_s,
    gaps_of,
    left_s,
    listen,
)
from adam.watchdog.policy_words import Listening, Settings

SETTINGS = Settings(steps=10, hang_seconds=5.0, start_seconds=300.0, save_seconds=1800.0)
TICK = 0.25


class Ear:
    """Listens to one program; `hung` where any quiet time reached its deadline."""

    def __init__(self, listening: Listening = Listening()) -> None:  # noqa: B008 - frozen
        self.listening, self.now, self.progress = listening, 0.0, 0
        self.hung = False

    def beat(self, phase: Phase) -> None:
        self.progress += 1
        self.now += TICK / 10
        self._hear(phase)

    def quiet(self, seconds: float, phase: Phase) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + LONGEST_TICK_S)
            self._hear(phase)
            self.hung |= left_s(SETTINGS, self.listening, "S") <= 0

    def _hear(self, phase: Phase) -> None:
        self.listening = listen(self.listening, Pulse(phase=phase, progress=self.progress), self.now)

    def warm_up(self) -> "Ear":
        for phase in (Phase.TRAINING, Phase.TRAINING, Phase.EVALUATING, Phase.EVALUATING, Phase.SAVING, Phase.TRAINING):
            self.beat(phase)
        return self


phases = st.sampled_from([Phase.TRAINING, Phase.EVALUATING])


@settings(max_examples=60, deadline=None)
@given(phases, st.lists(st.floats(0.01, 40.0), min_size=1, max_size=60), st.data())
def test_nothing_within_the_factor_of_the_history_is_a_hang(phase, history, data):
    ear = Ear().warm_up()
    ear.beat(phase)
    ear.beat(phase)
    usual = 2.0
    for gap in history:
        # Each is at most twice the longest before it, or under the floor.
        usual = max(usual, gap) if gap < max(SETTINGS.hang_seconds, TIMES_LONGEST * usual) else usual
        ear.quiet(min(gap, usual) * 0.99, phase)
        ear.beat(phase)
    assert not ear.hung
    gaps = gaps_of(ear.listening, phase)
    allowed = min(
        SETTINGS.start_seconds, max(SETTINGS.hang_seconds, TIMES_P99 * p99(gaps), TIMES_LONGEST * longest(gaps))
    )
    ear.quiet(data.draw(st.floats(0.0, 0.97)) * allowed, phase)
    assert not ear.hung


@settings(max_examples=60, deadline=None)
@given(phases, st.lists(st.floats(0.01, 30.0), min_size=1, max_size=60))
def test_every_hang_is_seen_within_its_deadline(phase, history):
    ear = Ear().warm_up()
    ear.beat(phase)
    ear.beat(phase)
    for gap in history:
        ear.quiet(gap, phase)
        ear.beat(phase)
    ear.hung = False
    top = max(history) + TICK
    latest = min(SETTINGS.start_seconds, max(SETTINGS.hang_seconds, TIMES_P99 * top * GAP_STEP, 1.25))
    ear.quiet(latest + LONGEST_TICK_S, phase)
    assert ear.hung


def test_each_phase_learns_for_itself():
    ear = Ear().warm_up()
    for _ in range(50):
        ear.beat(Phase.EVALUATING)
        ear.quiet(20.0, Phase.EVALUATING)
    assert 100.0 <= deadline_s(SETTINGS, ear.listening) <= 145.0
    for _ in range(50):
        ear.beat(Phase.TRAINING)
    assert deadline_s(SETTINGS, ear.listening) == SETTINGS.hang_seconds


def test_the_first_step_and_the_first_validation_may_compile():
    ear = Ear()
    for phase in (Phase.IMPORTING, Phase.LOADING, Phase.TRAINING):
        ear.beat(phase)
        assert deadline_s(SETTINGS, ear.listening) == SETTINGS.start_seconds
    ear.quiet(100.0, Phase.TRAINING)
    ear.beat(Phase.TRAINING)
    assert not ear.hung and not gaps_of(ear.listening, Phase.TRAINING)  # what the compiler took says nothing of steps
    assert deadline_s(SETTINGS, ear.listening) == SETTINGS.hang_seconds
    ear.beat(Phase.EVALUATING)
    assert deadline_s(SETTINGS, ear.listening) == SETTINGS.start_seconds


@pytest.mark.parametrize(("step", "deadline"), [(103, 300.0), (104, 300.0), (105, 5.0), (125, 5.0)])
def test_updates_between_two_looks_have_been_done_all_the_same(step: int, deadline: float):
    """A small model had done 22 updates before the first look at its training, and hung: it was given the time to compile."""
    loading = listen(Listening(), Pulse(phase=Phase.LOADING, progress=3, step=103), 0.25, first_step=103)
    training = listen(loading, Pulse(phase=Phase.TRAINING, progress=162, step=step), 0.5, first_step=103)
    assert deadline_s(SETTINGS, training) == deadline and training.trained == (deadline < 300.0)
    assert (left_s(SETTINGS, listen(training, None, 0.5 + LONGEST_TICK_S), "S") < deadline) and not training.learnt


def test_saves_are_learnt_slowly_and_never_given_less_than_a_minute():
    ear = Ear().warm_up()
    for number in range(SAVES_LEARNT + 1):
        ear.beat(Phase.SAVING)
        known = number + 1 >= SAVES_LEARNT  # one was in the warm-up
        assert deadline_s(SETTINGS, ear.listening) == (SAVING_S if known else SETTINGS.save_seconds)
        ear.quiet(0.5, Phase.SAVING)
        ear.beat(Phase.TRAINING)


def test_a_save_that_goes_to_a_disk_from_now_on_is_no_hang():
    ear = Ear().warm_up()
    for _ in range(200):
        ear.beat(Phase.SAVING)
        ear.beat(Phase.TRAINING)
    ear = Ear(Listening(learnt=ear.listening.learnt))  # the next attempt found no room in memory
    for _ in range(3):
        ear.beat(Phase.TRAINING)
        ear.beat(Phase.TRAINING)
        ear.beat(Phase.SAVING)
        ear.quiet(100.0, Phase.SAVING)
        assert not ear.hung
    ear.beat(Phase.TRAINING)
    ear.beat(Phase.SAVING)
    ear.quiet(700.0, Phase.SAVING)  # five times what three of two hundred saves took
    assert ear.hung


def test_what_is_learnt_is_capped_and_outlives_the_attempt():
    ear = Ear().warm_up()
    for _ in range(20):
        ear.beat(Phase.TRAINING)
        ear.quiet(90.0, Phase.TRAINING)
    assert deadline_s(SETTINGS, ear.listening) == SETTINGS.start_seconds
    learnt = ear.listening.learnt
    again = Ear(Listening(learnt=learnt))
    again.beat(Phase.TRAINING)
    again.beat(Phase.TRAINING)
    again.quiet(200.0, Phase.TRAINING)
    assert not again.hung


@given(st.lists(st.floats(0.0, 1e7), max_size=300))
def test_what_is_remembered_is_bounded(gaps):
    counts: tuple[int, ...] = ()
    for gap in gaps:
        counts = add_gap(counts, gap)
    assert len(counts) in (0, 32) and sum(counts) <= 4096 and len(LEARNT) == 6
    within = [gap for gap in gaps if gap < 10_000]
    assert not within or longest(counts) >= max(within)


@pytest.mark.parametrize("phase", [Phase.TRAINING, Phase.EVALUATING, Phase.PAUSED, Phase.SAVING, Phase.CHECKING])
def test_a_stopped_process_is_not_given_more_time(phase):
    ear = Ear().warm_up()
    ear.beat(phase)
    ear.quiet(SETTINGS.hang_seconds - 0.5, phase)
    assert left_s(SETTINGS, ear.listening, "T") > 0
    ear.quiet(0.5, phase)
    assert left_s(SETTINGS, ear.listening, "T") <= 0


def test_loading_may_take_as_long_as_bytes_come_and_no_longer() -> None:
    ear = Ear()
    for _ in range(2000):  # 2,000 s of a slow disk
        ear.quiet(1.0, Phase.LOADING)
        ear.beat(Phase.LOADING)
    assert not ear.hung
    ear.quiet(SETTINGS.start_seconds + 2, Phase.LOADING)
    assert ear.hung


def test_a_hang_that_a_blow_has_ended_teaches_nothing() -> None:
    """A C call that a SIGTERM interrupts returns: the trainer saves and ends, and the next real hang must not be given longer."""
    bench = Bench().run_to_training()
    step = 0
    for step in range(1, 40):
        bench.pulse(step).tick()
    before = deadline_s(bench.settings, bench.memory.listening)
    while not bench.told("hung"):
        bench.tick()
    while bench.memory.hang.sent < 2:
        bench.tick()
    bench.pulse(step + 1).tick()
    assert deadline_s(bench.settings, bench.memory.listening) == before


def test_a_quiet_time_that_ended_by_itself_teaches() -> None:
    bench = Bench().run_to_training()
    step = 0
    for step in range(1, 40):
        bench.pulse(step).tick()
    before = deadline_s(bench.settings, bench.memory.listening)
    while not bench.told("hung"):
        bench.tick()
    bench.see(collecting=True).tick(0.9)
    assert bench.memory.hang.sent == 1
    bench.pulse(step + 1).tick()
    assert bench.told("resumed") and deadline_s(bench.settings, bench.memory.listening) > before
