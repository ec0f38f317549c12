"""Files that are broken in the ways that files are: by disks and networks, by programs, by people, and by those who mean harm.

`broken(name, data, rng)` is pure: the same seed gives the same file again.
"""

import json
import random
import re
import zlib
from collections.abc import Callable

from forge_files import PACKERS

Change = Callable[[bytes, random.Random], bytes]
SIZES = [1, 1, 4, 64, 500]
NUMBERS = [b"0", b"-1", b"1e999", b"2147483648", b"18446744073709551616", b"9" * 5000, b"NaN", b"-Infinity", b"0x10", b"007"]  # fmt: skip
TOKENS = [
    b'"', b"'", b"\n", b"\r", b"\r\n", b"{", b"}", b"[", b"]", b",", b":", b"<", b">", b"&", b"\\", b"\xff", b"\x00", b"\x1a", b"\x85",
    b"\\u", b"\\ud800", b"\\udc00\\ud800", b"\\u0000", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xe2\x80\xa8",
    b"]]>", b"<!", b"<!--", b"-->", b"</", b"<?", b"&#x110000;", b"&#xd800;", b"&amp", b"<![CDATA[", b"<svg>", b"</body>", b"</head>",
    b"null", b"true", b"{}", b"[[]]", b'""', b"endobj", b"endstream",
    b"stream\n", b"<<", b">>", b"%%EOF", b"0 0 R", b"\x1f\x8b\x08", b"PAR1", b"ARROW1",
]  # fmt: skip
ENCODINGS = ["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-7", "utf-8-sig"]
NESTS = [b"[", b'{"a":', b"<div>", b"(", b"- ", b"<<", b'[{"text":', b"<a b='", b"&a"]
BOMBS = {
    "xml": b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;">'
    b'<!ENTITY d "&c;&c;&c;&c;&c;"><!ENTITY x SYSTEM "file:///etc/passwd">]><l>&d;&x;</l>',
    "yaml": b"a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c]\n? *d\n",
}


def _cut(data: bytes, rng: random.Random) -> tuple[int, int]:
    at = rng.randrange(len(data) + 1)
    return at, min(len(data), at + rng.choice(SIZES))


def noise(data: bytes, rng: random.Random) -> bytes:
    at, end = _cut(data, rng)
    return data[:at] + rng.randbytes(end - at) + data[end:]


def zeros(data: bytes, rng: random.Random) -> bytes:
    at, end = _cut(data, rng)
    return data[:at] + bytes(end - at) + data[end:]


def bit(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def gone(data: bytes, rng: random.Random) -> bytes:
    at, end = _cut(data, rng)
    return data[:at] + data[end:]


def twice(data: bytes, rng: random.Random) -> bytes:
    at, end = _cut(data, rng)
    return data[:end] + data[at:]


def moved(data: bytes, rng: random.Random) -> bytes:
    at, end = _cut(data, rng)
    rest, to = data[:at] + data[end:], rng.randrange(len(data) + 1)
    return rest[:to] + data[at:end] + rest[to:]


def short(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))] if rng.random() < 0.3 else data


