"""SendEvent over JSON without messages in between: two thirds of the time of such a call went into them.

`plain_draft` reads what nearly every request is, a flat event of few known fields. It returns None for anything else,
valid or not: then the request is read as every other one (`json_reading`), which knows all forms and all errors.
`SentEvent` is the response, which is written as a message or as JSON, as its transport wants it. Both give what the
messages would, which `tests/test_send_event_json.py` compares.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from registry.errors import SignalboxError
from server.ingest.draft import Draft, check_idempotency_key
from server.paging import MAX_RESPONSE_BYTES
from server.rpc.json_writing import timestamp_text, write_json
from server.rpc.messages.enums import COERCION_KIND, View
from server.rpc.messages.receipts import started_matches, write_receipt
from server.services.emails import normalize_email
from signalbox.v1 import event_ingest_pb2 as pb
from signalbox.v1 import event_pb2

if TYPE_CHECKING:
    from registry.coercion.report import Coercion
    from server.model import Event

MAX_BYTES: Final = 8_000
MAX_PROPERTIES: Final = 100
"""What is no larger than both is within every budget of a payload."""

_EXACT: Final = 2**53
_NAME: Final = re.compile(rb'"\s*:')
_BASE_NAMES: Final = 1  # that of the event itself

_encode = msgspec.json.Encoder().encode


class _Event(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    name: str | UnsetType = UNSET
    contact_id: str | UnsetType = UNSET
    email: str | UnsetType = UNSET
    properties: dict[str, str | bool | int | float] | UnsetType = UNSET
    idempotency_key: str | UnsetType = UNSET


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    event: _Event


_decode = msgspec.json.Decoder(_Request).decode


def plain_draft(data: bytes) -> Draft | None:
    """Read a request of SendEvent from JSON, or return None if it is not a plain one."""
    if len(data) > MAX_BYTES or b"\\u0000" in data:
        return None
    try:
        event = _decode(data).event
        return _draft(event, len(_NAME.findall(data)))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, SignalboxError):
        return None


def _draft(event: _Event, names: int) -> Draft | None:
    """Return the draft of an event; `names` is the number of names in its JSON, as far as it can be told."""
    name, contact_id, email = event.name or "", event.contact_id or "", event.email
    given = event.properties or {}
    fields = (event.name, event.contact_id, email, event.properties, event.idempotency_key)
    # The decoder passes over names that are given twice.
    if names != _BASE_NAMES + len(fields) - fields.count(UNSET) + len(given):
        return None
    if (email is UNSET) is not bool(contact_id) or event.contact_id == "" or len(given) > MAX_PROPERTIES:
        return None
    properties: dict[str, Any] = {}
    # In the order of their names, as they are read from a message.
    for key in sorted(given):
        value = given[key]
        if value.__class__ is float and value.is_integer():
            value = int(value)
        if value.__class__ is int and not -_EXACT <= value <= _EXACT:
            return None
        properties[key] = value
    return Draft(
        name,
        contact_id,
        "" if email is UNSET else normalize_email(email),
        properties,
        None,
        check_idempotency_key(event.idempotency_key) if event.idempotency_key else "",
    )


class SentEvent:
    """The response to SendEvent."""

    __slots__ = ("_draft", "_view")

    def __init__(self, draft: Draft, view: View) -> None:
        self._draft = draft
        self._view = view

    def message(self) -> pb.SendEventResponse:
        """Return the response as a message."""
        response = pb.SendEventResponse()
        write_receipt(self._draft, self._view, response.receipt, MAX_RESPONSE_BYTES)
        return response

    def SerializeToString(self) -> bytes:  # noqa: N802 - as a message has it
        """Return the response in Protocol Buffers."""
        return self.message().SerializeToString()

    def ByteSize(self) -> int:  # noqa: N802 - as a message has it
        """Return the size of the response in Protocol Buffers."""
        return self.message().ByteSize()

    def json(self) -> bytes:
        """Return the response as JSON."""
        event = self._draft.event
        assert event is not None
        if self._view is View.COERCED and not (event.omitted_coercions or event.unreadable):
            properties = _plain(event.properties)
            coercions = [_coercion(each) for each in event.coercions]
            if properties is not None and None not in coercions:
                return _encode({"receipt": self._receipt(event, properties, coercions)})
        return write_json(self.message())

    def _receipt(self, event: Event, properties: dict[str, Any], coercions: list[Any]) -> dict[str, Any]:
        receipt: dict[str, Any] = {"event": _written(event, properties, coercions)}
        if self._draft.duplicate:
            receipt["duplicate"] = True
        if coercions:
            receipt["coercionCount"] = len(coercions)
        if self._draft.matches and (started := started_matches(self._draft)):
            receipt["matchCount"] = started
        return receipt


def _written(event: Event, properties: dict[str, Any], coercions: list[Any]) -> dict[str, Any]:
    """Return an event as JSON."""
    written: dict[str, Any] = {"id": event.id, "position": str(event.position), "name": event.name}
    if event.definition_id:
        written["definitionId"] = event.definition_id
    if event.revision:
        written["revision"] = event.revision
    if event.contact_id:
        written["contactId"] = event.contact_id
    if event.email:
        written["email"] = event.email
    written["properties"] = properties
    if coercions:
        written["coercions"] = coercions
    written["occurredAt"] = _time(event.occurred_at)
    written["receivedAt"] = _time(event.received_at)
    if event.erased_at:
        written["erasedAt"] = _time(event.erased_at)
    if event.traceparent:
        written["traceparent"] = event.traceparent
    return written


_KINDS: Final = {kind: event_pb2.Coercion.Kind.Name(COERCION_KIND.write(kind)) for kind in COERCION_KIND.members()}
_NOT_PLAIN: Final = object()


def _plain(values: dict[str, Any]) -> dict[str, Any] | None:
    """Return an object as it is read from a message, None if it is not plain."""
    if len(values) > MAX_PROPERTIES:
        return None
    read = {name: _plain_value(values[name]) for name in sorted(values)}
    return None if _NOT_PLAIN in read.values() else read


def _plain_value(value: Any) -> Any:
    """Return a value as it is read from a message; _NOT_PLAIN for a nested one, or a number that no double holds."""
    kind = value.__class__
    if kind is float and value.is_integer():
        return int(value) if -_EXACT <= value <= _EXACT else value
    if kind is int:
        return value if -_EXACT <= value <= _EXACT else _NOT_PLAIN
    return _NOT_PLAIN if kind is dict or kind is list else value


def _coercion(coercion: Coercion) -> dict[str, Any] | None:
    """Return a coercion as JSON, None if its values are not plain."""
    before, after = _plain_value(coercion.before), _plain_value(coercion.after)
    if before is _NOT_PLAIN or after is _NOT_PLAIN or not coercion.path:
        return None
    written = {"path": coercion.path, "kind": _KINDS[coercion.kind], "from": before}
    if after is not None:
        written["to"] = after
    return written


# All events of a commit were received at the same time, and most occurred then.
@lru_cache(100)
def _time(micros: int) -> str:
    seconds, rest = divmod(micros, 1_000_000)
    return timestamp_text(seconds, rest * 1_000)
