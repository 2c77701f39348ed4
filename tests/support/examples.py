"""Examples of the OpenAPI documents, compared with responses of the server."""

from __future__ import annotations

import re
from typing import Any

_VARYING = (
    ("id", re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")),
    ("time", re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")),
    ("lease", re.compile(r"29(\.\d+)?s")),
    ("delivery", re.compile(r"\d+-\d+-[0-9a-f]{8}")),
    ("token", re.compile("[A-Za-z0-9_-]{20,}={0,2}")),
)


def likened(value: Any) -> Any:
    """Return a JSON value with the texts that differ from server to server replaced by what they are."""
    if isinstance(value, dict):
        return {name: likened(member) for name, member in value.items()}
    if isinstance(value, list):
        return [likened(item) for item in value]
    if isinstance(value, str):
        return next((name for name, pattern in _VARYING if pattern.fullmatch(value)), value)
    return value
