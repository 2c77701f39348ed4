"""Which dialect a request speaks, as far as its headers and path show it.

The dialect of an authenticated key is recorded with the key. Only errors without such a key are identified here: they
are written in the dialect of the key's prefix, or else of the path. Several dialects may share a path; their clients
can all read a body that has the fields of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from server.auth.credentials import bearer_secret
from server.bridge.dialects import DIALECTS
from server.errors import KeyMissing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from server.bridge.dialect import RestDialect

_KEY_HEADERS: Final = tuple(dialect.key_header for dialect in DIALECTS if dialect.key_header)

SINGLE_HEADERS: Final = frozenset(
    {b"authorization", b"content-encoding", b"content-type", b"idempotency-key", *_KEY_HEADERS}
)
"""Headers with a single value: of two values, a proxy in front may have used the other one. A client that sends one of
them twice with the same value is refused too, as it could not know which of the two is changed on the way."""


def secret_of(headers: Mapping[bytes, bytes]) -> str:
    """Return the secret of a request, empty without one."""
    authorization = headers.get(b"authorization")
    if authorization is None:
        return next((headers[name].decode("latin-1") for name in _KEY_HEADERS if name in headers), "")
    try:
        return bearer_secret(authorization.decode("latin-1"))
    except KeyMissing:
        return ""


def key_header_allowed(dialect: RestDialect, headers: Mapping[bytes, bytes]) -> bool:
    """Return whether the key was sent in a header that this dialect accepts."""
    authorization = headers.get(b"authorization")
    if authorization is None:
        return dialect.key_header in headers
    return not dialect.exact_scheme or (authorization.startswith(b"Bearer ") and authorization.count(b" ") == 1)


def likely_dialects(headers: Mapping[bytes, bytes], path: str) -> Sequence[RestDialect]:
    """Return the dialects in which to report an error to a caller without a valid key."""
    secret = secret_of(headers)
    by_key = [dialect for dialect in DIALECTS if secret.startswith(dialect.key_prefixes)]
    return by_key or dialects_of_path(path)


def dialects_of_path(path: str) -> Sequence[RestDialect]:
    """Return the dialects with the longest match among their `paths`, in the order of DIALECTS."""
    matches = [
        (len(prefix), dialect)
        for dialect in DIALECTS
        for prefix in dialect.paths
        if path == prefix or path.startswith(f"{prefix}/")
    ]
    longest = max((length for length, _ in matches), default=0)
    return [dialect for length, dialect in matches if length == longest]
