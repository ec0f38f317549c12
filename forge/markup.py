"""What the report's page is put together from. Everything that comes in as text is escaped; `inside` is markup."""

from collections.abc import Iterable, Sequence

from adam.forge.figures import SOURCES_SHOWN
from adam.forge.plots import words

SAMPLE_CHARS = 1500

Row = Sequence[str | int]


def cut(text: str, size: int = SAMPLE_CHARS) -> str:
    return text if len(text) <= size else text[:size] + "…"


def top(rows: Sequence[tuple[str, float]], size: int = SOURCES_SHOWN) -> list[tuple[str, float]]:
    """The largest rows, and what the others are together."""
    ordered = sorted(rows, key=lambda row: -row[1])
    if len(ordered) <= size:
        return ordered
    rest = ordered[size - 1 :]
    return [*ordered[: size - 1], (f"{len(rest)} others", sum(value for _, value in rest))]


def card(title: str, inside: str, below: str = "") -> str:
    head = f"<h3>{words(title)}</h3>" if title else ""
    return f'<div class="card">{head}{inside}' + (f'<p class="from">{words(below)}</p>' if below else "") + "</div>"


def pair(*cards: str) -> str:
    return f'<div class="pair">{"".join(cards)}</div>'


def details(summary: str, inside: str) -> str:
    return f"<details><summary>{words(summary)}</summary>{inside}</details>"


def table(heads: Iterable[str], rows: Sequence[Row]) -> str:
    """Numbers and shares stand to the right, under heads that do."""
    tone = [' class="n"' if _is_number(value) else "" for value in rows[0]] if rows else []
    head = "".join(f"<th{kind}>{words(name)}</th>" for name, kind in zip(heads, tone, strict=False))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{_cell(value)}</td>" for value, kind in zip(row, tone, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _is_number(value: str | int) -> bool:
    return isinstance(value, int) or value.replace(".", "").replace("%", "").replace("<", "").strip().isdigit()


def _cell(value: str | int) -> str:
    return f"{value:,}" if isinstance(value, int) else words(value)
