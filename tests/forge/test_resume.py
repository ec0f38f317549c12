"""Stopped, killed, filled up, damaged: what is there goes on, and ends with the bytes of a forge that was left alone."""

import errno
import os
import random
import subprocess
from pathlib import Path

import pytest

from adam.contract.errors import DataError, DiskError, StoppedError
from adam.contract.schema import load
from adam.contract.shards import load_shards
from adam.forge import build, finish
from adam.forge.journal import Journal
from adam.forge.writer import ShardWriter


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.fixture
def whole(bench_at) -> dict[str, str]:
    """The digests of an undisturbed forge."""
    bench = bench_at("whole")
    bench.tokens()
    return bench.digests()


def asked_after(count: int):
    left = iter(range(count))
    return lambda: next(left, None) is None


def killed_at(monkeypatch, owner, name: str, call: int) -> None:
    """Have the call number `call` of `owner.name`, and all later ones, kill."""
    real, left = getattr(owner, name), iter(range(call))

    def dying(*arguments, **keys):
        if next(left, None) is None:
            raise Killed
        return real(*arguments, **keys)

    monkeypatch.setattr(owner, name, dying)


def test_stopped_at_every_document_it_goes_on_there(bench, whole) -> None:
    """Files and records within a file alike; no start does more than two checks' worth of work."""
    starts = 0
    while True:
        try:
            bench.tokens(bench.shards(stop=asked_after(2)))
            break
        except StoppedError:
            starts += 1
    assert starts >= 30
    assert bench.digests() == whole


def test_a_stop_in_a_large_file_keeps_what_was_read_of_it(bench, folder, monkeypatch) -> None:
    with pytest.raises(StoppedError):
        bench.shards(stop=asked_after(45))
    journal = load(bench.paths.shards_work / "journal.json", Journal)
    assert journal is not None
    assert journal.cursors[0].record > 5
    taken = []
    real = build.Build._take
    monkeypatch.setattr(build.Build, "_take", lambda self, *rest: (taken.append(rest), real(self, *rest))[1])
    manifest = bench.shards()
    assert 0 < len(taken) < 25
    assert manifest.sources[0].documents_read == 45


def test_killed_at_every_write_it_ends_with_the_same_bytes(bench, whole, monkeypatch) -> None:
    monkeypatch.setattr(build, "JOURNAL_BYTES", 1500)
    for call in range(1, 60, 3):
        with monkeypatch.context() as context:
            killed_at(context, ShardWriter, "write", call % 25)
            with pytest.raises(Killed):
                bench.shards()
                raise Killed  # it came to its end
        if load_shards(bench.paths):
            break
    bench.tokens(load_shards(bench.paths))
    assert bench.digests() == whole


@pytest.mark.parametrize("journalled", [True, False])
@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (ShardWriter, "finish", 0), (build, "revisions", 0), (build, "publish", 0),
        (Path, "replace", 1), (Path, "replace", 2), (finish, "fsync_dir", 0), (finish, "replace_file", 0), (finish.shutil, "rmtree", 0),
    ],
)  # fmt: skip
def test_killed_while_files_are_moved(bench, whole, monkeypatch, owner, name, call, journalled) -> None:
    """The moment between the data and its manifest: files that have moved must not be made again, empty."""
    if journalled:
        with pytest.raises(StoppedError):
            bench.shards(stop=asked_after(40))
    with monkeypatch.context() as context:
        killed_at(context, owner, name, call)
        with pytest.raises(Killed):
            bench.shards()
    bench.tokens(load_shards(bench.paths) or bench.shards())
    left = set(bench.digests()) - set(whole)
    work = {f"shards/.work/{name}" for name in ("manifest.json", "journal.json", "near.rows", "near.paths")}
    assert left <= {"shards/.work", *work}
    assert {name: digest for name, digest in bench.digests().items() if name not in left} == whole


@pytest.mark.parametrize("name", ["replace", "rmdir"])
def test_killed_while_tokens_are_moved(bench, whole, monkeypatch, name) -> None:
    shards = bench.shards()
    with monkeypatch.context() as context:
        killed_at(context, Path, name, 2 if name == "replace" else 0)
        with pytest.raises(Killed):
            bench.tokens(shards)
    assert not bench.paths.tokens_manifest.exists()
    bench.tokens(shards)
    assert bench.digests() == whole


@pytest.mark.parametrize("damage", ["short", "zeros", "gone", "no journal", "torn journal", "other journal"])
def test_damaged_work_is_begun_again(bench, whole, damage) -> None:
    with pytest.raises(StoppedError):
        bench.shards(stop=asked_after(30))
    shard, journal = bench.paths.shards_work / "train-00000.jsonl", bench.paths.shards_work / "journal.json"
    match damage:
        case "short":
            os.truncate(shard, 10)
        case "zeros":
            shard.write_bytes(bytes(shard.stat().st_size - 1) + b"\n")
        case "gone":
            shard.unlink()
        case "no journal":
            journal.unlink()
        case "torn journal":
            journal.write_bytes(journal.read_bytes()[:50])
        case "other journal":
            journal.write_bytes(random.Random(0).randbytes(200))
    bench.tokens()
    assert bench.digests() == whole


