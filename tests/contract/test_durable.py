"""Files survive: replaced whole or not at all, appended behind whole lines only."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam.contract import durable
from adam.contract.errors import DiskError


def test_a_replacement_that_fails_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.json"
    durable.replace_file(path, b"old")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        durable.replace_file(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_new_directories_have_durable_names(tmp_path, monkeypatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durable, "fsync_dir", synced.append)
    durable.make_directories(tmp_path / "runs" / "a" / "run")
    assert synced == [tmp_path, tmp_path / "runs", tmp_path / "runs" / "a"]
    durable.make_directories(tmp_path / "runs" / "a" / "run")
    assert len(synced) == 3 and (tmp_path / "runs" / "a" / "run").is_dir()


def test_a_reader_never_meets_half_a_replacement(tmp_path) -> None:
    path = tmp_path / "a"
    durable.replace_file(path, b"x" * 10)
    before = path.stat().st_ino
    durable.replace_file(path, b"y" * 10)
    assert path.stat().st_ino != before


LINES = st.lists(st.binary(max_size=50).map(lambda data: data.translate(None, b"\n\0")), max_size=5)


@given(whole=LINES, torn=st.binary(max_size=50).map(lambda data: data.replace(b"\n", b"")))
def test_a_torn_tail_is_cut_and_nothing_is_glued_to_it(tmp_path_factory, whole: list[bytes], torn: bytes) -> None:
    path = tmp_path_factory.mktemp("t") / "lines"
    path.write_bytes(b"".join(line + b"\n" for line in whole) + torn)
    appender = durable.LineAppender(path)
    assert appender.mended == len(torn)
    appender.append(b"next")
    appender.close()
    assert [line for _, line in durable.whole_lines(path)] == [*whole, b"next"]
    assert durable.last_line(path) == b"next"


@given(whole=LINES, block=st.integers(1, 40), behind=st.binary(max_size=50))
def test_lines_end_where_blocks_were_lost(tmp_path_factory, whole: list[bytes], block: int, behind: bytes) -> None:
    """A power cut that wrote a later block and not the one before it leaves zeros with lines behind them."""
    path = tmp_path_factory.mktemp("t") / "lines"
    path.write_bytes(b"".join(line + b"\n" for line in whole) + bytes(block) + behind + b"\n")
    assert [line for _, line in durable.log_lines(path)] == whole
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "COPY_BLOCK", 16)
        assert durable.mend_tail(path) == block + len(behind) + 1
    assert durable.last_line(path) == (whole[-1] if whole else None)


def test_the_last_line_is_one_without_zeros(tmp_path) -> None:
    (tmp_path / "lines").write_bytes(b"one\n" + b"y" * 70_000 + b"\0\n" + bytes(9) + b"\n")
    assert durable.last_line(tmp_path / "lines") == b"one"


def test_a_tail_longer_than_a_block_is_cut(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(durable, "COPY_BLOCK", 8)
    path = tmp_path / "lines"
    path.write_bytes(b"one\n" + b"x" * 100)
    assert durable.mend_tail(path) == 100
    assert path.read_bytes() == b"one\n"


def test_a_full_disk_leaves_whole_lines_only(tmp_path, monkeypatch) -> None:
    appender = durable.LineAppender(tmp_path / "lines")
    appender.append(b"one")
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    with pytest.raises(OSError, match="No space left"):
        appender.append(b"two-is-too-long")
    monkeypatch.setattr(os, "write", real)
    appender.append(b"three")
    assert (tmp_path / "lines").read_bytes() == b"one\nthree\n"


def test_the_last_line_is_found_from_the_end(tmp_path) -> None:
    path = tmp_path / "lines"
    assert durable.last_line(path) is None
    path.write_bytes(b"only torn")
    assert durable.last_line(path) is None
    path.write_bytes(b"one\n" + b"y" * 200_000 + b"\ntorn")
    assert durable.last_line(path) == b"y" * 200_000


def test_lines_can_be_followed_by_offset(tmp_path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"a\nbb\nccc")
    assert list(durable.whole_lines(path)) == [(2, b"a"), (5, b"bb")]
    assert list(durable.whole_lines(path, 2)) == [(5, b"bb")]


def test_no_room_is_said_with_figures_before_anything_is_written(tmp_path) -> None:
    with pytest.raises(DiskError, match=r"no room for shards in .*: 5\.0 GB needed, 1\.0 kB free"):
        durable.require_room(tmp_path, 5_000_000_000, "shards", free=1000)
    durable.require_room(tmp_path / "not" / "there", 1, "shards")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (33.2e9, "33.2 GB"), (4e12, "4.0 TB")]
)
def test_bytes_for_people(count: float, text: str) -> None:
    assert durable.human_bytes(count) == text


def test_copy_hashed_copies_and_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"z" * 3_000_000)
    with (tmp_path / "a").open("rb") as source, durable.new_file(tmp_path / "b") as target:
        digest = durable.copy_hashed(source, target)
    assert digest == durable.sha256_file(tmp_path / "b") == durable.sha256_file(tmp_path / "a")
