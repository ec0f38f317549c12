"""What the backward computes again instead of keeping it: memory for time, the bits are the same.

    ""         nothing: all that autograd wants is kept
    "inputs"   of selective scans, what is cheap: the convolution's output and the step sizes (mamba1)
    "states"   these, and the states of scans (native), of all layers or of the first so many
    "blocks"   all of a block but its input

What training will take is measured, not guessed: one block's forward, of one sample and of two, and what autograd keeps of it.
"""

import structlog
import torch
from torch import Tensor

from adam.contract.config import Trainer
from adam.trainer import forget
from adam.trainer.forget import storage_of
from adam.trainer.model.lm import Block, MambaLM
from adam.trainer.model.mamba1 import Mamba1
from adam.trainer.ops.native import NativeOps
from adam.trainer.runtime import Runtime

STATE_BYTES = 16  # of a parameter: weight, gradient and two moments in fp32
SHARE = 0.9  # of the memory; the rest is for one block's backward, for the loss, and for what lies between allocations
KEPT, INPUTS, STATES, BLOCKS = "", "inputs", "states", "blocks"
ASKED = {"off": KEPT, "on": STATES, "blocks": BLOCKS}  # trainer.recompute

log = structlog.get_logger()


def ways(model: MambaLM, wanted: str = "auto") -> tuple[str, ...]:
    """What may be computed again, the fastest first. wanted: `trainer.recompute`."""
    native = isinstance(model.ops, NativeOps)
    cheap = (INPUTS,) if isinstance(blocks_of(model)[0].mixer, Mamba1) else ()
    possible = (KEPT, *cheap, STATES, BLOCKS) if native else (KEPT, BLOCKS)
    if wanted == "auto":
        return possible
    return (ASKED[wanted],) if ASKED[wanted] in possible else (KEPT,)


def set_way(model: MambaLM, again: str, layers: int = 0) -> None:
    """Have the backward compute `again` what it says; of states, those of the first so many layers (0: all)."""
    model.backbone.recompute = again == BLOCKS
    for block in blocks_of(model):
        if isinstance(block.mixer, Mamba1):
            block.mixer.forget = again in (INPUTS, STATES)
    if not isinstance(model.ops, NativeOps):
        return
    partly = again == STATES and 0 < layers < len(model.backbone.layers)
    model.ops.recompute = again == STATES and not partly
    computing = NativeOps(recompute=True) if partly else model.ops
    for number, block in enumerate(blocks_of(model)):
        block.mixer.ops = computing if number < layers else model.ops


def blocks_of(model: MambaLM) -> list[Block]:
    return [block for block in model.backbone.layers if isinstance(block, Block)]


def settle_states(model: MambaLM, config: Trainer, runtime: Runtime, room: int) -> bool:
    """Have the model's scans keep their states, or not, as `trainer.recompute` says. True where they are computed again.

    room: bytes that training may take in all. A backend that keeps no states in any case stays as it is.
    """
    possible = ways(model, config.recompute)
    set_way(model, possible[0])
    if config.recompute == "auto" and STATES in possible:
        need, layers = needed_bytes(model, config.seq_len, runtime), 0
        if need > SHARE * room and INPUTS in possible:
            set_way(model, INPUTS)
            need = needed_bytes(model, config.seq_len, runtime)
        if need > SHARE * room:
            set_way(model, STATES)
            spare = int(SHARE * room) - needed_bytes(model, config.seq_len, runtime)
            layers = max(1, layers_again(model, config.seq_len, runtime, spare))
            set_way(model, STATES, layers)
        log.info("states of scans", computed_again_of=layers, with_states_kept=need, room=room)
        return layers > 0
    return possible[0] == STATES


def needed_bytes(model: MambaLM, length: int, runtime: Runtime) -> int:
    """Bytes that training takes at the end of a forward, where it is most; without what the loss and snapshots take."""
    blocks = blocks_of(model)
    block = block_bytes(model, length, runtime)
    state = STATE_BYTES * sum(parameter.numel() for parameter in model.parameters())
    if model.backbone.recompute:
        inputs = (
            2 * 4 * runtime.micro_batch * length * model.backbone.embedding.weight.shape[1]
        )  # x and the residual stream
        return state + len(blocks) * inputs + block
    as_first = sum(other.mixer.ops is blocks[0].mixer.ops for other in blocks)
    others = len(blocks) - as_first
    return state + as_first * block + (others * block_bytes(model, length, runtime, layer=-1) if others else 0)


def block_bytes(model: MambaLM, length: int, runtime: Runtime, layer: int = 0) -> int:
    """Bytes that autograd keeps of the forward of one block, of a whole micro-batch."""
    one, two = (kept_bytes(model, samples, length, runtime, layer) for samples in (1, 2))
    return 2 * one - two + runtime.micro_batch * (two - one)


def layers_again(model: MambaLM, length: int, runtime: Runtime, spare: int) -> int:
    """Of how many layers states must be computed again where, with those of all, `spare` bytes are left. The way is changed by it."""
    set_way(model, INPUTS)
    kept = block_bytes(model, length, runtime)
    set_way(model, STATES)
    saved = max(1, kept - block_bytes(model, length, runtime))
    return max(0, len(model.backbone.layers) - max(0, spare) // saved)


def kept_bytes(model: MambaLM, samples: int, length: int, runtime: Runtime, layer: int = 0) -> int:
    """Bytes that autograd keeps of the forward of one block; the weights themselves are left out."""
    weight = model.backbone.embedding.weight
    x = torch.zeros(samples, length, weight.shape[1], device=weight.device, requires_grad=True)
    residual, resets = torch.zeros_like(x), torch.zeros(samples, length, dtype=torch.bool, device=weight.device)
    weights = {storage_of(parameter) for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that none is given to the next

    def keep(tensor: Tensor) -> None:
        # Storages, and nothing for autograd: a tensor that knows its graph, held by that very graph, would stay for ever.
        kept[storage_of(tensor)] = tensor.untyped_storage()

    forget.watchers.append(keep)
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing), runtime.autocast():
            model.backbone.layers[layer](x, residual, resets)
    finally:
        forget.watchers.remove(keep)
    return sum(storage.nbytes() for place, storage in kept.items() if place not in weights)


def gpu_room() -> int:
    """Bytes of this GPU that are free, or ours already."""
    free, _ = torch.cuda.mem_get_info()
    return int(free) + torch.cuda.memory_reserved()