def test_sources_that_changed_meanwhile_are_read_again_from_the_start(bench, bench_at, folder) -> None:
    with pytest.raises(StoppedError):
        bench.shards(stop=asked_after(30))
    (folder / "000-first.txt").write_text("something new " * 20)
    bench.tokens()
    other = bench_at("other")
    other.tokens()
    assert bench.digests() == other.digests()


def test_a_journal_follows_each_closed_shard(bench, monkeypatch) -> None:
    monkeypatch.setattr(ShardWriter, "__init__", limited(ShardWriter.__init__, 2000))
    saved = []
    real = build.Build._write_journal
    monkeypatch.setattr(build.Build, "_write_journal", lambda self, *at: (saved.append(at), real(self, *at))[1])
    manifest = bench.shards()
    assert len(manifest.files) > 5
    assert len(manifest.files) - 2 <= len(saved) <= len(manifest.files)
    names = [file.name for file in manifest.files]
    assert names == sorted(names)
    assert sum(file.documents for file in manifest.files) == 45


def limited(real, limit: int):
    return lambda self, directory, _, journal, tick: real(self, directory, limit, journal, tick)


def test_no_room_is_said_before_anything_is_written(bench) -> None:
    with pytest.raises(DiskError, match=r"no room for shards and tokens .* 1\.0 kB free"):
        bench.shards(free=1000)
    assert not bench.paths.shards.exists()
    shards = bench.shards()
    with pytest.raises(DiskError, match="no room for tokens"):
        bench.tokens(shards, free=1000)
    assert not bench.paths.tokens.exists()


def test_a_full_disk_is_an_oserror_and_what_is_there_goes_on(bench, whole, monkeypatch) -> None:
    monkeypatch.setattr(build, "JOURNAL_BYTES", 1500)
    real, left = os.write, iter(range(20))

    def write(fd: int, data: bytes) -> int:
        if next(left, None) is None:
            real(fd, data[:7])  # a part may have been taken
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    with monkeypatch.context() as context:
        context.setattr(os, "write", write)
        with pytest.raises(OSError, match="No space"):
            bench.shards()
    journal = load(bench.paths.shards_work / "journal.json", Journal)
    assert journal is not None
    assert journal.cursors[0].file > 0
    bench.tokens()
    assert bench.digests() == whole


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
def test_on_a_disk_that_is_really_full(bench_at, tmp_path, whole) -> None:
    """It fills up at many places, in shards and in tokens: an OSError with ENOSPC each time, and at the end the same bytes."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24k,nr_inodes=60", "tmpfs", str(small)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        bench, full_at = bench_at("small/run"), []
        for size in range(24, 400, 8):
            subprocess.run(["mount", "-o", f"remount,size={size}k", str(small)], check=True)
            try:
                bench.tokens(load_shards(bench.paths))
                break
            except OSError as error:
                assert error.errno == errno.ENOSPC
                full_at.append("tokens" if load_shards(bench.paths) else "shards")
                assert not bench.paths.tokens_manifest.exists()
        assert set(full_at) == {"shards", "tokens"}
        assert bench.digests() == whole
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_an_empty_split_is_refused_with_a_share_that_fills_it(bench) -> None:
    bench.keys["val_fraction"] = 1e-9
    with pytest.raises(DataError, match=r"no document of 45 fell into the val split; .* to (0\.\d\d)$") as caught:
        bench.shards()
    assert not bench.paths.shards.exists()
    bench.keys["val_fraction"] = float(str(caught.value).split()[-1])
    assert {file.split for file in bench.shards().files} == {"train", "val"}


def test_one_document_is_too_few(bench, folder) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "one.txt").write_text("one text " * 50)
    with pytest.raises(DataError, match=r"no document of 1 fell into the val split; add documents$"):
        bench.shards()
    (folder / "one.txt").write_text("\n\n".join(f"paragraph {n} of a book " * 4 for n in range(10_000)))
    assert bench.shards().sources[0].documents_written > 20


def test_a_source_that_gives_nothing_is_named_with_the_reasons(bench, folder) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "a.txt").write_text("short")
    (folder / "b.txt").write_bytes(b"\0")
    with pytest.raises(DataError, match=r"text gave no document \(too_short 1, binary 1\)"):
        bench.shards()
    assert not bench.paths.shards.exists()


def test_the_revision_pins_the_bytes_and_not_the_time(bench, bench_at, folder) -> None:
    first = bench.shards().sources[0].revision
    os.utime(folder / "03.txt")
    assert bench_at("second").shards().sources[0].revision == first
    (folder / "03.txt").write_text("other bytes " * 20)
    assert bench_at("third").shards().sources[0].revision != first
