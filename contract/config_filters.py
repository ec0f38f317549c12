"""The configuration of the forge's filters: which documents are dropped, for all sources and for single ones."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from adam.contract.section import Section

# fmt: off
REASONING_WORDS = (
    "because", "therefore", "thus", "hence", "since", "if", "then", "else", "unless", "although", "however", "whereas", "implies",
    "implied", "consequently", "accordingly", "otherwise", "suppose", "assume", "given", "conclude", "concludes", "proof", "prove",
    "proves", "follows", "so", "must", "cannot", "why", "reason", "reasons",
)
# fmt: on


def rule(description: str, **bounds: Any) -> Any:
    return Meta(description=description, **bounds)


class TextFilters(Section, frozen=True):
    """Rules that look at one document alone; each is off at its default. A word is a run of letters and digits."""

    min_words: Annotated[int, rule("fewer words are dropped (Gopher: 50); 0: off", ge=0)] = 0
    max_words: Annotated[int, rule("more words are dropped (Gopher: 100000); 0: off", ge=0)] = 0
    min_word_chars: Annotated[float, rule("shorter words on average are dropped (Gopher: 3); 0: off", ge=0)] = 0.0
    max_word_chars: Annotated[float, rule("longer words on average are dropped (Gopher: 10); 0: off", ge=0)] = 0.0
    max_symbols: Annotated[float, rule("more # or … a word are dropped (Gopher: 0.1); 0: off", ge=0)] = 0.0
    max_bullets: Annotated[
        float, rule("a larger share of lines that begin with a bullet is dropped (Gopher: 0.9); 0: off", ge=0, le=1)
    ] = 0.0
    max_ellipses: Annotated[
        float, rule("a larger share of lines that end in … is dropped (Gopher: 0.3); 0: off", ge=0, le=1)
    ] = 0.0
    min_letters: Annotated[
        float, rule("a smaller share of letters among the characters that are no blanks is dropped; 0: off", ge=0, le=1)
    ] = 0.0
    min_alpha_words: Annotated[
        float,
        rule("a smaller share of words (between blanks) with a letter is dropped (Gopher: 0.8); 0: off", ge=0, le=1),
    ] = 0.0
    min_stop_words: Annotated[
        int, rule("fewer of the, be, to, of, and, that, have, with are dropped (Gopher: 2); 0: off", ge=0, le=8)
    ] = 0
    repetition: Annotated[
        float,
        rule(
            "repeated lines, paragraphs and n-grams above this many times Gopher's limits are dropped (1: those); 0: off",
            ge=0,
        ),
    ] = 0.0
    min_reasoning: Annotated[
        float, rule("a smaller share of reasoning_words is dropped (Adam's seed: 0.03); 0: off", ge=0, le=1)
    ] = 0.0
    reasoning_words: Annotated[tuple[str, ...], rule("the markers of reasoning, each a single word", min_length=1)] = (
        REASONING_WORDS
    )
    languages: Annotated[
        tuple[str, ...], rule("codes (en, de, …) of the languages that are kept, others are dropped; empty: all")
    ] = ()
    secrets: Annotated[bool, rule("documents with private keys, API keys or tokens are dropped")] = False
    poison: Annotated[
        bool,
        rule(
            "documents with refusals of chatbots, orders to ignore instructions, filler or broken encoding are dropped"
        ),
    ] = False


class EvaluationSet(Section, frozen=True):
    """An evaluation set of the Hub, fetched whole."""

    id: Annotated[str, rule("USER/NAME on the Hub, or a set of the registry", min_length=1)]
    config: Annotated[str, rule("its configuration; empty: the registry's, else its only one")] = ""
    split: Annotated[str, rule("its split", min_length=1)] = "test"
    revision: Annotated[str, rule("a commit; empty: the newest at the first start, kept from then on")] = ""
    files: Annotated[tuple[str, ...], rule("patterns of its files, in place of config and split; empty: those")] = ()


class Filters(TextFilters, frozen=True):
    near_duplicates: Annotated[
        float,
        rule(
            "documents as similar as this to one before (Jaccard, of word 5-grams) are dropped: 0.5 to 0.95; 0: off",
            ge=0,
            le=0.95,
        ),
    ] = 0.0
    evaluation: Annotated[
        tuple[str, ...],
        rule(
            "files (Parquet, jsonl, json, text) of evaluation sets: documents that share evaluation_words words in a row are dropped"
        ),
    ] = ()
    evaluation_sets: Annotated[tuple[EvaluationSet, ...], rule("as evaluation, from the Hub")] = ()
    evaluation_words: Annotated[int, rule("see evaluation (GPT-3: 13)", ge=5, le=100)] = 13


# The rules that a source has of its own; the others are those of [forge.filters].
FilterOverrides: Any = msgspec.defstruct(
    "FilterOverrides",
    [(field.name, field.type | UnsetType, UNSET) for field in msgspec.structs.fields(TextFilters)],
    bases=(Section,),
    frozen=True,
    module=__name__,
)


def text_filters(common: TextFilters, own: Any) -> TextFilters:
    """The rules of a source with `own` overrides."""
    names = [field.name for field in msgspec.structs.fields(TextFilters)]
    set_here = {name: value for name in names if (value := getattr(own, name)) is not UNSET}
    return TextFilters(**{name: getattr(common, name) for name in names} | set_here)


def filter_contradictions(rules: TextFilters, where: str) -> list[str]:
    """See `contract.config.contradictions`; `where` is the table's name."""
    found = []
    for low, high in (("min_words", "max_words"), ("min_word_chars", "max_word_chars")):
        least, most = getattr(rules, low), getattr(rules, high)
        if least > most > 0:
            found.append(f"{where}.{low} = {least}: must not exceed {where}.{high} = {most}")
    for word in rules.reasoning_words:
        if not word.isalnum():
            found.append(f"{where}.reasoning_words has {word!r}: must be a single word")
    if isinstance(rules, Filters) and 0 < rules.near_duplicates < 0.5:
        found.append(f"{where}.near_duplicates = {rules.near_duplicates}: must be 0 (off) or at least 0.5")
    return found
