"""What a change obliges its server to do is done before the response, and though the caller leaves while it commits."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from server.auth.access import Access
from server.current_call import context as call_context
from server.delivery.dispatchers import Dispatchers
from server.delivery.push.pushers import Pushers
from server.delivery.recent_matches import RecentMatches
from server.ingest.catalog import Catalog
from server.metrics import Metrics
from server.rpc.contract import SERVICES
from server.rpc.open_calls import OpenCalls
from server.services.erasures import Erasures
from signalbox.v1 import options_pb2
from tests.support.changes import Changer
from tests.support.consumers import WAIT
from tests.support.held_writes import HeldWrite
from tests.support.service import ADMIN_KEY, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.service import Client
    from tests.support.stores import Store

EFFECTS: Final[dict[str, tuple[type, str]]] = {
    "catalog": (Catalog, "invalidate"),
    "recent matches": (RecentMatches, "forget"),
    "keys": (Access, "invalidate"),
    "unknown keys": (Access, "key_created"),
    "dispatcher": (Dispatchers, "wake"),
    "push": (Pushers, "apply"),
    "pushes of a project": (Pushers, "end_project"),
    "erasure": (Erasures, "_task"),
    "count of runs": (Metrics, "count_runs"),
}
"""What a committed change may oblige a server to do, and where that is done."""

CATALOG: Final = frozenset({"catalog", "recent matches"})
SUBSCRIPTION: Final = frozenset({"dispatcher", "push"})

OBLIGATIONS: Final[dict[str, frozenset[str]]] = {
    **dict.fromkeys(("CreateAutomation", "UpdateAutomation", "DeleteAutomation"), CATALOG),
    **dict.fromkeys(("ActivateAutomation", "PauseAutomation"), CATALOG),
    **dict.fromkeys(("CreateEventDefinition", "UpdateEventDefinition", "DeleteEventDefinition"), CATALOG),
    **dict.fromkeys(("UndeleteEventDefinition", "RollbackRevision"), CATALOG),
    **dict.fromkeys(("AwaitEvent", "CompleteRun", "CancelRun"), frozenset({"count of runs"})),
    **dict.fromkeys(("CreateSubscription", "UpdateSubscription"), SUBSCRIPTION),
    **dict.fromkeys(("DeleteSubscription", "SeekSubscription"), SUBSCRIPTION),
    **dict.fromkeys(("ReplayParkedMatches", "DiscardParkedMatches"), frozenset({"dispatcher"})),
    "DeleteContact": frozenset({"recent matches"}),
    "EraseContact": frozenset({"recent matches", "erasure"}),
    "UpdateProject": CATALOG,
    "DeleteProject": CATALOG | {"keys", "pushes of a project"},
    "CreateApiKey": CATALOG | {"unknown keys"},
    "RevokeApiKey": CATALOG | {"keys"},
    "RotateApiKey": CATALOG | {"keys", "unknown keys"},
}

NOTHING_IN_MEMORY: Final = {"CreateProject", "UpsertContact", "DiscardRefusedEvents"}
"""Whatever these change is read from the database whenever it is needed."""

COMMITTED_BY_THE_SERVER: Final = {
    *("SendEvent", "SendEvents", "StreamEvents", "ReingestRefusedEvents"),
    *("ConsumeMatches", "PullMatches", "AcknowledgeMatches"),
}
"""Tasks of the server commit what these change, and do what follows. No caller can cancel them."""

CHANGES_NOTHING: Final = {"PingSubscription"}

_HELD: Final = "held-after-its-commit"


class Made(Exception):
    """The call that was to be held has ended."""


class HeldChange:
    """Makes the first effective call of an RPC, and holds it once its first transaction is committed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: set[str] = set()
        self.answered: frozenset[str] | None = None
        self._changed = asyncio.Event()
        self._write = HeldWrite(monkeypatch, lambda _: _is_held())
        self._task: asyncio.Task[Any] | None = None
        self._cancels = False
        for effect, (owner, name) in EFFECTS.items():
            monkeypatch.setattr(owner, name, self._noted(effect, getattr(owner, name)))
        monkeypatch.setattr(Access, "_served", self._served(Access._served))
        monkeypatch.setattr(OpenCalls, "leave", self._left(OpenCalls.leave))

    async def make(self, changer: Changer, action: str, clients: list[Client], *, cancels: bool) -> None:
        """Make a call; `cancels` cancels it twice, as by a deadline and then a shutdown, while it is held."""
        self._cancels, self.answered, self._task = cancels, None, None
        self._write.again()
        for client in clients:
            for stub in client.stubs():
                if (call := getattr(stub, action, None)) is not None:
                    setattr(stub, action, partial(self._call, call, client))
        with pytest.raises(Made):
            await changer.change(action)

    async def all_done(self, effects: frozenset[str]) -> None:
        """Wait until all of these are done."""
        while not effects <= self.done:
            self._changed.clear()
            await self._changed.wait()

    async def _call(self, call: Callable[..., Awaitable[Any]], client: Client, request: Any) -> Any:
        if getattr(request, "validate_only", False) or getattr(request, "dry_run", False):
            return await call(request)
        metadata = [*client.metadata, (call_context.REQUEST_ID, _HELD)]
        calling = asyncio.ensure_future(call(request, metadata=metadata))
        try:
            await asyncio.wait_for(self._write.reached.wait(), WAIT)
            await self._end(calling)
        finally:
            self._write.go.set()
        raise Made

    async def _end(self, calling: asyncio.Future[Any]) -> None:
        if self._cancels:
            assert self._task is not None
            for _ in range(2):
                self._task.cancel()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await asyncio.shield(asyncio.wait({self._task}))
            self._release()
            # The library answers nothing for a handler that was cancelled.
            calling.cancel()
            with suppress(asyncio.CancelledError):
                await calling
        else:
            self._release()
            await calling

    def _release(self) -> None:
        self.done.clear()
        self._write.go.set()

    def _noted(self, effect: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*values: Any, **named: Any) -> Any:
            self.done.add(effect)
            self._changed.set()
            return function(*values, **named)

        return noted

    def _served(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def served(*values: Any) -> Any:
            if _is_held():
                self._task = asyncio.current_task()
            return function(*values)

        return served

    def _left(self, function: Callable[..., None]) -> Callable[..., None]:
        def left(calls: OpenCalls, task: asyncio.Task[Any]) -> None:
            if task is self._task:
                self.answered = frozenset(self.done)
            function(calls, task)

        return left


def _is_held() -> bool:
    return call_context.current().request_id == _HELD


def test_every_change_says_what_it_obliges_its_server_to_do() -> None:
    changing = {
        method.name
        for service in SERVICES
        for method in service.methods
        if method.GetOptions().Extensions[options_pb2.effect] != options_pb2.EFFECT_READS
    }
    assert {*OBLIGATIONS, *NOTHING_IN_MEMORY, *COMMITTED_BY_THE_SERVER, *CHANGES_NOTHING} == changing


async def test_what_a_change_obliges_to_is_done_before_the_response_and_though_its_caller_leaves(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldChange(monkeypatch)
    async with serving(store.url) as service:
        for action, obligations in OBLIGATIONS.items():
            for cancels in (False, True):
                client = await service.shop()
                changer = Changer(service, client, client.project)
                changer.admin = service.client(ADMIN_KEY)
                await held.make(changer, action, [client, changer.admin], cancels=cancels)
                if cancels:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(held.all_done(obligations), WAIT)
                    done = held.done
                else:
                    assert held.answered is not None
                    done = {*held.answered}
                assert obligations <= done, (action, "cancelled" if cancels else "answered", obligations - done)
