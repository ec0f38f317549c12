"""CUDA C++ that is compiled when it is needed, by the NVRTC that torch's wheel for NVIDIA GPUs brings along.

No compiler, no CUDA toolkit and no build step: about half a second a kernel. Compiling needs no GPU, so that every architecture can be
checked on any machine; loading and launching do. `cuda.bindings` is NVIDIA's own binding, which torch's wheel depends on.
"""

import ctypes
import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import structlog
import torch
from torch import Tensor

from adam.contract.durable import replace_file

KERNELS = Path(__file__).parent / "kernels"
log = structlog.get_logger()
OLDEST = (8, 0)  # the compute capability of the first GPUs that have what the kernels use: asynchronous copies, bf16
DIGEST_BYTES = 32  # before the machine code in a kept file


class KernelError(RuntimeError):
    """A kernel can't be compiled, loaded or launched; the message says which, and what CUDA says."""


class Resources(NamedTuple):
    """What the assembler says a kernel takes: per thread registers, bytes of stack and of spilled stores; bytes of static shared memory."""

    registers: int
    stack: int
    spilled: int
    shared: int


@dataclass(frozen=True)
class Binary:
    code: bytes
    log: str

    def resources(self) -> dict[str, Resources]:
        """Of each kernel, by name."""
        found = {}
        for name, said in re.findall(r"entry function '(\w+)'(.*?Used [^\n]*)", self.log, re.DOTALL):
            numbers = (
                r"Used (\d+) registers",
                r"(\d+) bytes stack frame",
                r"(\d+) bytes spill stores",
                r"(\d+) bytes smem",
            )
            matches = (re.search(pattern, said) for pattern in numbers)
            found[name] = Resources(*(int(match[1]) if match else 0 for match in matches))
        return found


def compile_kernels(files: tuple[str, ...], macros: dict[str, int], architecture: str) -> Binary:
    """Machine code of the files one after another. architecture: such as "sm_90". Raises KernelError."""
    nvrtc = _nvrtc()
    options = [*_options(macros, architecture), "--ptxas-options=-v"]
    program = _ok(
        nvrtc.nvrtcCreateProgram(_source(files).encode(), files[-1].encode(), 0, [], []), "creating a program"
    )
    try:
        result = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = b" " * _ok(nvrtc.nvrtcGetProgramLogSize(program), "reading NVRTC's log")
        nvrtc.nvrtcGetProgramLog(program, log)
        said = log.decode(errors="replace").strip("\0 \n")
        if int(result[0]):
            raise KernelError(f"{files[-1]} does not compile for {architecture} with {macros}: {_first_error(said)}")
        code = b" " * _ok(nvrtc.nvrtcGetCUBINSize(program), "reading machine code")
        _ok(nvrtc.nvrtcGetCUBIN(program, code), "reading machine code")
        return Binary(code, said)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _first_error(said: str) -> str:
    """The line of the compiler's log that says what is wrong, of pages."""
    lines = said.splitlines() or ["NVRTC does not say why"]
    return next((line.strip() for line in lines if "error" in line), lines[0])


def kept_code(directory: Path, files: tuple[str, ...], macros: dict[str, int], architecture: str) -> bytes:
    """Machine code as `compile_kernels` makes it, from a file of `directory` where an earlier process has left it there."""
    version = _ok(_nvrtc().nvrtcVersion(), "asking for NVRTC's version")
    made_of = "\n".join((*map(str, version), *_options(macros, architecture), _source(files)))
    path = directory / f"{hashlib.sha256(made_of.encode()).hexdigest()[:32]}.cubin"
    with suppress(OSError):  # what is not there, or can't be read, is compiled
        whole = path.read_bytes()
        if hashlib.sha256(whole[DIGEST_BYTES:]).digest() == whole[:DIGEST_BYTES]:
            return whole[DIGEST_BYTES:]
    code = compile_kernels(files, macros, architecture).code
    try:
        directory.mkdir(exist_ok=True)
        replace_file(path, hashlib.sha256(code).digest() + code, durable=False)
    except OSError as error:
        log.warning("a compiled kernel can't be kept; each start compiles it again", why=str(error))
    return code


def _source(files: tuple[str, ...]) -> str:
    return "\n".join((KERNELS / name).read_text() for name in files)


def _options(macros: dict[str, int], architecture: str) -> list[str]:
    return [
        f"--gpu-architecture={architecture}",
        "--std=c++17",
        *(f"-D{name}={value}" for name, value in macros.items()),
    ]


