"""Sends requests to receivers, by a client that is loaded with the first one (`http_client`)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from server.delivery.push.networks import RefusedAddress
from server.delivery.push.responses import PushFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from server.delivery.push.http_client import HttpClient
    from server.delivery.push.resolver import Resolver
    from server.delivery.push.responses import Response

RESOLVE_SECONDS: Final = 5.0
"""The time to resolve a host when its URL is set."""


class PushClient:
    """Sends requests to the receivers of all subscriptions."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._client: HttpClient | None = None

    async def check_host(self, url: str) -> None:
        """Raise PushFailed unless the host of a URL resolves to an address that the server may connect to."""
        host = urlsplit(url).hostname or ""
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                await self._resolver.resolve(host)
        except TimeoutError:
            raise PushFailed(f"the host {host} could not be resolved within {RESOLVE_SECONDS:g} s") from None
        except RefusedAddress as error:
            raise PushFailed(str(error)) from None
        except (OSError, UnicodeError):
            raise PushFailed(f"the host {host} could not be resolved") from None

    async def post(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        timeout_seconds: float,
        confirm: Callable[[], Awaitable[bool]] | None = None,
    ) -> Response:
        """Send a request and return the head of the response. Raise PushFailed if there is none in time.

        Once there is a connection, `confirm` returns whether the request may still be sent. Raise PushWithdrawn if not.
        """
        client = self._client or await self._load()
        return await client.post(url, headers, body, timeout_seconds, confirm)

    async def close(self) -> None:
        """Close all connections."""
        self._resolver.close()
        if self._client is not None:
            await self._client.close()

    async def _load(self) -> HttpClient:
        # In a thread, because it takes 0.2 s.
        client = await asyncio.to_thread(_http_client)
        if self._client is None:
            self._client = client(self._resolver)
        return self._client


def _http_client() -> type[HttpClient]:
    """Import the client: of a server that pushes nothing, its library would take 7 MB."""
    from server.delivery.push.http_client import HttpClient

    return HttpClient
