"""The dialects that are served; one more takes a module like these and its name here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.bridge.dialects.arsel import ARSEL
from server.bridge.dialects.autosend import AUTOSEND
from server.bridge.dialects.emailsendx import EMAILSENDX
from server.bridge.dialects.opensend import OPENSEND

if TYPE_CHECKING:
    from server.bridge.dialect import Door

DIALECTS: tuple[Door, ...] = (AUTOSEND, OPENSEND, EMAILSENDX, ARSEL)
"""All of them. Where two share a path, errors without a key have the fields of both, the first one's status."""
