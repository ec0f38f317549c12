"""Configuration files: read and checked, written with comments, and locked to what a run really uses."""

import difflib
import hashlib
import re
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import msgspec
import tomli_w
from msgspec import inspect

from adam.contract.config import SCHEMA, Config, contradictions
from adam.contract.durable import replace_file
from adam.contract.errors import ConfigError, SchemaError
from adam.contract.model import ModelConfig
from adam.contract.section import Section

STRUCTS = (Section, ModelConfig)


def load_config(path: Path) -> Config:
    """Read and check a configuration file.

    Raises ConfigError with one line (file, key, value, what is allowed; for an unknown key the nearest known one),
    SchemaError where a newer Adam wrote the file.
    """
    try:
        return parse_config(path.read_text(), str(path))
    except FileNotFoundError:
        raise ConfigError(f"no configuration at {path}", "write one with `adamctl init --out FILE`") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file ({error.reason} at byte {error.start})") from None


def parse_config(text: str, where: str) -> Config:
    """`load_config` for text; `where` names the file in errors."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not valid TOML: {error}") from None
    return check_config(raw, where)


def check_config(raw: dict[str, Any], where: str) -> Config:
    """The typed configuration of parsed TOML; errors as `load_config`."""
    schema = raw.get("schema", SCHEMA)
    if isinstance(schema, int) and schema > SCHEMA:
        raise SchemaError(f"{where}: schema = {schema}, this Adam knows up to {SCHEMA}", "upgrade Adam")
    for key, known in _unknown_keys(raw, Config, ""):
        near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1, cutoff=0.0)
        raise ConfigError(f"{where}: unknown key {key}", f"did you mean {near[0]}?")
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error, raw)}") from None
    wrong = contradictions(config) + [f"model.{line}" for line in config.model.problems()]
    if wrong:
        raise ConfigError(f"{where}: {wrong[0]}")
    return config


def _unknown_keys(raw: Any, kind: Any, prefix: str) -> Iterator[tuple[str, list[str]]]:
    """(dotted key, names known at that place) of each key of `raw` that `kind` does not have."""
    struct = _struct_in(kind)
    if struct is None:
        return
    if isinstance(raw, list):
        for number, item in enumerate(raw):
            yield from _unknown_keys(item, struct, f"{prefix.removesuffix('.')}[{number}].")
    elif isinstance(raw, dict):
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
        for key, value in raw.items():
            if key not in fields:
                yield prefix + key, list(fields)
            else:
                yield from _unknown_keys(value, fields[key], f"{prefix}{key}.")


def _struct_in(kind: Any) -> type[msgspec.Struct] | None:
    """The section that a field's annotation is, or holds a list of."""
    if isinstance(kind, type) and issubclass(kind, STRUCTS):
        return kind
    if get_origin(kind) in (tuple, list, Union, types.UnionType) or hasattr(kind, "__metadata__"):
        return next((found for part in get_args(kind) if (found := _struct_in(part))), None)
    return None


def _explain(error: msgspec.ValidationError, raw: Any) -> str:
    """`trainer.steps = 0: expected int >= 1` of msgspec's `Expected `int` >= 1 - at `$.trainer.steps``."""
    text, _, path = str(error).partition(" - at ")
    path = path.strip("`").removeprefix("$").removeprefix(".")
    text = text[:1].lower() + text[1:].replace("`", "")
    value = _value_at(raw, path)
    if "invalid enum value" in text:
        text = "expected one of " + ", ".join(_allowed(Config, path))
    return f"{path or 'the file'} = {value!r}: {text}"


def _value_at(raw: Any, path: str) -> Any:
    for part in re.findall(r"[^.\[\]]+", path):
        raw = raw[int(part)] if isinstance(raw, list) else raw[part]
    return raw


