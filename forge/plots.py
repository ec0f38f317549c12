"""Plots as inline SVG. Colours and fonts are the page's, by class; every word that comes from outside is escaped here."""

from collections.abc import Sequence
from html import escape

from adam.forge.figures import BINS_A_DECADE, Histogram
from adam.forge.samples import visible

WIDTH, WIDE = (
    500,
    1036,
)  # of a plot in half a page, and in a whole one: about as many pixels, so that letters are as large as beside it
LABEL, VALUE, ROW, BAR = 160, 64, 24, 14  # of a bar chart: widths of its texts, height of a row and of its bar
LABEL_CHARS = 24
PLOT_HEIGHT, AXIS = 170, 26


def words(text: str) -> str:
    """Text from outside as HTML: nothing in it is markup, and nothing in it is invisible."""
    return escape(visible(text), quote=True)


def short(number: float) -> str:
    """`950`, `12.3 k`, `4.5 M`."""
    for unit in ("", " k", " M", " G"):
        if abs(number) < 999.5:
            return f"{number:.0f}{unit}" if number >= 100 or number == int(number) else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.1f} T"


def bars(rows: Sequence[tuple[str, float]], what: str, tone: str = "one") -> str:
    """A horizontal bar a row: label, bar, number. `what` is said to those who can't see it."""
    largest = max((value for _, value in rows), default=0) or 1
    height = ROW * len(rows) + 4
    parts = [_open(height, what)]
    for number, (label, value) in enumerate(rows):
        middle, width = number * ROW + ROW / 2 + 2, max(1.0, (WIDTH - LABEL - VALUE) * value / largest)
        cut = label if len(label) <= LABEL_CHARS else label[: LABEL_CHARS - 1] + "…"
        parts.append(
            f'<g><title>{words(label)}: {value:,.0f}</title><text class="label" x="{LABEL - 10}" y="{middle}" '
            f'text-anchor="end">{words(cut)}</text><rect class="{tone}" x="{LABEL}" y="{middle - BAR / 2}" '
            f'width="{width:.1f}" height="{BAR}" rx="2"/><text class="value" x="{LABEL + width + 8:.1f}" y="{middle}">'
            f"{short(value)}</text></g>"
        )
    return "".join([*parts, "</svg>"])


def columns(histogram: Histogram, what: str, unit: str) -> str:
    """A histogram over a logarithmic axis, with its median."""
    counts = histogram.counts
    largest, step = max(counts, default=0) or 1, (WIDTH - 20) / max(1, len(counts))
    step = min(step, 44.0)
    parts = [_open(PLOT_HEIGHT + AXIS, what)]
    for number, count in enumerate(counts):
        low, high = (10 ** ((histogram.first + number + side) / BINS_A_DECADE) for side in (0, 1))
        size = (PLOT_HEIGHT - 20) * count / largest
        size = max(size, 1.0) if count else 0.0
        parts.append(
            f'<g><title>{short(low)} to {short(high)} {unit}: {count:,} documents</title><rect class="one" '
            f'x="{10 + number * step + 1:.1f}" y="{PLOT_HEIGHT - size:.1f}" width="{max(1.0, step - 2):.1f}" '
            f'height="{size:.1f}" rx="1.5"/></g>'
        )
    parts.append(f'<line class="axis" x1="10" x2="{WIDTH - 10}" y1="{PLOT_HEIGHT}" y2="{PLOT_HEIGHT}"/>')
    parts += [_tick(at, 10 + (at - histogram.first) * step) for at in _ticks(histogram)]
    return "".join([*parts, "</svg>"])


def _ticks(histogram: Histogram) -> list[int]:
    """Bins that begin at a power of ten; where there are fewer than two of them, the first bin and the one behind the last."""
    last = histogram.first + len(histogram.counts)
    powers = [at for at in range(histogram.first, last + 1) if at % BINS_A_DECADE == 0]
    return powers if len(powers) > 1 else [histogram.first, last]


def _tick(at: int, x: float) -> str:
    number = short(10 ** (at / BINS_A_DECADE))
    return (
        f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{PLOT_HEIGHT}" y2="{PLOT_HEIGHT + 5}"/>'
        f'<text class="value" x="{x:.1f}" y="{PLOT_HEIGHT + 17}" text-anchor="middle">{number}</text>'
    )


def stack(parts: Sequence[tuple[str, float, str]], what: str) -> str:
    """One bar in parts (label, number, tone), and a legend below."""
    total, x, y = sum(value for _, value, _ in parts) or 1, 0.0, 50.0
    drawn, legend = [], []
    at = 0.0
    for label, value, tone in parts:
        width = WIDE * value / total
        drawn.append(
            f'<rect class="{tone}" x="{x:.1f}" y="4" width="{max(0.0, width - 1):.1f}" height="26" rx="2">'
            f"<title>{words(label)}: {value:,.0f}</title></rect>"
        )
        text = f"{label} {value:,.0f} ({share(value, total)})"
        legend.append(
            f'<rect class="{tone}" x="{at:.0f}" y="{y - 5}" width="10" height="10" rx="2"/>'
            f'<text class="label" x="{at + 16:.0f}" y="{y}">{words(text)}</text>'
        )
        x, at = x + width, at + 30 + 7 * len(text)
    return "".join([_open(62, what, WIDE), *drawn, *legend, "</svg>"])


def share(part: float, total: float) -> str:
    """`12 %`; `<0.1 %` where there is some and it rounds to none."""
    percent = 100 * part / total if total else 0.0
    if 0 < percent < 0.1:
        return "<0.1 %"
    return f"{percent:.0f} %" if percent >= 10 or percent == int(percent) else f"{percent:.1f} %"


def _open(height: float, what: str, width: int = WIDTH) -> str:
    return f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{words(what)}">'
