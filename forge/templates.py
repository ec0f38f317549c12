"""Records to text: templates over columns, conversations and transcripts, with the spans of prompts and answers.

Only what a source calls an answer is one: the labels before it ("Reasoning: ", "ASSISTANT:") are its prompt, and what ends it
(a blank line between turns, the end of the template) belongs to it, so that a model can learn where to stop.
"""

import re
from collections.abc import Iterator
from string import Formatter
from typing import Any

import msgspec

from adam.contract.config_forge import Source
from adam.contract.errors import ConfigError
from adam.forge.documents import EXAMPLE_CHARS, Document, Span, kind_of

PROMPT, ANSWER = "prompt", "answer"
SPEAKERS = {
    "system": "System",
    "user": "User",
    "human": "User",
    "tool": "Tool",
    "function": "Tool",
    "observation": "Tool",
}
ASSISTANTS = frozenset({"assistant", "gpt", "model", "bot", "chatgpt"})
TEXTS = (str, bytes)
TODO = "correct the template of the source in adam.toml"


def with_newlines(text: str) -> str:
    """Every line end as \\n."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def unusable(reason: str, record: Any) -> Document:
    """A record that is no document, with what is shown of it: never nothing."""
    shown = record if record and isinstance(record, str) else repr(record)
    return Document("", dropped=reason, example=shown[:EXAMPLE_CHARS])


class MissingError(Exception):
    """A record has no such column, or nothing in it."""


class Text:
    """A text that is written piece by piece, each prompt or answer."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self._spans: list[tuple[int, int, str]] = []

    def add(self, text: str, role: str) -> None:
        if not text:
            return
        start, self._length = self._length, self._length + len(text)
        self._pieces.append(text)
        if self._spans and self._spans[-1][2] == role:
            self._spans[-1] = (self._spans[-1][0], self._length, role)
        else:
            self._spans.append((start, self._length, role))

    def document(self, limit: int) -> Document:
        """All of it, or its first `limit` characters; without spans where nothing is an answer."""
        text = "".join(self._pieces)[: limit or None]
        spans = [Span(start, min(end, len(text)), role) for start, end, role in self._spans if start < len(text)]
        answered = any(span.role == ANSWER for span in spans)
        return Document(text, spans=tuple(spans) if answered else ())


