"""`adamctl status`: what a run is doing, from its files alone. Light: it is asked often, and by scripts.

look at the run directory (`look`) -> plain facts (`Seen`) -> the report (`describe`, pure) -> JSON or lines
"""

import argparse

import msgspec

from adam.contract.checkpoints import list_checkpoints, parse_name, read_manifest
from adam.contract.clock import stamp
from adam.contract.config_file import load_config
from adam.contract.errors import CheckpointError, DataError
from adam.contract.lease import read_lease
from adam.contract.paths import RunPaths
from adam.contract.process import alive
from adam.contract.records import CheckpointSeen, Fit, Plan, Staging, Status
from adam.contract.schema import load
from adam.contract.shards import load_tokens
from adam.contract.shared import Pulse, read_once
from adam.daemon.numbers import Numbers, read_numbers
from adam.daemon.processes import anybody_lives, read_status, watchdog_lives
from adam.daemon.report import Seen, describe, human_lines
from adam.daemon.run_of import run_of


def run(arguments: argparse.Namespace) -> int:
    report = describe(look(run_of(arguments)))
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        print("\n".join(human_lines(report)))
    return 0


def look(paths: RunPaths) -> Seen:
    """One look at a run."""
    status, lease, plan = read_status(paths), read_lease(paths), read_plan(paths)
    forging = plan is not None and plan.program == "forge"
    pulse = read_once(paths.pulse("forge" if forging else "0"), Pulse)
    numbers = read_numbers(paths.metrics)
    position = None if forging else begun_from(plan, pulse, numbers)
    if position is not None:
        numbers = read_numbers(paths.metrics, upto=position)
    tokens, watching = load_tokens(paths), watchdog_lives(status)
    return Seen(
        root=str(paths.root),
        checkpoints=str(paths.checkpoints),
        now=stamp(),
        config=load_config(paths.lock if paths.lock.exists() else paths.config),
        status=status,
        lease=lease,
        plan=plan,
        pulse=pulse,
        forging=forging,
        numbers=numbers,
        position=position,
        order2_bits_per_byte=tokens.order2_bits_per_byte if tokens else None,
        checkpoint=newest_checkpoint(paths, status),
        staging=load(paths.staging_report, Staging),
        fit=read_fit(paths),
        watchdog_alive=watching,
        program_alive=lease is not None and alive(lease.child_pid, lease.child_ticks),
        anybody_alive=watching or anybody_lives(paths),
    )


def read_plan(paths: RunPaths) -> Plan | None:
    try:
        return load(paths.plan, Plan)
    except DataError:
        return None


def read_fit(paths: RunPaths) -> Fit | None:
    try:
        return load(paths.fit, Fit)
    except DataError:
        return None


def begun_from(plan: Plan | None, pulse: Pulse | None, numbers: Numbers) -> int | None:
    """The step that an attempt stands at which has no row yet; None where the newest row is of the present attempt."""
    if plan is None or plan.attempt <= numbers.attempt:
        return None
    if pulse is not None and pulse.attempt == plan.attempt and pulse.step:
        return pulse.step
    return plan.resume.step if plan.resume else 0


def newest_checkpoint(paths: RunPaths, status: Status | None) -> CheckpointSeen | None:
    """The keeper's newest verified one, else the newest on disk that has a whole manifest (whose bytes nobody has checked)."""
    known = status.checkpoint if status is not None else None
    if known is not None and (paths.checkpoints / known.name).is_dir():
        return known
    for path in reversed(list_checkpoints(paths.checkpoints)):
        try:
            manifest = read_manifest(path)
        except CheckpointError:
            continue
        step, _ = parse_name(path.name) or (0, 0)
        return CheckpointSeen(path.name, step, False, manifest.stamp)
    return None
