"""The report of a run as one HTML page: no script, no network, every word from outside escaped (`plots.words`)."""

from importlib.resources import files

from adam.contract.clock import iso
from adam.contract.shards import PhaseSummary, SourceSummary
from adam.forge.figures import Figures
from adam.forge.markup import Row, card, cut, pair, table, top
from adam.forge.page_documents import drops, masks, samples
from adam.forge.plots import bars, columns, share, short, stack, words

# Should escaping ever fail, the browser still runs and fetches nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(figures: Figures) -> str:
    """The whole page."""
    title = f"The data of {words(figures.name)}"
    sections = (_head, _sources, _mixes, _lengths, drops, masks, _tokens, samples, _licences)
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


def _mixes(figures: Figures) -> str:
    cards = "".join(_mix(phase) for phase in figures.shards.phases if phase.shares)
    begin = ", ".join(f"{words(name)} from step {step:,} on" for name, step in figures.steps)
    order = f"<p>Training takes one phase after the other: {begin}; then all of them again.</p>" if begin else ""
    return f"<h2>Mix</h2>{order}{cards}" if cards else ""


def _mix(phase: PhaseSummary) -> str:
    asked, total = sum(phase.shares.values()), sum(phase.taken.values())
    rows: list[Row] = [
        [
            name,
            f"{100 * part / asked:.2f} %",
            f"{100 * phase.taken.get(name, 0) / max(1, total):.2f} %",
            phase.taken.get(name, 0),
        ]
        for name, part in phase.shares.items()
    ]
    target = f" of {phase.target:,}" if phase.target else ""
    facts = f"{total:,}{target} {phase.unit}; where a source is dry: {phase.when_dry}; ended by: {phase.ended}."
    listed = table(["source", "asked", "taken", phase.unit], rows)
    return card(phase.name or "The whole run", listed, " ".join([facts, *phase.notes]))


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


def _licences(figures: Figures) -> str:
    rows: list[Row] = [
        [source.name, source.licence or "not stated", source.kind, _origin(source), source.revision, str(source.files)]
        for source in figures.shards.sources
    ]
    listed = table(["source", "licence", "kind", "from", "revision", "files"], rows)
    said = [
        [source.name, note] for source in figures.shards.sources for note in (*source.notes, source.given_up) if note
    ]
    notes = card("What should be known of them", table(["source", "note"], said)) if said else ""
    return f"<h2>Licences</h2><p>As the configuration states them; the model card has them too.</p>{card('', listed)}{notes}"


def _origin(source: SourceSummary) -> str:
    return " · ".join(filter(None, (source.path, source.config, source.split)))
