"""Signatures of requests as Standard Webhooks."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING

from automation.subscriptions.push import secret_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence


class Signer:
    """Signs requests with every secret of a subscription: a receiver that knows one of them accepts them."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [secret_bytes(secret) for secret in secrets]

    def headers(self, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """Return the headers that sign a body; `timestamp` is in seconds."""
        content = f"{webhook_id}.{timestamp}.".encode() + body
        signatures = (base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in self._keys)
        return {
            "webhook-id": webhook_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
        }
