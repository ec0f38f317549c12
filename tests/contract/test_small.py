"""Schema, paths, clock, events, metrics and errors."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from adam.contract import schema
from adam.contract.clock import Stamp, iso, stamp
from adam.contract.errors import AdamError, ConfigError, DataError, SchemaError, UsageError, run_main
from adam.contract.events import event
from adam.contract.metrics import COLUMNS, Work, cells_of, gpu_cells, header, row
from adam.contract.mfu import peak_flops, utilisation
from adam.contract.paths import RunPaths, find_run
from adam.contract.records import Desired, Gpu, Numerics, StepRow, decode_step, encode_line
from adam.contract.states import FAILURE_OF_EXIT, UNFLUSHED, Exit, FailureClass

STEP = StepRow(
    attempt=2, step=7, tokens=700, first_sample=24, end_sample=28, loss=0.1 + 0.2, grad_norm=None,
    lr=1e-3, step_s=0.5, data_wait_s=0.0, wall=0.0, boottime=1.0,
)  # fmt: skip


def test_a_record_is_saved_and_loaded_and_a_newer_one_refused(tmp_path) -> None:
    path = tmp_path / "desired.json"
    assert schema.load(path, Desired) is None
    schema.save(path, Desired(pauses=("human",), saves=3))
    assert schema.load(path, Desired) == Desired(pauses=("human",), saves=3)
    path.write_text('{"schema": 2, "running": "maybe"}')
    with pytest.raises(SchemaError, match=r"desired.json has schema 2, this Adam knows up to 1; upgrade Adam"):
        schema.load(path, Desired)
    for bad in ("", "{", "[1]", '{"schema": 1, "running": "maybe"}'):
        path.write_text(bad)
        with pytest.raises(DataError, match="can't be read"):
            schema.load(path, Desired)


def test_floats_of_a_step_read_back_exactly(tmp_path) -> None:
    assert decode_step(encode_line(STEP), tmp_path) == STEP


def test_a_row_of_metrics_has_every_column_and_exact_floats() -> None:
    cells = dict(
        zip(
            header().decode().split(","),
            row(STEP, Work(128, 16), {"gpu_temp_c": "40"}).decode().split(","),
            strict=True,
        )
    )
    assert tuple(cells) == COLUMNS
    assert float(cells["loss"]) == 0.1 + 0.2
    assert (cells["grad_norm"], cells["val_loss"], cells["tokens_per_sec"], cells["gpu_temp_c"]) == (
        "nan",
        "",
        "256.0",
        "40",
    )


def test_a_row_of_which_all_is_known_has_no_empty_cell() -> None:
    gpu = Gpu(
        0, "H200", 40, 50, 100.0, 700.0, 97, 33, 80, memory_temperature_c=60, clocks=("sw_power_cap",), uncorrected=0
    )
    telemetry = {
        "phase": "training", "cpu_percent": "1", "ram_gb": "1", "disk_free_gb": "1", **gpu_cells((gpu,)),
    }  # fmt: skip
    step = msgspec.structs.replace(
        STEP, val_loss=2.0, val_bits_per_byte=1.0, entropy=1.5, logits_norm=30.0, grad_norm=1.0
    )
    numerics = Numerics(attempt=STEP.attempt, step=0, fingerprint="f", parts={"device": "cuda NVIDIA H200"})
    cells = cells_of(row(step, Work(128, 16, flops=98.9e12), telemetry, numerics))
    assert len(cells) == len(COLUMNS) and all(cells)
    named = dict(zip(COLUMNS, cells, strict=True))
    assert (named["mfu"], named["seq_len"], named["entropy"]) == (f"{98.9e12 / STEP.step_s / 989e12:.4f}", "16", "1.5")


def test_utilisation_is_told_only_where_it_is_known() -> None:
    numerics = Numerics(
        attempt=3, step=0, fingerprint="f", parts={"device": "cuda NVIDIA H100 80GB HBM3", "ranks": "4"}
    )
    assert utilisation(989e12, 0.5, 3, numerics) == 0.5
    assert utilisation(989e12, 0.5, 2, numerics) is None, "another attempt, perhaps on another machine"
    assert utilisation(989e12, 0.5, 3, None) is None and utilisation(0.0, 0.5, 3, numerics) is None
    devices = ("cuda NVIDIA H100 PCIe", "cuda NVIDIA A100-SXM4-80GB", "cuda NVIDIA GeForce RTX 4090", "cpu AVX2")
    assert [peak_flops(device) for device in devices] == [756e12, 312e12, None, None]


def test_the_cells_of_several_gpus_are_the_hottest_and_the_sums() -> None:
    gpus = (
        Gpu(0, temperature_c=40, margin_c=50, power_w=100.0),
        Gpu(1, temperature_c=60, margin_c=20, power_w=200.5),
        Gpu(2),
    )
    cells = gpu_cells(gpus)
    assert (cells["gpu_temp_c"], cells["gpu_margin_c"], cells["gpu_power_w"], cells["vram_gb"]) == (
        "60",
        "20",
        "300.5",
        "",
    )
    assert gpu_cells(()) == {}


def test_ages_go_by_boot_time_within_a_boot_and_by_the_wall_across_boots() -> None:
    then = Stamp(wall=1000.0, boot_id="a", boottime=50.0)
    assert then.age_s(Stamp(wall=0.0, boot_id="a", boottime=60.0)) == 10.0
    assert then.age_s(Stamp(wall=1300.0, boot_id="b", boottime=5.0)) == 300.0
    assert then.age_s(Stamp(wall=900.0, boot_id="b", boottime=5.0)) == 0.0
    later = Stamp(wall=1300.0, boot_id="b", boottime=5.0)
    assert then.in_boot_of(later) == Stamp(1000.0, "b", -295.0) and later.in_boot_of(later) is later
    assert iso(0.0) == "1970-01-01T00:00:00.000Z"


def test_events_have_known_kinds() -> None:
    assert event("started", "trainer", stamp(), attempt=1).facts == {"attempt": 1}
    with pytest.raises(ValueError, match="no such kind"):
        event("strated", "", stamp())


def test_a_run_is_found_by_option_environment_place_and_default(tmp_path) -> None:
    assert find_run("x", environ={"ADAM_RUN": "y"}, cwd=tmp_path) == tmp_path / "x"
    assert find_run(None, environ={"ADAM_RUN": "/y"}, cwd=tmp_path) == Path("/y")
    assert find_run(None, environ={}, cwd=tmp_path) == tmp_path / "runs" / "demo"
    (tmp_path / "adam.toml").touch()
    assert find_run(None, environ={}, cwd=tmp_path) == tmp_path
    with pytest.raises(UsageError, match="is a file"):
        find_run("adam.toml", environ={}, cwd=tmp_path)


def test_a_copied_run_is_another_run_and_a_long_path_has_a_short_socket(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert RunPaths(tmp_path / "a").identity != RunPaths(tmp_path / "b").identity
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    assert len(str(RunPaths(deep).supervisor_socket)) < 90
    assert RunPaths(Path("/r")).supervisor_socket == Path("/r/run/supervisor.sock")


def fails(error: BaseException):
    def main() -> int:
        raise error

    return main


def test_errors_for_people_are_one_line_and_a_documented_code(capsys) -> None:
    assert run_main("adamctl", fails(ConfigError("steps = 0", "use 1 or more"))) == Exit.CONFIG
    assert capsys.readouterr().err == "adamctl: steps = 0; use 1 or more\n"
    assert run_main("adamctl", fails(OSError(28, "No space left on device", "/x"))) == Exit.DISK
    assert capsys.readouterr().err.startswith("adamctl: No space left on device (/x); free some space")
    assert run_main("adamctl", fails(KeyboardInterrupt())) == Exit.INTERRUPTED
    with pytest.raises(ZeroDivisionError):
        run_main("adamctl", fails(ZeroDivisionError()))


def test_every_exit_code_of_an_error_has_a_class() -> None:
    harmless = {Exit.OK, Exit.STOPPED, Exit.NOT_RUNNING, Exit.FAILED, Exit.TIMEOUT, Exit.INTERRUPTED}
    assert set(FAILURE_OF_EXIT) == (set(Exit) - harmless) | {UNFLUSHED}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("sys.exit(run_main('adam.trainer', lambda: os.write(os.open('/dev/full', os.O_WRONLY), b'x')))", Exit.DISK),
        ("print('a line')", UNFLUSHED),
        ("never_fail(); print('a line'); print('another', file=sys.stderr); sys.exit(10)", Exit.STOPPED),
        (
            "never_fail(); import warnings; warnings.warn('told'); sys.exit(run_main('adam.trainer', lambda: 7))",
            Exit.NUMERIC,
        ),
        ("never_fail(); run_main('adam.trainer', lambda: 1 // 0)", Exit.CODE),
    ],
)
def test_a_log_on_the_full_disk_does_not_change_what_a_failure_is(body, code) -> None:
    script = f"import os, sys\nfrom adam.contract.errors import run_main\nfrom adam.contract.output import never_fail\n{body}\n"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run([sys.executable, "-E", "-P", "-c", script], stdout=full, stderr=full, check=False)
    assert ended.returncode == code
    assert FAILURE_OF_EXIT[Exit.DISK] == FAILURE_OF_EXIT[UNFLUSHED] == FailureClass.DISK
    for kind in AdamError.__subclasses__():
        assert kind.exit_code in set(Exit)


def test_the_contract_is_light() -> None:
    heavy = "import adam.contract.config_file, adam.contract.records, sys; print([m for m in ('torch', 'numpy', 'rich') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-P", "-c", heavy], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
