"""Skeletons and search trajectories: what is written in place of entities, or before one, and the way back.

skeleton      Marie Curie went to Paris.   ──> <PERSON_1> went to <GPE_1>.
trajectory    Marie Curie went to Paris.   ──> Marie Curie went to <THOUGHT>…</THOUGHT> <SEARCH>Paris</SEARCH> … Paris.

Both are lists of masks, and `restore` gives the text that was read, whatever it held.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from adam.contract.config_skeletons import MARK, Skeletons
from adam.forge.documents import Mask, Span
from adam.forge.marks import placeholder
from adam.forge.names import PEOPLE, full_names, same_name

SKELETON, TRAJECTORY, PLAIN = "skeleton", "trajectory", "plain"
WORDS_BEFORE = 12  # of an entity, that a template may search for
LIKE_A_MARK = re.compile(r"</?[A-Z][A-Z_]*\d*>")  # of a template, or a placeholder with its number
TEMPLATE = re.compile(rf"({MARK.pattern}|\{{\w+\}})")


class Entity(NamedTuple):
    """Characters [start, end) of a text, and what kind of thing they name."""

    start: int
    end: int
    label: str


class Masked(NamedTuple):
    text: str
    masks: tuple[Mask, ...]


def form_of(document_id: bytes, skeletons: Skeletons) -> str:
    """What becomes of a prose document: by its hash, so in the shares asked for, whatever else is in the corpus."""
    at = _draw(document_id, b"form")
    if at < skeletons.share:
        return SKELETON
    return TRAJECTORY if at < skeletons.share + skeletons.search_share else PLAIN


def _draw(document_id: bytes, what: bytes) -> float:
    """A number in [0, 1) that hangs on the document and on what is drawn; its split is drawn from the hash itself."""
    return int.from_bytes(blake2b(document_id, digest_size=6, person=what).digest(), "big") / 2**48


def usable(text: str, entities: Iterable[Entity], labels: Iterable[str], spans: Sequence[Span] = ()) -> list[Entity]:
    """The entities that may be masked, in order: of these labels, not blank, none in another, and none across a span's edge."""
    wanted, edges = frozenset(labels), sorted({edge for span in spans for edge in (span.start, span.end)})
    found: list[Entity] = []
    for entity in sorted(entities, key=lambda entity: (entity.start, -entity.end)):
        if entity.label not in wanted or not text[entity.start : entity.end].strip():
            continue
        if found and entity.start < found[-1].end:
            continue
        if not any(entity.start < edge < entity.end for edge in edges):
            found.append(entity)
    return found


def skeleton(text: str, entities: Sequence[Entity], skeletons: Skeletons) -> Masked:
    """Each entity becomes a placeholder. `entities` as `usable` gives them."""
    numbers: dict[tuple[str, str], int] = {}
    taken: dict[str, int] = {}
    writing = _Writing(text)
    for entity, key in zip(entities, _names(text, entities, last_names=skeletons.last_names), strict=True):
        if key not in numbers:
            numbers[key] = taken[entity.label] = taken.get(entity.label, 0) + 1
        number = numbers[key] if skeletons.numbered and numbers[key] <= skeletons.numbers else 0
        writing.replace(entity.start, entity.end, placeholder(entity.label, number), entity.label)
    return writing.done()


def _names(text: str, entities: Sequence[Entity], *, last_names: bool) -> list[tuple[str, str]]:
    """What each entity has in common with the others of its name."""
    names = [(entity.label, same_name(text[entity.start : entity.end])) for entity in entities]
    if not last_names:
        return names
    full = {label: full_names(name for kind, name in names if kind == label) for label in PEOPLE}
    return [(label, full[label].get(name, name) if label in full else name) for label, name in names]


def trajectory(
    text: str, entities: Sequence[Entity], skeletons: Skeletons, document_id: bytes, spans: Sequence[Span] = ()
) -> Masked | None:
    """A search is put before one entity. `entities` as `usable` gives them; None where none of them can be searched for.

    Not in a prompt, since the answer is what is learnt, and not for a name that itself reads like a mark.
    """
    prompts = [span for span in spans if span.role == "prompt"]
    found = [
        entity
        for entity in entities
        if not LIKE_A_MARK.search(text[entity.start : entity.end])
        and not any(span.start <= entity.start < span.end for span in prompts)
    ]
    if not found:
        return None
    entity = found[int(_draw(document_id, b"entity") * len(found))]
    template = skeletons.templates[int(_draw(document_id, b"template") * len(skeletons.templates))]
    writing = _Writing(text)
    for part in _filled(template, text, entity):
        writing.replace(entity.start, entity.start, part, TRAJECTORY)
    return writing.done()


def _filled(template: str, text: str, entity: Entity) -> list[str]:
    """The template in parts, so that each mark is one; none of the others reads like a mark."""
    name = text[entity.start : entity.end]
    fields = {"{entity}": name, "{label}": entity.label, "{before}": _words_before(text, entity.start) or name}
    parts: list[str] = []
    for part in TEMPLATE.split(template):
        if MARK.fullmatch(part):
            parts.append(part)
        elif parts and not MARK.fullmatch(parts[-1]):
            parts[-1] += fields.get(part, part)
        else:
            parts.append(fields.get(part, part))
    return [part for part in parts if part]


def _words_before(text: str, end: int) -> str:
    words = LIKE_A_MARK.sub(" ", text[max(0, end - 40 * WORDS_BEFORE) : end]).split()
    return " ".join(words[-WORDS_BEFORE:])


class _Writing:
    """A masked text that grows from left to right."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._parts: list[str] = []
        self._length = 0
        self._masks: list[Mask] = []

    def replace(self, start: int, end: int, by: str, label: str) -> None:
        self._append(self._text[self._at : start])
        self._masks.append(Mask(self._length, self._length + len(by), label, self._text[start:end]))
        self._append(by)
        self._at = end

    def _append(self, part: str) -> None:
        self._parts.append(part)
        self._length += len(part)

    def done(self) -> Masked:
        self._append(self._text[self._at :])
        return Masked("".join(self._parts), tuple(self._masks))


def restore(text: str, masks: Sequence[Mask]) -> str:
    """The text that was read. `masks` in order, without overlap."""
    parts, at = [], 0
    for mask in masks:
        parts += [text[at : mask.start], mask.original]
        at = mask.end
    return "".join([*parts, text[at:]])


def shifted(spans: Sequence[Span], masks: Sequence[Mask]) -> tuple[Span, ...]:
    """Where the spans of the text that was read lie in the masked one; no mask lies across an edge of theirs."""
    starts, growth, grown = [], [], 0
    for mask in masks:
        starts.append(mask.start - grown)
        grown += mask.end - mask.start - len(mask.original)
        growth.append(grown)

    def place(offset: int) -> int:
        before = bisect_left(starts, offset)
        return offset + (growth[before - 1] if before else 0)

    return tuple(Span(place(span.start), place(span.end), span.role) for span in spans)
