"""The subject of a condition: an event and its contact, with their properties."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


class Subject(msgspec.Struct, frozen=True):
    """The plain values that a condition can read; times are microseconds UTC.

    A field that is None is missing. Properties are JSON values within the limits of a payload; those of the event are
    coerced. Without a contact, its three fields are None.
    """

    properties: Mapping[str, Any]
    name: str | None = None
    id: str | None = None
    revision: int | None = None
    occurred_at: int | None = None
    received_at: int | None = None
    contact_id: str | None = None
    email: str | None = None
    contact_properties: Mapping[str, Any] | None = None
