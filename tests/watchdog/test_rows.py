"""Rows are read once each and in order, whatever becomes of the file."""

from metric_rows import line, write_rows

from adam.contract.metrics import COLUMNS, header
from adam.watchdog.rows import Rows


def keys(rows: Rows, most: int = 100) -> list[tuple[int, int]]:
    return [row.key for row in rows.read(most)]


def test_reads_on_and_only_whole_rows(paths) -> None:
    rows = Rows(paths.metrics)
    assert keys(rows) == []
    write_rows(paths, (1, 1), (1, 2), (1, 3))
    assert (keys(rows, 2), keys(rows, 2), keys(rows, 2)) == ([(1, 1), (1, 2)], [(1, 3)], [])
    with paths.metrics.open("ab") as file:
        file.write(line(1, 4)[:-5])
    assert keys(rows) == []
    with paths.metrics.open("ab") as file:
        file.write(line(1, 4)[-5:] + b"what is that?\n" + line(2, 3))
    found = rows.read(100)
    assert [row.key for row in found] == [(1, 4), (2, 3)]
    assert found[0].number("loss") == 4.96 and found[0].number("val_loss") is None
    assert found[1].wall == 1.8e9 + 3.25


def test_goes_on_behind_its_key_in_a_file_that_was_cut_replaced_or_widened(paths) -> None:
    write_rows(paths, (1, 1), (1, 2), (1, 3))
    assert keys(Rows(paths.metrics, (1, 2))) == [(1, 3)]
    rows = Rows(paths.metrics)
    rows.read(100)
    paths.metrics.write_bytes(header() + b"\n" + line(1, 1))
    assert keys(rows) == []
    write_rows(paths, (1, 2), (1, 3), (2, 2))
    assert keys(rows) == [(2, 2)]
    wider = paths.metrics.with_name("wider")
    wider.write_bytes(b"new," + header() + b"\n7," + line(2, 2) + b"7," + line(2, 3))
    wider.rename(paths.metrics)
    (row,) = rows.read(100)
    assert (row.key, row.cells["new"]) == ((2, 3), "7")


def test_an_older_file_lacks_columns(paths) -> None:
    paths.metrics.write_text("timestamp,attempt,step,loss\n,1,1,2.5\n,1,2\n,1,3,nan\n,one,4,2.5\n,1,5,much\n")
    found = Rows(paths.metrics).read(100)
    assert [row.key for row in found] == [(1, 1), (1, 3), (1, 5)] and found[2].number("loss") is None
    assert found[1].number("loss") != found[1].number("loss")
    assert set(found[0].cells) < set(COLUMNS)
