"""Generated types: field numbers, names, .proto text and JSON Schema."""

from __future__ import annotations
