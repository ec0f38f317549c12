"""Whole training steps of Mamba 2.7B: ours beside mamba_ssm's and transformers' models, of the same weights, in one process.

    python -P benchmarks/train_step.py [--vs mamba_ssm,transformers] [--arch mamba1|mamba2] [--ours native,fp8]
        [--micro-batches 8,4] [--length 2048] [--rounds 4] [--graphs] [--json FILE] [--dry]

A step is forward, backward, clipping and fused AdamW on random tokens, bf16 autocast over fp32 parameters; theirs with the cross-entropy of
fp32 logits. All models share the very same parameters and moments, so that each has the GPU's memory for itself, and take turns: one step
to warm up and two that count, `rounds` times; medians of wall-clock times around a synchronised GPU. Ours are told where documents begin
(every thousand tokens), as in training; theirs know none. Of each, the micro-batch with the most tokens a second counts, ours with the
states of scans kept or computed again. Then where the time of one step goes, by the names of its kernels. --dry: a tiny model on the CPU.
"""

import argparse
import gc
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adam.trainer.host import prepare

prepare()  # before torch is imported, as the trainer does

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from adam.contract.config import Trainer  # noqa: E402
from adam.contract.foreign import their_name, transformers_config  # noqa: E402
from adam.contract.mfu import FLOPS_PER_PARAMETER, peak_flops  # noqa: E402
from adam.contract.model import PRESETS, ModelConfig, parameter_count, resolved  # noqa: E402
from adam.contract.weights import mamba_config  # noqa: E402
from adam.trainer.memory import INPUTS, KEPT, STATES, layers_again, set_way, ways  # noqa: E402
from adam.trainer.model.lm import MambaLM  # noqa: E402
from adam.trainer.ops.backends import make_ops  # noqa: E402
from adam.trainer.optim import apply_update, clip_gradients, make_optimizer, moments  # noqa: E402
from adam.trainer.runtime import Runtime  # noqa: E402

DOCUMENT = 1000  # tokens, in the mean
# Of the memory: what a side may take (more leaves no room beside what libraries load meanwhile, and training would not choose it either),
# and what it is to take where it is chosen how many layers keep their states.
MOST, USED = 0.96, 0.94
TIMED = 2  # steps of a turn
SPILT = 1 << 28  # bytes: less than that may be work space of libraries
GIB = 1 << 30
# Kernels by what they are for: the first pattern that a name matches, in lower case.
KINDS = {
    "scan": r"scan_forward|scan_backward|scan_chunks|link_chunks|sum_groups|selective_scan|ssd|_chunk_|state_passing|_bmm_",
    "fp8 casts": r"cast_rows|transpose_bytes",
    "optimizer, clipping": r"adam|multi_tensor|foreach|normops|lpnorm|square_sums|finish_norm",
    "convolution": r"conv_|causal_conv|conv1d",
    "norm": r"norm|rms",
    "loss": r"softmax|nll|cross_entropy|log_sum_exp",
    "GEMM": r"gemm|cutlass|nvjet|xmma|cublas|gemv|splitk|_mm_|matmul",
    "copies, fills": r"memcpy|memset|fill|copy",
}
REST = "the rest"


@dataclass
class Side:
    """A model under measurement at one micro-batch. losses(tokens, targets, resets): nats, of any shape."""

    name: str
    micro_batch: int
    losses: Callable[[Tensor, Tensor, Tensor], Tensor]
    update: Callable[[], None]
    model: MambaLM | None = None  # ours
    again: str = KEPT  # what of it the backward computes again, and of how many layers
    layers: int = 0
    seconds: list[float] = field(default_factory=list)
    peak: int = 0  # bytes of tensors
    reserved: int = 0  # and what lies between them
    fits: bool = True

    @property
    def title(self) -> str:
        of = f" of {self.layers} layers" if self.layers else ""
        return f"{self.name}, {self.again}{of} recomputed" if self.again else self.name

    def ready(self) -> None:
        if self.model is not None:
            set_way(self.model, self.again, self.layers)


