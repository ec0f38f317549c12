"""An attempt of the real trainer, in this process: logs, snapshots, stops, and goes on exactly."""

import errno
import hashlib
import os
import shutil
import signal
from pathlib import Path

import msgspec
import pytest
import torch
from small_run import make_run, small_config, write_plan

from adam.contract import ram, schema, slots
from adam.contract.checkpoints import MANIFEST, STATE, FileEntry, manifest_of, rank_file, seal
from adam.contract.clock import stamp
from adam.contract.config_file import write_lock
from adam.contract.durable import sha256_file, whole_lines
from adam.contract.errors import BusyError, CheckpointError, ConfigError, DataError, DiskError, NumericError, UsageError
from adam.contract.model import ModelConfig
from adam.contract.paths import RunPaths
from adam.contract.records import BackendReport, Resume, Staging, StepRow, decode_step
from adam.contract.shared import Control, Pulse, SharedWord, read_once
from adam.contract.slots import read_head
from adam.contract.snapshots import Snapshot, complete_snapshots
from adam.contract.states import Phase
from adam.trainer import evaluate, heart, loop
from adam.trainer.attempt import run_attempt
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.backends import Choice


def rows(paths: RunPaths) -> list[StepRow]:
    return [decode_step(line, paths.steps) for _, line in whole_lines(paths.steps)]


def never() -> bool:
    return False


def newest(paths: RunPaths) -> Snapshot:
    return complete_snapshots(paths)[0]


def commit(paths: RunPaths) -> Resume:
    """What the keeper does with the newest snapshot, in short."""
    snapshot = newest(paths)
    directory = paths.checkpoints / snapshot.name
    directory.mkdir(parents=True)
    shutil.copy(snapshot.files[0], directory / rank_file(0))
    (directory / STATE).write_bytes(msgspec.json.encode(snapshot.head.state))
    files = tuple(FileEntry(f.name, f.stat().st_size, sha256_file(f)) for f in sorted(directory.iterdir()))
    (directory / MANIFEST).write_bytes(seal(manifest_of(snapshot.head, files, stamp())))
    return Resume(directory.name, snapshot.head.step)


def in_memory(paths: RunPaths) -> Resume:
    """The newest snapshot, for an attempt that begins from there."""
    snapshot = newest(paths)
    return Resume(snapshot.name, snapshot.head.step, str(snapshot.path))


def state_digest(paths: RunPaths) -> str:
    """Of the last snapshot's tensors, whatever its header says."""
    (file,) = newest(paths).files
    found = read_head(file)
    assert found is not None
    data = file.read_bytes()
    return hashlib.sha256(b"".join(data[p.start : p.end] for _, p in sorted(found[1].items()))).hexdigest()


def stop_after(micro_steps: int):
    asked = iter(range(micro_steps))
    return lambda: next(asked, None) is None


def test_a_run_trains_to_its_last_step_and_logs_each(tmp_path) -> None:
    paths = make_run(tmp_path / "run", small_config(steps=30))
    write_plan(paths)
    assert run_attempt(paths.root, 1, never)
    log = rows(paths)
    assert [row.step for row in log] == list(range(1, 31))
    assert [row.tokens for row in log] == [64 * step for step in range(1, 31)]
    assert [(row.first_sample, row.end_sample) for row in log] == [(4 * i, 4 * i + 4) for i in range(30)]
    assert log[-1].loss < log[0].loss - 0.3
    assert [row.step for row in log if row.val_loss is not None] == list(range(3, 31, 3))
    assert all((row.entropy is None) == (row.logits_norm is None) == (row.val_loss is None) for row in log)
    assert 0 < log[-1].entropy < log[-1].val_loss + 1 and log[-1].logits_norm > 0
    assert log[-1].val_bits_per_byte == pytest.approx(log[-1].val_loss / 0.6931, rel=0.2)
    pulse = read_once(paths.pulse("0"), Pulse)
    assert pulse is not None
    assert (pulse.step, pulse.phase, pulse.durable) == (30, Phase.ENDING, 15)


