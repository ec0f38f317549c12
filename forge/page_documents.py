"""The parts of the report that show documents: what was dropped, what was masked, and samples."""

from adam.contract.shards import SourceSummary
from adam.forge.documents import ShardRecord
from adam.forge.figures import Figures
from adam.forge.markup import SAMPLE_CHARS, Row, card, cut, details, pair, table, top
from adam.forge.masking import restore
from adam.forge.plots import bars, share, words
from adam.forge.samples import dropped

REASONS_SHOWN = 24


def drops(figures: Figures) -> str:
    counted = figures.dropped
    if not counted and not any(source.files_skipped for source in figures.shards.sources):
        return "<h2>Drops</h2><p>Nothing was dropped.</p>"
    by_reason = top(counted.most_common(), REASONS_SHOWN)
    by_source: list[Row] = [
        [source.name, reason, count] for source in figures.shards.sources for reason, count in _sorted(source)
    ]
    skipped: list[Row] = [
        [source.name, reason, count]
        for source in figures.shards.sources
        for reason, count in sorted(source.files_skipped.items())
    ]
    examples = "".join(
        f'<p class="from"><b>{words(one.reason)}</b> · {words(one.source)} · {words(one.path)}</p>'
        f"<pre>{words(one.text)}</pre><br>"
        for one in dropped(figures.shards)
    )
    cards = []
    if counted:
        listed = details("By source and reason", table(["source", "reason", "documents"], by_source))
        plot = bars(by_reason, "documents dropped by reason", "three")
        cards.append(card("Documents dropped, by reason", plot + listed))
    if figures.duplicates:
        cards.append(_duplicates(figures))
    if skipped:
        cards.append(card("Files that gave no document", table(["source", "reason", "files"], skipped)))
    shown = card("Examples of what was dropped", details("Show them", examples)) if examples else ""
    return "<h2>Drops</h2>" + pair(*cards) + shown


def _sorted(source: SourceSummary) -> list[tuple[str, int]]:
    return sorted(source.dropped.items(), key=lambda item: -item[1])


def _duplicates(figures: Figures) -> str:
    counts = [
        (source, sum(source.dropped.get(kind, 0) for kind in ("duplicate", "near_duplicate")))
        for source in figures.shards.sources
    ]
    rows: list[Row] = [
        [
            source.name,
            source.dropped.get("duplicate", 0),
            source.dropped.get("near_duplicate", 0),
            share(count, source.documents_read),
        ]
        for source, count in counts
        if count
    ]
    plot = bars(top([(source.name, count) for source, count in counts if count]), "duplicates by source", "two")
    return card("Duplicates, by source", plot + table(["source", "exact", "near", "of what was read"], rows))


def masks(figures: Figures) -> str:
    if not figures.forms and not figures.masked:
        return ""
    cards = []
    if figures.forms:
        what = "prose documents by what masking made of them"
        cards.append(card("Prose documents", bars(figures.forms.most_common(), what)))
    if figures.entities:
        cards.append(
            card("Placeholders written", bars(top(figures.entities.most_common()), "placeholders by kind", "two"))
        )
    shown = "".join(_before_and_after(record) for record in figures.masked)
    return "<h2>Masks</h2>" + pair(*cards) + shown


def _before_and_after(record: ShardRecord) -> str:
    return card(
        "",
        _from(record)
        + pair(
            f"<div><h3>Before</h3><pre>{words(cut(restore(record.text, record.masks)))}</pre></div>",
            f"<div><h3>After</h3><pre>{_marked(record)}</pre></div>",
        ),
    )


def _marked(record: ShardRecord) -> str:
    """The beginning of a masked text, what masking wrote highlighted, with what it stands for."""
    parts, at = [], 0
    for mask in record.masks:
        if mask.end > SAMPLE_CHARS:
            break
        stands = f"{mask.label}: {mask.original}" if mask.original else mask.label
        parts.append(words(record.text[at : mask.start]))
        parts.append(f'<mark title="{words(stands)}">{words(record.text[mask.start : mask.end])}</mark>')
        at = mask.end
    rest = words(record.text[at:SAMPLE_CHARS])
    return "".join(parts) + rest + ("…" if len(record.text) > SAMPLE_CHARS else "")


def samples(figures: Figures) -> str:
    cards = [card("", _from(record) + f"<pre>{words(cut(record.text))}</pre>") for record in figures.samples]
    return "<h2>Samples</h2><p>One document at random of each source.</p>" + "".join(cards) if cards else ""


def _from(record: ShardRecord) -> str:
    meta = " · ".join(f"{name}: {value}" for name, value in record.meta.items())
    facts = f"{len(record.text):,} characters"
    return (
        f'<p class="from"><b>{words(record.source)}</b> · {words(record.path)} · {facts}'
        + (f" · {words(meta)}" if meta else "")
        + "</p>"
    )