class Bench:
    """The one set of parameters that all models have, and where they are computed."""

    def __init__(self, shape: ModelConfig, length: int, device: str) -> None:
        torch.manual_seed(0)
        self.shape, self.length, self.device = shape, length, device
        self.total = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else 1 << 60
        with torch.device(device):
            self.model = MambaLM(shape, make_ops("native" if device == "cuda" else "torch"))
        self.weights = dict(self.model.named_parameters())
        if shape.tie_embeddings:
            self.weights["lm_head.weight"] = self.model.lm_head.weight
        self.optimizer = make_optimizer(self.model, Trainer(decay_steps=1))
        for _ in moments(self.model, self.optimizer):
            pass
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # takes as long, and all measure the same weights
        self.theirs = torch.optim.AdamW(self.model.parameters(), lr=0.0, betas=(0.9, 0.95), fused=True)
        for parameter, state in self.optimizer.state.items():
            self.theirs.state[parameter] = {**state, "step": torch.zeros((), device=device)}

    def sharing(self, model: nn.Module, names: Callable[[str], str] = str) -> nn.Module:
        """`model`, made on the device `meta`, with our parameters in place of its own."""
        model.load_state_dict({names(name): weight for name, weight in self.weights.items()}, assign=True)
        return model

    def batch(self, micro_batch: int) -> tuple[Tensor, Tensor, Tensor]:
        size = (micro_batch, self.length)
        tokens, targets = (torch.randint(self.shape.vocab_size, size, device=self.device) for _ in range(2))
        return tokens, targets, torch.rand(size, device=self.device) < 1 / DOCUMENT

    @torch.no_grad()
    def loss(self, side: Side) -> float:
        """Of tokens that are the same for all, in nats: the models must agree."""
        generator = torch.Generator(self.device).manual_seed(1)
        size = (1, self.length + 1)
        tokens = torch.randint(self.shape.vocab_size, size, device=self.device, generator=generator)
        none = torch.zeros(1, self.length, dtype=torch.bool, device=self.device)
        return float(side.losses(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), none).mean())

    def step(self, side: Side) -> None:
        # As the trainer sets it, which costs some operations time; theirs are measured as they come.
        torch.set_deterministic_debug_mode("error" if side.model is not None else "default")
        side.ready()
        losses = side.losses(*self.batch(side.micro_batch))
        losses.mean().backward()
        side.update()
        self.optimizer.zero_grad(set_to_none=True)

    def our_update(self) -> None:
        clip_gradients(self.model, self.optimizer, 1.0)
        apply_update(self.optimizer)

    def their_update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.theirs.step()

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    @property
    def left(self) -> int:
        """Bytes of the GPU that are ours."""
        return torch.cuda.memory_allocated() if self.device == "cuda" else 0

    def clear(self) -> None:
        """Between sides: nothing of the one before stays but the weights and moments that all have."""
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def ours(bench: Bench, name: str, sizes: list[int]) -> Iterator[Side]:
    runtime = Runtime(bench.device, "fp8" if name == "fp8" else "bf16", "torch" if name == "torch" else "native", 1, 1)
    with torch.device("meta"):
        model = MambaLM(bench.shape, make_ops(runtime.backend, bench.device), runtime.linear)
    bench.sharing(model)

    def losses(tokens: Tensor, targets: Tensor, resets: Tensor) -> Tensor:
        with runtime.autocast():
            return model.loss(tokens, targets, resets)

    for again in (KEPT, INPUTS, STATES):
        if again in ways(model):
            for size in sizes:
                yield Side(f"adam {'bf16' if name == 'native' else name}", size, losses, bench.our_update, model, again)


def partly(bench: Bench, sides: list[Side]) -> Iterator[Side]:
    """Ours with the states of as many layers kept as fit, where those of all do not."""
    whole = {(side.name, side.micro_batch): side.fits for side in sides if side.again in (KEPT, INPUTS)}
    for side in sides:
        if side.again != STATES or side.model is None or not side.fits or whole[side.name, side.micro_batch]:
            continue
        precision = "fp8" if side.name.endswith("fp8") else "bf16"
        runtime = Runtime(bench.device, precision, "native", 1, side.micro_batch)
        spare = int(USED * bench.total) - side.reserved
        layers = layers_again(side.model, bench.length, runtime, spare)
        if 0 < layers < len(side.model.backbone.layers):
            yield replace(side, layers=layers, seconds=[])


def theirs(bench: Bench, name: str, sizes: list[int]) -> Iterator[Side]:
    model = bench.sharing(*(_mamba_ssm(bench.shape) if name == "mamba_ssm" else _transformers(bench.shape)))

    def losses(tokens: Tensor, targets: Tensor, _: Tensor) -> Tensor:
        with torch.autocast(bench.device, dtype=torch.bfloat16):
            logits = model(tokens).logits
        return nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")

    yield from (Side(name, size, losses, bench.their_update) for size in sizes)


def _mamba_ssm(shape: ModelConfig) -> tuple[nn.Module, Callable[[str], str]]:
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    return MambaLMHeadModel(MambaConfig(**mamba_config(shape)), device="meta", dtype=torch.float32), str


def _transformers(shape: ModelConfig) -> tuple[nn.Module, Callable[[str], str]]:
    import transformers

    said = transformers_config(shape, "fp32")
    name = said["architectures"][0]
    config = getattr(transformers, name.replace("ForCausalLM", "Config"))(**said, use_cache=False)
    with torch.device("meta"):
        model: nn.Module = getattr(transformers, name)(config)
    return model.train(), their_name