@pytest.mark.parametrize(("arch", "save"), [("mamba1", commit), ("mamba2", commit), ("mamba1", in_memory)])
def test_stopped_anywhere_and_resumed_gives_the_same_bits(tmp_path, arch: str, save) -> None:
    config = msgspec.structs.replace(
        small_config(), model=ModelConfig(arch=arch, d_model=16, n_layer=2, d_state=4, headdim=8)
    )
    whole = make_run(tmp_path / "whole", config)
    write_plan(whole)
    run_attempt(whole.root, 1, never)
    parts = make_run(tmp_path / "parts", config)
    resume, attempt = None, 0
    for micro_steps in (3, 1, 4, 0, 5):
        attempt += 1
        write_plan(parts, attempt, resume)
        assert not run_attempt(parts.root, attempt, stop_after(micro_steps))
        resume = save(parts)
    write_plan(parts, attempt + 1, resume)
    assert run_attempt(parts.root, attempt + 1, never)
    key = [(row.step, row.loss, row.grad_norm, row.val_loss, row.first_sample) for row in rows(whole)]
    assert [(row.step, row.loss, row.grad_norm, row.val_loss, row.first_sample) for row in rows(parts)] == key
    assert state_digest(parts) == state_digest(whole)


class Died(BaseException):
    """As if the process had been killed."""


def dies_in_validation(monkeypatch, after: int) -> list[int]:
    """The next validation dies after so many micro-batches are kept (0: none does); how many windows were done after each."""
    computed: list[int] = []

    def keep(self: loop.Loop, tally: evaluate.Tally) -> None:
        computed.append(tally.windows)
        schema.save(self._validation, tally, durable=False)
        if len(computed) == after:
            raise Died

    monkeypatch.setattr(loop.Loop, "_keep_validation", keep)
    return computed


@pytest.mark.parametrize("after", [1, 3])
def test_a_validation_goes_on_where_its_process_died(tmp_path, monkeypatch, after) -> None:
    config = small_config(steps=4, eval_tokens=160)  # ten windows, two at once
    whole = make_run(tmp_path / "whole", config)
    write_plan(whole)
    run_attempt(whole.root, 1, never)
    parts = make_run(tmp_path / "parts", config)
    write_plan(parts)
    dies_in_validation(monkeypatch, after)
    with pytest.raises(Died):
        run_attempt(parts.root, 1, never)
    kept = schema.load(parts.validation, evaluate.Tally)
    computed = dies_in_validation(monkeypatch, 0)
    write_plan(parts, 2, in_memory(parts))
    assert run_attempt(parts.root, 2, never)
    assert computed[0] == 2 * after + 2
    assert next(row.val_s for row in newest_rows(parts) if row.step == 3) > kept.seconds > 0
    assert [(row.step, row.val_loss, row.val_bits_per_byte) for row in newest_rows(parts)] == [
        (row.step, row.val_loss, row.val_bits_per_byte) for row in rows(whole)
    ]


@pytest.mark.parametrize("other", ["weights", "data", "tokens", "torn"])
def test_another_validation_is_begun_anew(tmp_path, monkeypatch, other) -> None:
    paths = make_run(tmp_path / "run", small_config(steps=3, eval_tokens=160))
    write_plan(paths)
    dies_in_validation(monkeypatch, 3)
    with pytest.raises(Died):
        run_attempt(paths.root, 1, never)
    if other == "torn":
        paths.validation.write_bytes(b"\0" * 100)
    key = evaluate.key_of
    changed = {"weights": ([torch.ones(2)], ()), "data": (None, ("x",)), "tokens": (None, (1,)), "torn": (None, ())}[
        other
    ]
    monkeypatch.setattr(loop, "key_of", lambda own, *rest: key(changed[0] or own, *rest, *changed[1]))
    computed = dies_in_validation(monkeypatch, 0)
    write_plan(paths, 2, in_memory(paths))
    assert run_attempt(paths.root, 2, never)
    assert computed[0] == 2


def newest_rows(paths: RunPaths) -> list[StepRow]:
    return list({row.step: row for row in rows(paths)}.values())


