"""Model FLOPs utilisation: what of a chip's arithmetic the model's own products take (PaLM, arXiv 2204.02311, appendix B).

Six floating-point operations a parameter and token, forward and backward: the scan, norms, and whatever is computed twice, are not counted.
"""

from adam.contract.records import Numerics

FLOPS_PER_PARAMETER = 6
# FLOP/s of dense bf16 products as NVIDIA's data sheets say, by what torch calls the chip. The longer name first where one begins another.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
}


def peak_flops(device: str) -> float | None:
    """The peak of the chip that `device` names (`cuda NVIDIA H200`); None for one that is not known, and for CPUs."""
    if not device.startswith("cuda"):
        return None
    words = device.replace("-", " ").split()
    return next((peak for name, peak in PEAKS.items() if set(name.split()) <= set(words)), None)


def utilisation(flops: float, seconds: float, attempt: int, numerics: Numerics | None) -> float | None:
    """The share of the peak of all chips that train (0 to 1); None where it is not known, or `numerics` are of another attempt.

    Args:
        flops: of one update.
    """
    if numerics is None or numerics.attempt != attempt or seconds <= 0 or not flops:
        return None
    peak = peak_flops(numerics.parts.get("device", ""))
    return flops / seconds / (peak * int(numerics.parts.get("ranks", "1"))) if peak else None
