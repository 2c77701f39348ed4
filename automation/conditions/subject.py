"""Stand-in until the language is merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    properties: Mapping[str, Any]
    event_name: str
    event_id: str
    revision: int
    occurred_at: int
    received_at: int
    contact_id: str
    email: str
    contact_properties: Mapping[str, Any]
