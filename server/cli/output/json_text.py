"""JSON on one line."""

from __future__ import annotations

import json
from typing import Any


def to_json(value: Any) -> str:
    """Return JSON on one line."""
    return json.dumps(value, ensure_ascii=False)
