"""Small good files of every kind that the forge reads. Needs pyarrow."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib

import pyarrow as pa
import pyarrow.parquet

ROWS = [{"id": n, "text": f"row {n} été\n" * (1 + n % 5), "other": "x" * 50} for n in range(150)]


def as_parquet(rows) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), out, row_group_size=40)
    return out.getvalue()


def as_arrow(rows, new=None) -> bytes:
    out, table = io.BytesIO(), pa.Table.from_pylist(rows)
    with (new or pa.ipc.new_stream)(out, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=70):
            writer.write_batch(batch)
    return out.getvalue()


def as_csv(rows, delimiter=",") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_jsonl(rows) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def as_pdf(lines: list[str]) -> bytes:
    """A page with a line of Helvetica each, written by hand."""
    return as_pdf_of_pages(["\n".join(lines)], packed=False)


def as_pdf_of_pages(pages: list[str], *, packed: bool = True) -> bytes:
    """A page for each text, whose lines are written one below the other; `packed` by Flate, as PDFs mostly are."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * n) for n in range(len(pages)))
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, page in enumerate(pages):
        lines = b" ".join(b"(%s) Tj T*" % line.encode() for line in page.split("\n") if line)
        text = b"BT /F1 12 Tf 72 720 Td 14 TL " + lines + b" ET"
        text, form = (zlib.compress(text), b"/Filter /FlateDecode ") if packed else (text, b"")
        parts.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R /Resources << /Font << /F1 3 0 R >> >> >>"
            % (5 + 2 * number)
        )
        parts.append(b"<< %s/Length %d >>\nstream\n%s\nendstream" % (form, len(text), text))
    data, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size, at = len(parts) + 1, len(data)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % size
    return data + head + table + b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (size, at)


MAKERS = {
    "a.parquet": as_parquet, "a.arrow": as_arrow, "b.arrow": lambda rows: as_arrow(rows, pa.ipc.new_file),
    "a.csv": as_csv, "a.tsv": lambda rows: as_csv(rows, "\t"), "a.jsonl": as_jsonl,
    "a.json": lambda rows: json.dumps(rows).encode(),
}  # fmt: skip
PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lambda data: lzma.compress(data, preset=0),  # which takes a tenth of the time
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}
