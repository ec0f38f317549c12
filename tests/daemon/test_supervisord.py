"""supervisord's configuration, read back by supervisord's own parser."""

import os
import shlex
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from adam.contract.errors import DiskError, UsageError
from adam.contract.paths import RunPaths
from adam.daemon import supervisord
from adam.daemon.supervisord import check_root, make_socket_place, quoted, render, socket_name

ODD = [
    "plain",
    "with blank",
    "100% sure",
    "a;b",
    "a ;b #c",
    "it's",
    'say "x"',
    "back\\slash",
    "%(here)s",
    "ünï→",
    " -leading",
    "$HOME `x`",
]


def parsed(paths: RunPaths, text: str, monkeypatch: pytest.MonkeyPatch) -> ServerOptions:
    paths.run.mkdir(parents=True, exist_ok=True)
    paths.logs.mkdir(exist_ok=True)
    paths.supervisor_conf.write_text(text)
    monkeypatch.chdir(paths.root)
    options = ServerOptions()
    options.realize(["-c", str(paths.supervisor_conf)])
    return options


@pytest.mark.parametrize("name", ODD)
def test_odd_paths_survive_the_ini_file(tmp_path, world, monkeypatch, name: str) -> None:
    paths = RunPaths(tmp_path / name)
    paths.root.mkdir()
    options = parsed(paths, render(paths, world.config()), monkeypatch)
    assert {group.name for group in options.process_group_configs} == {"watchdog", "trainer", "forge"}
    for group in options.process_group_configs:
        command = shlex.split(group.process_configs[0].command)
        assert command[command.index("--run") + 1] == str(paths.root)


def test_the_policy_alone_restarts_programs(tmp_path, world, monkeypatch) -> None:
    paths = RunPaths(tmp_path / "run")
    paths.root.mkdir()
    options = parsed(paths, render(paths, world.config(), root=True), monkeypatch)
    programs = {group.name: group.process_configs[0] for group in options.process_group_configs}
    for name in ("trainer", "forge"):
        program = programs[name]
        assert (program.autostart, program.autorestart, program.startsecs) == (False, False, 0)
        assert program.stopwaitsecs > world.config().watchdog.stop_seconds
        assert shlex.split(program.command)[-1] == name
    watchdog = programs["watchdog"]
    assert watchdog.autostart and watchdog.autorestart and watchdog.startsecs == 0
    assert watchdog.priority < programs["trainer"].priority, "it must be stopped after the trainer"
    assert options.uid == 0
    assert options.nodaemon
    assert options.logfile == str(paths.root / "logs" / "supervisord.log")
    assert options.pidfile == str(paths.supervisor_pid)
    assert options.configroot.supervisord.server_configs[0]["chmod"] == 0o700


def test_systemd_has_its_own_watchdog(tmp_path, world, monkeypatch) -> None:
    paths = RunPaths(tmp_path / "run")
    paths.root.mkdir()
    options = parsed(paths, render(paths, world.config(), watchdog=False), monkeypatch)
    assert {group.name for group in options.process_group_configs} == {"trainer", "forge"}


@pytest.mark.parametrize("argument", ODD)
def test_quoting_is_undone_by_shlex(argument: str) -> None:
    assert shlex.split(quoted(["x", argument]).replace("%%", "%")) == ["x", argument]


def test_a_line_break_in_the_path_is_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match="line break"):
        check_root(RunPaths(tmp_path / "a\nb"))


def deep(tmp_path: Path) -> RunPaths:
    paths = RunPaths(tmp_path / ("deep" * 30))
    paths.run.mkdir(parents=True)
    return paths


def test_the_socket_of_a_long_path_is_in_a_directory_of_ours_alone(tmp_path) -> None:
    paths = deep(tmp_path)
    make_socket_place(paths)
    place = paths.supervisor_socket.parent
    try:
        assert socket_name(paths) == str(paths.supervisor_socket)
        assert (place.stat().st_mode & 0o777, place.stat().st_uid) == (0o700, os.getuid())
        make_socket_place(paths)
        place.chmod(0o755)
        with pytest.raises(DiskError, match="ours alone"):
            make_socket_place(paths)
    finally:
        place.rmdir()


def test_a_link_in_the_place_of_the_sockets_directory_is_refused(tmp_path) -> None:
    paths = deep(tmp_path)
    place = paths.supervisor_socket.parent
    (tmp_path / "private").mkdir(mode=0o700)
    place.symlink_to(tmp_path / "private")
    try:
        with pytest.raises(DiskError, match="ours alone"):
            make_socket_place(paths)
    finally:
        place.unlink()


def test_the_environment_marks_the_run(tmp_path) -> None:
    paths = RunPaths(tmp_path)
    assert supervisord.environment(paths)["ADAM_SUPERVISED"] == str(tmp_path)
    assert supervisord.environment(paths)["PYTHONSAFEPATH"] == "1"
