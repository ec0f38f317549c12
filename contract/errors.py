"""Errors that people read: one line that says what was wrong, where, and what to do."""

import errno
from collections.abc import Callable

from adam.contract.output import last_words, tell_launcher
from adam.contract.states import Exit


class AdamError(Exception):
    """An error whose text is for the user.

    Args:
        what: what was wrong, with the value, and where.
        todo: what to do about it; joined to the line after a semicolon.
    """

    exit_code = Exit.CODE

    def __init__(self, what: str, todo: str = "") -> None:
        super().__init__(f"{what}; {todo}" if todo else what)


class UsageError(AdamError):
    exit_code = Exit.USAGE


class ConfigError(AdamError):
    exit_code = Exit.CONFIG


class DataError(AdamError):
    exit_code = Exit.DATA


class CheckpointError(AdamError):
    exit_code = Exit.CHECKPOINT


class DiskError(AdamError):
    exit_code = Exit.DISK


class NumericError(AdamError):
    exit_code = Exit.NUMERIC


class BusyError(AdamError):
    exit_code = Exit.BUSY


class StoppedError(AdamError):
    exit_code = Exit.STOPPED


class SchemaError(AdamError):
    exit_code = Exit.SCHEMA


class NotRunningError(AdamError):
    exit_code = Exit.NOT_RUNNING


class GpuError(AdamError):
    exit_code = Exit.GPU


class TimeoutExpired(AdamError):
    exit_code = Exit.TIMEOUT


def run_main(program: str, main: Callable[[], int]) -> int:
    """Run `main` and turn what it raises into one line on stderr and a documented exit code.

    Only errors meant for people are shortened: anything else keeps its traceback, because then the code is wrong. Its last line
    goes to the launcher too, as the log may have no room for it.
    """
    try:
        return main()
    except AdamError as error:
        last_words(f"{program}: {error}")
        return int(error.exit_code)
    except OSError as error:
        if error.errno is None or (error.filename is None and error.errno not in DISK_ERRNOS):
            tell_launcher(f"{program}: {type(error).__name__}: {error}")
            raise
        where = f" ({error.filename})" if error.filename else ""
        last_words(f"{program}: {error.strerror}{where}{_todo(error.errno)}")
        return int(Exit.DISK)
    except KeyboardInterrupt:
        last_words(f"{program}: interrupted")
        return int(Exit.INTERRUPTED)
    except Exception as error:
        tell_launcher(f"{program}: {type(error).__name__}: {error}")  # the traceback may have no room in the log
        raise


def _todo(number: int) -> str:
    return "; free some space or choose another disk" if number in (errno.ENOSPC, errno.EDQUOT) else ""


DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
