"""bin/adamctl and bin/test, with a stand-in for Python and pip: nothing is installed."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

# Plays python3, the venv's python and its pip, and writes down what it was asked. A file `fail-WORD` makes that step fail.
FAKE_PYTHON = """#!/bin/bash
here=$(dirname "$(readlink -f "$0")")
echo "$*" >>"$here/calls"
case "$*" in
  "-c import sys;"*) [[ ! -e "$here/fail-version" ]] ;;
  "-c import venv"*) [[ ! -e "$here/fail-ensurepip" ]] ;;
  *"-m venv"*) [[ -e "$here/fail-venv" ]] && exit 1; mkdir -p "${!#}/bin"; ln -sf "$here/python3.11" "${!#}/bin/python"; touch "$here/pip" ;;
  *"pip --version") [[ -e "$here/pip" ]] ;;
  *"install"*torch==*) [[ ! -e "$here/fail-torch" ]] ;;
  *"install"*) sleep 0.3; [[ ! -e "$here/fail-rest" ]] ;;
  *) echo "ran: $*"; echo "cwd: $PWD safe: $PYTHONSAFEPATH" ;;
esac
"""


class Checkout:
    """A copy of what bin/ needs, and a PATH with a stand-in for Python."""

    def __init__(self, root: Path) -> None:
        self.root = root / "check out"
        self.tools = root / "tools"
        self.tools.mkdir()
        shutil.copytree(ROOT / "bin", self.root / "bin")
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root / name)
        fake = self.tools / "python3.11"
        fake.write_text(FAKE_PYTHON)
        fake.chmod(0o755)
        for name in ("python3.13", "python3.12"):
            (self.tools / name).write_text("#!/bin/sh\nexit 1\n")
            (self.tools / name).chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("ADAM_", "PYTHON"))}
        return {**clean, "PATH": f"{self.tools}:{os.environ['PATH']}", **more}

    def run(self, *command: str, expect: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        path = str(self.root / "bin" / command[0])
        done = subprocess.run(
            [path, *command[1:]],
            capture_output=True,
            text=True,
            env=self.environment(**more),
            cwd=self.tools,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done

    def fail(self, step: str, fails: bool = True) -> None:
        path = self.tools / f"fail-{step}"
        path.touch() if fails else path.unlink()

    def installs(self) -> list[str]:
        calls = (self.tools / "calls").read_text().splitlines()
        return [call for call in calls if " install " in call]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_first_use_installs_and_the_second_does_nothing(checkout: Checkout) -> None:
    first = checkout.run("adamctl", "status", "--json")
    assert "first use" in first.stderr and "interrupted" in first.stderr
    assert first.stdout.startswith("ran: -P -m adam.daemon status --json\n")
    assert f"cwd: {checkout.tools} safe: 1" in first.stdout
    torch, rest = checkout.installs()
    assert "torch==2.13.0" in torch and "--no-deps" in torch
    assert "-c " in rest and rest.endswith(f"-e {checkout.root}")
    (checkout.tools / "calls").unlink()
    second = checkout.run("adamctl", "x")
    assert second.stderr == ""
    assert (checkout.tools / "calls").read_text() == "-P -m adam.daemon x\n"


def test_the_second_use_costs_little(checkout: Checkout) -> None:
    checkout.run("adamctl")
    took = []
    for _ in range(5):
        began = time.monotonic()
        checkout.run("adamctl")
        took.append(time.monotonic() - began)
    assert min(took) < 0.1, took  # of which the stand-in takes some


@pytest.mark.parametrize("step", ["torch", "rest"])
def test_what_was_interrupted_is_completed(checkout: Checkout, step: str) -> None:
    checkout.fail(step)
    assert "run the command again" in checkout.run("adamctl", expect=1).stderr
    assert not list((checkout.root / ".venv").glob("*.stamp"))
    checkout.fail(step, False)
    made = (checkout.tools / "calls").read_text().count("-m venv")
    checkout.run("adamctl")
    assert (checkout.tools / "calls").read_text().count("-m venv") == made, "a whole venv was made again"


def test_half_a_venv_is_made_again(checkout: Checkout) -> None:
    checkout.run("adamctl")
    (checkout.tools / "pip").unlink()
    for stamp in (checkout.root / ".venv").glob("*.stamp"):
        stamp.unlink()
    checkout.run("adamctl")
    assert (checkout.tools / "calls").read_text().count("-m venv --clear") == 2


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_other_requirements_are_installed(checkout: Checkout, name: str) -> None:
    checkout.run("adamctl")
    with (checkout.root / name).open("a") as file:
        file.write("# changed\n")
    checkout.run("adamctl")
    assert len(checkout.installs()) == 4


def test_a_checkout_that_was_moved_is_installed_again(checkout: Checkout) -> None:
    checkout.run("adamctl")
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    checkout.run("adamctl")
    assert checkout.installs()[-1].endswith("moved")


def test_another_python_behind_the_venv_is_noticed(checkout: Checkout) -> None:
    checkout.run("adamctl")
    shutil.copy(checkout.tools / "python3.11", checkout.tools / "python3.14")
    python = checkout.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(checkout.tools / "python3.14")
    checkout.run("adamctl")
    assert len(checkout.installs()) == 4


def test_half_of_other_requirements_is_not_taken_for_the_old_ones(checkout: Checkout) -> None:
    checkout.run("adamctl")
    constraints = checkout.root / "constraints.txt"
    before = constraints.read_text()
    constraints.write_text(before + "# changed\n")
    checkout.fail("rest")
    checkout.run("adamctl", expect=1)
    checkout.fail("rest", False)
    constraints.write_text(before)
    checkout.run("adamctl")
    assert len(checkout.installs()) == 6


def test_first_uses_at_once_install_once(checkout: Checkout) -> None:
    command = [str(checkout.root / "bin" / "adamctl"), "x"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": checkout.environment()}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    outputs = [process.communicate(timeout=30) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(checkout.installs()) == 2, "torch, and the rest"
    assert sum("waiting for it" in stderr for _, stderr in outputs) == 1


def test_the_index_of_torch_can_be_named(checkout: Checkout) -> None:
    done = checkout.run("adamctl", ADAM_TORCH_INDEX="https://example.org/cpu")
    torch, rest = checkout.installs()
    assert "--index-url https://example.org/cpu" in torch
    assert "example.org" not in rest
    assert "there is no NVIDIA GPU" not in done.stderr


@pytest.mark.parametrize(
    ("step", "words"), [("ensurepip", "apt-get install python3-venv"), ("venv", "run the command again")]
)
def test_what_is_missing_is_named(checkout: Checkout, step: str, words: str) -> None:
    checkout.fail(step)
    assert words in checkout.run("adamctl", expect=1).stderr
    assert checkout.installs() == []


def test_no_python(checkout: Checkout) -> None:
    old = checkout.tools / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    checkout.fail("version")
    assert "no Python 3.11" in checkout.run("adamctl", expect=1).stderr


def test_test_has_its_own_stamp_and_serves_adamctl(checkout: Checkout) -> None:
    done = checkout.run("test", "tests/x.py")
    assert done.stdout.startswith("ran: -P -m pytest -q -m not campaign")
    assert f"cwd: {checkout.root}" in done.stdout
    assert checkout.installs()[-1].endswith("[dev]")
    checkout.run("adamctl")
    assert len(checkout.installs()) == 2
    assert "-m campaign tests/x.py" in checkout.run("test", "--campaign", "tests/x.py").stdout


def test_adamctl_first_then_test_adds_what_tests_need(checkout: Checkout) -> None:
    checkout.run("adamctl")
    checkout.run("test")
    assert checkout.installs()[-1].endswith("[dev]")


def test_it_is_found_through_a_link(checkout: Checkout) -> None:
    link = checkout.tools / "adamctl"
    link.symlink_to(checkout.root / "bin" / "adamctl")
    done = subprocess.run([str(link), "x"], capture_output=True, text=True, env=checkout.environment(), check=True)
    assert "ran: -P -m adam.daemon x" in done.stdout
