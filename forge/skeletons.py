"""The transform that masks: a document's hash says what becomes of it, a spaCy model where its entities are."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import structlog

from adam.contract.config_forge import Forge, Source
from adam.contract.config_skeletons import Skeletons
from adam.contract.shards import MaskExample, MaskSummary
from adam.forge.documents import Document
from adam.forge.masking import PLAIN, SKELETON, TRAJECTORY, Entity, form_of, shifted, skeleton, trajectory, usable
from adam.forge.ner import Model, Recogniser, find_model

NOTHING_FOUND, FAILED = "nothing_found", "failed"
EXAMPLES = 3  # of each form and source
BEFORE_MASK, EXCERPT = 100, 500  # characters of an example

log = structlog.get_logger()


def masking_model(config: Forge, run: Path) -> Model | None:
    """The model that masks, None where nothing is masked. Raises ConfigError where it can't be had."""
    asked = config.skeletons
    if not asked.enabled or asked.share + asked.search_share == 0:
        return None
    labels = (asked.labels if asked.share else ()) + (asked.search_labels if asked.search_share else ())
    return find_model(asked.model, run, tuple(dict.fromkeys(labels)))


def masking_version(config: Forge, run: Path) -> str:
    """What the shards depend on: the model's name and version; empty where nothing is masked. Raises ConfigError."""
    model = masking_model(config, run)
    return model.version if model else ""


class Masking:
    """See `forge.transforms.Transform`."""

    def __init__(
        self, skeletons: Skeletons, sources: Mapping[str, Source], model: Model, tick: Callable[[], object]
    ) -> None:
        self._skeletons = skeletons
        self._left = {name for name, source in sources.items() if not source.masked}
        self._recogniser = Recogniser(model, skeletons.processes, tick)

    def begin(self, documents: list[Document]) -> Callable[[], list[Document]]:
        forms = [self._form(document) for document in documents]
        wanted = [n for n, form in enumerate(forms) if form in (SKELETON, TRAJECTORY)]
        answer = self._recogniser.ask([documents[n].text for n in wanted])

        def done() -> list[Document]:
            found = dict(zip(wanted, answer(), strict=True))
            return [
                self._masked(document, form, found.get(number, []))
                for number, (document, form) in enumerate(zip(documents, forms, strict=True))
            ]

        return done

    def _form(self, document: Document) -> str:
        if document.kind == "code" or document.source in self._left:
            return ""
        return form_of(document.id, self._skeletons)

    def _masked(self, document: Document, form: str, found: list[Entity] | str) -> Document:
        if isinstance(found, str):
            log.warning("not masked", source=document.source, path=document.path, id=document.id.hex(), why=found)
            return msgspec.structs.replace(document, form=FAILED)
        asked, text, spans = self._skeletons, document.text, document.spans
        done = None
        if form == SKELETON:
            done = skeleton(text, usable(text, found, asked.labels, spans), asked)
        elif form == TRAJECTORY:
            done = trajectory(text, usable(text, found, asked.search_labels, spans), asked, document.id, spans)
        if done is None or not done.masks:
            return msgspec.structs.replace(document, form=form if form in ("", PLAIN) else NOTHING_FOUND)
        return msgspec.structs.replace(
            document, form=form, text=done.text, masks=done.masks, spans=shifted(spans, done.masks)
        )

    def close(self) -> None:
        self._recogniser.close()


def count_masked(summary: MaskSummary, before: Document, after: Document) -> None:
    """Add a document, where masking had to do with it."""
    if not after.form:
        return
    summary.documents[after.form] = summary.documents.get(after.form, 0) + 1
    if after.form == SKELETON:
        for mask in after.masks:
            summary.entities[mask.label] = summary.entities.get(mask.label, 0) + 1
    shown = summary.examples.setdefault(after.form, [])
    if after.masks and len(shown) < EXAMPLES:
        start = max(0, after.masks[0].start - BEFORE_MASK)
        excerpts = [document.text[start : start + EXCERPT] for document in (before, after)]
        shown.append(MaskExample(after.path, *excerpts))
