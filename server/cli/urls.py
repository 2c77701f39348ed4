"""Database URLs in messages."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(://[^:/@\s]*:)\S*(?=@)|(password=)[^&\s]*")


def without_password(text: str) -> str:
    """Return the text with the password of each database URL replaced."""
    return _PASSWORD.sub(r"\1\2***", text)
