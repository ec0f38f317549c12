"""The names that every process uses: states of a run, phases of a program, classes of failure, exit codes."""

from enum import IntEnum, StrEnum


class RunState(StrEnum):
    """What `adamctl status` says of a run."""

    FORGING = "forging"  # the forge is building shards or tokens
    STARTING = "starting"  # a program is started and has not done its first step
    TRAINING = "training"
    PAUSED = "paused"
    RESTARTING = "restarting"  # between two attempts: waiting out a back-off, or settling
    WAITING = "waiting"  # for something that no restart can bring back: a GPU
    STOPPED = "stopped"  # because somebody asked
    FINISHED = "finished"
    FAILED = "failed"  # for a reason that is written down

    @property
    def final(self) -> bool:
        """True where no process of the run is left and only a person can change that."""
        return self in (RunState.STOPPED, RunState.FINISHED, RunState.FAILED)


class Phase(IntEnum):
    """What a program says it is doing, in its pulse. Each has a deadline of its own (the policy's)."""

    IMPORTING = 0
    LOADING = 1
    CHECKING = 2  # backend self-check, compilation
    TRAINING = 3
    EVALUATING = 4
    SAVING = 5
    PAUSED = 6
    ENDING = 7
    READING = 10  # the forge: sources to shards
    LEARNING = 11  # the forge: training the tokenizer (one long call of a library)
    ENCODING = 12  # the forge: shards to tokens


class FailureClass(StrEnum):
    """Why an attempt ended badly; decides what the policy does next."""

    HOST = "host"  # killed, hung, the machine
    DISK = "disk"
    DATA = "data"
    NUMERIC = "numeric"
    MEMORY = "memory"
    GPU = "gpu"  # there is none to train on
    CODE = "code"
    CONFIG = "config"
    CHECKPOINT = "checkpoint"


class Exit(IntEnum):
    """Exit codes of every program of Adam; `docs/operations.md` explains them to people."""

    OK = 0
    CODE = 1  # an unhandled exception (Python's own code for it)
    USAGE = 2  # a wrong command line (argparse's own code for it)
    CONFIG = 3  # the configuration can't be used
    DATA = 4  # no text, or shards that are not what the manifest says
    CHECKPOINT = 5  # a checkpoint that does not verify
    DISK = 6  # no room, or a place that can't be written
    NUMERIC = 7  # a loss or gradient that is not finite
    MEMORY = 8  # out of memory, host or GPU
    BUSY = 9  # the run is already running, or another process holds its lease
    STOPPED = 10  # ended because somebody asked, after saving
    SCHEMA = 11  # files written by a newer Adam
    NOT_RUNNING = 12  # asked something of a run that is not running
    FAILED = 13  # `up --wait`: the run ended with state failed
    TIMEOUT = 14  # a process of ours, or a far place, did not answer
    GPU = 15  # no GPU that can be trained on, where the run has been on one
    INTERRUPTED = 130  # Ctrl-C


UNFLUSHED = 120  # Python's own: what was printed could not be written (the disk of the log is full)

FAILURE_OF_EXIT: dict[int, FailureClass] = {
    Exit.CODE: FailureClass.CODE,
    Exit.USAGE: FailureClass.CONFIG,
    Exit.CONFIG: FailureClass.CONFIG,
    Exit.DATA: FailureClass.DATA,
    Exit.CHECKPOINT: FailureClass.CHECKPOINT,
    Exit.DISK: FailureClass.DISK,
    Exit.NUMERIC: FailureClass.NUMERIC,
    Exit.MEMORY: FailureClass.MEMORY,
    Exit.BUSY: FailureClass.HOST,
    Exit.SCHEMA: FailureClass.CONFIG,
    Exit.GPU: FailureClass.GPU,
    UNFLUSHED: FailureClass.DISK,
}
