"""The report of a run as one HTML page: no script, no network, every word from outside escaped (`plots.words`)."""

from importlib.resources import files

from adam.contract.clock import iso
from adam.contract.shards import SourceSummary
from adam.forge.documents import ShardRecord
from adam.forge.figures import Figures
from adam.forge.markup import SAMPLE_CHARS, Row, card, cut, details, pair, table, top
from adam.forge.masking import restore
from adam.forge.plots import bars, columns, share, short, stack, words
from adam.forge.samples import dropped

REASONS_SHOWN = 24
# Should escaping ever fail, the browser still runs and fetches nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(figures: Figures) -> str:
    """The whole page."""
    title = f"The data of {words(figures.name)}"
    sections = (_head, _sources, _lengths, _drops, _masks, _tokens, _samples, _licences)
    body = "".join(section(figures) for section in sections)
    style = files("adam.forge").joinpath("page.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><style>{style}</style></head>'
        f"<body><main><h1>{title}</h1>{body}</main></body></html>\n"
    )


def _head(figures: Figures) -> str:
    tokens = figures.tokens
    tiles = [
        (f"{figures.written:,}", "documents"),
        (short(figures.characters), "characters"),
        (share(figures.read - figures.written, figures.read), f"dropped of {figures.read:,} read"),
        (str(len(figures.shards.sources)), "sources"),
    ]
    if tokens is not None:
        count = sum(split.count for split in tokens.splits.values())
        size = sum(split.text_bytes for split in tokens.splits.values())
        tiles += [(short(count), "tokens"), (f"{size / max(1, count):.2f}", "bytes a token")]
    made = "".join(f'<div class="tile"><b>{words(value)}</b><span>{words(name)}</span></div>' for value, name in tiles)
    other = sum(figures.dropped.values()) - figures.duplicates
    parts = [("kept", figures.written, "one"), ("duplicates", figures.duplicates, "two"), ("dropped", other, "three")]
    drawn = stack([part for part in parts if part[1]], "what became of the documents that were read")
    made_at = iso(figures.shards.stamp.wall)
    return (
        f"<p>Made {words(made_at)}. Every document that was read is counted once: kept, or dropped for one reason.</p>"
        f'<div class="tiles">{made}</div>{card("What became of the documents that were read", drawn)}'
    )


def _sources(figures: Figures) -> str:
    sources = figures.shards.sources
    by_documents = top([(source.name, source.documents_written) for source in sources])
    by_characters = top([(source.name, source.characters_written) for source in sources])
    rows: list[Row] = [
        [
            source.name,
            source.documents_read,
            source.documents_written,
            sum(source.dropped.values()),
            source.characters_written,
            share(source.characters_written, figures.characters),
        ]
        for source in sources
    ]
    drawn = table(["source", "read", "kept", "dropped", "characters", "of all"], rows)
    return (
        "<h2>Sources</h2>"
        + pair(
            card("Documents kept", bars(by_documents, "documents kept by source")),
            card("Characters kept", bars(by_characters, "characters kept by source", "two")),
        )
        + card("", drawn)
    )


def _lengths(figures: Figures) -> str:
    every = f"Counted on every {figures.every:,}th document. " if figures.every > 1 else ""
    lengths = figures.lengths
    cards = [
        card(
            "Characters of a document",
            columns(lengths, "lengths of documents", "characters"),
            f"{every}Half of the documents have at most {lengths.median:,.0f}; the longest has {lengths.largest:,}.",
        )
    ]
    if figures.token_lengths is not None:
        tokens = figures.token_lengths
        cards.append(
            card(
                "Tokens of a document",
                columns(tokens, "tokens of documents", "tokens"),
                f"Half of the documents have at most {tokens.median:,.0f}; the longest has {tokens.largest:,}.",
            )
        )
    return "<h2>Lengths</h2>" + pair(*cards)


def _drops(figures: Figures) -> str:
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


def _masks(figures: Figures) -> str:
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


def _tokens(figures: Figures) -> str:
    tokens = figures.tokens
    if tokens is None:
        return "<h2>Tokens</h2><p>There are none yet.</p>"
    rows: list[Row] = [
        [
            name,
            split.documents,
            split.text_bytes,
            split.count,
            f"{split.text_bytes / split.count:.2f}",
            split.prompt_tokens,
        ]
        for name, split in tokens.splits.items()
    ]
    facts = (
        f"Tokenizer: {words(tokens.tokenizer_origin)}, {tokens.vocab_size:,} ids. Encoded by {words(tokens.encoder)}. "
        f"An order-2 byte model needs {tokens.order2_bits_per_byte:.3f} bits per byte on val."
    )
    marks = ", ".join(tokens.marks)
    said = f"<p>Marks with ids of their own ({len(tokens.marks)}): {words(cut(marks, 600))}</p>" if marks else ""
    drawn = table(["split", "documents", "bytes", "tokens", "bytes a token", "of them prompt"], rows)
    return f"<h2>Tokens</h2><p>{facts}</p>{said}" + card("", drawn)


def _samples(figures: Figures) -> str:
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


def _licences(figures: Figures) -> str:
    rows: list[Row] = [
        [source.name, source.licence or "not stated", source.kind, source.path, source.revision, source.files]
        for source in figures.shards.sources
    ]
    drawn = table(["source", "licence", "kind", "from", "revision", "files"], rows)
    return f"<h2>Licences</h2><p>As the configuration states them; the model card has them too.</p>{card('', drawn)}"
