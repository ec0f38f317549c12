"""What the trainer's log of steps tells of the disk: rows that it does not take wait in memory, and training goes on. Pure."""

import os

from adam.contract.states import Phase
from adam.watchdog.policy_turn import Turn


def note_log(turn: Turn) -> None:
    """Say where rows wait, as long as they do."""
    pulse, waited = turn.pulse, turn.memory.unlogged
    if pulse is None or pulse.phase < Phase.TRAINING:
        return  # it does not know yet what the attempt before it has left
    if pulse.unlogged:
        why = os.strerror(pulse.log_error)
        turn.note(f"steps.jsonl can't be written: {why}; {pulse.unlogged} rows wait in memory (training goes on)")
    if pulse.unlogged and not waited:
        turn.tell("disk_full", f"steps.jsonl can't be written: {why}; its rows wait in memory, training goes on")
    elif waited and not pulse.unlogged:
        turn.tell("disk_freed", "steps.jsonl is written again, no row is missing")
    if waited != bool(pulse.unlogged):
        turn.set(unlogged=not waited)
