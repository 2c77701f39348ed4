"""The operations behind every API, on plain values."""

from __future__ import annotations
