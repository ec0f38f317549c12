"""Columns to text: the spans of prompts and answers are exactly where they say."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adam.contract.config_forge import Forge, RegistryEntry, Source
from adam.contract.errors import ConfigError
from adam.forge.registry import entries, resolve, shipped
from adam.forge.templates import Template


def spans(document) -> list[tuple[str, str]]:
    return [(span.role, document.text[span.start : span.end]) for span in document.spans]


def test_labels_are_the_prompts_and_what_ends_an_answer_is_its_own() -> None:
    template = Template(Source(template="Question: {q}\nReasoning: {a}\n", answers=("a",)))
    assert template.columns == ("q", "a")
    document = template.document({"q": "1 + 1?\r\n", "a": "2", "other": 3})
    assert spans(document) == [("prompt", "Question: 1 + 1?\n\nReasoning: "), ("answer", "2\n")]


def test_without_answers_there_are_no_spans() -> None:
    assert Template(Source(template="{a} {b}")).document({"a": "x", "b": "y"}).spans == ()


ROLES = st.sampled_from(["user", "assistant", "system", "tool", "gpt"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(deadline=None)
@given(
    st.lists(st.tuples(ROLES, TEXTS), min_size=1, max_size=8),
    st.integers(0, 60),
)
def test_spans_cover_a_conversation_and_answers_are_the_assistants(turns, cut) -> None:
    """Whatever is said and wherever it is cut: spans are in order, touch one another, and an answer is what an assistant said."""
    template = Template(Source(messages="talk", cut_chars=cut))
    document = template.document({"talk": [{"role": role, "content": text} for role, text in turns]})
    if not document.spans:
        assert not any(role in ("assistant", "gpt") for role, _ in turns) or cut
        return
    ends = [0, *(span.end for span in document.spans)]
    assert ends == [*(span.start for span in document.spans), len(document.text)]
    said = "".join(
        text.replace("\r\n", "\n").replace("\r", "\n") + "\n\n" for role, text in turns if role in ("assistant", "gpt")
    )
    answered = "".join(text for role, text in spans(document) if role == "answer")
    assert said.startswith(answered) if cut else said == answered


def test_calls_of_functions_are_answers() -> None:
    talk = [
        {"role": "system", "content": "Tools: add"},
        {"role": "user", "content": [{"type": "text", "text": "1 and 2?"}, {"type": "image"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "3"},
        {"from": "gpt", "value": "It is 3."},
    ]
    document = Template(Source(messages="m")).document({"m": talk})
    assert spans(document) == [
        ("prompt", "System: Tools: add\n\nUser: 1 and 2?\n\nAssistant: "),
        ("answer", '[{"function":{"name":"add","arguments":{"a":1}}}]\n\n'),
        ("prompt", "Tool: 3\n\nAssistant: "),
        ("answer", "It is 3.\n\n"),
    ]


def test_a_transcript_is_told_apart_by_its_marks() -> None:
    template = Template(resolve(Source(id="glaiveai/glaive-function-calling-v2"), Forge()).source)
    document = template.document({
        "system": "SYSTEM: You can call f",
        "chat": "USER: x\n\n\nASSISTANT: <functioncall> {} <|endoftext|>\n\n\nFUNCTION RESPONSE: 3\n\n\nASSISTANT: 3 <|endoftext|>",
    })  # fmt: skip
    assert spans(document) == [
        ("prompt", "SYSTEM: You can call f\n\nUSER: x\n\n\nASSISTANT:"),
        ("answer", " <functioncall> {} \n\n\n"),
        ("prompt", "FUNCTION RESPONSE: 3\n\n\nASSISTANT:"),
        ("answer", " 3 "),
    ]


@pytest.mark.parametrize(
    "record",
    [{}, {"text": None}, {"text": 7}, 7, None, [], {"text": ["a"]}, {"text": {"a": 1}}],
)
def test_what_has_no_text_is_dropped_with_what_it_is(record) -> None:
    document = Template(Source()).document(record)
    assert (document.dropped, document.example) == ("no_text", repr(record))


@pytest.mark.parametrize(
    "talk", [None, [], "", 3, [3], [{}], [{"role": "user"}], [{"role": 1, "content": "x"}], {"role": "user"}]
)
def test_what_is_no_conversation_is_dropped(talk) -> None:
    document = Template(Source(messages="m")).document({"m": talk})
    assert document.dropped == "no_text" or document.text == ""


def test_only_what_is_selected_is_taken() -> None:
    template = Template(Source(template="{code}", where={"lang": ("Go", "Rust"), "ok": ("true",)}, text="code"))
    assert template.document({"code": "x", "lang": "Go", "ok": True}).kind == "code"
    assert template.document({"code": "x", "lang": "C", "ok": True}).dropped == "not_selected"
    assert template.document({"code": "x", "lang": "Go", "ok": False}).dropped == "not_selected"


def test_meta_is_found_in_json_that_is_a_string() -> None:
    template = Template(resolve(Source(id="gutenberg"), Forge()).source)
    document = template.document({"TEXT": "A book", "METADATA": json.dumps({"title": "T", "authors": "A"})})
    assert document.meta == {"title": "T", "author": "A"}
    assert template.document({"TEXT": "A book", "METADATA": "{"}).meta == {}


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (Source(template="{a"), "can't be read"),
        (Source(template="{}"), "columns are written {name}"),
        (Source(template="{a!r}"), "columns are written {name}"),
        (Source(template="{a}", answers=("b",)), "answers names b, which is not in the template"),
    ],
)
def test_templates_that_can_not_be(source, line) -> None:
    with pytest.raises(ConfigError, match=line):
        Template(source)


# ---- the registry


def test_every_shipped_set_can_be_read_or_says_why_not() -> None:
    known = entries(Forge())
    assert len(known) == len(shipped()) >= 25
    for entry in shipped():
        if entry.gone:
            assert not entry.successor or entry.successor in known
        else:
            assert entry.licence, entry.name
            Template(resolve(Source(id=entry.name), Forge()).source)


SEEDS = [
    "TIGER-Lab/MathInstruct", "openai/gsm8k", "meta-math/MetaMathQA", "bigcode/the-stack-dedup", "nvidia/OpenMathInstruct-1",
    "glaiveai/glaive-function-calling-v2", "Open-Orca/OpenOrca", "HuggingFaceH4/ultrachat_200k", "karpathy/fineweb-edu-100b-shuffle",
    "hendrycks/competition_math", "conceptofmind/FLAN_CoT", "conceptofmind/FLAN2021_CoT", "anon8231489123/ShareGPT_Vicuna_unfiltered",
    "ToolBench/ToolBench", "codeparrot/github-code", "squad_v2", "wikimedia/wikipedia", "HuggingFaceTB/cosmopedia",
    "microsoft/orca-math-word-problems-200k", "bigcode/the-stack-smol", "sedthh/gutenberg_english", "flan_cot", "metamath", "glaive_fc",
]  # fmt: skip


@pytest.mark.parametrize("name", SEEDS)
def test_every_set_that_the_guides_name_is_known(name: str) -> None:
    if name == "ToolBench/ToolBench":
        with pytest.raises(ConfigError, match="ToolBench/ToolBench can't be had"):
            resolve(Source(id=name), Forge())
        return
    found = resolve(Source(id=name), Forge())
    assert found.entry is not None
    assert found.source.kind == "hub"
    assert found.entry.id == name or found.notes[0].startswith(f"{name} ")


def test_people_add_sets_of_their_own_and_say_what_is_different() -> None:
    own = RegistryEntry(id="me/mine", name="mine", template="{body}", licence="mit")
    forge = Forge(registry=(own,))
    assert resolve(Source(id="mine"), forge).source.template == "{body}"
    source = resolve(Source(id="orca-math", template="{question}", name="math"), forge).source
    assert (source.template, source.name, source.id) == ("{question}", "math", "microsoft/orca-math-word-problems-200k")


def test_files_of_a_set_that_were_fetched_before_are_read_as_it_is() -> None:
    found = resolve(Source(id="orca-math", path="/data/orca"), Forge())
    assert (found.source.kind, found.source.name, found.source.answers) == ("files", "orca-math", ("answer",))


def test_a_name_that_nobody_knows_is_said() -> None:
    with pytest.raises(ConfigError, match="'orca' is no set of the registry"):
        resolve(Source(id="orca"), Forge())
