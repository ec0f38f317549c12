"""Between filters and shards: batches of any size give the same bytes, and what is marked in a document stays with it."""

import msgspec
import pytest

from adam.contract.errors import StoppedError
from adam.forge import build
from adam.forge.documents import Mask, Span


class Upper:
    """Writes a document's first word large, and says so."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.begun = self.most = self.closed = 0

    def begin(self, documents):
        self.sizes.append(len(documents))
        self.begun += 1
        self.most = max(self.most, self.begun)
        return lambda: self.done(documents)

    def done(self, documents):
        self.begun -= 1
        return [self.changed(document) for document in documents]

    @staticmethod
    def changed(document):
        word, _, rest = document.text.partition(" ")
        marks = {"masks": (Mask(0, len(word) + 1, "WORD", word),), "spans": (Span(0, len(word), "prompt"),)}
        return msgspec.structs.replace(document, text=f"{word.upper()}! {rest}", meta={"first": word}, **marks)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def upper(monkeypatch) -> Upper:
    transform = Upper()
    monkeypatch.setattr(build, "open_transforms", lambda *_: [transform])
    return transform


def test_it_is_given_batches_and_what_it_says_is_kept(bench, upper, monkeypatch) -> None:
    monkeypatch.setattr(build, "BATCH_DOCUMENTS", 20)
    bench.shards()
    assert upper.sizes == [20, 20, 5]
    assert upper.closed == 1
    for record in bench.records():
        ((start, end, label, original),) = record["masks"]
        assert (record["text"][start:end], label) == (original.upper() + "!", "WORD")
        assert record["meta"] == {"first": original}
        assert record["spans"] == [[0, len(original), "prompt"]]


def test_several_batches_are_at_work_at_a_time_and_stay_in_order(bench, bench_at, upper, monkeypatch) -> None:
    monkeypatch.setattr(build, "BATCH_DOCUMENTS", 2)
    monkeypatch.setattr(build, "BEGUN", 5)
    bench.shards()
    assert upper.most == 5
    assert upper.begun == 0
    monkeypatch.undo()
    monkeypatch.setattr(build, "open_transforms", lambda *_: [upper])
    whole = bench_at("whole")
    whole.shards()
    assert bench.digests() == whole.digests()


def test_batches_that_end_elsewhere_give_the_same_bytes(bench, bench_at, upper, monkeypatch) -> None:
    whole = bench_at("whole")
    whole.shards()
    sizes, upper.sizes = upper.sizes, []
    for stop_after in (3, 7, 11, 2):
        left = iter(range(stop_after))
        with pytest.raises(StoppedError):
            bench.shards(stop=lambda left=left: next(left, None) is None)
    bench.shards()
    assert upper.sizes != sizes
    assert bench.digests() == whole.digests()


def test_the_splits_and_duplicates_are_those_of_the_text_that_was_read(bench, bench_at, upper, monkeypatch) -> None:
    bench.shards()
    ids = [record["id"] for record in bench.records()]
    monkeypatch.setattr(build, "open_transforms", lambda *_: [])
    plain = bench_at("plain")
    plain.shards()
    assert [record["id"] for record in plain.records()] == ids
