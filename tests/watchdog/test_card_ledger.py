"""The model card's account of the data: what was taken, what was dropped for which reason, and what went otherwise than planned."""

from adam.contract.clock import stamp
from adam.contract.shards import (
    DataFile,
    MaskSummary,
    PhaseSummary,
    ShardManifest,
    SourceSummary,
    TokensManifest,
    TokenSplit,
)
from adam.watchdog.upload_card import ledger, tokenizer_facts

SOURCE = SourceSummary(
    "math", "hub", "someone/math", "c" * 40, "mit", 3, 12, 10, 900, {"duplicate": 1, "bad_line": 1}, {"damaged": 2},
    given_up="someone/math has lost a file", notes=("old/math was taken down: math is taken in its place",),
    config="main", split="train", masked=MaskSummary({"skeleton": 4, "plain": 6}, {"PERSON": 7, "GPE": 1}),
)  # fmt: skip
PHASE = PhaseSummary(
    "adam", "documents", 10, "repeat", {"math": 1}, {"math": 10}, {}, "target", ("math begun again at 7 documents",)
)
SHARDS = ShardManifest(
    config_digest="", sources=(SOURCE,), skipped=(), files=(), val_fraction=0.1, stamp=stamp(), phases=(PHASE,),
    ner_model="en_core_web_sm 3.8.0", evaluation=("openai/gsm8k (main, test), " + "e" * 40,),
)  # fmt: skip


def test_sets_drops_mixes_and_what_went_wrong_are_in_the_card() -> None:
    lines = ledger(SHARDS)
    assert lines[2] == (
        f"| math (someone/math, main, train) | hub | {'c' * 40} | mit | 12 | 10 | 900 | bad_line 1, duplicate 1 | damaged 2 |"
    )
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")
    assert lines[4:] == [
        "- math, masked: plain 6, skeleton 4; placeholders: GPE 1, PERSON 7",
        "- math: old/math was taken down: math is taken in its place",
        "- math was given up: someone/math has lost a file",
        "- mix adam, documents: math 10; math begun again at 7 documents",
        "- entities were found by en_core_web_sm 3.8.0",
        f"- no document shares a run of words with the evaluation set openai/gsm8k (main, test), {'e' * 40}",
    ]


def test_encoder_and_special_tokens_are_in_the_card() -> None:
    file = DataFile("x", 1, "")
    split = TokenSplit(file, file, "<u2", 1234, 5, 99)
    known = {
        mark: 50_277 + n
        for n, mark in enumerate(("<PERSON>", "<PERSON_1>", "<PERSON_2>", "<GPE>", "<SEARCH>", "</SEARCH>"))
    }
    tokens = TokensManifest(
        shards_sha256="", tokenizer=file, tokenizer_origin="EleutherAI/gpt-neox-20b@c292", vocab_size=50_283, end_of_text=0,
        marks=known, encoder="fastokens 0.3.5", token_bytes=file, splits={"train": split, "val": split},
        order2_bits_per_byte=2.0, stamp=stamp(),
    )  # fmt: skip
    assert tokenizer_facts(tokens) == {
        "tokenizer": "EleutherAI/gpt-neox-20b@c292",
        "encoded by": "fastokens 0.3.5",
        "special tokens": "0 between documents; 50,277 to 50,282: `<PERSON>`, `<GPE>`, `<SEARCH>`, `</SEARCH>`, `<PERSON_1…2>`",
        "splits": "train 5 documents, 1,234 tokens; val 5 documents, 1,234 tokens",
    }
    assert "50,277" not in tokenizer_facts(TokensManifest(**{**{
        field: getattr(tokens, field) for field in tokens.__struct_fields__}, "marks": {}}))["special tokens"]  # fmt: skip
