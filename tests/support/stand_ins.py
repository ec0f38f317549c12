"""C libraries of ours in place of the machine's, for the processes that a test starts."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def compile_library(source: Path, library: Path, *options: str) -> Path:
    """Build a shared library. Skips the test where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build a stand-in with")
    subprocess.run([compiler, "-Wall", "-Werror", "-shared", "-fPIC", *options, "-o", library, source], check=True)
    return library


class StandInNvml:
    """A libnvidia-ml.so.1 of ours, and the file that tells it what to say."""

    def __init__(self, folder: Path, file: Path) -> None:
        self.folder, self._file = folder, file
        self.limits_file = file.with_name("nvml-limits")
        self.environment = {
            "LD_LIBRARY_PATH": str(folder),
            "NVML_SAYS": str(file),
            "NVML_LIMITS": str(self.limits_file),
        }
        self.say()

    def say(self, **numbers: int) -> None:
        """From now on; what is not named is as ever."""
        new = self._file.with_suffix(".new")
        new.write_text(" ".join(f"{name} {number}" for name, number in numbers.items()))
        new.replace(self._file)

    def limits(self, gpu: int = 0) -> list[int]:
        """The power limits in watts that were set so far, in their order."""
        said = self.limits_file.read_text().splitlines() if self.limits_file.exists() else []
        return [int(line.split()[1]) // 1000 for line in said if line.startswith(f"{gpu} ")]


@pytest.fixture(scope="session")
def nvml_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where the stand-ins lie: of a driver of today, and of an old one that has fewer functions."""
    folders = {"new": tmp_path_factory.mktemp("nvml"), "old": tmp_path_factory.mktemp("old-nvml")}
    for name, folder in folders.items():
        compile_library(
            HERE / "nvml_stand_in.c", folder / "libnvidia-ml.so.1", *(["-DOLD_DRIVER"] if name == "old" else [])
        )
    return folders


@pytest.fixture
def nvml(nvml_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandInNvml:
    """The processes that are started from now on find this NVML."""
    nvml = StandInNvml(nvml_folders["new"], tmp_path / "nvml-says")
    for name, value in nvml.environment.items():
        monkeypatch.setenv(name, value)
    return nvml


class Machine:
    """The machine's clock on the wall, and its disk, for the processes that are started from now on."""

    def __init__(self, place: Path, library: Path) -> None:
        self._off, self._stuck = place / "clock-off", place / "fsync-stuck"
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFF": str(self._off), "FSYNC_STUCK": str(self._stuck)}

    def set_clock(self, seconds: int) -> None:
        """So much later than it is (earlier where negative)."""
        self._off.write_text(f"{seconds}\n")

    def stick_disk(self) -> None:
        """No fsync returns until `free_disk`."""
        self._stuck.touch()

    def free_disk(self) -> None:
        self._stuck.unlink(missing_ok=True)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path, compile_library(HERE / "preload.c", tmp_path / "preload.so"))
    for name, value in machine.environment.items():
        monkeypatch.setenv(name, value)
    return machine
