"""`python -m adam.forge.look --run DIR report|sample`: the data of a run for people to look at. Changes nothing in the run."""

import argparse
import sys
from pathlib import Path

import msgspec

from adam.contract.config_file import load_config
from adam.contract.durable import replace_file
from adam.contract.errors import DataError, UsageError, run_main
from adam.contract.paths import RunPaths
from adam.contract.shards import load_shards
from adam.contract.states import Exit
from adam.forge.documents import ShardRecord
from adam.forge.figures import figures
from adam.forge.page import page
from adam.forge.samples import Dropped, dropped, picked, visible

SHOWN_CHARS = 2000
RULE = "─" * 72


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="adam.forge.look", description="The data of a run. `adamctl forge` starts it."
    )
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    actions = parser.add_subparsers(dest="action", required=True)
    report = actions.add_parser("report", help="write one HTML page")
    report.add_argument("--out", type=Path, required=True, help="the file to write")
    sample = actions.add_parser("sample", help="print documents at random")
    sample.add_argument("-n", dest="count", type=int, default=3)
    sample.add_argument("--source", default="")
    sample.add_argument("--dropped", nargs="?", const="", default=None)
    sample.add_argument("--seed", type=int, default=None)
    sample.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    paths = RunPaths(arguments.run)
    return _report(paths, arguments.out) if arguments.action == "report" else _sample(paths, arguments)


def _report(paths: RunPaths, out: Path) -> int:
    known = [path for path in (paths.lock, paths.config) if path.exists()]
    trainer = load_config(known[0]).trainer if known else None
    replace_file(out, page(figures(paths, trainer)).encode(), durable=False)
    print(out)
    return Exit.OK


def _sample(paths: RunPaths, arguments: argparse.Namespace) -> int:
    if arguments.count < 1:
        raise UsageError(f"-n {arguments.count}: must be at least 1")
    shards = load_shards(paths)
    if shards is None:
        raise DataError(f"there are no complete shards in {paths.shards}", "`adamctl forge` makes them")
    found: list[ShardRecord] | list[Dropped]
    if arguments.dropped is None:
        found = picked(paths, shards, arguments.count, arguments.source, arguments.seed)
    else:
        found = dropped(shards, arguments.dropped, arguments.source)[: arguments.count]
    for one in found:
        if arguments.json:
            print(msgspec.json.encode(one).decode())
        else:
            print(*_lines(one), sep="\n")
    return Exit.OK


def _lines(one: ShardRecord | Dropped) -> list[str]:
    """A document for a terminal: nothing in it can move the cursor or colour what follows."""
    facts = [one.source, one.path, f"{len(one.text):,} characters"]
    if isinstance(one, Dropped):
        facts[2] = f"dropped: {one.reason}"
    else:
        facts += [f"{len(one.masks)} masks"] if one.masks else []
        facts += [f"{name}: {value}" for name, value in one.meta.items()]
        facts += [f"{span.role} {span.start} to {span.end}" for span in one.spans]
    shown = one.text[:SHOWN_CHARS]
    more = len(one.text) - len(shown)
    rest = [f"… and {more:,} characters more"] if more else []
    return [RULE, visible(" · ".join(facts)).replace("\n", "\\n"), RULE, visible(shown), *rest, ""]


if __name__ == "__main__":
    sys.exit(run_main("adam.forge.look", main))