def sides_of(bench: Bench, arguments: argparse.Namespace) -> list[Side]:
    sizes = [int(number) for number in arguments.micro_batches.split(",")]
    found = [side for name in arguments.ours.split(",") for side in ours(bench, name, sizes)]
    return found + [side for name in (arguments.vs or "").split(",") if name for side in theirs(bench, name, sizes)]


def try_out(bench: Bench, side: Side) -> None:
    """Two steps, the first of which compiles; how much memory they take."""
    bench.clear()
    left = bench.left
    began = time.perf_counter()
    loss = float("nan")
    side.ready()
    try:
        loss = bench.loss(side)
        for _ in range(2):
            bench.step(side)
        bench.synchronize()
    except torch.OutOfMemoryError:
        side.fits = False
    if bench.device == "cuda":
        side.peak, side.reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    said = f"{side.peak / GIB:.1f} GiB" if side.fits else "does not fit"
    if side.reserved > MOST * bench.total:
        side.fits = False
        said = f"{said}, more than {MOST:.0%} of the memory: not timed"
    bench.clear()
    if bench.left > left + SPILT:
        said += f"; {(bench.left - left) / GIB:.1f} GiB stay behind"
    print(
        f"tried {side.name}, {side.micro_batch}: loss {loss:.4f}, {said}, {time.perf_counter() - began:.1f} s",
        flush=True,
    )


def take_turns(bench: Bench, sides: list[Side], rounds: int) -> None:
    """A side that runs out of memory after all is left out from then on."""
    for _ in range(rounds):
        for side in [side for side in sides if side.fits]:
            bench.clear()
            try:
                side.seconds += turn(bench, side)
            except torch.OutOfMemoryError as error:
                side.fits, side.seconds = False, []
                print(f"{side.title}, {side.micro_batch} ran out of memory: {str(error).splitlines()[0]}", flush=True)


def turn(bench: Bench, side: Side) -> list[float]:
    """Seconds of steps, after one that does not count."""
    found = []
    for number in range(1 + TIMED):
        bench.synchronize()
        began = time.perf_counter()
        bench.step(side)
        bench.synchronize()
        if number:
            found.append(time.perf_counter() - began)
    return found


def graphed(bench: Bench, side: Side, steps: int) -> dict[str, float]:
    """Median seconds of steps as they are and of steps whose forward and backward are one CUDA graph: what launching costs.

    Gradients stay where they are for that, and are zeroed.
    """
    parameters = list(bench.model.parameters())
    bench.clear()
    torch.set_deterministic_debug_mode("error")
    side.ready()
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    tokens, targets, resets = bench.batch(side.micro_batch)

    def forward_backward() -> None:
        side.losses(tokens, targets, resets).mean().backward()

    def timed(run: Callable[[], None]) -> float:
        found = []
        for _ in range(steps + 2):
            bench.synchronize()
            began = time.perf_counter()
            run()
            side.update()
            torch._foreach_zero_([parameter.grad for parameter in parameters])
            bench.synchronize()
            found.append(time.perf_counter() - began)
        return statistics.median(found[2:])

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        plain = timed(forward_backward)
    torch.cuda.empty_cache()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        forward_backward()
    return {"plain": plain, "graph": timed(graph.replay)}


def kind_of(kernel: str) -> str:
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, kernel.lower())), REST)


