"""Personal properties: declared by schemas, masked in payloads."""

from __future__ import annotations
