"""What the native AdamW must do on any device: what torch's own does."""

import pytest
import torch
from torch import Tensor

from adam.trainer.ops.native_adamw import CHUNK, NativeAdamW

SHAPES = [(3, 5), (CHUNK * 2 + 4465,), (1,), (8, CHUNK // 4), (33, 7)]
OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8}


def pair(device: str) -> tuple[NativeAdamW, torch.optim.AdamW]:
    """Ours and torch's, of equal parameters; the first two are decayed."""
    made = []
    for kind in (NativeAdamW, torch.optim.AdamW):
        g = torch.Generator().manual_seed(0)
        parameters = [torch.randn(shape, generator=g).to(device).requires_grad_() for shape in SHAPES]
        groups = [
            {"params": parameters[:2], "weight_decay": 0.1},
            {"params": parameters[2:], "weight_decay": 0.0},
        ]
        made.append(kind(groups, **OPTIONS))
    return made[0], made[1]


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def hand_out(gradients: list[Tensor], *optimizers: torch.optim.Optimizer) -> None:
    for optimizer in optimizers:
        for parameter, gradient in zip(parameters_of(optimizer), gradients, strict=True):
            parameter.grad = gradient.clone().to(parameter)


def draw(seed: int, size: float = 1.0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [size * torch.randn(shape, generator=g) for shape in SHAPES]


def equals_torch(device: str) -> None:
    """Gradients above and below what is clipped; one update without clipping."""
    ours, theirs = pair(device)
    for number, size in enumerate((1.0, 1e-4, 1.0, 3.0)):
        hand_out(draw(number, size), ours, theirs)
        if number != 2:
            norm = torch.nn.utils.clip_grad_norm_(parameters_of(theirs), 1.0)
            assert float(ours.clip(1.0)) == pytest.approx(float(norm), rel=1e-6)
        ours.update()
        theirs.step()
        for group in ours.param_groups + theirs.param_groups:
            group["lr"] *= 0.7
    for a, b in zip(parameters_of(ours), parameters_of(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(ours.state[a][name], theirs.state[b][name], rtol=1e-5, atol=1e-9)
        assert float(ours.state[a]["step"]) == float(theirs.state[b]["step"]) == 4


def clips_only_the_gradients_that_it_was_asked_about(device: str) -> None:
    ours, other = pair(device)[0], pair(device)[0]
    hand_out(draw(0, 100.0), ours)
    ours.clip(1e-3)
    hand_out(draw(1), ours, other)
    ours.update()
    other.update()
    assert all(torch.equal(a, b) for a, b in zip(parameters_of(ours), parameters_of(other), strict=True))


def takes_gradients_that_lie_otherwise(device: str) -> None:
    """Strided, or beginning where vectors do not."""
    ours, other = pair(device)[0], pair(device)[0]
    hand_out(draw(0), ours, other)
    for parameter in parameters_of(other):
        gradient = parameter.grad
        buffer = torch.empty(gradient.numel() + 1, device=device)
        moved = buffer[1:].view(gradient.shape).copy_(gradient)
        parameter.grad = moved.t().contiguous().t() if moved.ndim == 2 else moved
    for optimizer in (ours, other):
        optimizer.clip(0.5)
        optimizer.update()
    for a, b in zip(parameters_of(ours), parameters_of(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def tells_a_norm_that_is_no_number(device: str) -> None:
    ours, _ = pair(device)
    for bad in (float("nan"), float("inf")):
        gradients = draw(0)
        gradients[1][77] = bad
        hand_out(gradients, ours)
        assert not ours.clip(1.0).isfinite()


def leaves_out_what_has_no_gradient(device: str) -> None:
    ours, theirs = pair(device)
    hand_out(draw(0), ours, theirs)
    for optimizer in (ours, theirs):
        parameters_of(optimizer)[1].grad = None
    ours.update()
    theirs.step()
    hand_out(draw(1), ours, theirs)
    ours.update()
    theirs.step()
    for a, b in zip(parameters_of(ours), parameters_of(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


CHECKS = [
    equals_torch,
    clips_only_the_gradients_that_it_was_asked_about,
    takes_gradients_that_lie_otherwise,
    tells_a_norm_that_is_no_number,
    leaves_out_what_has_no_gradient,
]
