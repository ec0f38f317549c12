"""`adamctl bench`: which model is measured, what is said of the figures, and the whole command on this machine's CPU."""

import json

import msgspec
import pytest

from adam.contract.config import Config, Trainer
from adam.contract.errors import BusyError, UsageError
from adam.contract.states import Exit
from adam.daemon import bench
from adam.daemon.bench import disk_speed, largest, to_measure
from adam.daemon.bench_words import facts_of, lines

FOUND = {
    "parts": {"device": "cuda NVIDIA H200", "torch": "2.13", "precision": "bf16", "backend": "native"},
    "failed_backends": [], "parameters": 2_768_345_600, "batch_size": 32, "seq_len": 2048, "step_s": 2.5, "tokens_per_second": 26_214.4,
    "peak_bytes": 96_100_000_000, "state_bytes": 33_200_000_000, "snapshot_tier": "ram", "snapshot_stall_s": 0.04, "snapshot_s": 1.5,
    "snapshot_trouble": "",
    "fit": {"chosen": {"micro_batch": 8, "again": "states", "seconds": 0.07, "peak": 96_100_000_000, "layers": 0}, "room": 150_000_000_000},
}  # fmt: skip


def test_what_is_said() -> None:
    facts = facts_of(FOUND, Config(trainer=Trainer(steps=1000)), 1_350_000_000.0)
    assert facts["mfu"] == pytest.approx(6 * 2_768_345_600 * 26_214.4 / 989e12)
    assert facts["seed_tokens_s"] == pytest.approx(5.7e9 / 26_214.4)
    said = dict(line.split("  ", 1) for line in lines(facts))
    assert said["speed"].strip() == "26,214 tokens/s, 2.5 s an update, MFU 44.0 %"
    assert said["model"].strip().endswith("8 samples at once, states of scans computed again")
    assert said["snapshot"].strip() == "33.2 GB in memory, training waits 40 ms for one"
    assert said["disk"].strip() == "1.4 GB/s, a checkpoint takes 24.6 s"
    assert said["time"].strip() == "2 d 12 h for 5.7 B tokens; 41 min for the 65,536,000 of this configuration"


def test_what_could_not_be_measured_is_said_too() -> None:
    cpu = {
        **FOUND,
        "parts": {**FOUND["parts"], "device": "cpu AVX2"},
        "snapshot_stall_s": None,
        "snapshot_trouble": "no room",
    }
    facts = facts_of(cpu, Config(), None)
    said = "\n".join(lines(facts))
    assert facts["mfu"] is None and "MFU" not in said
    assert "none could be taken (no room)" in said and "not tried: less than 2 GB are free" in said
    assert "which steps feel" in "\n".join(lines(facts_of({**FOUND, "snapshot_stall_s": 0.2}, Config(), None)))


@pytest.mark.parametrize(("memory", "name"), [(0, "tiny"), (8 << 30, "130m"), (24 << 30, "790m"), (80 << 30, "2.7b")])
def test_the_largest_model_that_a_gpu_holds(memory: int, name: str) -> None:
    assert largest(memory) == name


def test_the_runs_own_configuration_comes_first(world, monkeypatch) -> None:
    monkeypatch.setattr(bench, "gpu_bytes", lambda: 0)
    paths = world.run()
    own = to_measure(paths, None, 30)
    assert own.trainer.fit == "auto" and own.model.vocab_size > 0
    assert msgspec.structs.replace(own.model, vocab_size=0) == msgspec.structs.replace(
        world.config().model, vocab_size=0
    )
    assert to_measure(paths, "370m", 30).model.n_layer == 48
    with pytest.raises(UsageError, match="--seconds 0"):
        to_measure(paths, None, 0)


def test_a_disk_is_written_to_and_left_clean(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "LARGEST_FILE", 32 << 20)
    assert disk_speed(tmp_path) > 1e6
    monkeypatch.setattr(bench, "free_bytes", lambda place: 1000)
    assert disk_speed(tmp_path) is None


def test_a_run_that_trains_is_not_measured(world, monkeypatch) -> None:
    def running(paths) -> None:
        raise BusyError("the run is running")

    monkeypatch.setattr(bench, "refuse_if_running", running)
    monkeypatch.setattr(bench, "measured", lambda *_: pytest.fail("measured"))
    arguments = type("Arguments", (), {"run": str(world.run().root), "preset": None, "seconds": 1.0, "json": True})
    with pytest.raises(BusyError):
        bench.run(arguments)


@pytest.mark.timeout(600)
def test_the_command_on_a_cpu(world) -> None:
    paths = world.run()
    before = sorted(paths.root.rglob("*"))
    report = json.loads(world.adamctl("bench", "--json", "--seconds", "0.2", "--run", "run", timeout=500).stdout)
    assert report["tokens_per_second"] > 0 and report["snapshot_stall_s"] is not None
    assert report["micro_batch"] in (1, 2, 4, 8, 16, 32) and report["fit"]["measured"]
    assert sorted(paths.root.rglob("*")) == before
    text = paths.config.read_text() if paths.config.exists() else ""
    assert "fit" not in text


@pytest.mark.timeout(300)
def test_what_the_trainer_refuses_is_one_line(world) -> None:
    config = world.config()
    trainer = msgspec.structs.replace(config.trainer, precision="fp8", device="cpu")
    world.run(config=msgspec.structs.replace(config, trainer=trainer))
    done = world.adamctl("bench", "--seconds", "0.2", "--run", "run", expect=Exit.CONFIG, timeout=250)
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("adamctl: trainer.precision = 'fp8' can't be used")
