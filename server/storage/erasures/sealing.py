"""Idempotency keys and fingerprints of erased events.

Both are made by the sender's data: a key may contain an address, and a fingerprint confirms a guessed event. So those
of an erased event are replaced by digests. A repeated send is found by the digest of its key. The digest of the
fingerprint also contains the key, which is not stored any more: who cannot guess the key can confirm nothing.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

_MARK: Final = "¤"
"""Begins a sealed key. A key that is sent is printable ASCII, so it is never taken for a sealed one."""


def seal_key(project_id: str, key: str) -> str:
    """Return the sealed form of an idempotency key; a sealed one stays as it is."""
    return key if key.startswith(_MARK) else _MARK + _digest("key", project_id, key)


def seal_fingerprint(key: str, fingerprint: str) -> str:
    """Return the sealed form of a fingerprint, by its idempotency key in clear."""
    return _digest("fingerprint", key, fingerprint)


def _digest(*parts: str) -> str:
    return sha256("\0".join(parts).encode()).hexdigest()[:32]
