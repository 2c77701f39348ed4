"""E-mail addresses, in the form in which they are stored and compared."""

from __future__ import annotations

import re
from functools import lru_cache

from server.errors import InvalidArgument

MAX_LENGTH = 254

_ADDRESS = re.compile(r"[^@\s\x00-\x1f\x7f-\x9f]+@[^@\s\x00-\x1f\x7f-\x9f]+")


@lru_cache(4_096)
def normalize_email(text: str) -> str:
    """Return an address trimmed and lower-cased. Raise InvalidArgument if it is none.

    Whether it can receive mail is not checked; it has one @ with something on both sides and no blanks.
    """
    email = text.strip().lower()
    if len(email) > MAX_LENGTH or not _ADDRESS.fullmatch(email):
        shown = text if len(text) <= 60 else text[:60] + "…"
        message = f'"{shown}" is not an email address of at most {MAX_LENGTH} characters, such as ada@example.com'
        raise InvalidArgument.at("email", "INVALID_EMAIL", message)
    return email
