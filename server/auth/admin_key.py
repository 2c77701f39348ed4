"""The admin key: from a setting, or from a file that only its owner can read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

PREFIX = "sb_admin_"
MIN_LENGTH = 16


def file_of(database: str) -> Path:
    """Return where the admin key of a database is kept: beside an SQLite file, else in the working folder."""
    if database.startswith("sqlite:///"):
        return Path(database.removeprefix("sqlite:///") + ".admin-key")
    return Path("signalbox.admin-key")


def read_or_make(path: Path) -> str:
    """Return the admin key of a file, creating both at the first start. Raise OSError and ValueError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read(path)
    secret = PREFIX + secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
    return secret


def check_strength(secret: str) -> str:
    """Return the secret. Raise ValueError if it is too short."""
    if len(secret) < MIN_LENGTH:
        raise ValueError(f"An admin key must have at least {MIN_LENGTH} characters; this one has {len(secret)}")
    return secret


def _read(path: Path) -> str:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW)) as file:
        state = os.fstat(file.fileno())
        if state.st_uid not in {os.geteuid(), 0} or state.st_mode & 0o077:
            raise ValueError(
                f"{path} must be owned by the user of the server and readable by no other user (mode 0600)"
            )
        secret = file.read().strip()
    if not secret:
        raise ValueError(f"{path} is empty; delete it, and a new admin key is created")
    return check_strength(secret)
