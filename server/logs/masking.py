"""Masking of e-mail addresses and secrets, in texts that are logged, or stored where an erasure does not look."""

from __future__ import annotations

import re
from typing import Final

_SECRET: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:sb|AS|os|esx_live|esx|be|re|whsec)_[A-Za-z0-9+/=_-]{16,}|(?<=[Bb]earer )[^\s\"',]+|(?<=://)[^\s/@]+(?=@)"
)
_ADDRESS: Final = re.compile(r"[^\s@<>()\[\]{}\"',:;=|/\\]{1,64}@[^\s@<>()\[\]{}\"',:;=|/\\]{1,255}")


def mask(text: str) -> str:
    """Return a text without e-mail addresses and secrets; the text itself if it has none."""
    if "@" not in text and "_" not in text and "earer" not in text:
        return text
    masked = _ADDRESS.sub("[address]", _SECRET.sub("[secret]", text))
    return text if masked == text else masked
