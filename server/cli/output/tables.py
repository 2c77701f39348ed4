"""Output of commands: JSON for programs; fields and columns, never cut or coloured, for people and pipes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
from google.protobuf.json_format import MessageToDict

from server.cli.output.json_text import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

    from signalbox.v1 import event_definitions_pb2 as pb

_FREE_FORM = {"attributes", "from", "labels", "properties", "to", "sent", "before", "after"}


def to_plain(message: Message) -> Any:
    """Return the proto3 JSON form of a message: names as in the contract, all fields, 64-bit integers as numbers."""
    plain = MessageToDict(
        message,
        always_print_fields_with_no_presence=True,
        preserving_proto_field_name=True,
        unquote_int64_if_possible=True,
    )
    return _tidy(plain)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_line(value: Any) -> None:
    """Print one JSON document on one line."""
    click.echo(to_json(value))


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair a line; empty values are left out."""
    shown = [(name, value) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name:<{width}}  {printable(value)}")


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below a header, in columns; the last column is not padded."""
    lines = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def printable(text: str) -> str:
    """Return the text with control characters, which a terminal would obey, replaced."""
    return (
        text
        if text.isprintable()
        else "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    )


def moment(time: Timestamp) -> str:
    """Return a timestamp as RFC 3339; empty if it is unset."""
    return time.ToJsonString() if time.seconds or time.nanos else ""


def period(duration: Duration) -> str:
    """Return a whole number of seconds as the options read it, such as 90d; another duration as in JSON."""
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        if not duration.nanos and duration.seconds % seconds == 0:
            return f"{duration.seconds // seconds}{unit}"
    return duration.ToJsonString()


def own_retention(retention: pb.EventRetention) -> str:
    """Return how long the events of a definition are kept, as in the options; empty for the rule of the project."""
    if retention.WhichOneof("period") == "max_age":
        return period(retention.max_age)
    return "forever" if retention.forever else ""


def _tidy(value: Any, *, free_form: bool = False) -> Any:
    """Return whole numbers as integers, and free-form objects sorted by name, since the wire keeps no order."""
    if isinstance(value, dict):
        names = sorted(value) if free_form else value
        return {
            name: _tidy(value[name], free_form=free_form or (name in _FREE_FORM and isinstance(value[name], dict)))
            for name in names
        }
    if isinstance(value, list):
        return [_tidy(item, free_form=free_form) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    return value
