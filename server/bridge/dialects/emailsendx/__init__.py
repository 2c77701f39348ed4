"""The REST dialect of EmailSendX."""

from __future__ import annotations

from server.bridge.dialects.emailsendx.endpoints import EMAILSENDX

__all__ = ["EMAILSENDX"]
