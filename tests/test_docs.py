"""The documents are true: every command in them is one of adamctl's, every command of adamctl's is in them, links lead somewhere."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from adam.contract.states import Exit, RunState
from adam.daemon.cli import make_parser

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_in(path: Path) -> list[list[str]]:
    """The arguments of every `adamctl …` in a code span or code block of a document."""
    text = path.read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    spans = [line for block in blocks for line in block.splitlines()] + re.findall(
        r"`([^`\n]+)`", re.sub(r"```\w*\n.*?```", "", text, flags=re.S)
    )
    found = []
    for span in spans:
        for part in re.split(r"&&|;|\|", span):
            words = shlex.split(part, comments=True) if "adamctl" in part else []
            for number, word in enumerate(words):
                if word == "adamctl" or word.endswith("/adamctl"):
                    found.append(words[number + 1 :])
                    break
    return [words for words in found if words]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_of_the_documents_is_understood(path: Path, capsys) -> None:
    for words in commands_in(path):
        if words == ["--help"]:
            continue
        try:
            make_parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"{path.name}: adamctl {' '.join(words)}: {capsys.readouterr().err}")


def choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name: child for action in found for name, child in action.choices.items()}


def test_every_command_is_in_the_readme() -> None:
    documented = commands_in(ROOT / "README.md")
    known = choices(make_parser())
    assert set(known) == {words[0] for words in documented}
    for name, parser in known.items():
        assert set(choices(parser)) <= {words[1] for words in documented if words[0] == name and len(words) > 1}


def test_every_exit_code_and_every_state_is_in_operations() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    rows = {cells[1].strip() for line in text.splitlines() if len(cells := line.split("|")) > 3}
    assert {str(int(code)) for code in Exit} <= rows
    assert {str(state) for state in RunState} <= rows


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_files_stay_small() -> None:
    for part in ("contract", "daemon", "forge", "trainer", "watchdog"):
        for path in (ROOT / part).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 600, path
