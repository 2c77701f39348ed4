"""The dialects that are served: a package for each, and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.bridge.dialects.arsel import ARSEL
from server.bridge.dialects.autosend import AUTOSEND
from server.bridge.dialects.emailsendx import EMAILSENDX
from server.bridge.dialects.opensend import OPENSEND
from server.bridge.dialects.resend import RESEND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.bridge.dialect import RestDialect
    from server.model import Dialect

DIALECTS: tuple[RestDialect, ...] = (
    AUTOSEND,
    OPENSEND,
    EMAILSENDX,
    ARSEL,
    RESEND,
)
"""All dialects. Where two share a path, an error without a key has the fields of both and the first one's status."""

KEY_PREFIXES: Mapping[Dialect, str] = {dialect.name: dialect.key_prefixes[0] for dialect in DIALECTS}
"""The prefix of new secrets for each dialect."""
