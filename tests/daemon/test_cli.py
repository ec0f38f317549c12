"""The command line says everything about itself."""

import argparse

import pytest

from adam.contract.states import Exit
from adam.daemon.cli import EXITS, handler, make_parser

COMMANDS = {
    "init", "up", "down", "status", "pause", "restore", "resume", "save", "logs", "checkpoints", "doctor", "fork", "fetch-weights", "forge",
    "alerts", "systemd", "bench",
}  # fmt: skip


def below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name: child for action in found for name, child in action.choices.items()}


def parsers() -> dict[str, argparse.ArgumentParser]:
    return below(make_parser())


EVERY = [
    *((name, parser) for name, parser in parsers().items()),
    *((f"{name} {action}", child) for name, parser in parsers().items() for action, child in below(parser).items()),
]


def test_every_command_is_there_and_has_help() -> None:
    assert set(parsers()) == COMMANDS
    text = make_parser().format_help()
    assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize(("name", "parser"), EVERY, ids=[name for name, _ in EVERY])
def test_every_option_has_help_and_every_command_takes_a_run(name: str, parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        assert action.help, f"{name} {action.option_strings or action.dest}"
    assert "--run" in parser.format_help()
    assert "exit codes:" in parser.format_help()


def test_every_command_has_a_function() -> None:
    for name, parser in EVERY:
        assert callable(handler(parser.get_default("handler"))), name


def test_every_exit_code_is_explained() -> None:
    assert set(EXITS) == set(Exit)


def test_help_and_a_wrong_command_line(world) -> None:
    assert "exit codes:" in world.adamctl("up", "--help").stdout
    assert world.adamctl("fly", expect=None).returncode == Exit.USAGE
    assert world.adamctl("up", "--wait", "--foreground", expect=Exit.USAGE).stdout == ""
    world.adamctl("up", "--no-watchdog", expect=Exit.USAGE)


def test_the_run_comes_from_the_environment_and_must_be_a_directory(world) -> None:
    world.run("elsewhere")
    assert "elsewhere" in world.adamctl("status", env={"ADAM_RUN": "elsewhere"}).stdout
    (world.root / "file").write_text("")
    world.adamctl("status", "--run", "file", expect=Exit.USAGE)
    world.adamctl("status", "--run", "nowhere", expect=Exit.NOT_RUNNING)
