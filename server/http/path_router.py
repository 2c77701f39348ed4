"""What is served at which path of one port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from server.http.cors import Cors, answer_preflight, exposing, is_preflight

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence


class Application(Protocol):
    """An ASGI application whose requests can be ended."""

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        """Serve one request."""
        ...

    def end_calls(self) -> None:
        """Respond to the requests in progress."""
        ...


class Mounted(Application, Protocol):
    """An application that serves some paths."""

    def serves(self, path: bytes) -> bool:
        """Return whether a path is one of this application."""
        ...


class PathRouter:
    """Hands each request to the application that serves its path, or else to the last one."""

    def __init__(self, mounted: Sequence[Mounted], last: Application, cors: Cors | None = None) -> None:
        self.requests = 0
        """The number of requests in progress."""
        self._mounted = mounted
        self._last = last
        self._cors = cors or Cors(())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if allowed := self._cors.allowed(scope):
            if is_preflight(scope):
                await answer_preflight(scope, send, allowed)
                return
            scope["exchange"].exposing = exposing(allowed)
        self.requests += 1
        try:
            await self._application(scope["raw_path"])(scope, receive, send)
        finally:
            self.requests -= 1

    def _application(self, path: bytes) -> Application:
        for application in self._mounted:
            if application.serves(path):
                return application
        return self._last

    def end_calls(self) -> None:
        """Respond to the requests in progress."""
        for application in (*self._mounted, self._last):
            application.end_calls()
