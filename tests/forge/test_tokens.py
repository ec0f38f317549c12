"""Tokenizers, learnt or given; the stream; the bytes that each id stands for."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from adam.contract.config_forge import Forge
from adam.contract.errors import DataError, StoppedError
from adam.contract.shared import Pulse, read_once
from adam.contract.states import Phase
from adam.forge import encoders
from adam.forge import tokenizer as tokenizers
from adam.forge.documents import ShardRecord
from adam.forge.packing import batches
from adam.forge.tokenizer import bytes_of_ids, end_of_text, given, ids_of, learn, sample, take_marks_as_text

MARK = "<|endoftext|>"


def stream(bench, split: str, dtype: str = "<u2") -> np.ndarray:
    return np.fromfile(bench.paths.tokens / f"{split}.bin", dtype=dtype)


def test_a_mark_that_a_document_writes_out_is_text(bench, folder) -> None:
    """Else it would end its document, and its bytes would be lost from the count."""
    for number in range(15):
        (folder / f"mark{number}.txt").write_text(f"{number}: a text about {MARK} and what it means. " * 3 + MARK)
    manifest = bench.tokens()
    tokenizer = Tokenizer.from_file(str(bench.paths.tokens / "tokenizer.json"))
    table = np.fromfile(bench.paths.tokens / "token_bytes", dtype="<u2")
    for name, split in manifest.splits.items():
        ids = stream(bench, name)
        assert (ids == manifest.end_of_text).sum() == split.documents + 1
        assert table[ids].sum() == split.text_bytes
    texts = tokenizer.decode(stream(bench, "train").tolist(), skip_special_tokens=False).split(": a text")
    assert len(texts) > 5


def test_learning_gives_the_same_bytes_each_time() -> None:
    texts = [f"{n} some words {n % 7} and ties ab ba cd dc" for n in range(300)]
    first, second = (learn(texts, Forge(vocab_size=400)).to_str() for _ in range(2))
    assert first == second


def test_every_byte_has_an_id_even_where_the_text_is_small() -> None:
    tokenizer = learn(["a"], Forge(vocab_size=300))
    assert ids_of(tokenizer) == 257
    assert tokenizer.decode(tokenizer.encode("žluťoučký 🐎\0\x7f").ids) == "žluťoučký 🐎\0\x7f"


def test_a_sample_has_its_share_of_every_source(monkeypatch) -> None:
    monkeypatch.setattr(tokenizers, "LEARN_FROM_BYTES", 10_000)
    rng = np.random.default_rng(0)
    records = [ShardRecord("x" * 100, rng.bytes(16).hex(), str(number // 500), "") for number in range(1000)]
    ticks: list[int] = []
    chosen = list(sample(iter(records), 100_000, lambda: ticks.append(1)))
    assert 70 < len(chosen) < 130
    assert len(ticks) == 1000
    by_hash = [record.text for record in records if int(record.id[16:], 16) < 2**64 // 10]
    assert chosen == by_hash
    assert list(sample(iter(records), 10_000, lambda: None)) == [record.text for record in records]


def test_batches_hold_so_many_characters_and_not_so_many_documents() -> None:
    documents = [ShardRecord("x" * size, "", "", "") for size in (10, 90, 500, 1, 1, 1)]
    assert [[len(record.text) for record in batch] for batch in batches(iter(documents), 100)] == [
        [10, 90],
        [500],
        [1, 1, 1],
    ]


def test_the_phases_are_in_the_pulse(bench, monkeypatch) -> None:
    seen = []
    real = bench.progress.enter
    monkeypatch.setattr(bench.progress, "enter", lambda phase, total: (seen.append(phase), real(phase, total)))
    bench.tokens()
    assert seen == [Phase.READING, Phase.LEARNING, Phase.ENCODING]
    pulse = read_once(bench.paths.pulse("forge"), Pulse)
    assert pulse is not None
    assert (pulse.phase, pulse.attempt, pulse.token) == (Phase.ENCODING, 1, 1)
    assert pulse.progress > 3


def test_a_stop_while_encoding_leaves_no_manifest(bench) -> None:
    shards = bench.shards()
    with pytest.raises(StoppedError):
        bench.tokens(shards, stop=lambda: True)
    assert not bench.paths.tokens_manifest.exists()


def test_stopped_anywhere_it_ends_with_the_same_bytes(bench_at, monkeypatch) -> None:
    monkeypatch.setattr(encoders.LibraryEncoder, "batch_chars", 1500)
    monkeypatch.setattr(encoders.FastEncoder, "batch_chars", 1500)
    whole, stopped = bench_at("whole"), bench_at("stopped")
    whole.tokens()
    shards = stopped.shards()
    for calls in (1, 3, 10, 40, 70):
        left = iter(range(calls))
        with pytest.raises(StoppedError):
            stopped.tokens(shards, stop=lambda left=left: next(left, None) is None)
        assert not stopped.paths.tokens_manifest.exists()
    stopped.tokens(shards)
    assert stopped.digests() == whole.digests()


def test_dropout_is_switched_off(tmp_path) -> None:
    """Else a document had other ids each time."""
    made = learn(["some words and some more words"] * 50, Forge(vocab_size=300))
    made.model.dropout = 0.5
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer, _ = given("tokenizer.json", tmp_path)
    assert len({tuple(tokenizer.encode("some words and more").ids) for _ in range(20)}) == 1


def word_level(size: int, mark: str = "</s>", **added: object) -> Tokenizer:
    vocab = {mark: 0, "[UNK]": 1} | {f"w{number}": number for number in range(2, size)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([mark])
    return tokenizer


def test_many_ids_take_four_bytes(bench) -> None:
    word_level(70_000).save(str(bench.paths.root / "tokenizer.json"))
    bench.keys["tokenizer"] = str(bench.paths.root)  # a folder with one
    manifest = bench.tokens()
    assert manifest.vocab_size == 70_000
    assert manifest.splits["val"].dtype == "<u4"
    assert len(stream(bench, "val", "<u4")) == manifest.splits["val"].count


def test_a_given_tokenizer_does_not_cut_documents(bench) -> None:
    tokenizer = word_level(50)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(bench.paths.root / "cutting.json"))
    bench.keys["tokenizer"] = "cutting.json"  # seen from the run
    manifest = bench.tokens()
    assert manifest.splits["train"].count > 30 * manifest.splits["train"].documents


def test_a_tokenizer_without_a_known_mark_is_refused(bench) -> None:
    word_level(50, mark="[SEP]").save(str(bench.paths.root / "a.json"))
    bench.keys["tokenizer"] = "a.json"
    with pytest.raises(DataError, match=r"none of the marks <\|endoftext\|>"):
        bench.tokens()
    assert not bench.paths.tokens_manifest.exists()


def test_bytes_of_byte_level_ids_with_added_ones() -> None:
    tokenizer = learn(["some text été"], Forge(vocab_size=260))
    tokenizer.add_tokens([AddedToken("  ", normalized=False), AddedToken("été", normalized=False)])
    table = bytes_of_ids(tokenizer, end_of_text(tokenizer))
    take_marks_as_text(tokenizer, end_of_text(tokenizer))
    for text in ("some  été", f"a{MARK}b", "→ 🐎\n\t\0", "   "):
        assert table[tokenizer.encode(text, add_special_tokens=False).ids].sum() == len(text.encode()), text


def test_bytes_of_other_ids_are_what_they_decode_to() -> None:
    vocab = {"</s>": 0, "<0xE2>": 1, "▁the": 2, "é": 3, "plain": 4}
    tokenizer = Tokenizer(models.BPE(vocab, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    assert bytes_of_ids(tokenizer, 0).tolist() == [0, 1, 4, 2, 5]


class TestHub:
    """By a downloader that stands for the Hub's."""

    @pytest.fixture
    def hub(self, tmp_path, monkeypatch) -> Path:
        import huggingface_hub

        snapshot = tmp_path / "hub" / "snapshots" / "0123abc"
        snapshot.mkdir(parents=True)
        word_level(50).save(str(snapshot / "tokenizer.json"))
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file, revision: str(snapshot / file))
        return snapshot

    def test_its_revision_is_recorded(self, hub, bench) -> None:
        bench.keys["tokenizer"] = "someone/some-tokenizer"
        assert bench.tokens().tokenizer_origin == "someone/some-tokenizer@0123abc"

    @pytest.mark.parametrize(
        ("name", "repository", "revision"),
        [
            ("gpt2", "openai-community/gpt2", None),
            ("gpt-neox", "EleutherAI/gpt-neox-20b", None),
            ("someone/some-tokenizer@v2", "someone/some-tokenizer", "v2"),
        ],
    )
    def test_what_is_asked_for(self, hub, monkeypatch, tmp_path, name, repository, revision) -> None:
        import huggingface_hub

        asked = []

        def download(name: str, file: str, revision: str | None) -> str:
            asked.append((name, file, revision))
            return str(hub / file)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        assert given(name, tmp_path)[1] == f"{repository}@0123abc"
        assert asked == [(repository, "tokenizer.json", revision)]

    def test_failures_are_one_line_without_secrets(self, hub, tmp_path, monkeypatch) -> None:
        import huggingface_hub
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        for error in (
            LocalEntryNotFoundError("cannot reach the Hub\nhttps://… second line"),
            ConnectionError("connection reset"),
            TimeoutError("timed out"),
            HFValidationError("bad name"),
        ):

            def fail(name: str, file: str, revision: None, error: Exception = error) -> str:
                raise error

            monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
            monkeypatch.setenv("HF_TOKEN", "hf_secret")
            with pytest.raises(DataError) as caught:
                given("someone/some-tokenizer", tmp_path)
            assert "someone/some-tokenizer" in str(caught.value)
            assert "\n" not in str(caught.value)
            assert "hf_secret" not in str(caught.value)


def test_a_bad_file_is_named(tmp_path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 3}))
    with pytest.raises(DataError, match=r"tokenizer\.json is no tokenizer"):
        given("tokenizer.json", tmp_path)
