"""Names in generated types: valid Protocol Buffers names for all names of events and properties. Pure functions."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container

PACKAGE: Final = "signalbox.events.v1"

LANGUAGE_OPTIONS: Final[dict[str, str | bool]] = {
    "csharp_namespace": "Signalbox.Events.V1",
    "go_package": "signalbox/events/v1;eventsv1",
    "java_multiple_files": True,
    "java_package": PACKAGE,
}
"""The options of every file, with which other languages than Python can compile it as it is."""

_MAX_LENGTH = 60
_PLAIN = re.compile(r"[a-z][a-z0-9]*(?:_[a-z][a-z0-9]*)*")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def message_name(event_name: str) -> str:
    """Return the name of an event's message: `OrderCompleted` for `order_completed`.

    If the event's name is long, or not in lower snake case, an underscore and a digest are appended. Other names have
    no underscore, so no two events have the same message name.
    """
    if _is_plain(event_name):
        return pascal_name(event_name)
    return f"{pascal_name(event_name)}_{_digest(event_name)}"


def file_stem(event_name: str) -> str:
    """Return the name of an event's file without its extension; as unique as the name of the message."""
    if _is_plain(event_name):
        return event_name
    # No part of a plain name begins with a digit.
    return f"{snake_name(event_name)}_0{_digest(event_name)}"


def file_name(event_name: str) -> str:
    """Return the path by which an event's .proto file is imported."""
    return f"{PACKAGE.replace('.', '/')}/{file_stem(event_name)}.proto"


def snake_name(text: str) -> str:
    """Return a lower_snake identifier for any text; it may be the same for other texts."""
    words = re.split("[^a-z0-9]+", _HUMP.sub("_", text).lower())
    joined = "_".join(word for word in words if word) or "property"
    return (f"p_{joined}" if joined[0].isdigit() else joined)[:_MAX_LENGTH].rstrip("_")


def pascal_name(text: str) -> str:
    """Return a PascalCase identifier for any text; it may be the same for other texts."""
    return "".join(word.capitalize() for word in snake_name(text).split("_"))


def unique_name(preferred: str, taken: Container[str], joint: str = "_", refused: Container[str] = ()) -> str:
    """Return a name, with a number if it is taken: `total`, `total_2`.

    `taken` holds names in the form of `comparable`, `refused` holds names as they are.
    """
    name, number = preferred, 1
    while comparable(name) in taken or name in refused:
        number += 1
        name = f"{preferred}{joint}{number}"
    return name


def comparable(name: str) -> str:
    """Return a name without underscores and case: default JSON names omit the former, some file systems the latter."""
    return name.replace("_", "").lower()


def _is_plain(event_name: str) -> bool:
    return len(event_name) <= _MAX_LENGTH and _PLAIN.fullmatch(event_name) is not None


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:12]