def _allowed(kind: Any, path: str) -> list[str]:
    """The choices of the Literal field at `path`."""
    for name in re.findall(r"[^.\[\]]+", path):
        struct = _struct_in(kind)
        if struct is not None and not name.isdigit():
            kind = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}[name]
    choices = []
    for node in _alternatives(kind):
        if isinstance(node, inspect.LiteralType):
            choices += [str(value) for value in node.values]
        elif isinstance(node, inspect.IntType):
            choices.append("a whole number")
    return choices


def _alternatives(kind: Any) -> list[Any]:
    """The types that a field's value may be of, without what is said about them."""
    node = inspect.type_info(kind)
    while isinstance(node, inspect.Metadata):
        node = node.type
    return list(node.types) if isinstance(node, inspect.UnionType) else [node]


def config_digest(*sections: msgspec.Struct) -> str:
    """A digest of the values of `sections`: equal where and only where the values are."""
    return hashlib.sha256(msgspec.json.encode(sections, order="sorted")).hexdigest()


def to_toml(config: msgspec.Struct) -> str:
    """Every value of `config` as TOML, without comments."""
    return tomli_w.dumps(_plain(config))


def _plain(config: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(config)
    return plain


def commented_toml(config: Config) -> str:
    """The configuration with each field's help above it, for people to edit."""
    lines = ["# Adam's configuration. Every key may be left out: the values here are then used.", ""]
    return "\n".join([*lines, *_commented_section(config, "")]) + "\n"


def _commented_section(section: msgspec.Struct, name: str) -> list[str]:
    """The section's own keys, then its tables: TOML wants it in this order."""
    lines, tables = [], []
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, STRUCTS):
            table = f"{name}.{field.name}".removeprefix(".")
            tables += ["", f"[{table}]", *_commented_section(value, table)]
        else:
            lines += _commented_field(field, value)
    return lines + tables


def _commented_field(field: Any, value: Any) -> list[str]:
    meta, limits = _help_and_limits(field.type)
    comment = f"# {meta}{f' ({limits})' if limits else ''}"
    if isinstance(value, tuple) and any(isinstance(item, STRUCTS) for item in value):
        items = [_inline_table(item) for item in value]
        return [comment, f"{field.name} = [", *(f"    {item}," for item in items), "]"]
    return [comment, f"{field.name} = {_inline(value)}"]


def _inline_table(section: msgspec.Struct) -> str:
    """One line of TOML. What is at its default is left out, but for the first key, which says what the table is."""
    first, *others = msgspec.structs.fields(section)
    plain = _plain(section)
    return _inline(
        {first.name: plain[first.name]} | {f.name: plain[f.name] for f in others if plain[f.name] != _default(f)}
    )


def _default(field: Any) -> Any:
    return (
        field.default_factory()
        if field.default_factory is not msgspec.NODEFAULT
        else msgspec.to_builtins(field.default)
    )


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return tomli_w.dumps({"x": value}).strip().removeprefix("x = ")


def _key(name: str) -> str:
    return tomli_w.dumps({name: 0}).partition(" = ")[0]


def _help_and_limits(kind: Any) -> tuple[str, str]:
    node, help_text, limits = inspect.type_info(kind), "", []
    while isinstance(node, inspect.Metadata):
        help_text = (node.extra_json_schema or {}).get("description", help_text)
        node = node.type
    for one in _alternatives(kind):
        for sign, name in ((">=", "ge"), (">", "gt"), ("<=", "le"), ("<", "lt")):
            if getattr(one, name, None) is not None:
                limits.append(f"{sign} {getattr(one, name)}")
        if isinstance(one, inspect.LiteralType):
            limits.append(" | ".join(str(value) for value in one.values))
    return help_text, (" or " if isinstance(node, inspect.UnionType) else ", ").join(limits)


def write_lock(path: Path, config: Config) -> None:
    """Write `config.lock.toml`: what the run really uses, every default written out."""
    head = "# Written by adamctl: what this run really uses. Edit adam.toml instead.\n"
    replace_file(path, (head + to_toml(config)).encode())
