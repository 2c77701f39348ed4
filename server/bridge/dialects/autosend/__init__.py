"""The REST dialect of AutoSend."""

from __future__ import annotations

from server.bridge.dialects.autosend.endpoints import AUTOSEND

__all__ = ["AUTOSEND"]