def test_the_loss_does_not_hang_on_how_a_batch_is_cut(tmp_path) -> None:
    losses = []
    for micro_batch in (1, 2, 4):
        paths = make_run(tmp_path / str(micro_batch), small_config(micro_batch=micro_batch, steps=3))
        write_plan(paths)
        run_attempt(paths.root, 1, never)
        losses.append([row.loss for row in rows(paths)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_a_plan_can_skip_data_and_lower_the_rate_and_cut_the_micro_batch(tmp_path) -> None:
    paths = make_run(tmp_path / "run", small_config(steps=3))
    write_plan(paths, skip=((4, 10),), lr_factor=0.5, micro_batch=1)
    run_attempt(paths.root, 1, never)
    log = rows(paths)
    assert [(row.step, row.first_sample, row.end_sample) for row in log] == [(1, 0, 10), (2, 10, 14), (3, 14, 18)]
    assert log[1].lr == pytest.approx(0.5 * 1e-2)


def test_a_request_to_save_is_answered_once(tmp_path) -> None:
    config = msgspec.structs.replace(
        small_config(), checkpoint=msgspec.structs.replace(small_config().checkpoint, every_steps=100)
    )
    paths = make_run(tmp_path / "run", config)
    write_plan(paths)
    control: SharedWord[Control] = SharedWord(paths.control, Control, write=True)
    control.write(Control(token=1, saves=3))
    run_attempt(paths.root, 1, never)
    pulse = read_once(paths.pulse("0"), Pulse)
    assert pulse is not None
    assert (pulse.saves, pulse.durable) == (3, 2)  # the one asked for, and the last


def test_a_request_to_save_during_a_pause_is_answered_by_the_last_whole_step(tmp_path, monkeypatch) -> None:
    paths = make_run(tmp_path / "run", small_config(steps=4, micro_batch=1))
    write_plan(paths)
    control: SharedWord[Control] = SharedWord(paths.control, Control, write=True)
    control.write(Control(token=1))
    micro_steps: list[int] = []
    seen: list[tuple[int, str]] = []

    def meanwhile(_: float) -> None:
        head = newest(paths).head
        seen.append((head.step, head.why))
        control.write(Control(token=1))

    def in_the_third_update() -> bool:
        micro_steps.append(1)
        if len(micro_steps) == 10:
            control.write(Control(token=1, pause=1, saves=7))
        return False

    monkeypatch.setattr(heart.time, "sleep", meanwhile)
    assert run_attempt(paths.root, 1, in_the_third_update)
    assert seen == [(2, "request")]
    undisturbed = make_run(tmp_path / "undisturbed", small_config(steps=4, micro_batch=1))
    write_plan(undisturbed)
    run_attempt(undisturbed.root, 1, never)
    assert [row.loss for row in rows(paths)] == [row.loss for row in rows(undisturbed)]
    assert state_digest(paths) == state_digest(undisturbed)


def test_the_control_word_of_another_attempt_means_nothing(tmp_path) -> None:
    paths = make_run(tmp_path / "run")
    write_plan(paths, attempt=2)
    control: SharedWord[Control] = SharedWord(paths.control, Control, write=True)
    control.write(Control(token=1, stop=1, pause=1))
    assert run_attempt(paths.root, 2, never)


def test_stop_by_the_control_word(tmp_path) -> None:
    paths = make_run(tmp_path / "run")
    write_plan(paths)
    control: SharedWord[Control] = SharedWord(paths.control, Control, write=True)
    control.write(Control(token=1, stop=1, pause=1))
    assert not run_attempt(paths.root, 1, never)
    assert rows(paths) == []


def test_a_loss_that_is_not_finite_ends_the_attempt_and_changes_nothing(tmp_path, monkeypatch) -> None:
    paths = make_run(tmp_path / "run", small_config())
    write_plan(paths)
    real, calls = MambaLM.loss, []
    apply, applied = loop.apply_update, []
    monkeypatch.setattr(loop, "apply_update", lambda optimizer: (applied.append(1), apply(optimizer)))

    def poisoned(self, *batch):
        calls.append(1)
        return real(self, *batch) * (float("nan") if len(calls) == 6 else 1.0)  # step 3: two of validation excluded

    monkeypatch.setattr(MambaLM, "loss", poisoned)
    with pytest.raises(NumericError, match="step 3: loss nan"):
        run_attempt(paths.root, 1, never)
    assert (rows(paths)[-1].step, rows(paths)[-1].loss) == (3, None)
    assert newest(paths).head.step == len(applied) == 2


def test_out_of_gpu_memory_is_a_memory_error(tmp_path, monkeypatch) -> None:
    paths = make_run(tmp_path / "run")
    write_plan(paths)

    def full(*_: object):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(MambaLM, "loss", full)
    with pytest.raises(MemoryError, match="Tried to allocate"):
        run_attempt(paths.root, 1, never)


def test_out_of_host_memory_is_a_memory_error(tmp_path, monkeypatch) -> None:
    paths = make_run(tmp_path / "run")
    write_plan(paths)
    monkeypatch.setattr(MambaLM, "loss", lambda *_: torch.empty(1 << 60, dtype=torch.uint8))
    with pytest.raises(MemoryError, match="allocate"):
        run_attempt(paths.root, 1, never)
    monkeypatch.setattr(MambaLM, "loss", lambda *_: torch.ones(2) @ torch.ones(3))
    write_plan(paths, 2)
    with pytest.raises(RuntimeError):  # any other error of torch's is the code's
        run_attempt(paths.root, 2, never)


def test_a_run_that_was_rolled_back_is_one_that_left_the_data_out_at_once(tmp_path, monkeypatch) -> None:
    """Skipped data move the data position and not the schedule: equal to the bit, whatever was trained and thrown away."""
    skip = ((18, 25),)
    whole = make_run(tmp_path / "whole", small_config(steps=10))
    write_plan(whole, skip=skip)
    run_attempt(whole.root, 1, never)
    back = make_run(tmp_path / "back", small_config(steps=10))
    write_plan(back)
    assert not run_attempt(back.root, 1, stop_after(7))
    healthy = commit(back)
    assert healthy.step == 3
    write_plan(back, 2, healthy)
    real, calls = MambaLM.loss, []

    def poisoned(self, *batch):
        calls.append(1)
        return real(self, *batch) * (float("inf") if len(calls) > 8 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(MambaLM, "loss", poisoned)
        with pytest.raises(NumericError):
            run_attempt(back.root, 2, never)
    assert rows(back)[-1].loss is None
    write_plan(back, 3, healthy, skip=skip)
    assert run_attempt(back.root, 3, never)
    key = [(row.step, row.loss, row.grad_norm, row.lr, row.end_sample) for row in rows(whole)]
    assert [
        (row.step, row.loss, row.grad_norm, row.lr, row.end_sample) for row in rows(back) if row.attempt == 3
    ] == key[3:]
    assert state_digest(back) == state_digest(whole)


def test_what_can_not_be_resumed_is_refused_with_the_reason(tmp_path) -> None:
    paths = make_run(tmp_path / "run")
    write_plan(paths)
    run_attempt(paths.root, 1, never)
    resume = commit(paths)
    write_plan(paths, 2, resume)

    other = msgspec.structs.replace(small_config(), model=ModelConfig(d_model=24, n_layer=2, d_state=4))
    write_lock(paths.lock, other)
    with pytest.raises(ConfigError, match="is of another model"):
        run_attempt(paths.root, 2, never)
    write_lock(paths.lock, small_config())

    file = paths.checkpoints / resume.checkpoint / rank_file(0)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        run_attempt(paths.root, 2, never)


def test_a_flipped_bit_in_memory_is_found_by_who_begins_from_it(tmp_path) -> None:
    paths = make_run(tmp_path / "run")
    write_plan(paths)
    run_attempt(paths.root, 1, never)
    resume = in_memory(paths)
    (file,) = newest(paths).files
    whole, found = file.read_bytes(), read_head(file)
    assert found is not None
    for name in ("model.backbone.norm_f.weight", "exp_avg_sq.backbone.embedding.weight", "rng.cpu"):
        data = bytearray(whole)
        data[found[1][name].end - 3] ^= 4
        file.write_bytes(data)
        write_plan(paths, 2, resume)
        with pytest.raises(CheckpointError, match=f"{name} are not those that were written"):
            run_attempt(paths.root, 2, never)


def test_an_attempt_never_writes_over_the_snapshot_that_it_began_from(tmp_path) -> None:
    paths = make_run(tmp_path / "run", small_config(steps=40))
    write_plan(paths)
    assert not run_attempt(paths.root, 1, stop_after(9))
    resume = in_memory(paths)
    write_plan(paths, 2, resume)
    assert not run_attempt(paths.root, 2, stop_after(0))
    names = {snapshot.name for snapshot in complete_snapshots(paths)}
    assert resume.checkpoint in names and len(names) >= 2


def test_a_backend_that_failed_is_reported(tmp_path, monkeypatch) -> None:
    failed = ("native: the gradient of B is 0.3 off",)
    monkeypatch.setattr("adam.trainer.runtime.choose_backend", lambda *_, **__: Choice("torch", failed))
    paths = make_run(tmp_path / "run", small_config(steps=2))
    write_plan(paths)
    run_attempt(paths.root, 1, never)
    report = schema.load(paths.backend_report, BackendReport)
    assert report == BackendReport(attempt=1, name="torch", failed=failed)


def test_snapshots_lie_in_memory_where_there_is_room(tmp_path, monkeypatch) -> None:
    paths = make_run(tmp_path / "run", small_config(steps=30))
    write_plan(paths)
    run_attempt(paths.root, 1, never)
    report = schema.load(paths.staging_report, Staging)
    assert report is not None and (report.tier, report.why, report.slots) == ("ram", "", 3)
    pulse = read_once(paths.pulse("0"), Pulse)
    assert pulse is not None and pulse.snapshots > pulse.durable
    assert newest(paths).path.parent == paths.ram


@pytest.mark.parametrize("what", ["full", "absent", "off"])
def test_without_room_in_memory_snapshots_are_staged_on_disk(tmp_path, monkeypatch, what: str) -> None:
    config = small_config(steps=8)
    if what == "off":
        config = msgspec.structs.replace(config, checkpoint=msgspec.structs.replace(config.checkpoint, ram="off"))
    elif what == "full":
        monkeypatch.setattr(ram, "cgroup_left", lambda: 1000)
    else:
        monkeypatch.setenv("ADAM_SHM", str(tmp_path / "absent"))
    paths = make_run(tmp_path / "run", config)
    write_plan(paths)
    run_attempt(paths.root, 1, never)
    report = schema.load(paths.staging_report, Staging)
    assert report is not None and (report.tier, report.slots) == ("disk", 2)
    assert {"full": "the memory limit", "absent": "is not there", "off": "off"}[what] in report.why
    pulse = read_once(paths.pulse("0"), Pulse)
    assert pulse is not None and pulse.snapshots == pulse.durable == 4
    assert newest(paths).path.parent == paths.staging


def test_where_nothing_has_room_training_goes_on_and_says_so(tmp_path, monkeypatch) -> None:
    paths = make_run(tmp_path / "run", small_config(steps=8))
    write_plan(paths)

    real = os.posix_fallocate

    def full(fd: int, offset: int, size: int) -> None:
        if size > 10_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd, offset, size)

    monkeypatch.setattr(slots.os, "posix_fallocate", full)
    monkeypatch.setattr(loop, "LONGEST_WAIT_FOR_SLOTS_S", 0.1)
    waited = 0

    def asked() -> bool:
        nonlocal waited
        waited += len(rows(paths)) == 8
        return waited > 10

    with pytest.raises(DiskError, match="no room for a snapshot"):
        run_attempt(paths.root, 1, asked)
    assert waited > 10, "all is trained: it waits for room until somebody asks it to stop"
    assert [row.step for row in rows(paths)] == list(range(1, 9))
    report = schema.load(paths.staging_report, Staging)
    assert report is not None and report.tier == "none" and "no room" in report.why


def test_other_data_than_the_checkpoint_was_trained_on_is_refused(tmp_path) -> None:
    paths = make_run(tmp_path / "run")
    write_plan(paths)
    run_attempt(paths.root, 1, never)
    resume = commit(paths)
    other = make_run(tmp_path / "other", seed=1)
    shutil.copytree(paths.checkpoints, other.checkpoints, dirs_exist_ok=True)
    write_plan(other, 2, resume)
    with pytest.raises(DataError, match="other tokens"):
        run_attempt(other.root, 2, never)


def test_a_plan_for_another_holder_or_program_is_refused(tmp_path) -> None:
    paths = make_run(tmp_path / "run")
    with pytest.raises(UsageError, match="no plan for the trainer"):
        run_attempt(paths.root, 1, never)
    write_plan(paths, attempt=2)
    with pytest.raises(BusyError, match="token 2, this trainer was started with 1"):
        run_attempt(paths.root, 1, never)


def test_a_torn_last_line_of_the_log_is_mended(tmp_path) -> None:
    paths = make_run(tmp_path / "run")
    write_plan(paths)
    paths.steps.write_bytes(b'{"attempt":1,"st')
    run_attempt(paths.root, 1, never)
    assert [row.step for row in rows(paths)] == [1, 2, 3, 4, 5, 6]


def test_stacks_are_written_on_request_while_training(tmp_path) -> None:
    paths = make_run(tmp_path / "run")
    write_plan(paths)

    def ask() -> bool:
        signal.raise_signal(signal.SIGUSR1)
        return False

    run_attempt(paths.root, 1, ask)
    assert "run_attempt" in Path(paths.log("stacks")).read_text()
