"""One upload: weights, whole state or both of one checkpoint, in one commit. A process of its own, for its libraries are large.

    python -P -m adam.watchdog.upload_job --run DIR --parent PID --checkpoint NAME [--weights] [--state]

What is there already, with the right bytes, is not sent again: so a commit whose answer was lost is found, and an upload that
was killed goes on. Writes one line of JSON to stdout (`upload_words.Outcome`).
"""

import argparse
import fcntl
import os
import sys
import time
from pathlib import Path

import msgspec

from adam.contract.checkpoints import verify
from adam.contract.config_file import load_config
from adam.contract.errors import AdamError, run_main
from adam.contract.far import Far, open_far, where_of
from adam.contract.flock import flocked
from adam.contract.hub_token import hub_token, without
from adam.contract.paths import RunPaths
from adam.contract.pins import held
from adam.contract.process import die_with_parent
from adam.watchdog.upload_errors import trouble_of
from adam.watchdog.upload_parts import Parts, read_parts
from adam.watchdog.upload_words import Outcome, Task, Trouble


def upload(paths: RunPaths, task: Task, far: Far) -> Outcome:
    """Send what is not there yet, read it back, and clear up. Raises what the library of the place does, and AdamError."""
    config = load_config(paths.lock).upload
    began = time.monotonic()
    # One at a time, should one have outlived its uploader by a moment.
    with flocked(paths.outbox, fcntl.LOCK_EX), held(paths.checkpoints / task.checkpoint):
        manifest = verify(paths.checkpoints / task.checkpoint)
        parts = read_parts(paths, task, manifest, far)
        if parts.files:
            far.push(parts.files, parts.manifest, f"step {manifest.step}")
            if wrong := far.wrong(parts.new):
                return Outcome(trouble=Trouble(f"{wrong[0]} was not read back from {far.where} as it was sent"))
        parts.clear()
        note = "" if config.keep_history else forget(far, parts)
    return Outcome(parts.size, time.monotonic() - began, note)


def forget(far: Far, parts: Parts) -> str:
    """What is replaced fills the storage there; that it can't be deleted is no reason to fail."""
    try:
        far.forget(parts.manifest)
    except far.errors as error:
        return f"older uploads can't be deleted from the storage of {far.where}: {trouble_of(error, far.where).text}"
    return ""


def attempt(paths: RunPaths, task: Task) -> Outcome:
    """`upload`, with what goes wrong as a trouble to be told."""
    config = load_config(paths.lock).upload
    token, where = hub_token(), where_of(config)
    far = open_far(where, token, private=config.private)
    try:
        return upload(paths, task, far)
    except AdamError as error:
        return Outcome(trouble=Trouble(without(str(error), token)))
    except far.errors as error:
        trouble = trouble_of(error, where)
        return Outcome(trouble=msgspec.structs.replace(trouble, text=without(trouble.text, token)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="upload_job", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    parser.add_argument("--parent", type=int, required=True, help="end when this process does")
    parser.add_argument("--checkpoint", required=True, help="its name")
    parser.add_argument("--weights", action="store_true", help="send the weights")
    parser.add_argument("--state", action="store_true", help="send the whole checkpoint, and the data")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    # What libraries print must not stand between the uploader and the one line that it reads.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    task = Task(arguments.checkpoint, arguments.weights, arguments.state)
    answer.write(msgspec.json.encode(attempt(RunPaths(arguments.run), task)) + b"\n")
    answer.close()
    return 0


if __name__ == "__main__":
    sys.exit(run_main("upload_job", main))
