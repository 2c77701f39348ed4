"""Parsers of command-line values that return messages. Each one raises click.BadParameter."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import click
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import Parse, ParseError
from google.protobuf.struct_pb2 import Struct

from registry.times.timestamps import parse_rfc3339
from registry.values.json_values import EVENT_BUDGET, json_violation, payload_violation, read_json, repeated_name
from server.cli.arguments.enums import PROPERTY_TYPE
from server.cli.arguments.value_parsers import retention, seconds
from server.rpc.messages.structs import write_struct
from server.rpc.messages.times import timestamp
from server.status import cut
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO

    from google.protobuf.timestamp_pb2 import Timestamp

MAX_SHOWN_NAME = 100
"""The most characters of a name from a JSON text that a message quotes."""

_FRACTION = re.compile(r"[0-9]{1,10}\.[0-9]{1,6}s")
"""Seconds as an RPC may set them, and as `period` of `server.cli.output.tables` writes them."""


def duration(text: str) -> Duration:
    """Parse a duration in seconds, minutes, hours or days, such as 90s."""
    return Duration(seconds=seconds(text))


def event_retention(text: str) -> Duration:
    """Parse how long a project keeps its events; `forever` is zero."""
    if text == "forever":
        return Duration()
    if not _FRACTION.fullmatch(text):
        return Duration(seconds=retention(text))
    kept = Duration()
    kept.FromJsonString(text)
    if not kept.seconds:
        raise click.BadParameter(f'"{text}" is too short; the shortest time is 1s')
    return kept


def definition_retention(text: str) -> pb.EventRetention:
    """Parse how long the events of a definition are kept; `project` is not set."""
    if text == "project":
        return pb.EventRetention()
    return pb.EventRetention(forever=True) if text == "forever" else pb.EventRetention(max_age=event_retention(text))


def label(text: str) -> tuple[str, str]:
    """Parse KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f'"{text}" is not KEY=VALUE')
    return key, value


def instant(text: str) -> Timestamp:
    """Parse an RFC 3339 date-time."""
    try:
        return timestamp(parse_rfc3339(text))
    except ValueError as error:
        raise click.BadParameter(f'"{text}" is {error}; write it like 2026-06-01T12:00:00Z') from None


def properties(text: str) -> Struct:
    """Parse the properties of an event or a contact, a JSON object."""
    return _json_object(text, "properties")


def attributes(text: str) -> Struct:
    """Parse the attributes of an automation or a run, a JSON object."""
    return _json_object(text, "attributes")


def _json_object(text: str, root: str) -> Struct:
    try:
        value = read_json(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise click.BadParameter(f"not valid JSON: {error.msg} at {place}") from None
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON that Signalbox accepts: {error}") from None
    if not isinstance(value, dict):
        raise click.BadParameter('not a JSON object, such as {"order_total": 129.99}')
    try:
        struct = to_struct(value, root)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    # A value that cannot be stored is refused even if a later one of its name would count.
    if fault := json_violation(text.encode("utf-8", "surrogatepass")):
        raise click.BadParameter(fault.message)
    if (name := repeated_name(text)) is not None:
        raise click.BadParameter(f'the name "{cut(name, MAX_SHOWN_NAME)}" is given twice in one object')
    return struct


def to_struct(values: Mapping[str, Any], root: str = "properties") -> Struct:
    """Return a payload as a Struct. Raise ValueError with the message of the server if it is invalid."""
    # Checked here because a message that is nested too deep fails as a whole, with all events of its batch.
    # The server counts the bytes.
    if fault := payload_violation(values, root, EVENT_BUDGET, received=0):
        raise ValueError(fault.message)
    struct = Struct()
    write_struct(values, struct)
    return struct


def property_of(text: str) -> pb.Property:
    """Parse NAME:TYPE, or NAME:TYPE! for a required property."""
    name, _, kind = text.removesuffix("!").rpartition(":")
    outer, bracket, inner = kind.partition("<")
    if bracket and (outer != "array" or not inner.endswith(">")):
        outer = ""
    type_, item = (PROPERTY_TYPE.numbers.get(part.lower(), 0) for part in (outer, inner.removesuffix(">")))
    if not name or not type_ or (bracket and not item):
        known = ", ".join(PROPERTY_TYPE.numbers)
        raise click.BadParameter(f'"{text}" is not NAME:TYPE, NAME:TYPE! or NAME:array<TYPE>; TYPE is one of {known}')
    return pb.Property(name=name, type=type_, item_type=item, required=text.endswith("!"))


def property_text(property_: pb.Property) -> str:
    """Return the type of a property in the form that `property_of` parses."""
    kind = PROPERTY_TYPE.name(property_.type)
    item = f"<{PROPERTY_TYPE.name(property_.item_type)}>" if property_.item_type else ""
    return f"{kind}{item}{'!' if property_.required else ''}"


def read_schema(file: IO[str]) -> pb.Schema:
    """Parse the proto3 JSON form of a schema."""
    try:
        return Parse(file.read().removeprefix("\ufeff"), pb.Schema())
    except (ParseError, UnicodeDecodeError, RecursionError) as error:
        raise click.BadParameter(f"{file.name} is not a schema: {error}") from None
