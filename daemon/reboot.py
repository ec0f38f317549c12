"""`adam-reboot.service`: as root, restart the machine where the run has asked for it, within bounds that are not the run's.

    python -P -m adam.daemon.reboot --run DIR --journal FILE --per-day N --uptime-minutes M

Its own journal is written before the restart. The run's (`run/reboots.json`) belongs to another user, and is believed in one thing: that
it asks.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from adam.contract import schema
from adam.contract.clock import Stamp, boottime_ns, stamp
from adam.contract.errors import run_main
from adam.contract.paths import RunPaths
from adam.contract.reboots import Reboot, RebootRules, Reboots, wait_s
from adam.contract.states import Exit

FRESH_S = 600.0  # a request is answered at once, or never
COMMAND_S = 60.0
MOST = 32  # that are remembered
STARTS_AGAIN = "adam-trainer.service"


def request(asked: Reboots | None, now: Stamp) -> Reboot | None:
    """What the run asks for; None: nothing, or it was on another boot or too long ago."""
    last = asked.asked[-1] if asked is not None and asked.asked else None
    if last is None or last.stamp.boot_id != now.boot_id or last.stamp.age_s(now) > FRESH_S:
        return None
    return last


def refusal(rules: RebootRules, done: Reboots, now: Stamp, uptime_s: float, *, enabled: bool) -> str:
    """Why the machine is not restarted; empty: it is."""
    if not enabled:
        return f"{STARTS_AGAIN} is not enabled: nothing would start the run again (systemctl enable adam-trainer)"
    wait = wait_s(rules, [item.stamp.age_s(now) for item in done.asked], uptime_s)
    if wait > 0:
        bounds = f"{rules.per_day} a day, {rules.uptime_s / 60:g} minutes after a start"
        return f"the bounds of this unit ({bounds}) allow the next one in {wait / 60:.0f} minutes"
    return ""


def is_enabled(unit: str) -> bool:
    command = ["systemctl", "is-enabled", "--quiet", unit]
    return subprocess.run(command, timeout=COMMAND_S, check=False).returncode == 0


def answer(paths: RunPaths, journal: Path, rules: RebootRules) -> int:
    """Restart the machine, or say why not."""
    now = stamp()
    asked = request(schema.load(paths.reboots, Reboots), now)
    if asked is None:
        print("nothing is asked for")
        return Exit.OK
    done = schema.load(journal, Reboots) or Reboots()
    if why_not := refusal(rules, done, now, boottime_ns() / 1e9, enabled=is_enabled(STARTS_AGAIN)):
        print(f"refused: {why_not}")
        return Exit.FAILED
    schema.save(journal, Reboots(asked=(*done.asked, Reboot(now, asked.step, asked.why))[-MOST:]))
    print(f"the machine is restarted: {asked.why}", flush=True)
    return subprocess.run(["systemctl", "reboot"], timeout=COMMAND_S, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="adam-reboot", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    parser.add_argument("--journal", type=Path, required=True, help="where the restarts are written down")
    parser.add_argument("--per-day", type=int, required=True, help="restarts in any 24 hours")
    parser.add_argument(
        "--uptime-minutes", type=float, required=True, help="that a machine is left alone after a start"
    )
    arguments = parser.parse_args()
    rules = RebootRules(per_day=arguments.per_day, uptime_s=60 * arguments.uptime_minutes)
    return answer(RunPaths(arguments.run), arguments.journal, rules)


if __name__ == "__main__":
    sys.exit(run_main("adam-reboot", main))
