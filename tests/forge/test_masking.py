"""Masks on texts of any kind: what was read comes back exactly, names keep their numbers, and nothing else reads as a mark."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam.contract.config_file import parse_config
from adam.contract.config_forge import forge_digest
from adam.contract.config_skeletons import MARK, Skeletons
from adam.contract.errors import ConfigError
from adam.forge.documents import Mask, Span, document_hash
from adam.forge.marks import mark_spans, marks
from adam.forge.masking import (
    PLAIN,
    SKELETON,
    TRAJECTORY,
    Entity,
    form_of,
    restore,
    shifted,
    skeleton,
    trajectory,
    usable,
)
from adam.forge.names import same_name

TEXT = "Marie Curie went to Paris. In Paris, Curie met the Royal Society; Marie Curie's talk pleased Royal Society men."
LABELS = ("PERSON", "ORG", "GPE")
ON = Skeletons(enabled=True)


def entities_of(text: str, **names: str) -> list[Entity]:
    """Every place of each name; `names` are label=name or label_n=name."""
    found = []
    for label, name in names.items():
        at = text.find(name)
        while at >= 0:
            found.append(Entity(at, at + len(name), label.rstrip("0123456789_")))
            at = text.find(name, at + 1)
    return found


def curies() -> list[Entity]:
    names = {"PERSON": "Marie Curie", "GPE": "Paris", "ORG": "Royal Society", "PERSON_2": "Curie met"}
    return [
        e._replace(end=e.start + 5) if TEXT[e.start : e.end] == "Curie met" else e for e in entities_of(TEXT, **names)
    ]


def test_names_keep_their_number_all_through_a_document() -> None:
    for asked, curie in ((ON, "<PERSON_1>"), (Skeletons(enabled=True, last_names=False), "<PERSON_2>")):
        done = skeleton(TEXT, usable(TEXT, curies(), LABELS), asked)
        assert done.text == (
            f"<PERSON_1> went to <GPE_1>. In <GPE_1>, {curie} met the <ORG_1>; <PERSON_1>'s talk pleased <ORG_1> men."
        )
        assert restore(done.text, done.masks) == TEXT
        assert done.masks[0] == Mask(0, 10, "PERSON", "Marie Curie")


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["Barack Obama", "Obama", "Obama’s", "the Obama"], [1, 1, 1, 1]),
        (["Obama", "Angela Merkel", "Barack  Obama's", "Merkel"], [1, 2, 1, 2]),
        (["Barack Obama", "Michelle Obama", "Obama"], [1, 2, 3]),  # whose last name?
        (["J. Robert Oppenheimer", "Robert Oppenheimer", "Oppenheimer"], [1, 1, 1]),
        (["Robert Oppenheimer", "Robert Smith", "Robert"], [1, 2, 3]),  # first names say little
        (["Marie Curie", "Pierre Curie", "Pierre Curie", "Marie Curie"], [1, 2, 2, 1]),
        (["Ann McObama", "Obama"], [1, 2]),
        (["Obama", "Obama"], [1, 1]),
    ],
)
def test_a_last_name_is_the_person_s_where_one_person_has_it(names: list[str], numbers: list[int]) -> None:
    text = "; ".join(names)
    starts = [sum(len(name) + 2 for name in names[:number]) for number in range(len(names))]
    found = [Entity(start, start + len(name), "PERSON") for start, name in zip(starts, names, strict=True)]
    done = skeleton(text, usable(text, found, LABELS), ON)
    assert done.text == "; ".join(f"<PERSON_{number}>" for number in numbers)
    assert restore(done.text, done.masks) == text


def test_places_have_no_last_names() -> None:
    text = "New York and York"
    done = skeleton(text, [Entity(0, 8, "GPE"), Entity(13, 17, "GPE")], ON)
    assert done.text == "<GPE_1> and <GPE_2>"


def test_plain_placeholders_are_the_seeds() -> None:
    done = skeleton(TEXT, usable(TEXT, curies(), ("PERSON", "GPE")), Skeletons(numbered=False))
    assert done.text.startswith("<PERSON> went to <GPE>. In <GPE>, <PERSON> met the Royal Society;")
    assert restore(done.text, done.masks) == TEXT


def test_names_beyond_the_last_number_are_plain() -> None:
    text = "Ann, Bob, Cid, Ann, Cid"
    names = entities_of(text, PERSON="Ann", PERSON_1="Bob", PERSON_2="Cid")
    done = skeleton(text, usable(text, names, LABELS), Skeletons(numbers=2))
    assert done.text == "<PERSON_1>, <PERSON_2>, <PERSON>, <PERSON_1>, <PERSON>"
    assert restore(done.text, done.masks) == text


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("the Royal  Society's", "Royal\nSociety", True),
        ("PARIS", "Paris", True),
        ("James’", "James", True),
        ("The", "the", True),
        ("Marie Curie", "Curie", False),
        ("Theresa", "resa", False),
    ],
)
def test_which_mentions_are_one_name(one, other, same) -> None:
    assert (same_name(one) == same_name(other)) is same


ALPHABET = [
    "a",
    "b ",
    "Ann Bee ",
    "Bee ",
    "\n",
    "é",
    "𝒳",
    "<",
    ">",
    "<PERSON>",
    "<PERSON_1>",
    "</THOUGHT>",
    "<SEARCH>",
    "{entity}",
    "'s",
]
texts = st.lists(st.sampled_from(ALPHABET), max_size=30).map("".join) | st.text(max_size=60)
labels = st.sampled_from([*LABELS, "EVENT", "DATE"])


@st.composite
def marked(draw):
    """(text, entities anywhere in it, spans in order), overlapping and empty entities among them."""
    text = draw(texts)
    places = st.integers(0, len(text))
    entities = [Entity(*sorted(draw(st.tuples(places, places))), draw(labels)) for _ in range(draw(st.integers(0, 8)))]
    edges = sorted(draw(st.lists(places, max_size=6)))
    spans = tuple(
        Span(start, end, draw(st.sampled_from(["prompt", "answer"])))
        for start, end in zip(edges[::2], edges[1::2], strict=False)
    )
    return text, entities, spans


@given(marked(), st.booleans(), st.integers(1, 3))
def test_what_was_read_comes_back_from_any_skeleton(made, numbered, numbers) -> None:
    text, entities, spans = made
    done = skeleton(
        text, usable(text, entities, LABELS, spans), Skeletons(enabled=True, numbered=numbered, numbers=numbers)
    )
    assert restore(done.text, done.masks) == text
    check_marks(text, done, spans, Skeletons(enabled=True, numbered=numbered, numbers=numbers))
    assert all(done.text[mask.start : mask.end].startswith(f"<{mask.label}") for mask in done.masks)


@given(marked(), st.binary(min_size=16, max_size=16))
def test_what_was_read_comes_back_from_any_trajectory(made, document_id) -> None:
    text, entities, spans = made
    done = trajectory(text, usable(text, entities, ON.search_labels, spans), ON, document_id, spans)
    if done is None:
        return
    assert restore(done.text, done.masks) == text
    check_marks(text, done, spans, ON)
    assert "".join(done.text[mask.start : mask.end] for mask in done.masks).count("<SEARCH>") == 1
    prompts = [span for span in shifted(spans, done.masks) if span.role == "prompt" and span.start < span.end]
    assert not any(span.start < done.masks[0].end and done.masks[0].start < span.end for span in prompts)


def check_marks(text, done, spans, skeletons) -> None:
    """Masks are in order and apart; each mark in one is known; spans hold what they held, less what is masked."""
    ends = [0, *(mask.end for mask in done.masks)]
    assert all(end <= mask.start < mask.end for end, mask in zip(ends, done.masks, strict=False))
    known = marks(skeletons)
    found = mark_spans(done.text, done.masks, known)
    written = [mask for mask in done.masks if MARK.search(done.text[mask.start : mask.end])]
    numbered = [mask for mask in done.masks if mask.label != TRAJECTORY]
    assert found == [(mask.start, mask.end) for mask in (written if not numbered else done.masks)]
    for span, moved in zip(spans, shifted(spans, done.masks), strict=True):
        inside = [m for m in done.masks if moved.start <= m.start and m.end <= moved.end]
        local = [Mask(m.start - moved.start, m.end - moved.start, "", m.original) for m in inside]
        assert restore(done.text[moved.start : moved.end], local) == text[span.start : span.end]


def test_a_search_is_put_before_the_entity_that_stays() -> None:
    template = "<THOUGHT>Which {label}?</THOUGHT> <SEARCH>{before}</SEARCH> <RESULT>{entity}</RESULT> "
    asked = Skeletons(enabled=True, templates=(template,))
    text = "It was in Paris that they met."
    done = trajectory(text, entities_of(text, GPE="Paris"), asked, b"")
    assert done is not None
    assert done.text == (
        "It was in <THOUGHT>Which GPE?</THOUGHT> <SEARCH>It was in</SEARCH> <RESULT>Paris</RESULT> Paris that they met."
    )
    assert restore(done.text, done.masks) == text
    spans = mark_spans(done.text, done.masks, marks(asked))
    assert [done.text[start:end] for start, end in spans] == [
        "<THOUGHT>", "</THOUGHT>", "<SEARCH>", "</SEARCH>", "<RESULT>", "</RESULT>",
    ]  # fmt: skip


def test_a_name_that_reads_like_a_mark_is_not_searched_for_and_one_in_the_text_is_no_mark() -> None:
    text = "<SEARCH> stands in <PERSON> of the manual of Paris."
    assert trajectory(text, [Entity(0, 8, "ORG")], ON, b"") is None
    done = trajectory(text, entities_of(text, GPE="Paris"), ON, b"")
    assert done is not None
    found = mark_spans(done.text, done.masks, marks(ON))
    assert min(start for start, _ in found) >= len("<SEARCH> stands in <PERSON> of the manual of ")


def test_words_before_an_entity_are_searched_for_without_marks() -> None:
    asked = Skeletons(enabled=True, templates=("<SEARCH>{before}</SEARCH> ",))
    text = "<SEARCH> and Paris"
    done = trajectory(text, entities_of(text, GPE="Paris"), asked, b"")
    assert done is not None
    assert done.text == "<SEARCH> and <SEARCH>and</SEARCH> Paris"
    only = trajectory("<SEARCH> Paris", [Entity(9, 14, "GPE")], asked, b"")
    assert only is not None
    assert only.text == "<SEARCH> <SEARCH>Paris</SEARCH> Paris"


def test_every_entity_and_template_has_its_turn() -> None:
    text = "Ann, Bob, Cid"
    names = entities_of(text, PERSON="Ann", PERSON_1="Bob", PERSON_2="Cid")
    done = [trajectory(text, names, ON, document_hash(str(n))) for n in range(300)]
    assert len({found.text for found in done if found is not None}) == 6
    assert min(Counter(found.masks[0].start for found in done if found is not None).values()) > 60


def test_forms_are_drawn_in_the_shares_asked_for_and_not_from_what_draws_the_split() -> None:
    ids = [document_hash(str(n)) for n in range(20_000)]
    forms = Counter(form_of(digest, ON) for digest in ids)
    assert {form: round(count / len(ids), 2) for form, count in forms.items()} == {
        SKELETON: pytest.approx(0.3, abs=0.011), TRAJECTORY: pytest.approx(0.2, abs=0.011), PLAIN: pytest.approx(0.5, abs=0.011),
    }  # fmt: skip
    held_out = [digest for digest in ids if digest[0] < 26]
    assert Counter(form_of(digest, ON) for digest in held_out)[SKELETON] / len(held_out) == pytest.approx(0.3, abs=0.04)


def test_the_list_of_marks_is_what_can_be_written() -> None:
    assert marks(Skeletons()) == ()
    few = Skeletons(enabled=True, labels=("ORG",), numbers=2, templates=("<A>{entity}</A> ", "<A>{label}<B>"))
    assert marks(few) == ("<ORG>", "<ORG_1>", "<ORG_2>", "<A>", "</A>", "<B>")
    assert len(marks(ON)) == len(set(marks(ON))) == 3 * 33 + 6


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("share = 0.9", r"search_share = 0\.2: must not exceed 1 together with forge\.skeletons\.share = 0\.9"),
        (
            'templates = ["<A>{name}</A>"]',
            r"templates\[0\] has \{name\}: must be one of \{entity\}, \{label\}, \{before\}",
        ),
        ('templates = ["{entity}"]', r"templates\[0\] has no mark"),
        ('labels = ["person"]', r"labels\[0\] = 'person'"),
        ("labels = []", r"labels = \[\]"),
        ("numbers = 0", r"numbers = 0"),
        ("shares = 1", r"unknown key forge\.skeletons\.shares; did you mean share"),
    ],
)
def test_a_wrong_setting_is_named(line, said) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config(f"[forge.skeletons]\n{line}", "adam.toml")


def test_the_digest_counts_what_changes_the_data() -> None:
    def digest(lines: str = "") -> str:
        return forge_digest(parse_config(f"[forge.skeletons]\n{lines}", "adam.toml").forge)

    assert digest("processes = 3") == digest()
    assert digest("enabled = true\nprocesses = 3") == digest("enabled = true") != digest()
