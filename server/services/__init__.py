"""The operations behind every front door, on plain values."""

from __future__ import annotations
