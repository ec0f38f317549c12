"""The last numbers of metrics.csv."""

import pytest

from adam.contract import metrics
from adam.daemon import numbers
from adam.daemon.numbers import Numbers, read_numbers, rows_backwards


def test_a_file_that_is_missing_empty_or_of_another_adam(tmp_path) -> None:
    path = tmp_path / "metrics.csv"
    for content in (None, b"", b"attempt,step", metrics.header() + b"\n", b"step,other\n1,2\n"):
        if content is not None:
            path.write_bytes(content)
        assert read_numbers(path) == Numbers()


@pytest.mark.parametrize("block", [1, 7, 100, 1 << 16])
@pytest.mark.parametrize("lost", [0, 3])
def test_rows_come_backwards_whatever_the_blocks_and_without_a_torn_one(
    world, monkeypatch, block: int, lost: int
) -> None:
    monkeypatch.setattr(numbers, "BLOCK", block)
    paths = world.run()
    world.write_metrics(paths, [world.row(step) for step in range(1, 8)], tail=world.row(8)[: -lost or None])
    assert [int(row["step"]) for row in rows_backwards(paths.metrics)] == [7, 6, 5, 4, 3, 2, 1]


def test_the_newest_row_and_the_newest_validation(world) -> None:
    paths = world.run()
    rows = [
        world.row(1),
        world.row(2, val_loss=4.5, val_bits_per_byte=2.25),
        world.row(3, step_s=0.25),
        world.row(4, loss=None),
    ]
    world.write_metrics(paths, rows)
    found = read_numbers(paths.metrics)
    assert (found.step, found.tokens, found.loss) == (4, 128, None)
    assert (found.val_loss, found.val_bits_per_byte) == (4.5, 2.25)
    assert found.tokens_per_second == pytest.approx(3 * 32 / (0.5 + 0.25 + 0.5))


def test_rows_that_were_trained_again_do_not_count(world) -> None:
    paths = world.run()
    first = [world.row(step, val_loss=float(step), val_bits_per_byte=1.0) for step in range(1, 10)]
    world.write_metrics(paths, [*first, world.row(5, attempt=2), world.row(6, attempt=2)])
    found = read_numbers(paths.metrics)
    assert (found.attempt, found.step, found.val_loss) == (2, 6, 4.0)
    assert read_numbers(paths.metrics, upto=3).val_loss == 3.0


def test_it_looks_back_only_so_far(world, monkeypatch) -> None:
    paths = world.run()
    world.write_metrics(
        paths, [world.row(1, val_loss=1.0, val_bits_per_byte=1.0), *(world.row(step) for step in range(2, 60))]
    )
    monkeypatch.setattr(numbers, "BLOCK", 500)
    monkeypatch.setattr(numbers, "MOST_BYTES", 1000)
    assert read_numbers(paths.metrics).val_loss is None
