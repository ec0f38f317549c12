"""Several ranks' pulses as one: whoever is quietest is heard."""

from msgspec.structs import replace

from adam.contract.shared import Pulse, SharedWord
from adam.contract.states import Phase
from adam.watchdog.policy_pulse import listen
from adam.watchdog.policy_words import Listening
from adam.watchdog.pulses import OtherRanks, pids_of, together

SECOND = 1_000_000_000


def pulse(progress: int, at: float, phase: Phase = Phase.TRAINING, **fields: int) -> Pulse:
    return Pulse(progress=progress, progress_ns=int(at * SECOND), phase=phase, token=7, **fields)


def test_one_rank_is_its_own_pulse() -> None:
    first = pulse(3, 1.0, step=5)
    assert together(first, []) is first


def test_the_run_is_as_quiet_as_its_quietest_rank() -> None:
    """Whichever it is, and however many signs it has given before."""
    for stuck in (0, 1, 2):
        heard, past = [], Listening(progress=0, phase=Phase.TRAINING, quiet_s=0.0, unborn_s=0.0, tick=0.0, trained=True)
        for second in range(1, 8):
            ranks = [
                pulse(
                    100 * (3 - rank) + (2 if rank == stuck else second), 2.0 if rank == stuck and second > 2 else second
                )
                for rank in range(3)
            ]
            past = listen(past, together(ranks[0], ranks[1:]), float(second))
            heard.append(past.quiet_s)
        assert heard == [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_all_moving_is_moving_and_the_steps_are_the_first_ranks() -> None:
    before = together(pulse(1, 1.0, step=4, snapshots=2), [pulse(9, 1.1, step=5)])
    after = together(pulse(2, 2.0, step=5, snapshots=3), [pulse(10, 2.1, step=6)])
    assert before.progress != after.progress
    assert (after.step, after.snapshots) == (5, 3)


def test_a_rank_that_lags_says_in_which_phase() -> None:
    """A save of one rank that takes long must have a save's deadline."""
    first, saving = pulse(5, 10.0), pulse(5, 3.0, Phase.SAVING)
    assert together(first, [saving]).phase == Phase.SAVING
    assert together(first, [replace(saving, progress_ns=first.progress_ns - SECOND // 2)]).phase == Phase.TRAINING


def test_pulses_of_other_attempts_do_not_count(paths) -> None:
    others = OtherRanks(paths)
    assert others.read(7) == [] and pids_of(paths, 7) == set()
    words = [SharedWord(paths.pulse(str(rank)), Pulse, write=True) for rank in range(3)]
    for rank, word in enumerate(words):
        word.write(pulse(1, 1.0, pid=100 + rank))
    assert [one.pid for one in others.read(7)] == [101, 102] and pids_of(paths, 7) == {100, 101, 102}
    words[2].write(replace(pulse(1, 1.0, pid=102), token=6))
    assert [one.pid for one in others.read(7)] == [101] and pids_of(paths, 7) == {100, 101}
    paths.pulse("1").unlink()
    SharedWord(paths.pulse("1"), Pulse, write=True).write(replace(pulse(1, 1.0, pid=55), token=8))
    assert [one.pid for one in others.read(8)] == [55]