def token(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(TOKENS) + data[at:]


def number(data: bytes, rng: random.Random) -> bytes:
    """Another number where one stands."""
    found = list(re.finditer(rb"\d+", data))
    if not found:
        return data
    one = rng.choice(found)
    return data[: one.start()] + rng.choice(NUMBERS) + data[one.end() :]


def line_ends(data: bytes, rng: random.Random) -> bytes:
    return data.replace(b"\n", rng.choice([b"\r\n", b"\r", b"\n\n", b"\n\r"]), rng.choice([1, 3, -1]))


def recoded(data: bytes, rng: random.Random) -> bytes:
    text = data.decode(errors="replace")
    return text.encode(rng.choice(ENCODINGS), errors="replace") if rng.random() < 0.3 else data


def large(data: bytes, rng: random.Random) -> bytes:
    """A line of a megabyte, or a hundred thousand levels: one file in a hundred, as each takes its time."""
    at = rng.randrange(len(data) + 1)
    match rng.randrange(100):
        case 0:
            return data[:at] + rng.choice([b"x", b"\xc3\xa9", b'"', b" ", b"a b "]) * 1_000_000 + data[at:]
        case 1:
            return data[:at] + rng.choice(NESTS) * rng.choice([999, 100_000]) + data[at:]
    return data


def spliced(data: bytes, rng: random.Random) -> bytes:
    """The beginning of the file and the end of it from elsewhere, as when two writers share a file."""
    return data[: rng.randrange(len(data))] + data[rng.randrange(len(data)) :] if rng.random() < 0.5 else data


def values(data: bytes, rng: random.Random) -> bytes:
    """Records that are well written and hold what nobody expects."""
    lines = data.split(b"\n")
    for _ in range(rng.choice([1, 3, 20])):
        at = rng.randrange(len(lines))
        try:
            record = json.loads(lines[at])
            key = rng.choice(list(record)) if rng.random() < 0.9 else "text"
            odd = [
                None,
                1,
                1e308,
                True,
                "",
                "\ud800",
                "a\0b",
                [],
                {},
                [None],
                {"text": {"text": 1}},
                [["role", 1]],
                "\r",
                10**400,
            ]
            odd += [
                [{"role": "user"}],
                [{"role": 1, "content": "x"}, "x"],
                [{"from": "gpt", "value": None}],
                {"role": []},
            ]
            record[key] = rng.choice(odd)
            if rng.random() < 0.1:
                record = rng.choice([list(record), key, 1, None, [record], record[key]])
        except (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError):
            continue
        lines[at] = json.dumps(record, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def reference(data: bytes, rng: random.Random) -> bytes:
    """An object of a PDF that points elsewhere: to itself, to what holds it, to nothing."""
    found = list(re.finditer(rb"\d+ 0 R", data))
    if not found:
        return data
    one = rng.choice(found)
    return data[: one.start()] + b"%d 0 R" % rng.randrange(12) + data[one.end() :]


def object_gone(data: bytes, rng: random.Random) -> bytes:
    found = list(re.finditer(rb"\d+ 0 obj.*?endobj", data, re.DOTALL))
    if not found:
        return data
    one, other = rng.choice(found), rng.choice(found)
    return data.replace(one[0], rng.choice([b"", other[0], one[0] * 2]), 1)


def key(data: bytes, rng: random.Random) -> bytes:
    """Keys that make a reader of PDFs work: filters, predictors, many pages, encryption."""
    at = [found.end() for found in re.finditer(rb"<<", data)]
    more = [
        b"/Filter /FlateDecode", b"/Filter [/ASCIIHexDecode /ASCII85Decode /LZWDecode]", b"/Filter /DCTDecode", b"/Rotate 91",
        b"/Count 999999999",
        b"/DecodeParms << /Predictor 15 /Columns 99999999 >>", b"/Encrypt << /Filter /Standard /V 5 /R 6 >>", b"/Prev 9", b"/XRefStm 20",
        b"/Kids [2 0 R 2 0 R]", b"/Contents [4 0 R 4 0 R 4 0 R]", b"/ToUnicode 4 0 R", b"/Encoding /Identity-H",
        b"/Type /ObjStm /N 99999 /First 1",
        b"/Length -5", b"/Parent 3 0 R",
    ]  # fmt: skip
    where = rng.choice(at) if at else 0
    return data[:where] + rng.choice(more) + b" " + data[where:]


def inflating(data: bytes, rng: random.Random) -> bytes:
    """A stream that is a thousand times as large unpacked; one file in two hundred."""
    found = re.search(rb"stream\n(.*?)endstream", data, re.DOTALL)
    if found is None or rng.randrange(60):
        return data
    packed = zlib.compress(rng.choice([b"\0", b"(a) Tj ", b"q ", b"["]) * 3_000_000)
    return data[: found.start(1)] + packed + data[found.end(1) :].replace(b"<<", b"<< /Filter /FlateDecode", 1)


def bomb(kind: str) -> Change:
    return lambda data, rng: BOMBS[kind] + data if rng.random() < 0.2 else data


BYTES: list[Change] = [noise, zeros, bit, gone, twice, moved, short, token]
TEXT: list[Change] = [*BYTES, token, token, number, line_ends, recoded, large, spliced]
RECORDS: list[Change] = [*TEXT, values, values, values]
PDF: list[Change] = [*BYTES, number, number, reference, reference, object_gone, key, key, spliced, inflating, token]
OWN: dict[str, list[Change]] = {
    ".parquet": [*BYTES, spliced], ".arrow": [*BYTES, spliced], ".jsonl": RECORDS, ".json": TEXT, ".pdf": PDF,
    ".xml": [*TEXT, bomb("xml")], ".yaml": [*TEXT, bomb("yaml")],
}  # fmt: skip


def broken(name: str, data: bytes, rng: random.Random) -> bytes:
    """The bytes of the good file `name` with one to twenty wrongs. A packed file is broken inside, or as it lies there."""
    stem, _, ending = name.rpartition(".")
    if f".{ending}" in PACKERS:
        pack = PACKERS[f".{ending}"]
        inside = broken(stem, data, rng) if rng.random() < 0.4 else data
        at = rng.randrange(len(inside) + 1)  # in two members, as files are that were appended to
        packed = pack(inside[:at]) + pack(inside[at:])
        return packed if inside is not data else _several(packed, BYTES, rng)
    return _several(data, OWN.get(f".{ending}", TEXT), rng)


def _several(data: bytes, changes: list[Change], rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        data = rng.choice(changes)(data, rng) or b"\0"
    return data
