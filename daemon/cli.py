"""The command line of adamctl. Each command is imported when it is used, so that light ones stay light."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from adam.contract.errors import run_main
from adam.contract.model import PRESETS
from adam.contract.paths import find_run
from adam.contract.states import Exit
from adam.daemon.owner import act_as_owner
from adam.daemon.presets import MIXES
from adam.daemon.unit_files import PREFIX, RUN, USER

EXITS = {
    Exit.OK: "done",
    Exit.CODE: "a mistake in Adam's own code, with a traceback",
    Exit.USAGE: "a wrong command line",
    Exit.CONFIG: "the configuration can't be used",
    Exit.DATA: "no text, or shards that are not what their manifest says",
    Exit.CHECKPOINT: "a checkpoint that does not verify",
    Exit.DISK: "no room, or a place that can't be written",
    Exit.NUMERIC: "a loss or gradient that is not finite",
    Exit.MEMORY: "out of memory",
    Exit.BUSY: "the run is already running",
    Exit.STOPPED: "up --wait: the run was stopped",
    Exit.SCHEMA: "files of a newer Adam",
    Exit.NOT_RUNNING: "there is no such run, or it is not running",
    Exit.FAILED: "up --wait: the run failed, or lost all its processes; doctor: something is bad",
    Exit.TIMEOUT: "a process, or the place to restore from, did not answer",
    Exit.GPU: "the trainer finds no GPU that can be trained on",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}


OF_NO_RUN = ("systemd.", "init.", "restore.")  # modules whose commands do not touch a run that is there


def main() -> int:
    arguments = make_parser().parse_args()
    try:
        code = run_main("adamctl", lambda: carry_out(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output (head, less) has enough. What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(Exit.OK)


def carry_out(arguments: argparse.Namespace) -> int:
    if not arguments.handler.startswith(OF_NO_RUN):
        act_as_owner(find_run(arguments.run))
    return handler(arguments.handler)(arguments)


def handler(name: str) -> Callable[[argparse.Namespace], int]:
    """The function that `module.function` names in this folder."""
    module, _, function = name.partition(".")
    found: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(f"adam.daemon.{module}"), function)
    return found


def exit_table() -> str:
    return "exit codes:\n" + "\n".join(f"  {code.value:>3}  {text}" for code, text in EXITS.items())


class Commands:
    """Adds commands; each gets `--run`, its help in full, and the table of exit codes."""

    def __init__(self, commands: "argparse._SubParsersAction[argparse.ArgumentParser]", run: str | None = None) -> None:
        self._commands, self._run = commands, run

    @staticmethod
    def below(parser: argparse.ArgumentParser, text: str) -> "Commands":
        """Commands of a command, which does something without them too. Options that both have keep what was said before."""
        return Commands(parser.add_subparsers(metavar="ACTION", help=text), run=argparse.SUPPRESS)

    def add(self, name: str, handler: str, text: str, more: str = "") -> argparse.ArgumentParser:
        formatter = argparse.RawDescriptionHelpFormatter
        description = text[0].upper() + text[1:] + "." + (f"\n{more}" if more else "")
        parser: argparse.ArgumentParser = self._commands.add_parser(
            name, help=text, description=description, epilog=exit_table(), formatter_class=formatter
        )
        parser.add_argument(
            "--run",
            metavar="DIR",
            default=self._run,
            help="the run directory; else $ADAM_RUN, else the run in this directory, else runs/demo",
        )
        parser.set_defaults(handler=handler)
        return parser


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="adamctl",
        description="Keeps a Mamba training run alive, with nobody watching.",
        epilog=exit_table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = Commands(parser.add_subparsers(title="commands", metavar="COMMAND", required=True))
    add_starting(commands)
    add_looking(commands)
    add_wishes(commands)
    add_checkpoints(commands)
    add_data(commands)
    add_systemd(commands)
    return parser


def flag(parser: argparse.ArgumentParser, name: str, text: str, **more: Any) -> None:
    parser.add_argument(name, action="store_true", help=text, **more)


def add_starting(commands: Commands) -> None:
    init = commands.add("init", "init.run", "write a commented configuration")
    init.add_argument(
        "--preset", choices=list(PRESETS), default="tiny", help="size of the model (default: tiny, the demo's)"
    )
    init.add_argument("--out", metavar="FILE", default="adam.toml", help="where to write it (default: adam.toml)")
    data = init.add_mutually_exclusive_group()
    data.add_argument("--text", metavar="PATH", action="append", help="train on this file or folder; may be repeated")
    data.add_argument("--mix", choices=list(MIXES), help="train on this mix of sets of the Hub (adam: the guide's)")

    up = commands.add(
        "up", "up.run", "start a run, or go on with it", "Without a configuration anywhere: the demo in runs/demo."
    )
    up.add_argument(
        "--config", metavar="FILE", help="the configuration, copied into the run (default: the run's adam.toml)"
    )
    flag(up, "--wait", "stay and show progress until the run ends; Ctrl-C leaves it running")
    flag(up, "--foreground", "become supervisord in this process (for systemd)")
    flag(up, "--no-watchdog", "start none: systemd runs it as a unit of its own")
    flag(up, "--prepare", "check and write everything, start nothing (for systemd)")

    down = commands.add("down", "down.run", "save, stop the run, and see that no process of it is left")
    flag(down, "--now", "do not wait for a save: what was trained since the last checkpoint will be trained again")


def add_looking(commands: Commands) -> None:
    status = commands.add("status", "status.run", "say what the run is doing")
    flag(status, "--json", "for scripts: one JSON object")

    logs = commands.add("logs", "logs.run", "show a log")
    logs.add_argument(
        "part", metavar="PART", nargs="?", help="trainer, forge, watchdog, supervisord, … (default: the trainer's)"
    )
    flag(logs, "-f", "go on showing what is added, until Ctrl-C", dest="follow")
    logs.add_argument(
        "-n", metavar="LINES", dest="lines", type=int, default=40, help="lines to begin with (default: 40)"
    )

    commands.add(
        "alerts", "alerts.run", "send a test alert to every target that is configured", "See [alerts] in adam.toml."
    )
    commands.add("doctor", "doctor.run", "check this machine and this run, and say what to mend")

    bench = commands.add(
        "bench",
        "bench.run",
        "measure this machine in two minutes: tokens/s, memory, snapshots, disk, and how long training will take",
        "The model is the run's, else the largest preset that the GPU holds (on a CPU the demo's). The run must not be training.",
    )
    bench.add_argument("--preset", choices=list(PRESETS), help="measure this size instead")
    bench.add_argument(
        "--seconds", metavar="S", type=float, default=30.0, help="of updates that are measured (default: 30)"
    )
    flag(bench, "--json", "for scripts: one JSON object")


def add_wishes(commands: Commands) -> None:
    commands.add(
        "pause", "wishes.pause", "pause training, until `resume`", "The pause outlives restarts of run and machine."
    )
    commands.add("resume", "wishes.resume", "go on after `pause`")
    save = commands.add("save", "wishes.save", "save a checkpoint now, and wait until it is verified")
    flag(save, "--no-wait", "only ask for it")


def add_checkpoints(commands: Commands) -> None:
    checkpoints = commands.add("checkpoints", "checkpoints.show_list", "list, verify, keep or export checkpoints")
    flag(checkpoints, "--json", "for scripts: one JSON array")
    actions = commands.below(checkpoints, "what to do with them (default: list)")

    listing = actions.add("list", "checkpoints.show_list", "list them, those in quarantine too, and why each is kept")
    flag(listing, "--json", "for scripts: one JSON array", default=argparse.SUPPRESS)
    verify = actions.add("verify", "checkpoints.show_verified", "read every byte of the newest, the named ones, or all")
    verify.add_argument("names", metavar="NAME", nargs="*", help="a checkpoint's name, or newest (default: newest)")
    flag(verify, "--all", "verify all of them")
    flag(verify, "--json", "for scripts: one JSON array", default=argparse.SUPPRESS)
    for name, text in (
        ("pin", "keep a checkpoint until `unpin`"),
        ("unpin", "leave it to the rules of retention again"),
    ):
        actions.add(name, f"pins.{name}", text).add_argument(
            "name", metavar="NAME", help="a checkpoint's name" + (", or newest" if name == "pin" else "")
        )
    export = actions.add(
        "export-weights",
        "export.run",
        "write model.safetensors and config.json for mamba_ssm or transformers",
        "Every byte of the checkpoint is verified first.",
    )
    export.add_argument("name", metavar="NAME", nargs="?", default="newest", help="a checkpoint (default: newest)")
    export.add_argument("target", metavar="OUT_DIR", help="a new or empty directory")
    export.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="of all weights (default: fp32)")
    export.add_argument(
        "--for",
        dest="form",
        choices=["mamba_ssm", "transformers"],
        default="mamba_ssm",
        help="whose names and fields (default: mamba_ssm)",
    )


def add_data(commands: Commands) -> None:
    fork = commands.add("fork", "fork.run", "begin another run from a checkpoint of this one")
    fork.add_argument(
        "--from", metavar="CHECKPOINT", dest="origin", required=True, help="its name, its directory, or newest"
    )
    fork.add_argument(
        "target", metavar="DIR", help="the directory of the new run; its trainer settings may then be changed"
    )

    restore = commands.add(
        "restore",
        "restore.run",
        "fetch the whole state of a run from where it was uploaded to, and go on with it here",
        "Every byte is checked. A token is taken as the uploader takes it: docs/operations.md.",
    )
    restore.add_argument("url", metavar="URL", help="hf://USER/REPO, or the target as in [upload]: file://…, s3://…")
    restore.add_argument(
        "target", metavar="DIR", nargs="?", help="a new or empty directory (default: runs/ and the URL's last part)"
    )

    weights = commands.add(
        "fetch-weights",
        "fetch_weights.run",
        "fetch public Mamba weights from the Hub, for a run to begin with",
        "It prints what to write into adam.toml. Broken off, it goes on when it is said again.",
    )
    weights.add_argument("repo", metavar="USER/REPO", help="such as state-spaces/mamba-130m")
    weights.add_argument("target", metavar="DIR", help="a directory, made where missing")

    forge = commands.add("forge", "forge.run", "build the run's data now, in the foreground")
    forge.set_defaults(action="")
    flag(forge, "--rebuild", "build anew from the sources as they are now (before the first training step)")
    flag(forge, "--check", "only check the data, and say what has changed in the sources")
    actions = commands.below(forge, "questions, and ways to look at the data (default: build them)")
    for name, text in (
        ("sources", "list the sets that are known by name, with licence, access and size"),
        ("check", "say whether each source of this run can be had"),
    ):
        actions.add(name, "forge.run", text).set_defaults(action=name)
    add_forge_looking(actions)


def add_forge_looking(actions: Commands) -> None:
    report = actions.add(
        "report", "forge_look.report", "write a page with plots, samples and licences of the run's data"
    )
    report.add_argument("--out", metavar="FILE", help="where to (default: forge-report.html in the run directory)")
    sample = actions.add("sample", "forge_look.sample", "print documents of the run at random")
    sample.add_argument("-n", metavar="COUNT", dest="count", type=int, default=3, help="how many (default: 3)")
    sample.add_argument("--source", metavar="NAME", help="only of this source")
    sample.add_argument(
        "--dropped",
        metavar="REASON",
        nargs="?",
        const="",
        help="documents that were dropped, for this reason or for any: the examples that the manifest keeps",
    )
    sample.add_argument("--seed", metavar="N", type=int, help="the same documents each time")
    flag(sample, "--json", "for scripts: one JSON object a line")


def add_systemd(commands: Commands) -> None:
    systemd = commands.add("systemd", "systemd.show", "hand this machine's run to systemd, or take it back (as root)")
    actions = commands.below(systemd, "what to do")
    install = actions.add(
        "install",
        "systemd.install",
        "install units, user and run directory, and start nothing",
        f"Run it from a clone; --run is {RUN} unless it is given. Then: systemctl enable --now adam-trainer",
    )
    install.add_argument(
        "--user", metavar="NAME", default=USER, help=f"who trains; made where missing (default: {USER})"
    )
    install.add_argument("--prefix", metavar="DIR", default=PREFIX, help=f"where the program goes (default: {PREFIX})")
    install.add_argument("--config", metavar="FILE", help="the run's configuration, copied into the run directory")
    flag(install, "--reboot", "also what restarts the machine where the run asks for it (watchdog.reboot)")
    actions.add("uninstall", "systemd.uninstall", "stop the run and remove the units; what was trained stays")


if __name__ == "__main__":
    sys.exit(main())
