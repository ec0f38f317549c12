"""Listing: every file once, in one order, whatever its name; what can't be read is counted and named."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam.contract.config_forge import Forge, Source
from adam.contract.errors import DataError
from adam.contract.shards import changed_sources, load_shards, path_text, text_path
from adam.forge import readers
from adam.forge.sources import documents, open_source, open_sources


def test_what_is_left_out(tmp_path) -> None:
    for name in (
        "b.txt",
        "a/c.py",
        ".git/x.py",
        ".venv/y.py",
        "__pycache__/z.py",
        "a/.hidden.md",
        "node_modules/q.js",
        "d.bin",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "a" / "loop").symlink_to("..")
    origin = open_source(Source(path=str(tmp_path)), Forge(), tmp_path)
    assert origin.files == [tmp_path / "b.txt", tmp_path / "a" / "c.py"]


def test_a_file_that_is_named_itself_is_read_whatever_its_ending(tmp_path) -> None:
    (tmp_path / "LICENSE").write_text("words " * 20)
    origin = open_source(Source(path="LICENSE"), Forge(), tmp_path)
    assert [document.text for document in documents(origin.files[0], origin)] == ["words " * 20]


def test_sources_of_one_name_are_told_apart(tmp_path) -> None:
    for name in ("one/text", "two/text", "three/text"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.txt").write_text("x")
    paths = tuple(Source(path=name) for name in ("one/text", "two/text", "three/text"))
    assert [origin.name for origin in open_sources(Forge(sources=paths), tmp_path)] == ["text", "text-2", "text-3"]


@pytest.mark.parametrize("path", ["nowhere", "nowhere/at/all.txt"])
def test_a_source_that_is_not_there(tmp_path, path) -> None:
    with pytest.raises(DataError, match="no such source"):
        open_source(Source(path=path), Forge(), tmp_path)


def test_the_standard_library_is_its_source_and_its_reference() -> None:
    origin = open_source(Source(kind="stdlib"), Forge(), Path("/"))
    assert len(origin.files) > 500
    assert origin.path.startswith("python-3.")
    assert not any({"site-packages", "dist-packages", "__pycache__"} & set(path.parts) for path in origin.files)
    (topics,) = [path for path in origin.files if path.parts[-2:] == ("pydoc_data", "topics.py")]
    found = [document.text or "" for document in documents(topics, origin)]
    assert len(found) > 50
    assert any(text.startswith('The "while" statement') for text in found)


def test_a_topics_module_is_read_and_not_run(tmp_path) -> None:
    path = tmp_path / "pydoc_data" / "topics.py"
    path.parent.mkdir()
    origin = open_source(Source(kind="stdlib"), Forge(), tmp_path)
    path.write_text("topics = {'a': 'text of a'}\nraise SystemExit('run!')\n")
    assert [document.text for document in documents(path, origin)] == ["text of a"]


def test_what_can_not_be_opened_is_counted_and_named(bench, folder) -> None:
    os.mkfifo(folder / "pipe.txt")  # opening it would wait for a writer for ever
    (folder / "dangling.txt").symlink_to("nowhere")
    (folder / "self.txt").symlink_to("self.txt")
    (folder / "folder.txt").mkdir()
    bench.tokens()
    manifest = load_shards(bench.paths)
    assert manifest is not None
    assert manifest.sources[0].files_skipped == {"unreadable": 3}
    assert {Path(entry.path).name for entry in manifest.skipped} == {"pipe.txt", "dangling.txt", "self.txt"}
    assert list(changed_sources(bench.paths)) == []
    (folder / "dangling.txt").unlink()
    (folder / "dangling.txt").write_text("now it is there")
    assert [line.rpartition("/")[2] for line in changed_sources(bench.paths)] == ["dangling.txt has changed"]


def test_a_folder_that_can_not_be_listed_is_named(bench, folder, monkeypatch) -> None:
    (folder / "closed").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert bench.shards().sources[0].files_skipped == {"unreadable": 1}


def test_a_file_too_large_to_be_held_is_skipped_and_lines_are_not(bench, folder, monkeypatch) -> None:
    monkeypatch.setattr(readers, "LARGEST_FILE", 1000)
    (folder / "large.py").write_text("x" * 1001)
    assert (folder / "records.jsonl").stat().st_size > 1000
    manifest = bench.shards()
    assert manifest.sources[0].files_skipped == {"too_large": 1}
    assert manifest.sources[0].documents_written == 45


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
def test_any_path_can_be_written_down(name: bytes) -> None:
    path = Path(os.fsdecode(b"/" + name))
    text = path_text(path)
    text.encode()
    assert text_path(text) == path


def test_names_that_are_not_text_are_read_listed_and_watched(bench, folder) -> None:
    odd = [os.fsdecode(name) for name in (b"\xff\xfe.txt", b"new\nline.txt", b"100%.txt", b"\xe2\x86\x92\xff.py")]
    for number, name in enumerate(odd):
        (folder / name).write_text(f"text number {number} " * 10)
    manifest = bench.shards()
    assert manifest.sources[0].documents_written == 45 + 4
    assert {text_path(record["path"]).name for record in bench.records()} >= set(odd)
    assert list(changed_sources(bench.paths)) == []
    (folder / odd[0]).write_text("something else")
    (line,) = changed_sources(bench.paths)
    assert line.endswith("%FF%FE.txt has changed")


def test_what_no_reader_takes_is_counted_and_listed(bench, folder) -> None:
    """Whoever looks for a file of the folder finds it in the listing, or a folder around it, with the reason."""
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "README").write_text("no ending")
    (folder / ".hidden.txt").write_text("hidden")
    (folder / "node_modules").mkdir()
    (folder / "node_modules" / "a.txt").write_text("somebody else's")
    (folder / ".git").mkdir()
    (folder / "again").symlink_to(folder / ".git")
    bench.keys["sources"] = (Source(path=str(folder), files=("[!1]*",)),)
    bench.tokens()
    manifest = load_shards(bench.paths)
    assert manifest is not None
    counted = {"unknown_ending": 2, "hidden": 2, "folder_left_out": 1, "link_to_folder": 1, "not_selected": 5}
    assert manifest.sources[0].files_skipped == counted
    assert manifest.sources[0].files == 11 + sum(counted.values())
    listed = [json.loads(line) for line in (bench.paths.shards / "sources.jsonl").read_text().splitlines()]
    reasons = {Path(entry["path"]).name: entry["skipped"] for entry in listed}
    assert [reasons[name] for name in ("picture.png", ".git", "again")] == [
        "unknown_ending",
        "hidden",
        "link_to_folder",
    ]
    assert {entry.skipped for entry in manifest.skipped} == set(counted)
    (folder / "picture.png").write_bytes(b"another")  # nobody has read it
    assert list(changed_sources(bench.paths)) == []
