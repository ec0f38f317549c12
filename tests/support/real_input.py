"""Checks on a forge's output that share no code with it: is every file accounted for, and does a record's text stand in its file?"""

import bz2
import gzip
import html
import json
import lzma
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

UNPACK = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}


def listed(shards: Path) -> dict[str, str]:
    """Path -> why it was not read (empty: it was), of all sources."""
    entries = map(json.loads, (shards / "sources.jsonl").read_text().splitlines())
    return {entry["path"]: entry["skipped"] for entry in entries}


def not_accounted_for(folder: Path, known: dict[str, str]) -> list[str]:
    """What is below `folder`, of whatever kind, and is neither listed nor below a folder that is listed as left out."""
    missing, folders = [], [str(folder)]
    while folders:
        for entry in os.scandir(folders.pop()):
            if entry.path in known:
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            else:
                missing.append(entry.path)
    return missing


def records(shards: Path) -> Iterator[dict[str, str]]:
    for path in sorted(shards.glob("*-*.jsonl")):
        with path.open() as lines:
            yield from map(json.loads, lines)


def unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    return UNPACK[path.suffix](data) if path.suffix in UNPACK else data


def not_in_file(record: dict[str, str]) -> str:
    """The first line of a record that its file has not, or not behind the line before; empty: all is there."""
    path = Path(record["path"])
    name = path.name.removesuffix(path.suffix) if path.suffix in UNPACK else path.name
    text = unpacked(path).decode("utf-8-sig")
    if name.endswith((".html", ".htm")):
        return _not_in_page(record["text"], text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "" if record["text"] in text else record["text"][:200]


def _not_in_page(text: str, page: str) -> str:
    """Line by line, in order, without blanks and the marks of lists; tags are cut out of the page's source."""
    source = _squeezed(html.unescape(re.sub(r"<[^>]*>", "", page)))
    at = 0
    for line in filter(str.strip, text.splitlines()):
        # With the mark that a list gave it, or without: whichever stands nearer.
        ends = [
            _behind(_squeezed(wanted), source, at) for wanted in (line, re.sub(r"^\s*(?:-|\d+\.)(?:\s|$)", "", line))
        ]
        if not any(ends):
            return line
        at = min(end for end in ends if end)
    return ""


def _behind(wanted: str, source: str, start: int) -> int:
    """Where the first `wanted` from `start` on ends; 0: there is none."""
    found = source.find(wanted, start)
    return found + len(wanted) if found >= 0 else 0


def _squeezed(text: str) -> str:
    return re.sub(r"[\s¶]+", "", text)


def share_of_words(wanted: str, there: Iterable[str]) -> float:
    """How many of the words of `wanted` (as often as they come) are in the texts."""
    words, found = Counter(_words(wanted)), Counter(word for text in there for word in _words(text))
    return sum((words & found).values()) / max(1, words.total())


def _words(text: str) -> list[str]:
    """Of letters, three or more, whatever their ligatures; words that were cut at a line's end are one."""
    plain = unicodedata.normalize("NFKC", re.sub(r"[-\u00ad]\n\s*", "", text)).lower()
    return re.findall(r"[^\W\d_]{3,}", plain)
