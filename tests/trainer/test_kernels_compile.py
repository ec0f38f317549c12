"""Every kernel compiles for every architecture that is supported, without a GPU, within what a multiprocessor has.

How many registers a thread may have, the launch bounds tell the assembler, which then spills; how much shared memory a block has, the
kernels assert themselves. So what can go wrong shows as an error or as spilled bytes.
"""

import pytest
import torch

from adam.trainer.ops import native_ssd, nvrtc, self_check
from adam.trainer.ops.nvrtc import KernelError, compile_kernels, kept_code

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_103", "sm_120")
SCAN = ("common.cuh", "scan_common.cuh")
FILES = {
    "forward": ("scan_forward.cu", {"OWN": 4}),
    "forward, little to do": ("scan_forward.cu", {"OWN": 2}),
    "backward": ("scan_backward.cu", {"BLOCKS": 3}),
    "backward, little to do": ("scan_backward.cu", {"BLOCKS": 2}),
    "sums": ("scan_sums.cu", {}),
    "links forward": ("scan_links.cu", {"BACKWARD": 0}),
    "links backward": ("scan_links.cu", {"BACKWARD": 1}),
}
# What a 2.7B model takes, and the widest that there is.
OTHERS = {
    "conv forward": (("conv_common.cuh", "conv_forward.cu"), {"TAPS": 4}),
    "conv backward": (("conv_common.cuh", "conv_backward.cu"), {"TAPS": 4}),
    "norm": (("norm_common.cuh", "add_norm.cu"), {"THREADS": 128, "ITEMS": 5}),
    "widest norm": (("norm_common.cuh", "add_norm.cu"), {"THREADS": 512, "ITEMS": 6}),
    "gated norm": (("norm_common.cuh", "gated_norm.cu"), {"THREADS": 256, "ITEMS": 5}),
    "cross-entropy": (("cross_entropy.cu",), {}),
    "AdamW": (("adamw.cu",), {}),
}
ELSEWHERE = {"fp8.cu"}  # test_fp8.py, for the chips that have fp8
PAIRS = ("common.cuh", "ssd_common.cuh", "ssd_pairs.cuh")
DUALITY = {
    "tokens": (("common.cuh", "ssd_common.cuh", "ssd_tokens.cu"), {"STATES": 128}),
    "forward": ((*PAIRS, "ssd_forward.cu"), {"SHARED": native_ssd.FORWARD_SHARED}),
    "backward": ((*PAIRS, "ssd_backward.cu"), {"SHARED": native_ssd.BACKWARD_SHARED}),
}
BF16, FP16, FP32 = 0, 1, 2


def spilled(what: str, architecture: str, states: int, element: int) -> int:
    """Bytes that the kernels of a file spill, a thread."""
    name, macros = FILES[what]
    return _spilled((*SCAN, name), {"STATES": states, "ELEMENT": element, **macros}, architecture)


def _spilled(files: tuple[str, ...], macros: dict[str, int], architecture: str) -> int:
    binary = compile_kernels(files, macros, architecture)
    resources = binary.resources()
    assert binary.code[:4] == b"\x7fELF" and resources
    assert all(0 < kernel.registers <= 255 and kernel.shared <= 48 * 1024 for kernel in resources.values())
    return max(kernel.spilled for kernel in resources.values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("what", FILES)
def test_the_fast_path_on_all_architectures(what: str, architecture: str) -> None:
    assert spilled(what, architecture, 16, BF16) <= 16


@pytest.mark.parametrize("states", [4, 8, 32, 64])
@pytest.mark.parametrize("what", ["forward", "backward", "links backward"])
def test_other_numbers_of_states(what: str, states: int) -> None:
    assert spilled(what, "sm_120", states, BF16) <= 128


@pytest.mark.parametrize("element", [FP16, FP32])
@pytest.mark.parametrize("what", ["forward", "backward", "links backward"])
def test_other_types(what: str, element: int) -> None:
    assert spilled(what, "sm_100", 16, element) <= 32


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("what", OTHERS)
def test_the_other_operations_on_all_architectures(what: str, architecture: str) -> None:
    files, macros = OTHERS[what]
    for element in (BF16, FP32):
        assert _spilled(("common.cuh", *files), {"ELEMENT": element, **macros}, architecture) <= 16


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("what", DUALITY)
def test_the_duality_on_all_architectures(what: str, architecture: str) -> None:
    files, macros = DUALITY[what]
    for element in (BF16, FP16):
        assert _spilled(files, {"ELEMENT": element, **macros}, architecture) <= 160


def test_no_kernel_is_left_out() -> None:
    known = {name for name, _ in FILES.values()} | {files[-1] for files, _ in (*OTHERS.values(), *DUALITY.values())}
    assert known | ELSEWHERE == {path.name for path in nvrtc.KERNELS.glob("*.cu")}


@pytest.mark.parametrize("states", [16, 64, 256])
def test_other_numbers_of_states_of_the_duality(states: int) -> None:
    files, macros = DUALITY["tokens"]
    assert _spilled(files, {**macros, "ELEMENT": BF16, "STATES": states}, "sm_120") <= 16


@pytest.mark.parametrize("taps", [2, 3])
def test_other_windows_of_the_convolution(taps: int) -> None:
    for direction in ("forward", "backward"):
        files, _ = OTHERS[f"conv {direction}"]
        assert _spilled(("common.cuh", *files), {"ELEMENT": FP16, "TAPS": taps}, "sm_100") <= 16


def test_all_that_a_self_check_compiles_ahead() -> None:
    """With the very macros that it asks for."""
    for files, macros in self_check.sources(torch.bfloat16, 16):
        _spilled(("common.cuh", *files), dict(macros), "sm_120")


def test_machine_code_is_kept_and_not_believed_blindly(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ((*SCAN, "scan_sums.cu"), {"STATES": 16, "ELEMENT": BF16}, "sm_90")
    code = kept_code(tmp_path / "kept", *wanted)
    (path,) = (tmp_path / "kept").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(nvrtc, "compile_kernels", lambda *_: pytest.fail("compiled again"))
        assert kept_code(tmp_path / "kept", *wanted) == code
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert kept_code(tmp_path / "kept", *wanted) == code
    kept_code(tmp_path / "kept", wanted[0], wanted[1], "sm_120")
    assert len(list((tmp_path / "kept").iterdir())) == 2
    path.unlink()
    path.mkdir()  # what can't be read, as on a failing disk
    assert kept_code(tmp_path / "kept", *wanted) == code


def test_a_kernel_that_does_not_compile_is_named() -> None:
    with pytest.raises(
        KernelError, match=r"scan_forward.cu does not compile for sm_90 with .*'STATES': 16.*OWN"
    ) as raised:
        compile_kernels((*SCAN, "scan_forward.cu"), {"STATES": 16, "ELEMENT": BF16}, "sm_90")
    assert len(str(raised.value).splitlines()) == 1


def test_a_gpu_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc.torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(nvrtc.torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(KernelError, match=r"scan_forward.cu needs a GPU of sm_80 or later, this Tesla T4 is sm_75"):
        nvrtc.module((*SCAN, "scan_forward.cu"), (), 0)
