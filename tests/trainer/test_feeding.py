"""What is read from files arrives whole, whatever the size of a piece; a file that has become shorter is told."""

import os
from pathlib import Path

import pytest
import torch

from adam.trainer import feeding
from adam.trainer.feeding import Feeder


@pytest.fixture
def file(tmp_path: Path):
    (tmp_path / "file").write_bytes(os.urandom(100_000))
    with (tmp_path / "file").open("rb", buffering=0) as opened:
        yield opened


@pytest.mark.parametrize("stage", [1, 777, 1 << 20])
def test_all_arrives_from_where_it_lies(file, stage: int, monkeypatch) -> None:
    monkeypatch.setattr(feeding, "STAGE_BYTES", stage)
    data = file.read()
    matrix, scalar, empty = torch.zeros(13, 17), torch.tensor(0.0, requires_grad=True), torch.zeros(0)
    with Feeder(device="cpu") as feed:
        feed.copy(matrix[2:5], file.fileno(), 50)
        feed.copy(scalar, file.fileno(), 4001)
        feed.copy(empty, file.fileno(), 10)
        feed.wait(1)
        feed.finish()
    assert matrix[2:5].numpy().tobytes() == data[50 : 50 + 3 * 17 * 4]
    assert not matrix[:2].any() and not matrix[5:].any()
    assert scalar.detach().numpy().tobytes() == data[4001:4005]


def test_a_file_that_has_become_shorter_is_told(file) -> None:
    target = torch.zeros(1000, dtype=torch.uint8)
    with pytest.raises(EOFError, match="ends at byte 100000"), Feeder(device="cpu") as feed:
        feed.copy(target, file.fileno(), 99_500)
        feed.finish()
    assert target[:500].numpy().tobytes() == os.pread(file.fileno(), 500, 99_500)
