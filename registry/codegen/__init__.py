"""Generated types: .proto text and JSON Schema."""

from __future__ import annotations
