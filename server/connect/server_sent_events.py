"""WatchMatches as server-sent events: `GET /v1/matches/watch`.

The parameters of the query are the fields of the request, as `start.cursor`, `filter.event_names` (repeatable) or
`filter.labels.team`; so none is listed by hand. Each response with matches is an event whose data is the response as
JSON and whose ID is its cursor, from which a client resumes by `Last-Event-ID`. A response without matches is a
comment, and its cursor counts too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import msgspec

from server.connect.errors import error_json
from server.connect.unary import send_error
from server.errors import InvalidArgument
from server.http.body import ClientGone
from server.http.headers import SAFE_HEADERS
from server.rpc.json_parsing import JsonParser
from server.rpc.json_writing import write_json
from server.status import cut
from signalbox.v1 import match_stream_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.descriptor import Descriptor, FieldDescriptor

    from server.connect.request import ConnectRequest

WATCH_PATH: Final = b"/v1/matches/watch"
WATCH_METHOD: Final = match_stream_pb2.DESCRIPTOR.services_by_name["MatchStream"].methods_by_name["WatchMatches"]
WATCH_PARSER: Final = JsonParser(WATCH_METHOD)

RETRY_MILLISECONDS: Final = 1_000
"""How long a client is asked to wait before it connects again."""

_MAX_SHOWN: Final = 100
_Response: Final = match_stream_pb2.WatchMatchesResponse
_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    # A proxy must not collect events until it has many.
    (b"x-accel-buffering", b"no"),
    *SAFE_HEADERS,
)

_encode = msgspec.json.Encoder().encode


class WatchCall:
    """The transport of one call: a query, and a response of events."""

    own_errors = (ClientGone,)

    def __init__(self, request: ConnectRequest, query: bytes, extra: Sequence[tuple[bytes, bytes]]) -> None:
        self.credentials = request.credentials
        self.status = 200
        self._request = request
        self._query = query
        self._extra = extra
        self._begun = False

    def arrived(self) -> None:
        """Return nothing: a stream has time."""

    async def receive(self) -> bytes:
        """Return the query, and the header `Last-Event-ID`, as the request. Raise InvalidArgument."""
        values = query_values(parse_qsl(self._query.decode("latin-1"), keep_blank_values=True), WATCH_METHOD.input_type)
        if resumed := self._request.headers.get(b"last-event-id"):
            values["start"] = {"cursor": resumed.decode("latin-1")}
        return _encode(values)

    async def write(self, response: Any) -> None:
        """Write a response as an event or a comment."""
        message = _Response.FromString(response) if isinstance(response, bytes) else response
        identity = b"id: %b\n" % message.cursor.encode()
        if message.matches:
            await self._send(b"%bdata: %b\n\n" % (identity, write_json(message)))
        else:
            await self._send(b": heartbeat\n%b\n" % identity)

    async def end(self) -> None:
        """End the response."""
        await self._request.send({"type": "http.response.body", "body": b""})

    async def fail(self, error: Exception) -> None:
        """Answer with an error, or end the events with one."""
        if not self._begun:
            self.status = await send_error(self._request, error, self._extra)
            return
        await self._send(b"event: error\ndata: %b\n\n" % _encode(error_json(error)))
        await self.end()

    async def _send(self, text: bytes) -> None:
        if not self._begun:
            self._begun = True
            headers = [*_HEADERS, *self._extra]
            await self._request.send({"type": "http.response.start", "status": 200, "headers": headers})
            text = b"retry: %d\n%b" % (RETRY_MILLISECONDS, text)
        await self._request.send({"type": "http.response.body", "body": text, "more_body": True})


def query_values(parameters: Iterable[tuple[str, str]], descriptor: Descriptor) -> dict[str, Any]:
    """Return the parameters of a query as the JSON values of a message. Raise InvalidArgument."""
    values: dict[str, Any] = {}
    for name, text in parameters:
        into, inner = values, descriptor
        *parents, last = name.split(".")
        for index, parent in enumerate(parents, 1):
            field = _field(inner, parent, name)
            into = into.setdefault(parent, {})
            if field.message_type is None or not isinstance(into, dict):
                raise _unknown(name)
            inner = field.message_type
            if inner.GetOptions().map_entry:
                # A key may have dots itself.
                into[".".join([*parents, last][index:])] = text
                break
        else:
            _set(into, _field(inner, last, name), text, name)
    return values


def _set(into: dict[str, Any], field: FieldDescriptor, text: str, name: str) -> None:
    if field.is_repeated and field.message_type is None:
        into.setdefault(field.name, []).append(text)
    elif field.name in into:
        raise InvalidArgument.at(name, "DUPLICATE_FIELD", f"{cut(name, _MAX_SHOWN)} is given twice")
    else:
        into[field.name] = text


def _field(descriptor: Descriptor, part: str, name: str) -> FieldDescriptor:
    field = descriptor.fields_by_name.get(part)
    if field is None:
        raise _unknown(name)
    return field


def _unknown(name: str) -> InvalidArgument:
    shown = cut(name, _MAX_SHOWN)
    message = f"{shown} is not a parameter; the parameters are the fields of WatchMatchesRequest, as start.cursor"
    return InvalidArgument.at(shown, "UNKNOWN_FIELD", message)
