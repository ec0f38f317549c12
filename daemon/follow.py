"""`adamctl up --wait`: follow a run until its state is final. Bars on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from adam.contract.paths import RunPaths
from adam.contract.states import Exit, RunState
from adam.daemon.processes import ours, watchdog_lives
from adam.daemon.report import describe, headline, human_time
from adam.daemon.run_of import shown
from adam.daemon.status import look

POLL_S = 0.5
LINE_S = 10.0
GONE_S = 5.0  # supervisord may be replacing the watchdog: only after so long is nobody left for good
EXIT_OF = {RunState.FINISHED: Exit.OK, RunState.FAILED: Exit.FAILED, RunState.STOPPED: Exit.STOPPED}


class View(Protocol):
    """Shows reports as they come."""

    def show(self, report: dict[str, Any]) -> None: ...


def follow(paths: RunPaths) -> int:
    """Show the run until its end. Ctrl-C detaches: the run goes on."""
    try:
        with make_view() as view:
            report = until_the_end(paths, view)
    except KeyboardInterrupt:
        print("\nthe run goes on without you; stop it with `adamctl down`, see it with `adamctl status`", flush=True)
        return Exit.INTERRUPTED
    for line in summary(paths, report):
        print(line, flush=True)
    code = Exit.FAILED if report["lost"] else EXIT_OF[RunState(report["state"])]
    if code == Exit.OK:
        print(headline(report), flush=True)
    else:
        print(f"adamctl: {headline(report)}", file=sys.stderr, flush=True)
    return code


def until_the_end(paths: RunPaths, view: View) -> dict[str, Any]:
    """The last report: of a final state with no process left, or of a run that lost all its processes (`lost`)."""
    alone_since: float | None = None
    while True:
        seen = look(paths)
        report = describe(seen)
        view.show(report)
        known_final = seen.status is not None and seen.status.state.final
        if not ours(paths) and not (watchdog_lives(seen.status) and not known_final):
            now = time.monotonic()
            alone_since = alone_since or now
            if known_final or now - alone_since > GONE_S:
                return {**report, "lost": not known_final}
        else:
            alone_since = None
        time.sleep(POLL_S)


def summary(paths: RunPaths, report: dict[str, Any]) -> Iterator[str]:
    """What a person wants to know at the end."""
    yield f"steps: {report['step']:,} of {report['steps']:,}; restarts: {report['restarts']}"
    if report["val_loss"] is not None:
        yield f"validation loss: {report['val_loss']:.4f} nats per token"
    if report["val_bits_per_byte"] is not None:
        yield f"validation bits per byte: {report['val_bits_per_byte']:.3f}"
    if report["order2_bits_per_byte"] is not None:
        yield f"bits per byte of an order-2 byte model, for comparison: {report['order2_bits_per_byte']:.3f}"
    yield f"checkpoints: {shown(paths.checkpoints)}"
    yield f"metrics: {shown(paths.metrics)}; events: {shown(paths.events)}"


def make_view() -> AbstractContextManager[View]:
    """Bars where somebody looks, lines where they go into a file."""
    if not sys.stdout.isatty():
        return nullcontext(Lines())
    from adam.daemon.bars import Bars  # rich: only where it is seen

    return Bars()


class Lines:
    """A line when the state changes, and every LINE_S."""

    def __init__(self) -> None:
        self._state, self._at = "", 0.0

    def show(self, report: dict[str, Any]) -> None:
        state, now = report["state"], time.monotonic()
        if state == self._state and now - self._at < LINE_S:
            return
        self._state, self._at = state, now
        print(" | ".join([headline(report), *facts(report)]), flush=True)


def facts(report: dict[str, Any]) -> Iterator[str]:
    """What there is to say of the work itself."""
    progress = report["progress"]
    if report["state"] == RunState.FORGING and progress is not None:
        share = f" {100 * progress['done'] / progress['total']:.0f} %" if progress["total"] else ""
        yield f"{progress['phase']}{share}"
    if report["step"]:
        yield f"step {report['step']:,} of {report['steps']:,}"
    if report["loss"] is not None:
        yield f"loss {report['loss']:.4f}"
    if report["val_bits_per_byte"] is not None:
        yield f"validation {report['val_bits_per_byte']:.3f} bits per byte"
    if report["tokens_per_second"] is not None:
        yield f"{report['tokens_per_second']:,.0f} tokens/s, {human_time(report['eta_s'])} left"
