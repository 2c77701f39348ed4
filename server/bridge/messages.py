"""What a handler of a dialect is given, what it gives, and how it refuses."""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from registry.errors import Violation
from server.errors import InvalidBody, MalformedJson
from server.ingest.draft import check_idempotency_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.access import Caller

T = TypeVar("T")

_EMPTY = b"{}"

_PLACE = re.compile(r"(?P<fault>.*?)(?: - at `(?P<place>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")

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
        """The query; of parameters that are repeated the last one."""
        return dict(parse_qsl(self._query.decode("latin-1"), keep_blank_values=True))

    def json(self) -> Any:
        """Read the body as plain JSON; an empty one counts as `{}`. Raises MalformedJson."""
        return self._decode(Any)

    def read(self, kind: type[T]) -> T:
        """Read the body as a msgspec struct; an empty one counts as `{}`. Raises MalformedJson and InvalidBody."""
        decoded: T = self._decode(kind)
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
        except msgspec.ValidationError as error:
            # What is of the wrong shape may break off further down: that is not JSON, whatever its beginning is.
            self._decode(Any)
            raise _invalid_body(str(error)) from error
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise MalformedJson from error


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


def _invalid_body(text: str) -> InvalidBody:
    """Say of a decoder's complaint which field it is about: `email`, `properties[2].type`; empty for the whole body."""
    found = _PLACE.fullmatch(text)
    assert found is not None
    fault, place = found["fault"], (found["place"] or "").removeprefix("$").removeprefix(".")
    if missing := _MISSING.fullmatch(fault):
        place = f"{place}.{missing['field']}".removeprefix(".")
        fault = f"{place} is required"
        return InvalidBody([Violation(place, "REQUIRED_FIELD_MISSING", fault)])
    return InvalidBody([Violation(place, "INVALID_FIELD", fault)])
