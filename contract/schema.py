"""Typed JSON files with a schema number: written atomically, and refused where a newer Adam wrote them."""

import functools
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from adam.contract.durable import replace_file
from adam.contract.errors import DataError, SchemaError
from adam.contract.reserve import replace_reserved

T = TypeVar("T", bound="Record")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the protocol. Unknown fields of the same schema are ignored: a patch release may add some."""

    schema: int = 1


@functools.cache
def _known_schema(kind: type[Record]) -> int:
    """The schema number that this Adam writes. Kept: msgspec looks through the annotations each time."""
    return next(int(field.default) for field in msgspec.structs.fields(kind) if field.name == "schema")


def check_schema(raw: Any, known: int, where: str) -> None:
    """Raise SchemaError where `raw` says a schema above `known`."""
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if isinstance(schema, int) and schema > known:
        raise SchemaError(f"{where} has schema {schema}, this Adam knows up to {known}", "upgrade Adam")


def decode(data: bytes, kind: type[T], where: str) -> T:
    """The record in `data`. Raises SchemaError (newer), DataError (not such a record)."""
    try:
        raw = msgspec.json.decode(data)
        check_schema(raw, _known_schema(kind), where)
        return msgspec.convert(raw, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{where} can't be read: {error}") from None


def load(path: Path, kind: type[T]) -> T | None:
    """The record at `path`, None where there is no such file; errors as `decode`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return decode(data, kind, str(path))


def encode(record: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def save(path: Path, record: Record, *, durable: bool = True) -> None:
    """Replace the file at `path` with `record`, atomically."""
    replace_file(path, encode(record), durable=durable)


def save_reserved(path: Path, record: Record, *, durable: bool = True) -> None:
    """As `save`, on a full disk too."""
    replace_reserved(path, encode(record), durable=durable)
