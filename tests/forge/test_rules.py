"""Each rule drops what it says and nothing beside it, alone and in company."""

import json
import pickle
import random
from pathlib import Path

import pytest

from adam.contract.config_filters import FilterOverrides, Filters, TextFilters
from adam.contract.config_forge import Forge, Source
from adam.contract.errors import ConfigError, DataError
from adam.forge.batch import Batch
from adam.forge.contamination import Evaluation
from adam.forge.judge import Judge
from adam.forge.quality import rules

RNG = random.Random(2)
NOUNS = [
    f"{first}{last}"
    for first in ("stone", "river", "wood", "field")
    for last in ("man", "way", "land", "town", "house", "work")
]
PROSE = " ".join(f"{RNG.choice(['the', 'of', 'and', 'to', 'with', 'that'])} {RNG.choice(NOUNS)}" for _ in range(150))
REASONED = "It follows because each part is whole; therefore, if one is whole then all must be. " * 2


def reasons(text: str, tmp_path: Path, **keys: object) -> str:
    (verdict,) = Judge(Forge(min_chars=1, filters=Filters(**keys)), {"a": Source()}, tmp_path).judge([("a", text)])
    return verdict.reason


@pytest.mark.parametrize(
    ("key", "value", "bad", "reason"),
    [
        ("min_words", 50, "only a few words", "too_few_words"),
        ("max_words", 400, PROSE * 3, "too_many_words"),
        ("min_word_chars", 3.0, "a b c d e f g h", "short_words"),
        ("max_word_chars", 10.0, "incomprehensibilities characteristically", "long_words"),
        ("max_symbols", 0.1, "# one # two # three", "symbols"),
        ("max_symbols", 0.1, "so... and... then...", "symbols"),
        ("max_bullets", 0.9, "- one\n- two\n  * three\n• four", "bullets"),
        ("max_ellipses", 0.3, "read more...\nand more…\nthe end.", "ellipses"),
        ("min_letters", 0.6, "1234567890 12345 | -- | ++ a", "few_letters"),
        ("min_alpha_words", 0.8, "a 1 2 3 4 | -- b", "few_alpha_words"),
        ("min_stop_words", 2, "the the the colour green sleeps", "few_stop_words"),
        ("min_reasoning", 0.03, PROSE, "little_reasoning"),
        ("repetition", 1.0, "again and again and again we say it " * 30, "repeated_words"),
        ("repetition", 1.0, "\n".join(["a line that comes again"] * 2 + [PROSE[:40]]), "repeated_lines"),
        ("languages", ("en",), "Der Hund schläft auf dem Sofa, und die Katze sieht ihm dabei zu.", "language"),
        ("secrets", True, "key = AK" + "IA" + "ABCDEFGH23456777", "secret"),
        ("poison", True, "As an AI language model I cannot say.", "poison"),
    ],
)
def test_each_rule_drops_what_it_names(tmp_path, key: str, value: object, bad: str, reason: str) -> None:
    assert reasons(bad, tmp_path, **{key: value}) == reason
    assert reasons(bad, tmp_path) == ""
    good = REASONED if key == "min_reasoning" else PROSE
    assert reasons(good, tmp_path, **{key: value}) == ""


EVERYTHING = {
    "min_words": 50, "max_words": 100_000, "min_word_chars": 3.0, "max_word_chars": 10.0, "max_symbols": 0.1, "max_bullets": 0.9,
    "max_ellipses": 0.3, "min_letters": 0.6, "min_alpha_words": 0.8, "min_stop_words": 2, "repetition": 1.0, "languages": ("en",),
    "min_reasoning": 1e-9, "secrets": True, "poison": True, "near_duplicates": 0.8, "evaluation": ("test.txt",),
}  # fmt: skip


def test_all_rules_together_leave_good_prose_in_another_process_too(tmp_path) -> None:
    (tmp_path / "test.txt").write_text("words " * 20)
    text = Path(__file__).parent.parent.parent.joinpath("README.md").read_text()
    judge = Judge(Forge(min_chars=1, filters=Filters(**EVERYTHING)), {"a": Source()}, tmp_path)
    asked = [("a", text), ("a", "too few")]
    verdicts = judge.judge(asked)
    assert [verdict.reason for verdict in verdicts] == ["", "too_few_words"]
    assert pickle.loads(pickle.dumps(judge)).judge(asked) == verdicts


