"""What a condition is judged on: an event, its contact, and their properties."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


class Subject(msgspec.Struct, frozen=True):
    """Plain values; times are microseconds UTC.

    A field that is None is missing. Properties are a dict of JSON values within the payload's budget, those of the
    event coerced. Without a contact all three of its fields are None.
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
