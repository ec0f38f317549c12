"""Which tokens are prompt: by bytes, by the library's offsets, and in the files of a run."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers

from adam.contract.config_forge import Forge
from adam.contract.config_skeletons import Skeletons
from adam.contract.shards import check_files, token_files
from adam.forge import build
from adam.forge.documents import Mask, Span
from adam.forge.loss_spans import PromptFinder
from adam.forge.tokenizer import bytes_of_ids, end_of_text, learn, register, take_marks_as_text

TEXT = "Question: été à la mer?\nReasoning: 🐎 because of it. "


def finder_of(normalizer=None) -> tuple[PromptFinder, Tokenizer]:
    tokenizer = learn([TEXT * 20], Forge(vocab_size=330))
    tokenizer.normalizer = normalizer
    mark = end_of_text(tokenizer)
    known = register(tokenizer, ("<A>", "</A>"))
    take_marks_as_text(tokenizer, mark)
    return PromptFinder(tokenizer, bytes_of_ids(tokenizer, mark, known)), tokenizer


BY_BYTES, BYTE_TOKENIZER = finder_of()
BY_OFFSETS, OFFSET_TOKENIZER = finder_of(normalizers.NFC())


def slowly(tokenizer: Tokenizer, text: str, spans: list[Span]) -> list[int]:
    """Tokens all of whose characters are in prompts."""
    prompt = {at for span in spans if span.role == "prompt" for at in range(span.start, span.end)}
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    return [number for number, (start, end) in enumerate(offsets) if set(range(start, end)) <= prompt]


@st.composite
def spanned(draw) -> tuple[str, tuple[Span, ...]]:
    text = draw(st.text(st.sampled_from("Qu est:\n .é🐎\u0301"), max_size=60)) + TEXT
    places = sorted(draw(st.sets(st.integers(0, len(text)), min_size=2, max_size=8)))
    roles = [draw(st.sampled_from(["prompt", "answer", ""])) for _ in places[1:]]
    return text, tuple(Span(a, b, role) for a, b, role in zip(places, places[1:], roles, strict=False) if role)


@settings(deadline=None, max_examples=200)
@given(spanned())
@pytest.mark.parametrize(("finder", "tokenizer"), [(BY_BYTES, BYTE_TOKENIZER), (BY_OFFSETS, OFFSET_TOKENIZER)])
def test_a_token_is_prompt_where_all_of_it_is(finder, tokenizer, case) -> None:
    text, spans = case
    ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.uint32)
    runs = finder.find(text, spans, ids)
    assert [at for first, end in runs for at in range(first, end)] == slowly(tokenizer, text, list(spans))
    assert (np.diff(runs.ravel()) > 0).all()


def test_a_normaliser_that_leaves_the_number_of_bytes_by_chance_is_not_believed() -> None:
    """Two accents are joined to their letters and lose a byte each; U+0344 is taken apart and gains two."""
    text = "e\u0301 e\u0301 and x\u0344 it"
    assert len(normalizers.NFC().normalize_str(text).encode()) == len(text.encode())
    ids = np.array(OFFSET_TOKENIZER.encode(text, add_special_tokens=False).ids, dtype=np.uint32)
    for end in range(1, len(text) + 1):
        spans = [Span(0, end, "prompt")]
        runs = BY_OFFSETS.find(text, tuple(spans), ids)
        assert [at for first, last in runs for at in range(first, last)] == slowly(OFFSET_TOKENIZER, text, spans)


@pytest.mark.parametrize(("finder", "tokenizer"), [(BY_BYTES, BYTE_TOKENIZER), (BY_OFFSETS, OFFSET_TOKENIZER)])
def test_marks_of_masks_are_tokens_too(finder, tokenizer) -> None:
    left, right = (tokenizer.encode(part, add_special_tokens=False).ids for part in ("é is ", " of it"))
    text, mark = "é is <A> of it", tokenizer.token_to_id("<A>")
    ids = np.array([*left, mark, *right], dtype=np.uint32)
    for end, tokens in ((5, len(left)), (8, len(left) + 1), (len(text), len(ids)), (6, len(left))):
        assert finder.find(text, (Span(0, end, "prompt"),), ids, [(5, 8)]).tolist() == [[0, tokens]]


class Chat:
    """Stands for the templates: the first word of a document is its prompt; a mark is written before its second."""

    def begin(self, documents):
        for document in documents:
            end = document.text.index(" ") + 1
            document.text = f"{document.text[:end]}<SEARCH>{document.text[end:]} <SEARCH>"
            document.masks = (Mask(end, end + 8, "trajectory", ""),)
            document.spans = (Span(0, end, "prompt"), Span(end, len(document.text), "answer"))
        return lambda: documents

    def close(self) -> None:
        pass


@pytest.fixture
def chat(bench, monkeypatch):
    monkeypatch.setattr(build, "open_transforms", lambda *rest: [Chat()])
    return bench


def test_prompts_and_marks_are_in_the_tokens_of_a_run(chat) -> None:
    shards = chat.shards()
    chat.keys["skeletons"] = Skeletons(enabled=True)  # the shards are made without, since they need spaCy's model
    manifest = chat.tokens(shards)
    tokenizer = Tokenizer.from_file(str(chat.paths.tokens / "tokenizer.json"))
    table = np.fromfile(chat.paths.tokens / "token_bytes", dtype="<u2")
    check_files(chat.paths.tokens, token_files(manifest), digests=True)
    search = manifest.marks["<SEARCH>"]
    assert search == tokenizer.token_to_id("<SEARCH>")
    for name, split in manifest.splits.items():
        ids = np.fromfile(chat.paths.tokens / f"{name}.bin", dtype=split.dtype)
        starts = np.fromfile(chat.paths.tokens / f"{name}.docs", dtype="<u8").astype(int)
        prompts = np.fromfile(chat.paths.tokens / f"{name}.spans", dtype="<u8").astype(int).reshape(-1, 2)
        assert {f"{name}.bin", f"{name}.docs", f"{name}.spans"} <= {file.name for file in token_files(manifest)}
        assert len(prompts) == split.documents == len(starts) > 0
        assert (prompts[:, 1] - prompts[:, 0]).sum() == split.prompt_tokens
        assert table[ids].sum() == split.text_bytes
        texts = [record["text"] for record in chat.records() if record["text"]]
        for start, end, (first, last) in zip(starts, [*starts[1:], len(ids) - 1], prompts, strict=True):
            text = tokenizer.decode(ids[start + 1 : end].tolist(), skip_special_tokens=False)
            assert text in texts
            # the last word is written like a mark, and is none
            assert (ids[start:end] == search).sum() == 1
            assert ids[last] == search
            assert first == start + 1
            assert tokenizer.decode(ids[first:last].tolist()) == text[: text.index("<SEARCH>")]


def test_without_prompts_and_marks_there_is_nothing_of_them(bench) -> None:
    manifest = bench.tokens()
    assert not list(bench.paths.tokens.glob("*.spans"))
    assert manifest.marks == {}
    assert all(split.prompts is None and split.prompt_tokens == 0 for split in manifest.splits.values())


def test_nothing_is_learnt_from_how_marks_are_written() -> None:
    tokenizer = learn(["ab<SEARCH>cd</SEARCH>" * 50], Forge(vocab_size=300), ("<SEARCH>", "</SEARCH>"))
    assert not [token for token in json.loads(tokenizer.to_str())["model"]["vocab"] if "SE" in token or "b<" in token]
    assert register(tokenizer, ("<SEARCH>",))["<SEARCH>"] == tokenizer.get_vocab_size() - 1
    tokenizer.add_tokens([AddedToken("x y")])
    assert register(tokenizer, ("<SEARCH>", "x y"))["x y"] == tokenizer.token_to_id("x y")
