"""How the kernels of the selective scan (`kernels/scan_*.cu`) are compiled, cut into chunks of time and launched."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from adam.trainer.ops.native_kernel import ELEMENTS, Macros, Source, kernel, plain, rows
from adam.trainer.ops.nvrtc import Kernel

SAVED = 8  # steps between two states that are kept, as in scan_common.cuh
STATES = (4, 8, 16, 32, 64)
HANDOVERS = 8  # chunks of time in which blocks hand a chain on
SHORTEST = 128  # steps of a chunk
GRID_ROWS = 65535  # what CUDA takes at most
SHARED = "scan_common.cuh"


@dataclass(frozen=True)
class Operands:
    """What both directions read, in the shapes that the kernels know: channels a multiple of 4, states one of STATES.

    u, delta, z: (B, L, D). A: (D, N) fp32. B, C: (B, L, N). D, bias: (D,) fp32. resets: bool (B, L) or None. u, delta, z, B and C of one
    type of ELEMENTS; all contiguous but for rows of z, and of B and C, that are slices of wider ones.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor
    bias: Tensor
    resets: Tensor | None

    @classmethod
    def laid_out(cls, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor,
                 resets: Tensor | None) -> "Operands":  # fmt: skip
        """Copies what does not lie as the kernels want it. Raises ValueError for types, shapes and places that they do not know."""
        if u.dtype not in ELEMENTS or A.shape[1] not in STATES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in ELEMENTS)
            raise ValueError(
                f"the native scan takes {known} and at most {STATES[-1]} states; these are {u.dtype} and {A.shape[1]} "
                "(trainer.backend = 'torch' takes all)"
            )
        if not u.numel():
            raise ValueError(f"there is nothing to scan: u is {tuple(u.shape)}")
        _check(
            u,
            A.shape[1],
            {"delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": bias, "resets": resets},
        )
        if not (rows(B) and rows(C) and B.stride(1) == C.stride(1)):
            B, C = plain(B), plain(C)
        z = z if rows(z) else plain(z)
        resets = None if resets is None else resets.contiguous()
        u, delta, A, D, bias = (plain(tensor) for tensor in (u, delta, A, D, bias))
        return cls(u, delta, A, B, C, D, z, bias, resets)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Sequences, steps, channels, states."""
        batch, length, channels = self.u.shape
        return batch, length, channels, self.A.shape[1]

    @property
    def macros(self) -> Macros:
        return (("ELEMENT", ELEMENTS[self.u.dtype]), ("STATES", self.A.shape[1]))

    @property
    def device(self) -> int:
        index: int = self.u.device.index
        return index

    def float32(self, *shape: int) -> Tensor:
        return self.u.new_empty(*shape, dtype=torch.float32)


@dataclass(frozen=True)
class Chunks:
    """How time is cut: `count` chunks of `steps`; linked: side by side, else one after another."""

    steps: int
    count: int
    linked: bool


def chunks(chains: int, length: int, resident: int, tile: int) -> Chunks:
    """chains: what one block each can scan side by side. resident: blocks that the GPU holds. tile: a chunk is a multiple of it.

    With few chains the chunks of each go side by side, which costs a pass over the sequence first; with many they are handed on from
    block to block, so that no multiprocessor is left alone with a whole chain at the end.
    """
    linked = 2 * chains <= resident
    wanted = resident // chains if linked else HANDOVERS
    wanted = max(1, min(wanted, length // SHORTEST))
    steps = -(-length // (wanted * tile)) * tile
    count = -(-length // steps)
    return Chunks(steps, count, linked and count > 1)


@dataclass(frozen=True)
class Loaded:
    """A scanning kernel on one GPU: bytes of shared memory, channels of a block, steps of a tile, blocks that the GPU holds at once."""

    kernel: Kernel
    threads: int
    shared: int
    channels: int
    time: int
    resident: int

    def chains(self, batch: int, channels: int) -> int:
        return -(-channels // self.channels) * batch


@lru_cache(maxsize=64)
def _load(name: str, macros: Macros, device: int) -> Loaded:
    found = kernel((SHARED, f"{name}.cu"), name, macros, device)
    threads, shared, channels, time = (found.number(what) for what in ("threads", "shared", "channels", "time"))
    return Loaded(found, threads, shared, channels, time, found.resident(threads, shared))


def _forward_kernel(operands: Operands) -> Loaded:
    """Four states a thread; where that leaves too little to do at once, two."""
    batch, _, channels, states = operands.shape
    four = _load("scan_forward", (*operands.macros, ("OWN", 4)), operands.device)
    if states != 16 or four.chains(batch, channels) >= four.resident:
        return four
    return _load("scan_forward", (*operands.macros, ("OWN", 2)), operands.device)


def _backward_kernel(operands: Operands) -> Loaded:
    """Three blocks a multiprocessor; where there are not as many, or their shared memory has no room, two with more registers."""
    batch, _, channels, _ = operands.shape
    three = _load("scan_backward", (*operands.macros, ("BLOCKS", 3)), operands.device)
    two = _load("scan_backward", (*operands.macros, ("BLOCKS", 2)), operands.device)
    enough = three.chains(batch, channels) >= three.resident
    return three if enough and three.resident > two.resident else two


def known_states(states: int) -> int:
    """The number of states that the kernels take for `states`; itself where they take none."""
    return next((known for known in STATES if known >= states), states)


def sources(dtype: torch.dtype, states: int) -> list[Source]:
    """Files and macros of all kernels for that type and number of states."""
    states = known_states(states)
    macros = (("ELEMENT", ELEMENTS[dtype]), ("STATES", states))
    variants: dict[str, list[Macros]] = {
        "scan_forward": [(("OWN", 2),), (("OWN", 4),)] if states == 16 else [(("OWN", 4),)],
        "scan_backward": [(("BLOCKS", 2),), (("BLOCKS", 3),)],
        "scan_links": [(("BACKWARD", 0),), (("BACKWARD", 1),)],
        "scan_sums": [()],
    }
    return [((SHARED, f"{name}.cu"), (*macros, *more)) for name, each in variants.items() for more in each]


def run_forward(operands: Operands, initial: Tensor | None, *, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out, the last state, y before the gate, saved states); the last two are empty unless kept."""
    batch, length, channels, states = operands.shape
    out = torch.empty_like(operands.u)
    y, saved = kept(operands.u, states, keep=keep)
    with torch.cuda.device(operands.device):
        loaded = _forward_kernel(operands)
        cut, carry = _begin(operands, loaded, initial, backward=None)
        o = operands
        loaded.kernel.launch(
            *_grid(loaded, operands, cut),
            (
                o.u, o.delta, o.z, o.B, o.C, o.A, o.D, o.bias, o.resets, carry, out, y if keep else None, saved if keep else None,
                _counters(loaded, operands), batch, length, channels, cut.steps, cut.count, int(cut.linked), o.z.stride(1), o.B.stride(1),
            ),
        )  # fmt: skip
    return out, carry[cut.count].clone(), y, saved


