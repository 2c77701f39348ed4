"""A request of the Connect protocol: its headers, its deadline, and its body."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from server.current_call.context import CONNECT, REQUEST_ID, begin_call
from server.errors import DeadlineExceeded, InvalidArgument
from server.http.body import ClientGone
from server.http.errors import BodyTooLarge, RepeatedHeader
from server.http.headers import repeated_header
from server.tracing.context import TRACEPARENT, receive_trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from server.http.exchange import HttpExchange
    from server.rpc.open_calls import OpenCalls

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]

MAX_TIMEOUT_DIGITS: Final = 10
"""Of milliseconds, by the protocol: 115 days."""

_SINGLE: Final = frozenset(
    {
        b"authorization",
        b"connect-content-encoding",
        b"connect-protocol-version",
        b"connect-timeout-ms",
        b"content-encoding",
        b"content-type",
        b"signalbox-project",
    }
)
"""Headers with a single value: of two values, a proxy in front may have used the other one."""


_REQUEST_ID: Final = REQUEST_ID.encode()
_TRACEPARENT: Final = TRACEPARENT.encode()


class ConnectRequest:
    """A request that carries a call, whose caller is begun with it."""

    __slots__ = (
        "_deadline",
        "_raw_path",
        "_receive",
        "_repeated",
        "exchange",
        "headers",
        "method",
        "request_id",
        "respond",
        "send",
    )

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        exchange: HttpExchange = scope["exchange"]
        self.method: str = scope["method"]
        self.headers = exchange.headers
        self.send = send
        self.exchange = exchange
        self.respond = exchange.respond
        self._raw_path: bytes = scope["raw_path"]
        self._receive = receive
        self._deadline: asyncio.TimerHandle | None = None
        given_id = self.headers.get(_REQUEST_ID, b"").decode("latin-1")
        self.request_id = begin_call(given_id, CONNECT).encode()
        receive_trace(self.headers.get(_TRACEPARENT, b"").decode("latin-1"))
        several = len(self.headers) < len(scope["headers"])
        self._repeated = repeated_header(scope["headers"], _SINGLE) if several else b""

    @property
    def path(self) -> str:
        """The path as it was sent."""
        return self._raw_path.decode("latin-1")

    def check(self) -> None:
        """Raise RepeatedHeader and InvalidArgument for headers that are not of the protocol."""
        if self._repeated:
            raise RepeatedHeader(self._repeated.decode("latin-1"))
        version = self.headers.get(b"connect-protocol-version", b"1")
        if version != b"1":
            message = f'Connect-Protocol-Version must be 1, not "{_shown(version)}"'
            raise InvalidArgument.at("Connect-Protocol-Version", "INVALID_HEADER", message)

    def credentials(self) -> tuple[str, str]:
        """Return the `authorization` value and the project that the call names, empty without."""
        headers = self.headers
        return (
            headers.get(b"authorization", b"").decode("latin-1"),
            headers.get(b"signalbox-project", b"").decode("utf-8", "replace"),
        )

    def media_type(self) -> bytes:
        """Return the media type of the body, in lower case and without parameters."""
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()

    def begin_deadline(self, calls: OpenCalls, task: asyncio.Task[Any]) -> None:
        """End the call at its deadline, if it has one, until `end_deadline`. Raise DeadlineExceeded for one of 0."""
        given = self.headers.get(b"connect-timeout-ms")
        if given is None:
            return
        if not (given.isdigit() and len(given) <= MAX_TIMEOUT_DIGITS):
            message = (
                f"Connect-Timeout-Ms must be a whole number of milliseconds with at most {MAX_TIMEOUT_DIGITS} digits,"
                f' not "{_shown(given)}"'
            )
            raise InvalidArgument.at("Connect-Timeout-Ms", "INVALID_HEADER", message)
        if not int(given):
            raise DeadlineExceeded
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(int(given) / 1_000, calls.end, task, DeadlineExceeded())

    def end_deadline(self) -> None:
        """Let the call go on."""
        if self._deadline is not None:
            self._deadline.cancel()

    async def body(self, limit: int) -> bytes:
        """Receive the whole body as it was sent. Raise BodyTooLarge and ClientGone."""
        length = self.headers.get(b"content-length", b"")
        if length and int(length) > limit:
            raise BodyTooLarge(limit)
        first = await self.part()
        if not first["more_body"] and len(first["body"]) <= limit:
            whole: bytes = first["body"]
            return whole
        content = bytearray(first["body"])
        more: bool = first["more_body"]
        while more:
            if len(content) > limit:
                raise BodyTooLarge(limit)
            part = await self.part()
            content += part["body"]
            more = part["more_body"]
        if len(content) > limit:
            raise BodyTooLarge(limit)
        return bytes(content)

    async def part(self) -> dict[str, Any]:
        """Receive a part of the body. Raise ClientGone."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message


def _shown(value: bytes) -> str:
    return value[:100].decode("latin-1")