def test_the_share_of_reasoning_words_is_counted_by_word() -> None:
    (rule,) = rules(TextFilters(min_reasoning=0.5))
    texts = ["Because, THEREFORE: becausex x", "if if if if", "none here at all", ""]
    assert rule.values(Batch(texts)).tolist() == [0.5, 1.0, 0.0, 0.0]


def test_a_source_has_rules_of_its_own(tmp_path) -> None:
    sources = {"prose": Source(), "code": Source(filters=FilterOverrides(min_words=0, secrets=True))}
    judge = Judge(Forge(min_chars=1, filters=Filters(min_words=5)), sources, tmp_path)
    secret = "k = AK" + "IA" + "ABCDEFGH23456777"
    asked = [("prose", "too few"), ("code", "too few"), ("prose", f"{secret} in prose stays here"), ("code", secret)]
    assert [verdict.reason for verdict in judge.judge(asked)] == ["too_few_words", "", "", "secret"]


def test_verdicts_hang_on_no_other_document(tmp_path) -> None:
    rng = random.Random(3)
    config = Forge(
        min_chars=20,
        filters=Filters(min_words=5, repetition=1.0, near_duplicates=0.8, min_stop_words=1, max_symbols=0.2),
    )
    judge = Judge(config, {"a": Source()}, tmp_path)
    texts = [
        ("a", " ".join(rng.choices(["the", "sun", "été", "#", "漢字", "of\n", "x1"], k=rng.randint(1, 80))))
        for _ in range(300)
    ]
    together = judge.judge(texts)
    assert together == [verdict for text in texts for verdict in judge.judge([text])]
    assert len({verdict.reason for verdict in together}) > 3


def test_a_language_that_is_not_known_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match='languages has "english"'):
        reasons("text", tmp_path, languages=("english",))


QUESTION = "Natalia sold clips to forty eight of her friends in April and then she sold half as many clips in May"


def test_an_evaluation_item_is_found_whatever_its_signs_and_case(tmp_path) -> None:
    records = [{"question": QUESTION, "answer": ["72", {"why": "short"}]}, {"question": "too short to be found"}]
    (tmp_path / "gsm.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "list.json").write_text(json.dumps([{"text": "Entirely different words " * 5}]))
    (tmp_path / "plain.txt").write_text(f"{QUESTION[::-1]}\n")
    loud = QUESTION.upper().replace(" ", ", ")
    keys = {"evaluation": ("gsm.jsonl", "list.json"), "min_words": 3}
    assert reasons(f"Before it. {loud}! Behind it.", tmp_path, **keys) == "contaminated"
    assert reasons(" ".join(QUESTION.split()[:12]) + " other words follow", tmp_path, **keys) == ""
    assert reasons(" ".join(QUESTION.split()[3:16]), tmp_path, **keys) == "contaminated"
    half = " ".join(QUESTION.split()[:7])
    judge = Judge(Forge(min_chars=1, filters=Filters(evaluation=("gsm.jsonl",))), {"a": Source()}, tmp_path)
    first, second = judge.judge([("a", half), ("a", " ".join(QUESTION.split()[7:]))])
    assert (first.reason, second.reason) == ("", "contaminated" if len(QUESTION.split()[7:]) >= 13 else "")
    (verdict,) = judge.judge([("a", f"Some words before. {QUESTION}")])
    assert verdict.example.startswith("[word 3] Natalia sold clips")


def test_an_evaluation_set_may_be_a_parquet_file(tmp_path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.Table.from_pylist(
        [{"id": n, "question": f"{QUESTION} {n}", "answers": ["a", "b"]} for n in range(2500)]
    )
    parquet.write_table(table, tmp_path / "test.parquet")
    assert reasons(f"It says: {QUESTION}", tmp_path, evaluation=("test.parquet",)) == "contaminated"


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("gone.jsonl", None, "gone.jsonl can't be read: .*No such file"),
        ("bad.jsonl", b"{", "can't be read"),
        ("bad.parquet", b"PAR1 not", "can't be read"),
        ("latin.txt", b"\xe9" * 50, "can't be read"),
        ("short.txt", b"three short words\n", "has no item of 13 words"),
    ],
)
def test_an_evaluation_set_that_can_not_be_used_is_named(
    tmp_path, name: str, content: bytes | None, error: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=error):
        Evaluation([tmp_path / name], 13)
