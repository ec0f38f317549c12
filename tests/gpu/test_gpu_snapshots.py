"""Snapshots of a model on a GPU: every way of copying gives the bytes that training has, and the checksums that a reader finds."""

import struct

import pytest
import torch
from real_run import wait_for
from torch import Tensor

from adam.contract.ram import claim
from adam.contract.slots import PAGE_BYTES, TensorEntry, aligned
from adam.contract.sums import page_sum
from adam.trainer import copying
from adam.trainer.copying import DeviceCopy, make_copier
from adam.trainer.staging import Slot
from adam.trainer.sums import all_sums, bytes_of
from adam.trainer.window import Window

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
SHAPES = [(3, 5), (1024,), (700, 33), (1,), (4096, 512), (0,), (513, 1025)]


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {f"t{number}": torch.randn(shape, device="cuda") for number, shape in enumerate(SHAPES)}


@pytest.fixture
def slot(shared_memory, tensors):
    entries = aligned([TensorEntry(name, "F32", tuple(tensor.shape)) for name, tensor in tensors.items()])
    slot = Slot(shared_memory / "slot", entries, 0)
    yield slot
    slot.close()


def spans_of(slot: Slot, tensors: dict[str, Tensor]) -> dict[str, tuple[int, int]]:
    return {name: slot.writer.span(name) for name in tensors}


def awaited(copier: DeviceCopy) -> dict[str, str]:
    return wait_for("a copy into a slot", copier.done)


@pytest.mark.parametrize("size", ["whole", "largest"])
def test_the_bytes_and_their_sums(slot: Slot, tensors: dict[str, Tensor], size: str) -> None:
    spans = spans_of(slot, tensors)
    need = -(-max(end for _, end in spans.values()) // PAGE_BYTES) * PAGE_BYTES
    largest = max(-(-(end - first) // PAGE_BYTES) * PAGE_BYTES for first, end in spans.values())
    sizes = [need] if size == "whole" else [largest, largest]
    copier = DeviceCopy(tensors, spans, [torch.full((n,), 255, dtype=torch.uint8, device="cuda") for n in sizes])
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    copier.start(slot.payload)
    copier.before_update()
    for tensor in tensors.values():  # an optimizer that does not wait for anybody
        tensor.add_(1.0)
    sums = awaited(copier)
    for name, tensor in kept.items():
        first, end = spans[name]
        written = bytes(slot.payload[first:end].numpy())
        assert written == bytes(bytes_of(tensor).cpu().numpy()), name
        assert sums[name] == page_sum([written]), name
    assert all_sums(list(kept.values())) == list(sums.values())
    copier.close()


def test_a_snapshot_larger_than_the_stages(shared_memory, monkeypatch) -> None:
    monkeypatch.setattr(copying, "STAGE_BYTES", 1 << 16)
    torch.manual_seed(4)
    tensors = {"a": torch.randn(3_000_001, device="cuda"), "b": torch.randn(7, device="cuda")}
    entries = aligned([TensorEntry(name, "F32", tuple(tensor.shape)) for name, tensor in tensors.items()])
    slot = Slot(shared_memory / "large", entries, 0)
    copier = make_copier(tensors, spans_of(slot, tensors))
    for _ in range(3):
        tensors["a"] += 1.0
        copier.start(slot.payload)
        sums = awaited(copier)
        assert list(sums.values()) == all_sums(list(tensors.values()))
        first, end = spans_of(slot, tensors)["a"]
        assert bytes(slot.payload[first:end].numpy()) == bytes(bytes_of(tensors["a"]).cpu().numpy())
    copier.close()
    slot.close()


def test_little_memory_means_a_small_buffer(slot: Slot, tensors: dict[str, Tensor], monkeypatch) -> None:
    monkeypatch.setattr(copying, "MARGIN_BYTES", 1 << 60)
    monkeypatch.setattr(copying, "SMALLEST_BUFFER", PAGE_BYTES)
    copier = make_copier(tensors, spans_of(slot, tensors))
    assert isinstance(copier, DeviceCopy) and len(copier._groups) > 1


def test_a_run_on_a_gpu_goes_on_from_memory(tmp_path) -> None:
    from small_run import make_run, small_config, write_plan

    from adam.contract.records import Resume
    from adam.contract.snapshots import complete_snapshots
    from adam.trainer.attempt import run_attempt

    config = small_config(steps=12, device="cuda", precision="fp32")
    whole, parts = make_run(tmp_path / "whole", config), make_run(tmp_path / "parts", config)
    write_plan(whole)
    run_attempt(whole.root, 1, lambda: False)
    asked = iter(range(9))
    write_plan(parts)
    assert not run_attempt(parts.root, 1, lambda: next(asked, None) is None)
    snapshot = complete_snapshots(parts)[0]
    assert snapshot.path.parent == parts.ram == claim(parts)
    write_plan(parts, 2, Resume(snapshot.name, snapshot.head.step, str(snapshot.path)))
    assert run_attempt(parts.root, 2, lambda: False)
    ends = [complete_snapshots(paths)[0].head for paths in (whole, parts)]
    names = [name for name in ends[0].sums if not name.startswith("rng")]
    assert [ends[0].sums[name] for name in names] == [ends[1].sums[name] for name in names]


def test_a_window_shows_what_the_gpu_has() -> None:
    window = Window("cuda")
    values = torch.tensor([1.5, -0.0, float("nan"), 1e-310, -(2.0**60)], dtype=torch.float64, device="cuda")
    for _ in range(3):
        read = window.read(values)
        assert [struct.pack("<d", value) for value in read] == [struct.pack("<d", value) for value in values.tolist()]
        values = values + 1
