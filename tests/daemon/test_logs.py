"""`adamctl logs`."""

import signal
import subprocess
import sys

import pytest

from adam.contract.states import Exit
from adam.daemon.logs import Tail, show_end


def test_the_end_of_a_log(world) -> None:
    paths = world.run()
    paths.log("trainer").write_text("".join(f"line {number}\n" for number in range(100)))
    paths.log("watchdog").write_text("watching\n")
    out = world.adamctl("logs", "--run", "run").stdout.splitlines()
    assert (out[0], out[-1], len(out)) == ("line 60", "line 99", 40)
    assert world.adamctl("logs", "-n", "1", "--run", "run").stdout == "line 99\n"
    assert world.adamctl("logs", "watchdog", "--run", "run").stdout == "watching\n"
    line = world.adamctl("logs", "nobody", "--run", "run", expect=Exit.USAGE).stderr
    assert "trainer, watchdog" in line


@pytest.mark.parametrize("content", [b"", b"no newline", b"\xff\xfe binary\n"])
def test_any_bytes_are_shown(tmp_path, capfdbinary, content: bytes) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(content)
    assert show_end(path, 5) == len(content)
    assert capfdbinary.readouterr().out == content


def test_following_survives_creation_rotation_and_truncation(tmp_path) -> None:
    path = tmp_path / "x.log"
    tail = Tail(path, 0)
    assert tail.read() == b""
    path.write_bytes(b"one\n")
    assert tail.read() == b"one\n"
    with path.open("ab") as file:
        file.write(b"two\n")
    assert tail.read() == b"two\n"
    with path.open("ab") as file:
        file.write(b"three\n")
    path.rename(tmp_path / "x.log.1")
    path.write_bytes(b"four\n")
    assert tail.read() == b"three\nfour\n"
    path.write_bytes(b"5\n")
    assert tail.read() == b"5\n"
    tail.close()


def test_following_ends_with_ctrl_c(world) -> None:
    paths = world.run()
    paths.log("trainer").write_text("first\n")
    command = [sys.executable, "-P", "-m", "adam.daemon", "logs", "-f", "--run", str(paths.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"
    with paths.log("trainer").open("a") as file:
        file.write("second\n")
    assert process.stdout.readline() == b"second\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    process.stdout.close()