class Template:
    """What a source's settings make of a record.

    Raises ConfigError where the template can't be read.

    Attributes:
        columns: the columns that are looked at, for readers that can leave others out.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._parts = list(_parts_of(source))
        named = [field for _, field in self._parts if field]
        named += [*source.where, *source.meta.values()]
        self.columns = tuple(dict.fromkeys(name.partition(".")[0] for name in named))
        missing = set(source.answers) - {field for _, field in self._parts}
        if missing:
            raise ConfigError(f"answers names {min(missing)}, which is not in the template {source.template!r}", TODO)
        self._last = max((n for n, (_, field) in enumerate(self._parts) if field in source.answers), default=-1)
        self._answered = bool(source.answers or source.messages)
        self._kind = kind_of(source.text)
        self._marks = re.compile("|".join(map(re.escape, sorted(source.turns, key=len, reverse=True))))

    def document(self, record: Any) -> Document:
        """The document of a record; one that has no text has the reason in `dropped`."""
        try:
            return self._document(record)
        except MissingError:
            return unusable("no_text", record)

    def _document(self, record: Any) -> Document:
        source = self._source
        if isinstance(record, str) and len(self._parts) == 1 and not source.messages:
            record = {self._parts[0][1]: record}  # a plain string is its own text
        if source.where and any(_plain(_value(record, name)) not in values for name, values in source.where.items()):
            return unusable("not_selected", record)
        document = self._with_spans(record) if self._answered else self._without_spans(record)
        document.kind = self._kind
        if source.meta:
            document.meta = dict(_meta(record, source.meta))
        return document

    def _without_spans(self, record: Any) -> Document:
        """Nothing is an answer."""
        pieces = []
        for literal, field in self._parts:
            if literal:
                pieces.append(literal)
            if field:
                pieces.append(self._column(record, field))
        text = pieces[0] if len(pieces) == 1 else "".join(pieces)
        return Document(text[: self._source.cut_chars] if self._source.cut_chars else text)

    def _column(self, record: Any, field: str) -> str:
        value = _value(record, field)
        if not (isinstance(value, TEXTS) or self._source.template):
            raise MissingError  # a number is text only where somebody has asked for it
        return _plain(value)

    def _with_spans(self, record: Any) -> Document:
        source, text = self._source, Text()
        for number, (literal, field) in enumerate(self._parts):
            text.add(literal, ANSWER if -1 < self._last < number else PROMPT)
            if field and field == source.messages:
                self._converse(_value(record, field), text)
            elif field:
                text.add(self._column(record, field), ANSWER if field in source.answers else PROMPT)
        return text.document(source.cut_chars)

    def _converse(self, talk: Any, text: Text) -> None:
        if isinstance(talk, str):
            self._transcript(with_newlines(talk), text)
            return
        if not isinstance(talk, list) or not talk:
            raise MissingError
        for message in talk:
            said, role = _said(message), _role(message)
            text.add(("Assistant" if role in ASSISTANTS else SPEAKERS.get(role, role.title())) + ": ", PROMPT)
            text.add(said + "\n\n", ANSWER if role in ASSISTANTS else PROMPT)

    def _transcript(self, talk: str, text: Text) -> None:
        """A conversation in one string: marks say whose turn begins; a mark without a role is left out."""
        if not self._source.turns:
            text.add(talk, PROMPT)
            return
        role, end = PROMPT, 0
        for mark in self._marks.finditer(talk):
            text.add(talk[end : mark.start()], role)
            whose, end = self._source.turns[mark.group()], mark.end()
            if whose:
                role = whose
                text.add(mark.group(), PROMPT)
        text.add(talk[end:], role)


def _parts_of(source: Source) -> Iterator[tuple[str, str]]:
    """(literal, column behind it) of a template; the column of the last literal is empty."""
    template = source.template or "{" + (source.messages or "text") + "}"
    try:
        for literal, field, form, conversion in Formatter().parse(template):
            if form or conversion or field in ("",):
                raise ValueError("columns are written {name}, braces {{ and }}")
            yield with_newlines(literal), field or ""
    except ValueError as error:
        raise ConfigError(f"the template {template!r} can't be read: {error}", TODO) from None


def _value(record: Any, name: str) -> Any:
    """The column `name` of a record; with dots what lies in it, through JSON that is written into a string too."""
    if isinstance(record, dict) and (found := record.get(name)) is not None:
        return found
    found = record
    for part in [name] if isinstance(record, dict) and name in record else name.split("."):
        if isinstance(found, str):
            try:
                found = msgspec.json.decode(found)
            except (msgspec.DecodeError, RecursionError):
                raise MissingError from None
        if not isinstance(found, dict) or found.get(part) is None:
            raise MissingError
        found = found[part]
    return found


def _plain(value: Any) -> str:
    """A value as text: strings as they are, lists and tables as JSON."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise MissingError from None
    return with_newlines(value) if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()


def _meta(record: Any, wanted: dict[str, str]) -> Iterator[tuple[str, str]]:
    for name, column in wanted.items():
        try:
            yield name, _plain(_value(record, column))
        except MissingError:
            continue  # a book without an author is a book


def _role(message: Any) -> str:
    role = message.get("role", message.get("from")) if isinstance(message, dict) else None
    if not isinstance(role, str):
        raise MissingError
    return role.lower()


def _said(message: Any) -> str:
    """What a message says, what it calls included."""
    if not isinstance(message, dict):
        raise MissingError
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        content = "\n".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    said = [with_newlines(content)] if isinstance(content, str) and content else []
    for call in ("tool_calls", "function_call"):
        if message.get(call):
            said.append(_plain(message[call]))
    if not said and not isinstance(content, str):
        raise MissingError
    return "\n".join(said)
