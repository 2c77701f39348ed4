"""Database URLs as they are shown."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(://[^:/@\s]*:)\S*(?=@)|(password=)[^&\s]*")


def without_password(text: str) -> str:
    """Replace the password of each database URL in a text."""
    return _PASSWORD.sub(r"\1\2***", text)
