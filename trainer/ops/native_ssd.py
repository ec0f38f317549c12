"""Mamba-2's duality on NVIDIA GPUs: our kernels for tokens and pairs of them (`kernels/ssd_*`), torch's products for the rest.

The layouts and the formulas are told in ssd_common.cuh. States before each chunk are kept for the backward, or computed again there.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adam.trainer.ops.native_kernel import Macros, Source, agree, derivative, element, in_rows, launch, operator, plain

CHUNK, WIDTH, TILES = 128, 64, 2  # as in the kernels
FORWARD_SLICE, BACKWARD_SLICE = 8, 16  # heads of a block
FORWARD_SHARED, BACKWARD_SHARED = 39936, 47616  # bytes
GRID_ROWS = 65535  # what CUDA takes at most
TYPES = (torch.bfloat16, torch.float16)
COMMON = "ssd_common.cuh"
PAIRS = (COMMON, "ssd_pairs.cuh")


def takes(x: Tensor, B: Tensor) -> bool:
    """Whether the kernels take these: halves, heads of 64 channels, states a multiple of 16."""
    return x.dtype in TYPES and x.shape[3] == WIDTH and B.shape[3] % 16 == 0 and x.numel() > 0


def sources(dtype: torch.dtype, states: int) -> list[Source]:
    """Files and macros of all kernels for that type and number of states; none for a type that they do not take."""
    if dtype not in TYPES:
        return []
    kind = ("ELEMENT", element("ssd", dtype))
    return [
        ((COMMON, "ssd_tokens.cu"), (kind, ("STATES", states))),
        ((*PAIRS, "ssd_forward.cu"), (kind, ("SHARED", FORWARD_SHARED))),
        ((*PAIRS, "ssd_backward.cu"), (kind, ("SHARED", BACKWARD_SHARED))),
    ]


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    resets: Tensor | None,
    *,
    recompute: bool = False,
) -> Tensor:
    """`Ops.ssd` on a GPU, for what `takes` says. recompute: keep nothing for the backward. Differentiable once."""
    dt, B, C = (tensor.to(x.dtype) for tensor in (dt, B, C))
    A, D, dt_bias = (tensor.float() for tensor in (A, D, dt_bias))
    given = (x, dt, A, B, C, D, dt_bias)
    keep = not recompute and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    y: Tensor = torch.ops.adam.ssd(*given, resets, keep)[0]
    return y


@dataclass(frozen=True)
class Chunked:
    """The operands as the kernels take them.

    x: (b, L, H 64) and dt: (b, L, H) in rows. B, C: (n, chunk, N), n = b chunks groups. steps, logs: (b chunks, H, chunk) fp32.
    documents: (b chunks, chunk) int32.
    """

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    bias: Tensor
    steps: Tensor
    logs: Tensor
    documents: Tensor
    batch: int
    length: int
    heads: int
    groups: int
    chunks: int

    @classmethod
    def of(
        cls, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor, resets: Tensor | None
    ) -> "Chunked":
        """Raises ValueError for types and shapes that the kernels do not know."""
        batch, length, heads, _ = x.shape
        groups, states = B.shape[2:]
        _check(x, dt, A, B, C, D, bias, resets)
        chunks = -(-length // CHUNK)
        x, dt = in_rows(x.flatten(2)), dt if dt.stride(2) == 1 and _even(dt) else dt.contiguous()
        A, D, bias = (plain(tensor) for tensor in (A, D, bias))
        resets = None if resets is None else resets.contiguous()
        steps, logs = (A.new_empty(batch * chunks, heads, CHUNK) for _ in range(2))
        documents = torch.empty(batch * chunks, CHUNK, dtype=torch.int32, device=x.device)
        launch(
            (COMMON, "ssd_tokens.cu"),
            "ssd_prepare",
            (("ELEMENT", element("ssd", x.dtype)), ("STATES", states)),
            (heads, batch * chunks),
            CHUNK,
            (dt, A, bias, resets, steps, logs, documents, length, chunks, dt.stride(1)),
        )
        B, C = (_by_group(tensor, chunks) for tensor in (B, C))
        return cls(x, dt, A, B, C, D, bias, steps, logs, documents, batch, length, heads, groups, chunks)

    @property
    def macros(self) -> Macros:
        return (("ELEMENT", element("ssd", self.x.dtype)), ("STATES", self.B.shape[2]))

    @property
    def numbers(self) -> int:
        """Chunks of all sequences."""
        return self.batch * self.chunks

    @property
    def of_group(self) -> int:
        """Channels of a group."""
        return self.heads // self.groups * WIDTH

    def tokens(
        self, name: str, grid: tuple[int, int], threads: int, arguments: tuple[Tensor | int | None, ...]
    ) -> None:
        launch((COMMON, "ssd_tokens.cu"), name, self.macros, grid, threads, arguments)

    def scaled(self, x: Tensor, steps: Tensor | None) -> Tensor:
        """x, (b, L, H 64), times what `ssd_scale` says: (n, chunk, channels of a group)."""
        out = x.new_empty(self.numbers * self.groups, CHUNK, self.of_group)
        blocks = -(-(self.heads * WIDTH // 4 * CHUNK // 4) // 256)
        self.tokens(
            "ssd_scale",
            (blocks, self.numbers),
            256,
            (x, steps, self.logs, self.documents, out, self.length, self.heads, self.groups, self.chunks, x.stride(1)),
        )
        return out

    def states(self, scaled: Tensor) -> Tensor:
        """The state before each chunk, (n, channels of a group, N). scaled: x, times dt and the decay to the chunk's end."""
        states = torch.bmm(scaled.transpose(1, 2), self.B)
        grid = (states[0].numel() * self.groups // 1024, self.batch)
        self.tokens("ssd_states_forward", grid, 256, (states, self.logs, self.documents, self.heads, self.chunks))
        return states


def _forward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor, resets: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor]:
    c = Chunked.of(x, dt, A, B, C, D, bias, resets)
    states = c.states(c.scaled(c.x, c.steps))
    given = torch.bmm(c.C, states.transpose(1, 2))
    y, slices = x.new_empty(x.shape), -(-(c.heads // c.groups) // FORWARD_SLICE)
    launch(
        (*PAIRS, "ssd_forward.cu"),
        "ssd_forward",
        (("ELEMENT", element("ssd", x.dtype)), ("SHARED", FORWARD_SHARED)),
        (c.groups * slices * TILES, c.numbers),
        128,
        (
            c.x, c.D, c.steps, c.logs, c.documents, _wide(c.C, c.B.transpose(1, 2)), given, y,
            c.length, c.heads, c.groups, c.chunks, slices, c.x.stride(1),
        ),
        FORWARD_SHARED,
    )  # fmt: skip
    return y, states if keep else states.new_empty(0)


def _backward(
    dy: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    resets: Tensor | None,
    states: Tensor,
) -> tuple[Tensor, ...]:
    c = Chunked.of(x, dt, A, B, C, D, bias, resets)
    dy = plain(dy.flatten(2))
    entering, leaving = c.scaled(c.x, c.steps), c.scaled(dy, None)
    if not states.numel():
        states = c.states(entering)
    # In ssd_common.cuh's words: gradients of S behind each chunk, and what goes through states.
    behind = torch.bmm(leaving.transpose(1, 2), c.C)
    blocks = behind[0].numel() * c.groups // 1024
    dots = c.steps.new_empty(c.numbers, blocks)
    c.tokens(
        "ssd_states_backward", (blocks, c.batch), 256, (behind, states, c.logs, c.documents, dots, c.heads, c.chunks)
    )
    dC, dB = _wide(leaving, states), _wide(entering, behind)
    given, coming = torch.bmm(c.C, states.transpose(1, 2)), torch.bmm(c.B, behind.transpose(1, 2))
    dx, sums, dproducts = _pairs(c, dy, given, coming)
    dB += _wide(dproducts, c.C)
    dC += _wide(dproducts.transpose(1, 2), c.B)
    ddt, parts = x.new_empty(dt.shape), c.steps.new_empty(c.numbers, 3, c.heads)
    c.tokens(
        "ssd_finish",
        (c.heads, c.numbers),
        CHUNK,
        (sums, dots, c.steps, c.dt, c.A, c.bias, ddt, parts, c.length, c.chunks, blocks, c.dt.stride(1)),
    )
    dA, dbias, dD = parts.sum(0).clone().unbind(0)
    return dx.view(x.shape), ddt, dA.clone(), _in_line(dB, B), _in_line(dC, C), dD.clone(), dbias.clone()


def _pairs(c: Chunked, dy: Tensor, given: Tensor, coming: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of x; sums of tokens and heads, (6, b chunks, H, chunk); and the gradient of B_s C_t, (n, s, t), as halves."""
    slices = -(-(c.heads // c.groups) // BACKWARD_SLICE)
    dx, sums = torch.empty_like(dy), c.steps.new_empty(6, *c.steps.shape)
    dproducts = c.steps.new_zeros(c.numbers * c.groups, slices, CHUNK, CHUNK)
    launch(
        (*PAIRS, "ssd_backward.cu"),
        "ssd_backward",
        (("ELEMENT", element("ssd", c.x.dtype)), ("SHARED", BACKWARD_SHARED)),
        (c.groups * slices * TILES, c.numbers),
        128,
        (
            dy, c.x, c.D, c.steps, c.logs, c.documents, _wide(c.B, c.C.transpose(1, 2)), given, coming, dx, dproducts, sums,
            c.length, c.heads, c.groups, c.chunks, slices, c.x.stride(1),
        ),
        BACKWARD_SHARED,
    )  # fmt: skip
    return dx, sums, dproducts.sum(1).to(dy.dtype)


def _check(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor, resets: Tensor | None
) -> None:
    batch, length, heads, width = x.shape
    groups, states = B.shape[2:]
    if x.dtype not in TYPES or width != WIDTH or states % 16 or heads % groups:
        raise ValueError(
            f"the native ssd takes bfloat16 or float16, heads of {WIDTH} channels and states by 16; these are {x.dtype}, "
            f"{width} and {states} (trainer.backend = 'torch' takes all)"
        )
    if batch * -(-length // CHUNK) > GRID_ROWS:
        raise ValueError(
            f"the native ssd takes at most {GRID_ROWS} chunks of {CHUNK} tokens at once; these are {batch} x {length} tokens"
        )
    of_state, of_head = (batch, length, groups, states), (heads,)
    wanted = {
        "x": (x, tuple(x.shape), x.dtype),
        "dt": (dt, (batch, length, heads), x.dtype),
        "A": (A, of_head, torch.float32),
        "B": (B, of_state, x.dtype),
        "C": (C, of_state, x.dtype),
        "D": (D, of_head, torch.float32),
        "dt_bias": (bias, of_head, torch.float32),
        "resets": (resets, (batch, length), torch.bool),
    }
    agree("ssd", wanted, x.device)


def _even(dt: Tensor) -> bool:
    """(b, L, H): rows equally distant, from sequence to sequence too."""
    return dt.shape[0] == 1 or dt.stride(0) == dt.shape[1] * dt.stride(1)


def _by_group(tensor: Tensor, chunks: int) -> Tensor:
    """(b, L, G, N) as (n, chunk, N), with zeros behind the sequence."""
    whole = F.pad(tensor, (0, 0, 0, 0, 0, chunks * CHUNK - tensor.shape[1]))
    parts: Tensor = whole.unflatten(1, (chunks, CHUNK)).transpose(2, 3).flatten(0, 2).contiguous()
    return parts


def _in_line(tensor: Tensor, like: Tensor) -> Tensor:
    """Back again, in the type of `like`."""
    batch, length, groups, states = like.shape
    parts = tensor.view(batch, -1, groups, CHUNK, states).transpose(2, 3).flatten(1, 2)
    return parts[:, :length].to(like.dtype).contiguous()


def _wide(a: Tensor, b: Tensor) -> Tensor:
    """Products of halves, in fp32."""
    if a.device.type == "cpu":
        return a.float() @ b.float()
    products: Tensor = torch.bmm(a, b, out_dtype=torch.float32)
    return products


def _forward_shapes(*operands: Any) -> tuple[Tensor, Tensor]:
    x, _, _, B, *_, keep = operands
    batch, length, heads, _ = x.shape
    groups, states = B.shape[2:]
    shape = (batch * -(-length // CHUNK) * groups, heads // groups * WIDTH, states) if keep else (0,)
    return x.new_empty(x.shape), x.new_empty(shape)


def _backward_shapes(_: Tensor, *operands: Any) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in operands[:7])


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *operands, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*operands, output[1])


def _gradients(ctx: Any, dy: Tensor, _: None) -> tuple[Tensor | None, ...]:
    return *torch.ops.adam.ssd_backward(dy, *ctx.saved_tensors), None, None


_OPERANDS = "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor D, Tensor dt_bias, Tensor? resets"
operator(f"ssd({_OPERANDS}, bool keep) -> (Tensor, Tensor)", _forward, _forward_shapes)
operator(
    f"ssd_backward(Tensor dy, {_OPERANDS}, Tensor states) -> ({', '.join(['Tensor'] * 7)})", _backward, _backward_shapes
)
derivative("ssd", _gradients, _remember)
