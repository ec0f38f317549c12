"""When to upload what, how long to wait after a trouble, and when only people can help. Pure: no clock, no file, no network.

The checkpoint is always the newest: while the Hub is away for long, no queue grows.
"""

import hashlib

import msgspec
from msgspec.structs import replace

from adam.contract.clock import Stamp
from adam.watchdog.upload_words import Failure, Journal, Newest, Sent, Task, Trouble

# The Hub takes 128 commits an hour to a repository: so apart, whatever fails and whatever is asked for, ours stay below.
LEAST_S = 30.0
FIRST_WAIT_S, LONGEST_WAIT_S = 60.0, 3600.0
# What the Hub says of a moment: time-out, conflict, moved on meanwhile, too early, too many.
PASSING = frozenset({408, 409, 412, 423, 425, 429})
# What it says of us: token, rights, place, size. Other 4xx may come of a Hub that is not well, and are believed when they are repeated.
OURS = frozenset({401, 403, 404, 413})
BELIEVED = 3  # in a row


class Rules(msgspec.Struct, frozen=True):
    """Seconds between two uploads; `state_every_s` 0: no whole states."""

    where: str
    every_s: float
    state_every_s: float
    seed: int = 0  # of the jitter


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do now; look again in `seconds` (None: when something has changed)."""

    seconds: float | None = None


def is_permanent(trouble: Trouble, alike: int = 1) -> bool:
    """True where trying again is no use before people have changed something. `alike`: how often in a row it came."""
    about_us = 400 <= trouble.status < 500 and trouble.status not in PASSING
    return trouble.status in OURS or (about_us and alike >= BELIEVED)


def decide(rules: Rules, journal: Journal, newest: Newest | None, key: str, now: Stamp) -> Task | Wait:
    """What to upload at `now`. `key` marks configuration and token, as in `Failure.key`."""
    if newest is None or refused(journal, key):
        return Wait()
    task, wait = due(rules, journal, newest, now)
    if not (task.weights or task.state):
        return Wait(wait)
    held_s = pause_s(journal, key, now)
    return Wait(held_s) if held_s > 0 else task


def refused(journal: Journal, key: str) -> bool:
    """True where the last trouble is permanent, and nobody has changed anything since."""
    return journal.failure is not None and journal.failure.permanent and journal.failure.key == key


def due(rules: Rules, journal: Journal, newest: Newest, now: Stamp) -> tuple[Task, float | None]:
    """What it is time for; and the seconds until it is time for more, None where that needs another checkpoint."""
    weights = left_s(journal.weights, rules.every_s, newest, now)
    state = left_s(journal.state, rules.state_every_s, newest, now) if rules.state_every_s else None
    task = Task(newest.checkpoint, weights is not None and weights <= 0, state is not None and state <= 0)
    return task, min([left for left in (weights, state) if left is not None], default=None)


def left_s(sent: Sent | None, every_s: float, newest: Newest, now: Stamp) -> float | None:
    """Seconds until the newest checkpoint is to be sent; None where it is there."""
    if sent is None:
        return 0.0
    if sent.checkpoint == newest.checkpoint:
        return None
    return 0.0 if newest.final else max(0.0, every_s - sent.stamp.age_s(now))


def pause_s(journal: Journal, key: str, now: Stamp) -> float:
    """Seconds to keep off the far place yet."""
    least = LEAST_S - journal.tried.age_s(now) if journal.tried is not None else 0.0
    failure = journal.failure
    if failure is None or failure.permanent or failure.key != key:
        return least
    return max(least, failure.wait_s - failure.stamp.age_s(now))


def settled(rules: Rules, journal: Journal, newest: Newest | None, key: str, now: Stamp) -> bool:
    """True where nothing is left to be done for the newest checkpoint, or nothing can be."""
    if newest is None or refused(journal, key):
        return newest is not None
    task, wait = due(rules, journal, newest, now)
    return not task.weights and not task.state and wait is None


def in_boot_of(journal: Journal, now: Stamp) -> Journal:
    """The journal of an earlier boot, by this one's clocks. A wall clock that was put back a day meanwhile would delay all by that day."""

    def moved(sent: Sent | None) -> Sent | None:
        return None if sent is None else replace(sent, stamp=sent.stamp.in_boot_of(now))

    failure = journal.failure
    return replace(
        journal,
        weights=moved(journal.weights),
        state=moved(journal.state),
        tried=None if journal.tried is None else journal.tried.in_boot_of(now),
        failure=None if failure is None else replace(failure, stamp=failure.stamp.in_boot_of(now)),
    )


def begun(journal: Journal, now: Stamp) -> Journal:
    """Written before an upload begins: an uploader that dies in it is not followed by one that tries at once, for ever."""
    return replace(journal, tried=now)


def arrived(journal: Journal, task: Task, now: Stamp) -> Journal:
    sent = Sent(task.checkpoint, now)
    return replace(
        journal,
        weights=sent if task.weights else journal.weights,
        state=sent if task.state else journal.state,
        failure=None,
    )


def failed(rules: Rules, journal: Journal, trouble: Trouble, key: str, now: Stamp) -> Journal:
    """The journal after a trouble: the wait doubles with each in a row, with jitter, up to an hour or what the Hub asked for."""
    last = journal.failure
    count = last.count + 1 if last is not None and not last.permanent else 1
    alike = last.alike + 1 if last is not None and last.key == key and last.status == trouble.status else 1
    full = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(count - 1, 60))
    text = f"{rules.seed}:{now.wall}:{count}"
    share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
    wait = max(full * (0.5 + 0.5 * share), trouble.retry_after)
    permanent = is_permanent(trouble, alike)
    return replace(journal, failure=Failure(trouble.text, permanent, count, wait, now, key, trouble.status, alike))
