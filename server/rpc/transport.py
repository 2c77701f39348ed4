"""What carries a call: gRPC, Connect, or server-sent events. Each implements one of these."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

Send = Callable[[Any, float], Awaitable[None]]
"""Writes a response of a stream. Raise WatcherTooSlow if the transport does not take it within the given seconds."""


class Transport(Protocol):
    """The transport of one call."""

    @property
    def own_errors(self) -> tuple[type[Exception], ...]:
        """Errors of the transport itself, as when the client has gone. They are raised on, and nothing is answered."""
        ...

    def credentials(self) -> tuple[str, str]:
        """Return the `authorization` value and the project that the call names, empty without. Raise KeyInvalid."""
        ...

    def arrived(self) -> bytes | None:
        """Return the message if it is small and has arrived already, or else None."""
        ...

    async def receive(self) -> bytes | None:
        """Receive a message, None if the client has sent all of them."""
        ...

    async def fail(self, error: Exception) -> None:
        """End the call with the status of an error."""
        ...


class UnaryTransport(Transport, Protocol):
    """The transport of one call with one response."""

    def on_sent(self, call: Callable[[], None]) -> None:
        """Call something once the response is sent."""
        ...


class StreamTransport(Transport, Protocol):
    """The transport of one call with a stream of responses."""

    def write(self, response: Any) -> Awaitable[None]:
        """Write a response; done when more can be written."""
        ...

    async def end(self) -> None:
        """End the call: all responses are written."""
        ...
