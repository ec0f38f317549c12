"""The table of faults in docs/operations.md, made by the tests that show them.

Each test says what it saw. What stands in the document has to be that; the seconds, which differ each time, are written only by
`ADAM_WRITE_TABLES=1 bin/test tests/e2e/test_faults.py …`.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
BEGIN, END = "<!-- made by tests/e2e/test_faults.py -->\n", "<!-- end -->\n"
HEADINGS = ("what happens", "seen as", "after", "what is done", "it trains again after", "losses")


class Row(NamedTuple):
    fault: str
    seen: str
    seen_after_s: float | None
    done: str
    trains_after_s: float | None
    losses: str = "equal"

    @property
    def words(self) -> tuple[str, ...]:
        return self.fault, self.seen, self.done, self.losses

    def line(self) -> str:
        cells = (
            self.fault,
            self.seen,
            _seconds(self.seen_after_s),
            self.done,
            _seconds(self.trains_after_s),
            self.losses,
        )
        return f"| {' | '.join(cells)} |"


def _seconds(number: float | None) -> str:
    return "" if number is None else f"{max(number, 0.1):.1f} s"


def lines(text: str) -> list[str]:
    """The rows of the table in a document."""
    return text.split(BEGIN)[1].split(END, maxsplit=1)[0].splitlines()[2:]


def words_of(line: str) -> tuple[str, ...]:
    fault, seen, _, done, _, losses = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
    return fault, seen, done, losses


def record(row: Row) -> None:
    """A test saw this. Raises AssertionError where the document says something else."""
    text = DOCUMENT.read_text()
    rows = lines(text)
    if os.environ.get("ADAM_WRITE_TABLES") == "1":
        kept = {words_of(line)[0]: line for line in rows} | {row.fault: row.line()}
        head = [f"| {' | '.join(HEADINGS)} |", "|" + "---|" * len(HEADINGS)]
        table = "\n".join([*head, *kept.values()]) + "\n"
        DOCUMENT.write_text(text.split(BEGIN)[0] + BEGIN + table + END + text.split(END)[1])
        return
    said = {words_of(line)[0]: words_of(line) for line in rows}
    assert said.get(row.fault) == row.words, f"docs/operations.md says {said.get(row.fault)}, seen was {row.words}"
