"""What a handler of a dialect is given, what it gives, and how it refuses."""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from registry.errors import Violation
from registry.json_values import json_fault
from server.errors import InvalidBody, MalformedJson, UnstorableText
from server.ingest.draft import check_idempotency_key
from server.status import cut

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.auth.access import Caller

T = TypeVar("T")

_EMPTY = b"{}"

_PLACE = re.compile(r"(?P<fault>.*?)(?: - at `(?P<place>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")

_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)

_MAX_FAULT = 200
"""The most bytes shown of a decoder's message, which quotes its input."""

_TOO_DEEP = Violation("", "TOO_DEEP", "The body is nested too deeply to be read")

_decoder = lru_cache(msgspec.json.Decoder)


class Request:
    """One call: who makes it, what the path and the query say, and the body.

    `params` are the segments that the route names, decoded. Header names are lower-case bytes.
    """

    def __init__(
        self, caller: Caller, params: Mapping[str, str], query: bytes, headers: Mapping[bytes, bytes], body: bytes
    ) -> None:
        self.caller = caller
        self.params = params
        self.body = body
        self._query = query
        self._headers = headers

    @cached_property
    def query(self) -> dict[str, str]:
        """The query; of parameters that are repeated the last one. Raises UnstorableText."""
        found = dict(parse_qsl(self._query.decode("latin-1"), keep_blank_values=True))
        for name, value in found.items():
            if "\0" in value:
                raise UnstorableText(cut(name, _MAX_FAULT))
        return found

    @property
    def holds_nul(self) -> bool:
        """True if a text of the body may contain U+0000, which JSON can only write as an escape."""
        return b"\\u0000" in self.body

    def json(self) -> Any:
        """Read the body as plain JSON; an empty one counts as `{}`. Raises MalformedJson."""
        return self._decode(Any)

    def read(self, kind: type[T]) -> T:
        """Read the body as a msgspec struct; an empty one counts as `{}`.

        Raises MalformedJson, InvalidBody and UnstorableText.
        """
        decoded: T = self._decode(kind)
        if self.holds_nul:
            _check_texts(decoded, "")
        return decoded

    def number(self, name: str, default: int, most: int) -> int:
        """Read a whole number from 1 out of the query. Raises InvalidBody."""
        text = self.query.get(name, "")
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
            message = f"{name} must be a whole number from 1 to {most:,}"
            raise InvalidBody([Violation(name, "OUT_OF_RANGE", message)])
        return int(text)

    def idempotency_key(self) -> str:
        """Give the header `Idempotency-Key`, empty where there is none. Raises InvalidArgument."""
        value = self._headers.get(b"idempotency-key")
        return "" if value is None else check_idempotency_key(value.decode("latin-1"))

    def _decode(self, kind: Any) -> Any:
        body = self.body if self.body and not self.body.isspace() else _EMPTY
        try:
            return _decoder(kind).decode(body)
        except _UNREADABLE as error:
            raise _refusal_of(body, error) from error


class Reply:
    """An answer: a status, a body of msgspec structs and plain values, and headers beside the usual ones."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: Any, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self.status = status
        self.body = body
        self.headers = headers


class Refused(Exception):
    """A rule of one dialect alone is broken: the answer as that dialect gives it."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(body)
        self.status = status
        self.body = body


def _check_texts(value: Any, path: str) -> None:
    """Raise UnstorableText for a text with U+0000 in a field of a body; free-form objects may hold it."""
    if isinstance(value, str):
        if "\0" in value:
            raise UnstorableText(path)
    elif isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            _check_texts(getattr(value, field.name), f"{path}.{field.encode_name}".removeprefix("."))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            _check_texts(each, f"{path}[{index}]")


def _refusal_of(body: bytes, error: Exception) -> InvalidBody | MalformedJson:
    """Return the error of a refused body: a value that cannot be held, a field of the wrong form, or invalid JSON."""
    if fault := json_fault(body):
        return InvalidBody([fault])
    if isinstance(error, RecursionError):
        return InvalidBody([_TOO_DEEP])
    if not isinstance(error, msgspec.ValidationError):
        return MalformedJson()
    # A body with a field of the wrong form may be invalid JSON further on.
    try:
        _decoder(Any).decode(body)
    except RecursionError:
        return InvalidBody([_TOO_DEEP])
    except _UNREADABLE:
        return MalformedJson()
    return _invalid_body(str(error))


def _invalid_body(text: str) -> InvalidBody:
    """Say of a decoder's complaint which field it is about: `email`, `properties[2].type`; empty for the whole body."""
    found = _PLACE.fullmatch(text)
    assert found is not None
    fault, place = cut(found["fault"], _MAX_FAULT), (found["place"] or "").removeprefix("$").removeprefix(".")
    if missing := _MISSING.fullmatch(fault):
        place = f"{place}.{missing['field']}".removeprefix(".")
        fault = f"{place} is required"
        return InvalidBody([Violation(place, "REQUIRED_FIELD_MISSING", fault)])
    return InvalidBody([Violation(place, "INVALID_FIELD", fault)])
