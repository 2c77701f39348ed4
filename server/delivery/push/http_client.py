"""Sends requests to receivers, over HTTP/1.1 connections that are used again.

    resolve     the host, each time that a connection is made; addresses that are not allowed are dropped
    connect     to one of these addresses; the socket is refused if its address is not allowed
    send        Host and TLS have the name of the URL
    receive     the status decides; of the body, a little is read and thrown away

Redirects are not followed, no proxy of the environment is used, nothing is decompressed, and no cookie is kept. A
request that was sent is never repeated here: whether a receiver has read it cannot be known when its connection breaks.
So an unused connection is closed before receivers usually close it, after two to five seconds. One on which something
arrived while it was unused is closed, too: it would be taken for the response to the next request.

Of the clients at hand, aiohttp takes 85 us of processor time for a request with 32 in flight, httpx 2,700 us.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from contextvars import ContextVar
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from server.delivery.push.connector import RESPONSE_BYTES, Connector, LongHead
from server.delivery.push.networks import RefusedAddress
from server.delivery.push.responses import PushFailed, PushWithdrawn, Response
from server.version import version

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp.abc import ResolveResult
    from aiohttp.connector import Connection

    from server.delivery.push.connector import BoundedConnection
    from server.delivery.push.resolver import Resolver

BODY_BYTES: Final = 16 * 1024
"""The bytes of a response's body that are read, so that the connection can be used again."""
BODY_SECONDS: Final = 1.0
"""The time for them to arrive, after the head of the response."""
IDLE_SECONDS: Final = 1.5
"""How long an unused connection is kept."""


class _UnaskedResponse(aiohttp.ClientError):
    """Something arrived on a connection while it was unused, or its end; nothing was sent on it."""


class _UnusableConnection(aiohttp.ClientError):
    """Something arrived on a new connection before its first request, or its end: a further one would be no better."""


_sent: ContextVar[bool] = ContextVar("push_sent")
"""Whether the current request has begun to be sent: the library does not say so."""


_confirm: ContextVar[Callable[[], Awaitable[bool]] | None] = ContextVar("push_confirm", default=None)
"""Returns whether the current request may still be sent."""


class _Request(aiohttp.ClientRequest):
    """A request that is sent only on a connection without a response of its own, and only if it still may be."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Send the request. Raise PushWithdrawn, _UnaskedResponse and _UnusableConnection."""
        if (confirm := _confirm.get()) is not None and not await confirm():
            raise PushWithdrawn
        connection = cast("BoundedConnection | None", conn.protocol)
        if connection is None or connection.should_close:
            raise _UnaskedResponse if connection is not None and connection.used else _UnusableConnection
        connection.used = True
        _sent.set(True)
        return await super().send(conn)


class HttpClient:
    """Sends requests to the receivers of all subscriptions."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

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
        _sent.set(False)
        _confirm.set(confirm)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._post(url, headers, body)
        except TimeoutError:
            missing = "response" if _sent.get() else "connection"
            raise PushFailed(f"no {missing} within {timeout_seconds:g} s", unsent=not _sent.get()) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise PushFailed(_failure(error), unsent=not _sent.get()) from None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Response:
        response = await self._begin(URL(url, encoded=True), headers, body)
        try:
            head = Response(response.status, response.headers.get("Retry-After", ""))
            await _drain(response)
        finally:
            # A connection whose response has not been read to its end is closed.
            response.close()
        return head

    async def _begin(self, url: URL, headers: Mapping[str, str], body: bytes) -> aiohttp.ClientResponse:
        """Send a request on a connection that nothing has arrived on, and wait for the head of its response."""
        tls = self._trust if url.scheme == "https" else True
        while True:
            with suppress(_UnaskedResponse):
                return await self._opened().post(url, headers=headers, data=body, allow_redirects=False, ssl=tls)

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        """The authorities that the system trusts. To load them takes as long as 200 requests."""
        return ssl.create_default_context()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=Connector(
                    limit=0,
                    use_dns_cache=False,
                    resolver=_CheckedResolver(self._resolver),
                    socket_factory=self._open_socket,
                    keepalive_timeout=IDLE_SECONDS,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                request_class=_Request,
                headers={"User-Agent": f"Signalbox/{version()}", "Accept": "*/*"},
                skip_auto_headers=("Accept-Encoding",),
                auto_decompress=False,
                read_bufsize=BODY_BYTES,
                max_line_size=RESPONSE_BYTES,
                max_field_size=RESPONSE_BYTES,
                timeout=aiohttp.ClientTimeout(total=None),
            )
        return self._session

    def _open_socket(self, address: Any) -> socket.socket:
        """Open a socket for an address, the one that it will be connected to. Raise RefusedAddress."""
        family, kind, protocol, _, place = address
        self._resolver.networks.check(place[0])
        return socket.socket(family, kind, protocol)


class _CheckedResolver(AbstractResolver):
    """The resolver as the library calls it, when it makes a connection to a name."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the allowed addresses of a host. Raise OSError."""
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            }
            for address in await self._resolver.resolve(host)
        ]

    async def close(self) -> None:
        """Do nothing: the resolver is not the library's own."""


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read the rest of a short response; the connection is returned with its last byte."""
    if response.content.at_eof():
        return
    left = BODY_BYTES
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(BODY_SECONDS):
            while left > 0 and (part := await response.content.read(left)):
                left -= len(part)


def _failure(error: Exception) -> str:
    """Return why a request failed, without the URL, which the library puts into its texts."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else None
    if isinstance(cause, RefusedAddress):
        return str(cause)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the host {error.host} could not be resolved"
    for kind, text in _FAILURES:
        if isinstance(error, kind):
            return text
    if cause is not None:
        return f"the connection failed: {os.strerror(cause.errno) if cause.errno else type(cause).__name__}"
    return "the connection broke before the response" if isinstance(error, OSError) else "no response was received"


_FAILURES: Final = (
    (aiohttp.ClientConnectorCertificateError, "the certificate of the receiver is not valid for its host"),
    (aiohttp.ClientSSLError, "no TLS connection could be made"),
    (_UnusableConnection, "the receiver sent something before the request, or closed the connection"),
    (LongHead, f"the response has no status within {RESPONSE_BYTES // 1024} KiB"),
    (aiohttp.ServerDisconnectedError, "the receiver closed the connection without a response"),
    (aiohttp.ClientResponseError, "the response is not valid HTTP"),
)
