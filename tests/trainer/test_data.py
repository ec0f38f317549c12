"""Samples: each token of the stream is a target once, shifted by one, with a reset where a document begins."""

import numpy as np
import pytest
import torch
from small_run import END_OF_TEXT, make_run

from adam.contract.errors import DataError
from adam.trainer.data import open_data


@pytest.fixture
def data(tmp_path):
    return open_data(make_run(tmp_path / "run"), seq_len=16)


def test_targets_are_the_tokens_shifted_by_one_and_each_is_used_once(data, tmp_path) -> None:
    stream = np.fromfile(tmp_path / "run" / "tokens" / "train.bin", dtype="<u2").astype(np.int64)
    batch = data.train.batch(list(range(data.train.count)))
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    used = batch.targets.reshape(-1).numpy()
    assert np.array_equal(used, stream[1 : 1 + len(used)])
    assert len(stream) - 1 - len(used) < 16


def test_a_reset_stands_where_a_document_begins_and_nowhere_else(data) -> None:
    batch = data.train.batch(list(range(data.train.count)))
    assert torch.equal(batch.resets, batch.tokens == END_OF_TEXT)
    assert batch.resets.any()


def test_a_batch_is_in_the_order_asked_for(data) -> None:
    forward, backward = data.train.batch([3, 7]), data.train.batch([7, 3])
    assert torch.equal(forward.tokens, backward.tokens.flip(0))


def test_too_little_text_for_one_sample_is_said(tmp_path) -> None:
    paths = make_run(tmp_path / "run")
    with pytest.raises(DataError, match=r"the train split has \d+ tokens, one sample needs 100001"):
        open_data(paths, seq_len=100_000)


def test_missing_or_cut_token_files_are_named(tmp_path) -> None:
    paths = make_run(tmp_path / "run")
    file = paths.tokens / "train.bin"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"train.bin has \d+ bytes, its manifest says"):
        open_data(paths, 16)
    file.unlink()
    with pytest.raises(DataError, match=r"train.bin is missing"):
        open_data(paths, 16)
    paths.tokens_manifest.unlink()
    with pytest.raises(DataError, match="no tokens at"):
        open_data(paths, 16)
