"""C++ for the CPU (`kernels/cpu_*.cpp`): compiled by the machine's own compiler when it is first needed, and kept for all runs of a user.

What was compiled is named after all that its bits hang on: sources, compiler, flags and CPU; and after its own digest, so that a file
that a power cut has torn is seen and not loaded.
"""

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import structlog

from adam.contract.durable import replace_file

KERNELS = Path(__file__).parent / "kernels"
HEADERS, SOURCES = ("cpu_math.h",), ("cpu_conv.cpp", "cpu_scan.cpp")
FLAGS = ("-std=gnu++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
COMPILERS = ("g++", "c++")
LONGEST_S = 240.0
CPUINFO = Path("/proc/cpuinfo")
CPU_LINES = ("model name", "flags", "CPU implementer", "CPU part", "Features")  # x86; ARM

log = structlog.get_logger()


class BuildError(RuntimeError):
    """It can't be compiled or loaded; the message says what the compiler says."""


def compiler() -> str | None:
    """Where there is a C++ compiler: the one that CXX names, else the first of COMPILERS."""
    named = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, [named] if named else COMPILERS)), None)


_kept_in: list[Path] = []


def keep_in(directory: Path) -> None:
    """From now on what is compiled is kept there where a user's cache can't be written."""
    _kept_in[:] = [directory]


def library() -> ctypes.CDLL:
    """The operators, compiled now where nobody has yet. Raises BuildError."""
    return _load(_built())


@lru_cache
def key() -> str:
    """A digest of all that decides the bits of what is compiled here. Raises BuildError where there is no compiler."""
    found = compiler()
    if found is None:
        raise BuildError(f"there is no C++ compiler ({' or '.join(COMPILERS)})")
    try:
        said = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{found} can't be run: {error}") from error
    code = (KERNELS / name for name in (*HEADERS, *SOURCES))
    parts = (found, *said.splitlines()[:1], *FLAGS, _cpu(), *(path.read_text() for path in code))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _cpu() -> str:
    with suppress(OSError):
        lines = CPUINFO.read_text().partition("\n\n")[0].splitlines()
        return "\n".join(line for line in lines if line.startswith(CPU_LINES))
    return ""


def _places() -> list[Path]:
    """Where it is kept: the user's cache, for all runs; else beside the run's other kernels."""
    named = os.environ.get("XDG_CACHE_HOME")
    with suppress(RuntimeError):  # a user without a home
        return [(Path(named) if named else Path.home() / ".cache") / "adam-trainer", *_kept_in]
    return _kept_in


def _built() -> Path:
    name = key()
    for directory in _places():
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with _locked(directory):
                return _whole(directory, name) or _compile(directory, name)
        except OSError as error:
            log.info("compiled operators can't be kept there", directory=str(directory), why=str(error))
    raise BuildError("there is no place for compiled operators")


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One process compiles; the others wait for what it leaves."""
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _whole(directory: Path, name: str) -> Path | None:
    """What an earlier process has left, if it still has its digest."""
    for path in directory.glob(f"{name}-*.so"):
        if path.stem.partition("-")[2] == _digest(path.read_bytes()):
            return path
        path.unlink()
    return None


def _compile(directory: Path, name: str) -> Path:
    for left in directory.glob(".*.so"):  # by a compiler that was killed; we have the lock
        left.unlink()
    made = directory / f".{name}.so"
    command = [compiler() or "", *FLAGS, *(str(KERNELS / source) for source in SOURCES), "-o", str(made)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=False)
        if done.returncode:
            lines = done.stderr.splitlines()
            why = next((line for line in lines if "error" in line), lines[0] if lines else "without saying why")
            raise BuildError(f"{command[0]} does not compile them: {why}")
        code = made.read_bytes()
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{command[0]} takes longer than {LONGEST_S:.0f} s") from error
    finally:
        made.unlink(missing_ok=True)
    path = directory / f"{name}-{_digest(code)}.so"
    replace_file(path, code, durable=False)
    log.info("operators for this CPU are compiled", file=str(path))
    return path


def _digest(code: bytes) -> str:
    return hashlib.sha256(code).hexdigest()[:16]


@lru_cache
def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"{path} can't be loaded: {error}") from error
