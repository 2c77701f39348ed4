"""The credentials of calls: the secret in an `authorization` value, and its digest."""

from __future__ import annotations

from hashlib import sha256

from server.errors import KeyMissing


def bearer_secret(authorization: str) -> str:
    """Return the secret of an `authorization` value. Raise KeyMissing if there is none."""
    scheme, _, secret = authorization.partition(" ")
    if not secret or scheme.lower() != "bearer":
        raise KeyMissing
    return secret


def digest_of(secret: str) -> bytes:
    """Return the hash of a secret. 256 random bits need no salt and no slow hash."""
    return sha256(secret.encode()).digest()
