"""A faster encoder is used where it gives the library's ids, and only there."""

import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer

from adam.contract.config_forge import Forge
from adam.forge import encoders, tokenizer
from adam.forge.encoders import HARD, DiffersError, FastEncoder, LibraryEncoder, choose_encoder
from adam.forge.tokenizer import end_of_text, learn, take_marks_as_text

ODD = [
    "<|endoftext|>",
    "<A_1>",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "'s",
    "é",
    "e\u0301",
    "🐎",
    "中文",
    "\0",
    "٣",
    "\u00a0",
    "\u2028",
    "a",
    " b",
]


@pytest.fixture(scope="module")
def learnt() -> Tokenizer:
    made = learn([*HARD, "some words, more words and 12 numbers\n" * 20], Forge(vocab_size=400))
    made.add_tokens([AddedToken("  ", normalized=False), AddedToken("<A_1>", normalized=False)])
    take_marks_as_text(made, end_of_text(made))
    return made


def plain(made: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [made.encode(text, add_special_tokens=False).ids for text in texts]


def split(encoded: encoders.Encoded) -> list[list[int]]:
    return [part.tolist() for part in np.split(encoded.ids, encoded.bounds[1:-1])]


def odd_texts(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    anything = [chr(code) for code in rng.sample([*range(0xD800), *range(0xE000, 0x110000)], 300)]
    return ["".join(rng.choice([*ODD, *anything]) for _ in range(rng.randint(0, 30))) for _ in range(count)]


class Liar:
    """Stands for fastokens: gives the library's ids, but for texts with `lie` in them."""

    def __init__(self, made: Tokenizer, lie: str, monkeypatch) -> None:
        self._made, self.lie, self.asked = made, lie, 0
        module = SimpleNamespace(Tokenizer=SimpleNamespace(from_json_str=lambda _: self))
        monkeypatch.setitem(sys.modules, "fastokens", module)
        monkeypatch.setattr(encoders, "version", lambda name: "1.0")

    def encode_batch_flat(self, texts, add_special_tokens, split_special_tokens):
        assert (add_special_tokens, split_special_tokens) == (False, True)
        self.asked += len(texts)
        found = [ids[::-1] if self.lie and self.lie in text else ids
                 for text, ids in zip(texts, plain(self._made, texts), strict=True)]  # fmt: skip
        bounds = np.cumsum([0, *map(len, found)], dtype="<u8")
        return np.concatenate([np.array(ids, dtype="<u4") for ids in found]).tobytes(), bounds.tobytes()


def test_the_library_gives_flat_ids_of_each_text(learnt) -> None:
    texts = ["", "some words", "", " 12 <|endoftext|>", ""]
    assert split(LibraryEncoder(learnt, "").encode(texts)) == plain(learnt, texts)


def test_fastokens_gives_the_ids_of_the_library(learnt) -> None:
    pytest.importorskip("fastokens")
    encoder = choose_encoder(learnt, iter(["some words"]))
    assert encoder.name.startswith("fastokens ")
    for seed in range(5):
        texts = odd_texts(seed, 300)
        assert split(encoder.encode(texts)) == plain(learnt, texts)


def test_what_fastokens_does_not_know_is_left_to_the_library() -> None:
    pytest.importorskip("fastokens")
    words = tokenizer.Tokenizer(tokenizer.models.WordLevel({"</s>": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizer.pre_tokenizers.Whitespace()
    assert "fastokens can't take this tokenizer" in choose_encoder(words, iter([])).name


def test_one_that_agrees_is_taken(learnt, monkeypatch) -> None:
    liar = Liar(learnt, "", monkeypatch)
    assert choose_encoder(learnt, iter(["some words"])).name == "fastokens 1.0"
    assert liar.asked > len(HARD)


@pytest.mark.parametrize("lie", ["\u0344", "a<A_1>b", "of the run"])
def test_one_that_differs_on_hard_texts_on_marks_or_on_the_run_is_not_taken(lie, learnt, monkeypatch) -> None:
    Liar(learnt, lie, monkeypatch)
    encoder = choose_encoder(learnt, iter(["words", "words of the run"]))
    assert encoder.name == "tokenizers 1.0 (fastokens 1.0 gives other ids)"


def test_where_it_is_not_installed_the_library_encodes(learnt, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "fastokens", None)
    assert "(fastokens is not installed)" in choose_encoder(learnt, iter([])).name


def test_it_is_compared_as_it_goes_on(learnt, monkeypatch) -> None:
    liar = Liar(learnt, "", monkeypatch)
    encoder = FastEncoder(learnt)
    for _ in range(50):
        encoder.encode(["x" * 1000] * 40)
    assert 2_000_000 / 512 - 1000 <= encoder._checked <= 2_000_000 / 512 + 1000
    liar.lie = "y"
    with pytest.raises(DiffersError):
        for _ in range(50):
            encoder.encode(["some words y" * 100] * 40)


def test_a_run_whose_encoder_begins_to_differ_ends_with_the_librarys_bytes(bench_at, folder, monkeypatch) -> None:
    """The difference is in train, which is read first; what was written of it is written again."""
    monkeypatch.setitem(sys.modules, "fastokens", None)
    honest = bench_at("honest")
    honest.tokens()
    liar = Liar(Tokenizer.from_file(str(honest.paths.tokens / "tokenizer.json")), "", monkeypatch)
    monkeypatch.setattr(FastEncoder, "check", lambda self, texts: setattr(liar, "lie", "7 "))
    monkeypatch.setattr(encoders, "SAMPLED", 1)
    bench = bench_at("run")
    manifest = bench.tokens()
    assert manifest.encoder == "tokenizers 1.0 (fastokens 1.0 gave other ids for a document)"
    left, right = (
        {name: digest for name, digest in made.digests().items() if "manifest" not in name} for made in (bench, honest)
    )
    assert left == right
