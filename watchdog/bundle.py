"""What a hang looks like from outside, gathered into one directory: a process of its own, since reading /proc of a stuck process can block.

    python -P -m adam.watchdog.bundle --run DIR --name hang-3-1200 --token N --pid PID --stacks-from BYTES --parent PID < gpus.json

Each file is written as soon as it is known: a bundle that is cut short has what was found until then. No environment and no
command line of a process is read: they may hold secrets.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from adam.contract.errors import run_main
from adam.contract.lease import processes_of
from adam.contract.paths import RunPaths
from adam.contract.process import die_with_parent, state_letter

BUNDLES_KEPT = 10
EVENTS = 50
TAIL_BYTES = 65536
STACKS_S = 2.0  # that a process has to write its stacks
FRESH_S = 60.0  # stacks that are older are of another hang
STILL_S = 0.2  # without a byte more, they are whole
PY_SPY_S = 5.0
LOGS = ("trainer", "forge", "launcher", "watchdog", "supervisord")
# Of a process and of each of its threads; `stack` needs root, `syscall` the right to trace.
PROC = ("wchan", "stack", "syscall", "status")
STOPPED = (
    "process {pid} is stopped (state {letter}): it can't write its stacks, and wakes for SIGCONT and SIGKILL only\n"
)
SILENT = (
    "process {pid} (state {letter}) has written no stacks in {seconds:g} s: "
    "it is stuck in the kernel, or has no handler yet, or its log was moved away\n"
)


def prune(logs: Path, kept: int) -> None:
    """Delete all but the newest `kept` bundles."""
    found = sorted(logs.glob("hang-*/"), key=lambda path: path.stat().st_mtime)
    for path in found[: max(0, len(found) - kept)]:
        shutil.rmtree(path)


def proc_text(pid: int) -> str:
    """The kernel's view of a process and its threads."""
    parts = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*"), key=lambda path: int(path.name)):
        for name in PROC:
            try:
                text = (task / name).read_text(errors="replace").strip()
            except OSError as error:
                text = f"({error.strerror})"
            parts.append(f"== process {pid}, thread {task.name}: {name}\n{text}\n")
    return "\n".join(parts) or f"process {pid} is gone\n"


def stacks_text(path: Path, start: int, pid: int) -> str:
    """What the process has written of its stacks since `start`, waited for; else why there is nothing."""
    letter = state_letter(pid) or "gone"
    if letter in "Tt":
        return STOPPED.format(pid=pid, letter=letter)
    end, size, grown = time.monotonic() + STACKS_S, 0, 0.0
    while (now := time.monotonic()) < end and not (size > start and now - grown > STILL_S):
        here = path.stat().st_size if path.exists() else 0
        start = start if start <= here else 0  # cut short by whoever rotates logs
        size, grown = (here, now) if here != size else (size, grown)
        time.sleep(0.02)
    if size <= start:
        return SILENT.format(pid=pid, letter=letter, seconds=STACKS_S)
    with path.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")


def py_spy_text(pid: int) -> str:
    """py-spy's view, native frames too, where it is installed and may look."""
    program = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if program is None:
        return "py-spy is not installed\n"
    try:
        done = subprocess.run(
            [program, "dump", "--nonblocking", "--pid", str(pid)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PY_SPY_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"py-spy has not answered in {PY_SPY_S:g} s\n"
    return done.stdout + done.stderr


def tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read()


def write(target: Path, what: Callable[[], str | bytes]) -> None:
    """`target` with the text of `what`, or with the reason why there is none."""
    try:
        text = what()
    except OSError as error:
        text = f"can't be read: {error}\n"
    target.write_bytes(text if isinstance(text, bytes) else text.encode())


def gather(paths: RunPaths, arguments: argparse.Namespace, gpus: bytes) -> None:
    """The bundle, what can't block first. Raises OSError where it can't be written."""
    target = paths.logs / arguments.name
    paths.logs.mkdir(exist_ok=True)
    prune(paths.logs, BUNDLES_KEPT - 1)
    target.mkdir(exist_ok=True)
    pid = arguments.pid
    (target / "gpus.json").write_bytes(gpus)
    write(target / "events.jsonl", lambda: b"\n".join(tail(paths.events).splitlines()[-EVENTS:]) + b"\n")
    for name in LOGS:
        if paths.log(name).exists():
            write(target / f"{name}.log", partial(tail, paths.log(name)))
    write(target / f"proc-{pid}.txt", partial(proc_text, pid))
    write(target / "stacks.txt", partial(stacks_text, paths.log("stacks"), arguments.stacks_from, pid))
    for path in sorted(paths.logs.glob("stacks-*.log")):  # of the other ranks, which are told when the first is
        if time.time() - path.stat().st_mtime < FRESH_S:
            write(target / f"{path.stem}.txt", partial(tail, path))
    write(target / "py-spy.txt", partial(py_spy_text, pid))
    # Asks every process of the machine for its environment, and so may stand on one that is stuck.
    for other in sorted(processes_of(paths, arguments.token) - {pid}):
        write(target / f"proc-{other}.txt", partial(proc_text, other))


def main() -> int:
    parser = argparse.ArgumentParser(prog="bundle", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    parser.add_argument("--name", required=True, help="of the directory below logs/")
    parser.add_argument("--token", type=int, required=True, help="of the attempt that hangs")
    parser.add_argument("--pid", type=int, required=True, help="of its program")
    parser.add_argument("--stacks-from", type=int, required=True, help="bytes of logs/stacks.log that are older")
    parser.add_argument("--parent", type=int, required=True, help="end when this process does")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    gather(RunPaths(arguments.run), arguments, sys.stdin.buffer.read())
    return 0


if __name__ == "__main__":
    sys.exit(run_main("bundle", main))