def _nvrtc() -> Any:
    """NVIDIA's binding, with the library behind it found. Raises KernelError."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:  # RuntimeError: the binding is there, the library is not
        raise KernelError(
            f"NVRTC can't be used: {error}; torch's build for NVIDIA GPUs brings both, "
            "by hand it is `pip install cuda-bindings nvidia-cuda-nvrtc`"
        ) from error
    return nvrtc


class Kernel:
    """A kernel in one GPU's memory.

    Args:
        module: the machine code that it is in.
        name: of the function; `NAME_shared`, `NAME_threads` and what else `number` is asked for are constants beside it.
    """

    def __init__(self, module: "Module", name: str) -> None:
        driver = _driver(module.device)
        self._module, self._name = module, name
        self._function = _ok(driver.cuModuleGetFunction(module.handle, name.encode()), f"finding kernel {name}")

    def number(self, what: str) -> int:
        driver = _driver(self._module.device)
        symbol = f"{self._name}_{what}"
        address, size = _ok(driver.cuModuleGetGlobal(self._module.handle, symbol.encode()), f"finding {symbol}")
        value = ctypes.c_int()
        _ok(driver.cuMemcpyDtoH(ctypes.addressof(value), address, size), f"reading {symbol}")
        return value.value

    def resident(self, threads: int, shared: int) -> int:
        """Blocks that all multiprocessors hold at once; allows as much dynamic shared memory as is asked for, in bytes."""
        driver = _driver(self._module.device)
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _ok(
            driver.cuFuncSetAttribute(self._function, attribute, shared),
            f"{self._name}: {shared} bytes of shared memory",
        )
        blocks: int = _ok(
            driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(self._function, threads, shared),
            f"{self._name}: occupancy",
        )
        if not blocks:
            raise KernelError(f"{self._name} does not fit: {threads} threads, {shared} bytes of shared memory")
        return blocks * torch.cuda.get_device_properties(self._module.device).multi_processor_count

    def launch(
        self, grid: tuple[int, int, int], threads: int, shared: int, arguments: tuple[Tensor | int | None, ...]
    ) -> None:
        """Queues it on the current stream. Arguments: tensors and None as addresses, whole numbers as int."""
        driver = _driver(self._module.device)
        values = tuple(_value(argument) for argument in arguments)
        types = tuple(ctypes.c_int if isinstance(argument, int) else ctypes.c_void_p for argument in arguments)
        stream = torch.cuda.current_stream(self._module.device).cuda_stream
        _ok(
            driver.cuLaunchKernel(self._function, *grid, threads, 1, 1, shared, stream, (values, types), 0),
            f"launching {self._name}",
        )


class Module:
    """Machine code loaded into the memory of one GPU, for as long as the process lives."""

    def __init__(self, code: bytes, device: int) -> None:
        self.device = device
        self.handle = _ok(_driver(device).cuModuleLoadData(code), "loading machine code")


@lru_cache(maxsize=256)
def module(files: tuple[str, ...], macros: tuple[tuple[str, int], ...], device: int) -> Module:
    """Compiled for and loaded into that GPU, once a process; between processes the machine code is kept where `keep_in` said.

    Raises KernelError, also where the GPU is older than sm_80.
    """
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < OLDEST:
        name = torch.cuda.get_device_name(device)
        raise KernelError(
            f"{files[-1]} needs a GPU of sm_{OLDEST[0]}{OLDEST[1]} or later, this {name} is sm_{major}{minor}"
        )
    wanted = (files, dict(macros), f"sm_{major}{minor}")
    return Module(kept_code(_kept_in[0], *wanted) if _kept_in else compile_kernels(*wanted).code, device)


_kept_in: list[Path] = []


def keep_in(directory: Path) -> None:
    """From now on machine code is kept in files of that directory."""
    _kept_in[:] = [directory]


def _driver(device: int) -> Any:
    """CUDA's driver, with torch's context in force in this thread: autograd's threads may have none before their first allocation."""
    from cuda.bindings import driver

    if not int(_ok(driver.cuCtxGetCurrent(), "asking for the context")):
        _ok(driver.cuCtxSetCurrent(_context(device)), "setting the context")
    return driver


@lru_cache(maxsize=16)
def _context(device: int) -> Any:
    from cuda.bindings import driver

    torch.cuda.init()
    return _ok(
        driver.cuDevicePrimaryCtxRetain(_ok(driver.cuDeviceGet(device), "finding the GPU")), "finding its context"
    )


def _value(argument: Tensor | int | None) -> int:
    if argument is None:
        return 0
    return argument.data_ptr() if isinstance(argument, Tensor) else argument


def _ok(result: tuple[Any, ...], doing: str) -> Any:
    """What a call gave beside its status."""
    status, *values = result
    if int(status):
        raise KernelError(f"{doing}: {status.name}")
    return values[0] if len(values) == 1 else values
