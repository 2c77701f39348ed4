"""Authenticates the callers of calls, and watches their keys while a call lasts: it ends when its key does."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from registry.errors import SignalboxError
from server.errors import KeyExpired, KeyInvalid
from server.status import code_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from server.auth.access import Access, WatchedStream
    from server.auth.caller import Caller
    from server.rpc.open_calls import OpenCalls
    from server.rpc.transport import Transport


class Callers:
    """Authenticates the callers of one server. Calls that last are ended through `open_calls`."""

    def __init__(self, access: Access, open_calls: OpenCalls) -> None:
        self._access = access
        self._open_calls = open_calls

    async def authenticate(self, transport: Transport, scope: str) -> Caller:
        """Return the caller of a call, who has the scope. Raise AccessError, ProjectNotFound and TooManyKeyLookups."""
        caller = await self._access.authenticate(*transport.credentials())
        caller.authorize(scope)
        return caller

    async def authenticate_again(self, transport: Transport, scope: str, before: Caller) -> None:
        """Check that a call has a caller still. Raise AccessError, ProjectNotFound and TooManyKeyLookups."""
        try:
            await self.authenticate(transport, scope)
        except (KeyInvalid, KeyExpired):
            await self._access.expect_project(before)
            raise

    @asynccontextmanager
    async def watched(
        self, transport: Transport, scope: str, task: asyncio.Task[Any], caller: Caller
    ) -> AsyncIterator[WatchedCall]:
        """End the task of a call, in which the context is open, when the caller's key is revoked or expires.

        Raise ProjectNotFound if something was missing because the project was deleted meanwhile.
        """
        key = self._access.watch(transport.credentials()[0], caller, partial(self._open_calls.end, task))
        try:
            yield WatchedCall(self, transport, scope, task, caller, key)
        except SignalboxError as error:
            if code_of(error).name == "NOT_FOUND":
                await self._access.expect_project(caller)
            raise
        finally:
            self._access.unwatch(key)


@dataclass(frozen=True, slots=True)
class WatchedCall:
    """A call that lasts, the task that serves it, and its caller, whose key is watched."""

    callers: Callers
    transport: Transport
    scope: str
    task: asyncio.Task[Any]
    caller: Caller
    key: WatchedStream

    async def check(self) -> None:
        """Authenticate the caller again if the key may have been revoked.

        Raise KeyInvalid and KeyExpired, but ProjectNotFound if the project was deleted with its keys.
        """
        if self.key.suspect:
            await self.callers.authenticate_again(self.transport, self.scope, self.caller)
