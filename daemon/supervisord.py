"""supervisord's configuration, and how it is started.

supervisord starts and stops programs, and restarts nothing by itself but the watchdog: the policy decides the rest.
Files are named from the run directory, which is its current directory, so that no odd character of the run's path has to
survive the ini format; only `--run` of the commands is absolute.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from adam.contract.config import Config
from adam.contract.errors import UsageError
from adam.contract.paths import RunPaths
from adam.contract.ram import private_directory
from adam.daemon.processes import SUPERVISED

WATCHDOG_COMMAND = (sys.executable, "-P", "-m", "adam.watchdog")
LAUNCHER_COMMAND = (sys.executable, "-P", "-m", "adam.watchdog.launcher")
STOP_MARGIN_S = 30  # beyond what the policy grants, before supervisord kills
WATCHDOG_STOP_S = 60  # the keeper ends what it has begun to write
LAUNCHER_LOG_BYTES = 1_000_000

MAIN = """\
; Written by `adamctl up` at every start. Change adam.toml instead.
[supervisord]
nodaemon=true
silent=true
identifier=adam
{user}logfile=logs/supervisord.log
logfile_maxbytes=0
pidfile=run/supervisord.pid
nocleanup=true
minfds=256
minprocs=1

[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""

# The watchdog starts first and is stopped last, so that its keeper commits what the trainer saves at its end.
WATCHDOG = """
[program:watchdog]
command={command}
priority=1
autostart=true
autorestart=true
startsecs=0
startretries=1000000
stopasgroup=true
killasgroup=true
stopwaitsecs={stop}
redirect_stderr=true
stdout_logfile=logs/watchdog-output.log
stdout_logfile_maxbytes={log_bytes}
stdout_logfile_backups=1
"""

# The launcher passes SIGTERM on; its program is in a process group of its own and dies with it.
PROGRAM = """
[program:{name}]
command={command}
priority=10
autostart=false
autorestart=false
startsecs=0
startretries=0
killasgroup=true
stopwaitsecs={stop}
redirect_stderr=true
stdout_logfile=logs/launcher-{name}.log
stdout_logfile_maxbytes={log_bytes}
stdout_logfile_backups=1
"""


def render(paths: RunPaths, config: Config, *, watchdog: bool = True, root: bool | None = None) -> str:
    """The text of supervisord.conf; without the watchdog's program where systemd runs it.

    `root`: whether this is root, who must be named so that supervisord does not warn at each start.
    """
    root = os.getuid() == 0 if root is None else root
    parts = [MAIN.format(user="user=root\n" if root else "", socket=_ini(socket_name(paths)))]
    run = ["--run", str(paths.root)]
    if watchdog:
        command = quoted([*WATCHDOG_COMMAND, *run])
        parts.append(WATCHDOG.format(command=command, stop=WATCHDOG_STOP_S, log_bytes=LAUNCHER_LOG_BYTES))
    stop = int(config.watchdog.stop_seconds) + STOP_MARGIN_S
    for name in ("trainer", "forge"):
        command = quoted([*LAUNCHER_COMMAND, *run, name])
        parts.append(PROGRAM.format(name=name, command=command, stop=stop, log_bytes=LAUNCHER_LOG_BYTES))
    return "".join(parts)


def quoted(command: list[str]) -> str:
    """A command line that supervisord reads back as `command`: quotes for shlex, doubled % for its expansions.

    `;` and `#` behind a blank would begin a comment even within quotes: a closing quote before them is no blank.
    """
    text = shlex.join(command)
    for sign in ";#":
        text = text.replace(sign, f"'{sign}'")
    return _ini(text)


def _ini(text: str) -> str:
    return text.replace("%", "%%")


def socket_name(paths: RunPaths) -> str:
    """The socket's path for supervisord, from the run directory where it lies in there."""
    path = paths.supervisor_socket
    return "run/supervisor.sock" if path.parent == paths.run else str(path)


def check_root(paths: RunPaths) -> None:
    """Raise UsageError where the run's path can't be written into an ini file."""
    if any(sign in str(paths.root) for sign in "\n\r\0"):
        raise UsageError(f"the run directory's name has a line break: {str(paths.root)!r}", "choose another with --run")


def make_socket_place(paths: RunPaths) -> None:
    """Make the socket's directory where it is outside of the run. Raises DiskError where somebody else made it."""
    place = paths.supervisor_socket.parent
    if place != paths.run:
        private_directory(place)


def command_line(paths: RunPaths) -> list[str]:
    return [sys.executable, "-P", "-m", "supervisor.supervisord", "--nodaemon", "-c", str(paths.supervisor_conf)]


def environment(paths: RunPaths) -> dict[str, str]:
    """What supervisord and all that it starts inherit: the mark by which the run's processes are found."""
    return {**os.environ, "PYTHONSAFEPATH": "1", SUPERVISED: str(paths.root)}


def start_detached(paths: RunPaths) -> subprocess.Popen[bytes]:
    """Start supervisord in a session of its own, its output in `logs/supervisord.log`."""
    with paths.log("supervisord").open("ab") as log:
        return subprocess.Popen(
            command_line(paths),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=paths.root,
            env=environment(paths),
            start_new_session=True,
        )


def become(paths: RunPaths) -> None:
    """Be supervisord from now on, in this process (systemd's main process); its output goes where ours goes."""
    os.chdir(paths.root)
    command = command_line(paths)
    os.execve(command[0], command, environment(paths))


def log_end(path: Path, lines: int = 5) -> str:
    """The last lines of a log, for a message."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:])