def run_backward(
    operands: Operands, dout: Tensor, d_last: Tensor | None, y: Tensor, saved: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C, D, z, the bias and the first state. y, saved: as `run_forward` kept them."""
    batch, length, channels, states = operands.shape
    dout = plain(dout)
    du, ddelta, dz = (torch.empty_like(operands.u) for _ in range(3))
    dB, dC = (operands.u.new_empty(batch, length, states) for _ in range(2))
    with torch.cuda.device(operands.device):
        loaded = _backward_kernel(operands)
        cut, carry = _begin(operands, loaded, d_last, backward=dout)
        groups = loaded.chains(1, channels)
        dBC = operands.float32(batch, groups, length, 2 * states)
        dA = operands.float32(batch * cut.count, channels, states)
        dD, dbias = (operands.float32(batch * cut.count, channels) for _ in range(2))
        o = operands
        loaded.kernel.launch(
            *_grid(loaded, operands, cut),
            (
                o.u, o.delta, o.z, o.B, o.C, o.A, o.D, o.bias, o.resets, dout, y, saved, carry, du, ddelta, dz, dBC, dA, dD, dbias,
                _counters(loaded, operands), batch, length, channels, cut.steps, cut.count, int(cut.linked), o.z.stride(1), o.B.stride(1),
            ),
        )  # fmt: skip
        sums = _small("scan_sums", "sum_groups", operands, ())
        sums.launch(
            (-(-length * states // 2 // 128), min(batch, GRID_ROWS), 1), 128, 0, (dBC, dB, dC, batch, length, groups)
        )
    return du, ddelta, dA.sum(0), dB, dC, dD.sum(0), dz, dbias.sum(0), carry[cut.count].clone()


def kept(u: Tensor, states: int, *, keep: bool) -> tuple[Tensor, Tensor]:
    """What the forward leaves for the backward, not filled in: y and a state every SAVED steps; or nothing."""
    if not keep:
        return u.new_empty(0), u.new_empty(0, dtype=torch.float32)
    batch, length, channels = u.shape
    saved = u.new_empty(batch, -(-length // SAVED), channels, states, dtype=torch.float32)
    return torch.empty_like(u, memory_format=torch.contiguous_format), saved


def _begin(
    operands: Operands, loaded: Loaded, first: Tensor | None, *, backward: Tensor | None
) -> tuple[Chunks, Tensor]:
    """The chunks, and their carries: (count + 1, B, D, N), 0 what the first one begins with, `count` what the last one will end with.

    backward: the gradient of out, where time goes backwards.
    """
    batch, length, channels, states = operands.shape
    cut = chunks(loaded.chains(batch, channels), length, loaded.resident, loaded.time)
    carry = operands.float32(cut.count + 1, batch, channels, states)
    carry[0].zero_() if first is None else carry[0].copy_(first)
    if cut.linked:
        _link(operands, cut, carry, backward)
    return cut, carry


def _link(operands: Operands, cut: Chunks, carry: Tensor, dout: Tensor | None) -> None:
    """Fills in what the chunks but the last hand on."""
    batch, length, channels, _ = operands.shape
    o, direction = operands, (("BACKWARD", int(dout is not None)),)
    x, w = (o.u, o.B) if dout is None else (dout, o.C)
    spans = operands.float32(cut.count, batch, channels)
    _small("scan_links", "scan_chunks", operands, direction).launch(
        (-(-channels // 128), cut.count - 1, batch), 128, 0,
        (
            x, o.delta, o.z, w, o.A, o.bias, o.resets, carry, spans, batch, length, channels, cut.steps, cut.count,
            o.z.stride(1), w.stride(1),
        ),
    )  # fmt: skip
    link = _small("scan_links", "link_chunks", operands, direction)
    link.launch((-(-carry[0].numel() // 256), 1, 1), 256, 0, (carry, spans, o.A, batch, channels, cut.count))


def _small(file: str, name: str, operands: Operands, more: Macros) -> Kernel:
    return kernel((SHARED, f"{file}.cu"), name, (*operands.macros, *more), operands.device)


def _grid(loaded: Loaded, operands: Operands, cut: Chunks) -> tuple[tuple[int, int, int], int, int]:
    batch, _, channels, _ = operands.shape
    blocks = min(loaded.chains(batch, channels) * cut.count, loaded.resident)
    return (blocks, 1, 1), loaded.threads, loaded.shared


def _counters(loaded: Loaded, operands: Operands) -> Tensor:
    """Zeros: the units that were drawn, then the chunks done of each chain."""
    batch, _, channels, _ = operands.shape
    return torch.zeros(1 + loaded.chains(batch, channels), dtype=torch.int32, device=operands.u.device)


def _check(u: Tensor, states: int, others: dict[str, Tensor | None]) -> None:
    """Raise ValueError for what does not go with u: a kernel would read beyond it, or take its bits for other numbers."""
    batch, length, channels = u.shape
    shapes = {"A": (channels, states), "B": (batch, length, states), "C": (batch, length, states), "D": (channels,),
              "delta_bias": (channels,), "resets": (batch, length)}  # fmt: skip
    dtypes = {"A": torch.float32, "D": torch.float32, "delta_bias": torch.float32, "resets": torch.bool}
    for name, tensor in others.items():
        if tensor is None:
            continue
        wanted = shapes.get(name, u.shape), dtypes.get(name, u.dtype), u.device
        if (tensor.shape, tensor.dtype, tensor.device) != wanted:
            raise ValueError(
                f"the native scan's {name} is {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}, and u {tuple(u.shape)} wants "
                f"{tuple(wanted[0])} {wanted[1]} on {wanted[2]}"
            )
