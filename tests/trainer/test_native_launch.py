"""What is decided before a kernel is launched: how operands lie, and how time is cut. No GPU needed."""

import pytest
import torch

from adam.trainer.ops.native_launch import Operands, chunks


def operands(batch=2, length=6, channels=8, states=16, dtype=torch.bfloat16) -> dict[str, torch.Tensor]:
    sequence, each = (batch, length, channels), (batch, length, states)
    values = {name: torch.randn(sequence).to(dtype) for name in ("u", "delta", "z")}
    values |= {name: torch.randn(each).to(dtype) for name in "BC"}
    return values | {"A": torch.randn(channels, states), "D": torch.randn(channels), "bias": torch.randn(channels)}


def moved(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, one element further on than memory is aligned to."""
    buffer = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:].view(tensor.shape)
    return buffer.copy_(tensor)


@pytest.mark.parametrize("name", ["u", "delta", "z", "B", "C", "A", "D", "bias"])
def test_what_is_not_aligned_is_copied(name: str) -> None:
    values = operands()
    laid_out = getattr(Operands.laid_out(**(values | {name: moved(values[name])}), resets=None), name)
    assert laid_out.data_ptr() % (4 * laid_out.element_size()) == 0 and torch.equal(laid_out, values[name])


def test_slices_of_wider_rows_are_not_copied() -> None:
    values = operands()
    wide_z, wide_bc = torch.randn(2, 6, 16).bfloat16(), torch.randn(2, 6, 44).bfloat16()
    given = {"z": wide_z[..., 8:], "B": wide_bc[..., 12:28], "C": wide_bc[..., 28:]}
    laid_out = Operands.laid_out(**(values | given), resets=None)
    for name, tensor in given.items():
        assert getattr(laid_out, name).data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize(
    "cut",
    [
        lambda wide: wide[..., 2:18],  # not aligned
        lambda wide: wide[..., ::2][..., :16],  # not one beside another
        lambda wide: wide.transpose(0, 1)[:2, :, :16].transpose(0, 1)[:, :2],  # rows of sequences apart
        lambda wide: wide[:, ::2][:, :6, :16],  # B's rows further apart than C's
    ],
)
def test_other_slices_are(cut) -> None:
    part = cut(torch.randn(2, 12, 44).bfloat16())
    values = operands(length=part.shape[1])
    laid_out = Operands.laid_out(**(values | {"B": part}), resets=None)
    assert laid_out.B.is_contiguous() and laid_out.C.is_contiguous() and torch.equal(laid_out.B, part)


def test_what_the_kernels_do_not_know() -> None:
    for wrong, said in (
        (operands(dtype=torch.float64), r"bfloat16, float16, float32 and at most 64 states; these are torch.float64"),
        (operands(states=20), r"at most 64 states; these are .* and 20"),
        (operands(length=0), r"nothing to scan: u is \(2, 0, 8\)"),
    ):
        with pytest.raises(ValueError, match=said):
            Operands.laid_out(**wrong, resets=None)


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("B", lambda B: B[:, :3], r"B is \(2, 3, 16\) .* wants \(2, 6, 16\)"),
        ("delta", lambda delta: delta[..., :4], r"delta is \(2, 6, 4\)"),
        ("D", lambda D: D[:2], r"D is \(2,\) .* wants \(8,\)"),
        ("A", lambda A: A.bfloat16(), r"A is .* torch.bfloat16 .* wants .* torch.float32"),
        ("C", lambda C: C.float(), r"C is .* torch.float32 .* wants .* torch.bfloat16"),
        ("z", lambda z: z.to("meta"), r"z is .* on meta, .* wants .* on cpu"),
    ],
)
def test_what_does_not_go_together(name: str, wrong, said: str) -> None:
    values = operands()
    with pytest.raises(ValueError, match=said):
        Operands.laid_out(**(values | {name: wrong(values[name])}), resets=None)


def test_resets_are_flags() -> None:
    with pytest.raises(ValueError, match=r"resets is \(2, 6\) torch.int64 .* wants \(2, 6\) torch.bool"):
        Operands.laid_out(**operands(), resets=torch.zeros(2, 6, dtype=torch.int64))


@pytest.mark.parametrize("length", [1, 8, 127, 128, 700, 2048, 100_003])
@pytest.mark.parametrize("chains", [1, 40, 197, 198, 320, 640])
@pytest.mark.parametrize("tile", [8, 16])
def test_chunks_cover_the_sequence(length: int, chains: int, tile: int) -> None:
    cut = chunks(chains, length, 396, tile)
    assert cut.steps % tile == 0
    assert (cut.count - 1) * cut.steps < length <= cut.count * cut.steps
    if cut.linked:
        assert cut.count > 1 and cut.count * chains <= 396
