"""The checks of `adamctl doctor` about compilers and packages: what is missing, what does not fit together, and what nobody needs.

Decisions on facts (`Facts`), which `facts` gathers: importing what may crash, in processes of their own.
"""

import importlib.util
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from packaging.requirements import Requirement

from adam.daemon.doctor_words import Finding, bad, ok, warn

EXTENSIONS = ("causal_conv1d", "mamba_ssm")
REBUILD = f"{sys.executable} -m pip install --force-reinstall --no-deps --no-cache-dir --no-build-isolation --no-binary :all: "
OLDEST_DATASETS = (4, 0)  # older ones fail on patterns of a newer fsspec
ASK_IMPORT = "import json, {name}\nprint(json.dumps({{}}))"
ASK_NVRTC = """
import json
from cuda.bindings import nvrtc
print(json.dumps({"version": list(nvrtc.nvrtcVersion()[1:])}))
"""


class Facts(msgspec.Struct, frozen=True):
    nvcc: str = ""  # where it is; empty: nowhere
    header: str = ""  # Python.h; empty: it is not there
    compiler: str = ""  # gcc or cc
    extensions: dict[str, str] = {}  # those that are installed -> what their import says; empty: it works
    nvrtc: str = ""  # why NVRTC can't be used; empty: it can
    gpu: bool = False  # torch sees one
    datasets: str = ""  # versions; empty: not installed
    fsspec: str = ""
    datasets_wants: str = ""  # of fsspec, as its own metadata say: >=2023.1.0,<=2026.2.0


def facts(ask: Callable[[str], dict[str, Any]], *, gpu: bool) -> Facts:
    """Look. ask: runs Python of its own, as `doctor_machine.ask`."""
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    installed = [name for name in EXTENSIONS if importlib.util.find_spec(name) is not None]
    return Facts(
        nvcc=shutil.which("nvcc") or "",
        header=str(header) if header.is_file() else "",
        compiler=shutil.which("gcc") or shutil.which("cc") or "",
        extensions={name: ask(ASK_IMPORT.format(name=name)).get("error", "") for name in installed},
        nvrtc=ask(ASK_NVRTC).get("error", "") if gpu else "",
        gpu=gpu,
        datasets=version("datasets"),
        fsspec=version("fsspec"),
        datasets_wants=wanted("datasets", "fsspec"),
    )


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def wanted(package: str, of: str) -> str:
    """Which versions of `of` a package says that it wants; empty: any, or it is not installed."""
    try:
        lines = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return ""
    found = (Requirement(line) for line in lines)
    return next((str(one.specifier) for one in found if one.name == of and one.marker is None), "")


def check_build(found: Facts) -> Iterator[Finding]:
    yield check_kernels(found)
    for name, error in found.extensions.items():
        yield check_extension(name, error)
    if any(found.extensions.values()) or (found.gpu and found.extensions):
        yield check_headers(found)
    yield from check_datasets(found)


def check_kernels(found: Facts) -> Finding:
    """Our kernels need NVRTC, and no nvcc."""
    if found.nvrtc:
        return bad(
            f"our kernels can't be compiled: NVRTC does not answer ({found.nvrtc})",
            f"{sys.executable} -m pip install cuda-bindings nvidia-cuda-nvrtc; until then backends are many times slower",
        )
    if found.nvcc:
        return ok(f"nvcc is at {found.nvcc}; nothing here needs it")
    return ok("there is no nvcc, and none is needed: kernels are compiled at a start by the NVRTC that torch brings")


def check_extension(name: str, error: str) -> Finding:
    """mamba_ssm and causal_conv1d are optional: our own kernels are faster."""
    package = name.replace("_", "-")
    remove = f"{sys.executable} -m pip uninstall {package}: our kernels need neither"
    if not error:
        return ok(f"{name} can be imported")
    if "undefined symbol" in error:
        return warn(f"{name} was built against another torch: {error}", f"{remove}; or rebuild it: {REBUILD}{package}")
    if "No module named" in error or "cannot import name" in error:
        return warn(
            f"{name} lacks a part of itself or a library: {error}", f"{remove}; or rebuild it: {REBUILD}{package}"
        )
    return warn(f"{name} can't be imported: {error}", remove)


def check_headers(found: Facts) -> Finding:
    """What building mamba_ssm, and Triton's first kernel, take."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not found.header:
        return warn(
            "Python.h is missing: mamba_ssm can't be built here, nor Triton's kernels",
            f"apt-get install {python}-dev; the native backend needs neither",
        )
    if not found.compiler:
        return warn(
            "there is no C compiler: mamba_ssm can't be built here, nor Triton's kernels",
            "apt-get install gcc; the native backend needs neither",
        )
    return ok(f"Python.h and {found.compiler} are there, for those who build mamba_ssm")


def check_datasets(found: Facts) -> Iterator[Finding]:
    """datasets and fsspec of different years fail on patterns with `**`."""
    if not found.datasets or not found.fsspec:
        return
    numbers = tuple(int(part) for part in found.datasets.split(".")[:2] if part.isdigit())
    fits = not found.datasets_wants or Requirement(f"fsspec{found.datasets_wants}").specifier.contains(
        found.fsspec, prereleases=True
    )
    if fits and numbers >= OLDEST_DATASETS:
        yield ok(f"datasets {found.datasets} and fsspec {found.fsspec} go together")
    else:
        wants = f" wants fsspec {found.datasets_wants}, and" if not fits else " is old:"
        yield warn(
            f"datasets {found.datasets}{wants} fsspec is {found.fsspec}: \"Invalid pattern: '**'\" may follow",
            f"{sys.executable} -m pip install --upgrade datasets fsspec",
        )
