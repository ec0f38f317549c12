"""Each sink as a process: killed, kept from its place, started again; what it shows is what metrics.csv says, once each."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from metric_rows import same, write_rows

from adam.contract import schema
from adam.contract.clock import boot_id, stamp
from adam.contract.config import Config, Sinks
from adam.contract.config_file import write_lock
from adam.contract.paths import RunPaths
from adam.contract.records import CheckpointSeen, Gpu, Status
from adam.contract.states import RunState
from adam.watchdog.follower import FollowerWords
from adam.watchdog.series import SERIES
from adam.watchdog.sink import Feeder, missing_words
from adam.watchdog.sink_tensorboard import FILE, TensorBoard, Written

Start = Callable[..., subprocess.Popen[bytes]]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def start(paths: RunPaths) -> Iterator[Start]:
    """Starts a sink; all are ended with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "adam.watchdog.sink", name, "--run", str(paths.root)]
        process = subprocess.Popen(
            [*command, "--parent", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | environment,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def words(process: subprocess.Popen[bytes]) -> FollowerWords:
    assert process.stdout is not None
    return msgspec.json.decode(process.stdout.readline(), type=FollowerWords)


def end(process: subprocess.Popen[bytes]) -> None:
    """Close its stdin: it passes on what is left, and ends."""
    process.communicate(timeout=30)
    assert process.returncode == 0


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def value(text: str, name: str) -> float:
    return next(float(item.split()[-1]) for item in text.splitlines() if item.startswith(name + " "))


@pytest.fixture
def port(paths: RunPaths) -> int:
    port = free_port()
    write_lock(paths.lock, Config(sinks=Sinks(prometheus_port=port)))
    return port


def write_status(paths: RunPaths) -> None:
    now = stamp()
    gpus = tuple(
        Gpu(index, "H200", 61, 26, 350.5, 700.0, 97, 33 * 10**9, 80 * 10**9, 72, uncorrected=0) for index in (0, 1)
    )
    status = Status(
        state=RunState.TRAINING, reason="", since=now, stamp=now, restarts=3, gpus=gpus, sensors="ok",
        checkpoint=CheckpointSeen("step-00000002-a01", 2, True, now), notes=("a note",),
    )  # fmt: skip
    schema.save(paths.status, status)


def test_prometheus_shows_the_newest_row_and_counts_all_of_them(paths, port, start, await_) -> None:
    write_rows(paths, (1, 1), (1, 2), val_loss=2.5)
    write_rows(paths, (1, 3), (2, 2))
    process = start("prometheus")
    assert words(process) == FollowerWords()
    text = scrape(port)
    assert value(text, "adam_rows_total") == 4 and value(text, "adam_step") == 2 and value(text, "adam_attempt") == 2
    assert value(text, "adam_loss_nats") == 4.98 and value(text, "adam_validation_loss_nats") == 2.5
    assert value(text, "adam_validation_step") == 2 and value(text, "adam_disk_free_bytes") == 12.5e9
    assert "adam_state" not in text, "there is no status yet"
    write_status(paths)
    write_rows(paths, (2, 3))
    await_(lambda: value(scrape(port), "adam_step") == 3, 10)
    text = scrape(port)
    assert value(text, 'adam_state{state="training"}') == 1 and value(text, 'adam_state{state="failed"}') == 0
    assert value(text, 'adam_gpu_utilization_ratio{gpu="1"}') == 0.97 and value(text, "adam_restarts_total") == 3
    kill(process)
    again = start("prometheus")
    words(again)
    assert value(scrape(port), "adam_rows_total") == 5, "of the whole run, whoever was listening"


def promtool() -> str:
    found = shutil.which("promtool") or os.environ.get("PROMTOOL", "")
    if not found:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus), nor named by $PROMTOOL")
    return found


def test_promtool_finds_nothing_to_complain_about(paths, port, start) -> None:
    tool = promtool()
    write_rows(paths, (1, 1), val_loss=2.5, val_bits_per_byte=1.5)
    write_status(paths)
    words(start("prometheus"))
    text = scrape(port)
    done = subprocess.run([tool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    bad = text.replace("adam_rows_total", "adam_rows_ms")
    done = subprocess.run([tool, "check", "metrics"], input=bad, capture_output=True, text=True, check=False)
    assert done.returncode != 0, "it would say so"


def test_a_port_that_is_taken_is_told_and_tried_again(paths, port, start, await_) -> None:
    write_rows(paths, (1, 1))
    with socket.create_server(("127.0.0.1", port)):
        process = start("prometheus")
        told = words(process).trouble
        assert told == (
            f"port {port} of 127.0.0.1 can't be opened: address already in use; "
            "end who holds it, or choose another sinks.prometheus_port"
        )
        assert process.poll() is None
    assert words(process) == FollowerWords(), "it is free now"
    assert value(scrape(port), "adam_rows_total") == 1


def test_only_this_machine_may_look(paths, port, start) -> None:
    words(start("prometheus"))
    sockets = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    listening = {fields[1] for fields in sockets if fields[3] == "0A" and fields[1].endswith(f":{port:04X}")}
    assert listening == {f"0100007F:{port:04X}"}


# --- TensorBoard -----------------------------------------------------------------------------------------------------


def board(paths: RunPaths) -> Any:
    """What TensorBoard itself reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(paths.tensorboard), size_guidance={"scalars": 0})
    found.Reload()
    return found


def steps(paths: RunPaths, tag: str = "training/loss") -> list[int]:
    return [item.step for item in board(paths).Scalars(tag)]


def test_tensorboard_gets_each_row_once_and_only_those_that_count(paths, start) -> None:
    write_lock(paths.lock, Config(sinks=Sinks(tensorboard=True)))
    write_rows(paths, (1, 1), (1, 2), (1, 3), (1, 4), val_loss=2.5)
    process = start("tensorboard")
    words(process)
    write_rows(paths, (2, 3), (2, 4), (2, 5), loss=1.5, grad_norm=None)  # back to step 2, and again from there
    end(process)
    found = board(paths)
    assert [(item.step, item.value) for item in found.Scalars("training/loss")][2:] == [(3, 1.5), (4, 1.5), (5, 1.5)]
    assert steps(paths) == [1, 2, 3, 4, 5] and steps(paths, "validation/loss") == [1, 2]
    first = found.Scalars("training/loss")[0]
    assert same(first.value, 4.99) and first.wall_time == 1.8e9 + 1.125
    assert set(found.Tags()["scalars"]) <= set(SERIES.values())
    assert all(item.value != item.value for item in found.Scalars("training/grad_norm")[2:]), (
        "not a number, and told so"
    )


def test_a_killed_tensorboard_sink_goes_on_where_it_was(paths, start, await_) -> None:
    write_lock(paths.lock, Config(sinks=Sinks(tensorboard=True)))
    for last in range(3, 13, 3):
        write_rows(paths, *((1, step) for step in range(last - 2, last + 1)))
        process = start("tensorboard")
        await_(lambda last=last: known(paths).step == last, 20)
        kill(process)
    whole = (paths.tensorboard / FILE).read_bytes()
    with (paths.tensorboard / FILE).open("ab") as file:
        file.write(b"what a killed one had begun")
    write_rows(paths, (2, 12), (2, 13))
    end(start("tensorboard"))
    assert (paths.tensorboard / FILE).read_bytes().startswith(whole)
    assert steps(paths) == list(range(1, 14))


def known(paths: RunPaths) -> Written:
    return schema.load(paths.sink("tensorboard"), Written) or Written()


@pytest.mark.parametrize("lost", ["position", "file", "boot", "tail", "torn position"])
def test_what_is_not_certain_is_written_anew(paths, lost) -> None:
    """The file is a function of the rows: the same bytes again."""
    file, position = paths.tensorboard / FILE, paths.sink("tensorboard")
    write_rows(paths, (1, 1), (1, 2), (2, 2))
    Feeder(paths.metrics, TensorBoard(file, position)).turn(0.0)
    whole = file.read_bytes()
    match lost:
        case "position":
            position.unlink()
        case "file":
            file.unlink()
        case "boot":
            schema.save(position, msgspec.structs.replace(known(paths), boot_id="another"))
            file.write_bytes(bytes(len(whole)))
        case "tail":
            os.truncate(file, len(whole) - 7)
        case "torn position":
            position.write_bytes(b"\0" * 40)
    Feeder(paths.metrics, TensorBoard(file, position)).turn(0.0)
    assert file.read_bytes() == whole and known(paths).boot_id == boot_id()


def test_a_full_disk_is_waited_out(paths, monkeypatch, capsysbinary) -> None:
    write_rows(paths, (1, 1), (1, 2))
    feeder = Feeder(paths.metrics, TensorBoard(paths.tensorboard / FILE, paths.sink("tensorboard")))
    write, left = os.write, [20]

    def fills_up(fd: int, data: Any) -> int:
        if not left[0]:
            raise OSError(28, "No space left on device")
        count, left[0] = min(left[0], len(data)), 0
        return write(fd, data[:count])

    monkeypatch.setattr(os, "write", fills_up)
    feeder.turn(1.0)
    assert b'{"trouble":"No space left on device"}' in capsysbinary.readouterr().out
    monkeypatch.undo()
    feeder.turn(2.0)
    assert known(paths).step == 0, "not at once again"
    feeder.turn(3.5)
    assert steps(paths) == [1, 2]
    assert capsysbinary.readouterr().out == b"{}\n", "all is well again"


# --- Trackio ---------------------------------------------------------------------------------------------------------


def stored(paths: RunPaths) -> list[tuple[int, dict[str, float]]]:
    """(step, values) in Trackio's store, read without Trackio."""
    (file,) = (path for path in (paths.root / "trackio").glob("*.db"))
    with sqlite3.connect(file) as store:
        found = store.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
    store.close()
    return [(step, msgspec.json.decode(metrics)) for step, metrics in found]


def test_trackio_gets_each_row_once_however_often_its_sink_is_killed(paths, start, await_) -> None:
    write_lock(paths.lock, Config(name="mine", sinks=Sinks(trackio="project")))
    write_rows(paths, (1, 1), (1, 2))
    process = start("trackio")
    await_(lambda: paths.sink("trackio").exists(), 30)
    kill(process)
    write_rows(paths, (1, 3), (2, 3), val_loss=2.5)
    paths.sink("trackio").unlink()  # the worst: it was killed between the store and its own note
    end(start("trackio"))
    found = stored(paths)
    assert [(step, values["training/attempt"]) for step, values in found] == [(1, 1), (2, 1), (3, 1), (3, 2)]
    assert found[0][1]["training/loss"] == 4.99 and found[3][1]["validation/loss"] == 2.5
    shutil.rmtree(paths.root / "trackio")
    end(start("trackio"))
    assert len(stored(paths)) == 4, "a store that was deleted is filled again"


# --- what is not installed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_package_that_is_missing_is_one_clear_line_and_the_end(paths, start, tmp_path, name) -> None:
    write_lock(paths.lock, Config(sinks=Sinks(tensorboard=True, trackio="p")))
    (tmp_path / "none" / name).mkdir(parents=True)
    (tmp_path / "none" / name / "__init__.py").write_text(f"raise ModuleNotFoundError('No', name={name!r})")
    path = f"{tmp_path / 'none'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    process = start(name, PYTHONPATH=path)
    told = words(process)
    assert told == FollowerWords(missing_words(name, ModuleNotFoundError(name=name)), missing=True)
    assert told.trouble.startswith(f"the package {name} is not installed") and "pip install" in told.trouble
    assert process.wait(20) == 1
