"""The REST dialect of Arsel."""

from __future__ import annotations

from server.bridge.dialects.arsel.endpoints import ARSEL

__all__ = ["ARSEL"]