def kernels_of(bench: Bench, side: Side) -> dict[str, float]:
    """Milliseconds of GPU time by the name of the kernel, of one step."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    bench.clear()
    bench.step(side)
    bench.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        bench.step(side)
        bench.synchronize()
    found: dict[str, float] = {}
    for event in profiler.events():
        if event.device_type == DeviceType.CUDA:
            found[event.name] = found.get(event.name, 0.0) + event.self_device_time_total / 1e3
    return found


def by_kind(kernels: dict[str, float]) -> dict[str, float]:
    found = dict.fromkeys((*KINDS, REST), 0.0)
    for name, milliseconds in kernels.items():
        found[kind_of(name)] += milliseconds
    return found


def best_of(sides: list[Side]) -> list[Side]:
    """Of each model (ours with states kept or not is one) the fastest, a token."""
    best: dict[str, Side] = {}
    for side in sides:
        if side.name not in best or speed(side) > speed(best[side.name]):
            best[side.name] = side
    return list(best.values())


def speed(side: Side) -> float:
    """Samples a second."""
    return side.micro_batch / statistics.median(side.seconds)


def facts_of(bench: Bench, side: Side) -> dict[str, Any]:
    if not side.seconds:
        return {"name": side.title, "micro_batch": side.micro_batch, "fits": False}
    seconds, tokens = statistics.median(side.seconds), side.micro_batch * bench.length
    peak = peak_flops(f"cuda {torch.cuda.get_device_name()}") if bench.device == "cuda" else None
    flops = FLOPS_PER_PARAMETER * parameter_count(bench.shape) * tokens / seconds
    return {
        "name": side.title,
        "micro_batch": side.micro_batch,
        "fits": True,
        "ms": seconds * 1e3,
        "least_ms": min(side.seconds) * 1e3,
        "most_ms": max(side.seconds) * 1e3,
        "tokens_per_second": tokens / seconds,
        "mfu": flops / peak if peak else None,
        "peak_gib": side.peak / GIB,
    }


def line_of(facts: dict[str, Any]) -> str:
    head = f"{facts['name']:40} {facts['micro_batch']:3}"
    if not facts["fits"]:
        return f"{head}  does not fit"
    mfu = f"{100 * facts['mfu']:5.1f} %" if facts["mfu"] else "      -"
    return (
        f"{head}  {facts['ms']:8.1f} ms ({facts['least_ms']:.1f} to {facts['most_ms']:.1f})  "
        f"{facts['tokens_per_second']:8,.0f} tokens/s  MFU {mfu}  {facts['peak_gib']:6.1f} GiB"
    )


def table_of(breakdown: dict[str, dict[str, float]]) -> Iterator[str]:
    for name, kernels in breakdown.items():
        kinds = by_kind(kernels)
        yield f"{name}: " + ", ".join(f"{kind} {ms:.1f}" for kind, ms in kinds.items() if ms >= 0.05) + " ms"
        rest = sorted(((ms, kernel) for kernel, ms in kernels.items() if kind_of(kernel) == REST), reverse=True)
        yield from (f"    {ms:6.1f} ms  {kernel[:110]}" for ms, kernel in rest[:6])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=["mamba1", "mamba2"], default="mamba1")
    parser.add_argument("--ours", default="native,fp8", help="of native, fp8, torch (default: native,fp8)")
    parser.add_argument("--vs", help="of mamba_ssm, transformers")
    parser.add_argument("--micro-batches", default="8,4")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures, each kernel's too")
    parser.add_argument("--graphs", action="store_true", help="also what launching costs: ours as CUDA graphs (last)")
    parser.add_argument("--dry", action="store_true", help="a tiny model on the CPU, to see that it works")
    arguments = parser.parse_args()
    if arguments.dry:
        arguments.length, arguments.micro_batches = 32, "2,1"
        shape = resolved(ModelConfig(arch=arguments.arch, d_model=64, n_layer=2, headdim=16), 512)
    else:
        preset = PRESETS["2.7b" if arguments.arch == "mamba1" else "mamba2-2.7b"]
        shape = resolved(preset, preset.vocab_size)
    torch.utils.deterministic.fill_uninitialized_memory = False
    bench = Bench(shape, arguments.length, "cpu" if arguments.dry else "cuda")
    machine = torch.cuda.get_device_name() if bench.device == "cuda" else "CPU"
    print(
        f"{machine}, torch {torch.__version__}, {parameter_count(shape) / 1e9:.3f} B parameters, {shape.arch}, length {bench.length}"
    )
    sides = sides_of(bench, arguments)
    for side in sides:
        try_out(bench, side)
    for side in list(partly(bench, sides)) if bench.device == "cuda" else ():
        try_out(bench, side)
        sides.append(side)
    take_turns(bench, sides, arguments.rounds)
    facts = [facts_of(bench, side) for side in sides]
    best = best_of([side for side in sides if side.fits])
    ratios = {
        f"{a.name} ({a.micro_batch}) / {b.name} ({b.micro_batch})": speed(a) / speed(b)
        for a in best
        for b in best
        if a.model is not None and a is not b and (a.name == "adam fp8" or b.model is None)
    }
    print(*map(line_of, facts), *(f"{name}: {ratio:.3f} x" for name, ratio in ratios.items()), sep="\n", flush=True)
    breakdown = (
        {f"{side.title}, {side.micro_batch}": kernels_of(bench, side) for side in best}
        if bench.device == "cuda"
        else {}
    )
    print(*table_of(breakdown), sep="\n", flush=True)
    graphs: dict[str, dict[str, float]] = {}
    for side in [replace(side, layers=0) for side in best if side.model is not None and arguments.graphs]:
        name = f"{side.title}, {side.micro_batch}"
        try:
            graphs[name] = graphed(bench, side, 2 * arguments.rounds)
        except RuntimeError as error:
            print(f"{name} can't be captured: {str(error).splitlines()[0]}", flush=True)
            break
        print(f"{name}: " + ", ".join(f"{what} {1e3 * ms:.1f} ms" for what, ms in graphs[name].items()), flush=True)
    if arguments.json:
        said = {
            "machine": machine,
            "torch": str(torch.__version__),
            "sides": facts,
            "ratios": ratios,
            "kernels_ms": breakdown,
            "graphs": graphs,
        }
        arguments.json.write_text(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
