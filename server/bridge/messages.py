"""What a handler takes and returns: a request with its decoded body, and a response."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from registry.errors import Violation
from registry.values.decoder_messages import shape_violation, syntax_problem
from registry.values.json_values import json_violation, overridden_violation
from server.errors import UnstorableText
from server.http.errors import InvalidBody, MalformedJson
from server.ingest.draft import check_idempotency_key
from server.status import cut

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.auth.caller import Caller

T = TypeVar("T")

_EMPTY = b"{}"

_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)

_MAX_MESSAGE = 200
"""The length in bytes at which a decoder's message is cut, because it quotes its input."""

_TOO_DEEP = Violation("", "TOO_DEEP", "The body is nested too deeply to be read")

_decoder = lru_cache(msgspec.json.Decoder)


class Request:
    """A request: its caller, the parameters of its path and query, and its body.

    `params` are the named segments of the route's path, decoded. Header names are lower-case bytes.
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
        """The parameters of the query; a repeated one has its last value. Raise UnstorableText."""
        parameters = dict(parse_qsl(self._query.decode("latin-1"), keep_blank_values=True))
        for name, value in parameters.items():
            if "\0" in value:
                raise UnstorableText(cut(name, _MAX_MESSAGE))
        return parameters

    @property
    def holds_nul(self) -> bool:
        """Whether a string of the body may contain U+0000, which JSON can only write as an escape."""
        return b"\\u0000" in self.body

    def json(self) -> Any:
        """Return the body as plain JSON values; an empty body is `{}`. Raise MalformedJson and InvalidBody."""
        return self._decode(Any)

    def read(self, kind: type[T]) -> T:
        """Return the body as a msgspec struct; an empty body is `{}`.

        Raise MalformedJson, InvalidBody and UnstorableText.
        """
        decoded: T = self._decode(kind)
        if self.holds_nul:
            _check_texts(decoded, "")
        return decoded

    def number(self, name: str, default: int, most: int) -> int:
        """Return a whole number from 1 to `most` of the query. Raise InvalidBody."""
        text = self.query.get(name, "")
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
            message = f"{name} must be a whole number from 1 to {most:,}"
            raise InvalidBody([Violation(name, "OUT_OF_RANGE", message)])
        return int(text)

    def idempotency_key(self) -> str:
        """Return the value of the header `Idempotency-Key`, empty without one. Raise InvalidArgument."""
        value = self._headers.get(b"idempotency-key")
        return "" if value is None else check_idempotency_key(value.decode("latin-1"))

    def header(self, name: bytes) -> str:
        """Return the value of a header as it came, empty without one."""
        return self._headers.get(name, b"").decode("latin-1")

    def _decode(self, kind: Any) -> Any:
        body = self.body if self.body and not self.body.isspace() else _EMPTY
        try:
            decoded = _decoder(kind).decode(body)
        except _UNREADABLE as error:
            raise _body_error(body, error) from error
        if fault := overridden_violation(body):
            raise InvalidBody([fault])
        return decoded


class Response:
    """A response: a status, a body of msgspec structs or plain values, and additional headers."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: Any, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self.status = status
        self.body = body
        self.headers = headers


def _check_texts(value: Any, path: str) -> None:
    """Raise UnstorableText for a string with U+0000 in a field of a body; free-form objects may contain it."""
    if isinstance(value, str):
        if "\0" in value:
            raise UnstorableText(path)
    elif isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            _check_texts(getattr(value, field.name), f"{path}.{field.encode_name}".removeprefix("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_texts(item, f"{path}[{index}]")


def _body_error(body: bytes, error: Exception) -> InvalidBody | MalformedJson:
    """Return the error of an invalid body: an unstorable value, a field of the wrong type, or invalid JSON."""
    if fault := json_violation(body):
        return InvalidBody([fault])
    if isinstance(error, RecursionError):
        return InvalidBody([_TOO_DEEP])
    if not isinstance(error, msgspec.ValidationError):
        return _malformed(body, error)
    # The decoder stops at a field of the wrong type; the rest of the body may still be invalid JSON.
    try:
        _decoder(Any).decode(body)
    except RecursionError:
        return InvalidBody([_TOO_DEEP])
    except _UNREADABLE as malformed:
        return _malformed(body, malformed)
    broken = shape_violation(str(error))
    return InvalidBody([Violation(broken.path, broken.reason, cut(broken.message, _MAX_MESSAGE))])


def _malformed(body: bytes, error: Exception) -> MalformedJson:
    return MalformedJson(f"The body is not valid JSON: {cut(syntax_problem(body, error), _MAX_MESSAGE)}")
