"""Decides which subscriptions this server pushes, and runs a session for each.

    read     the subscriptions that push, and which server has claimed each
    claim    those that nobody pushes, and renew the own claims, in one transaction
    ask      those that push more for some of theirs, if others push at least two more (`shares.py`)
    hand     over what others ask for, once its session has ended
    run      a session for each claimed one; one whose push has changed, or that is another's, is stopped

This is done whenever a push changes on this server, and on a shared database every POLL_SECONDS. A claim there lasts
CLAIM_SECONDS by the clock of the database: when a server dies, another one pushes its subscriptions after that time. A
server that cannot renew a claim sends nothing more MARGIN_SECONDS before it ends, by its own clock, which began to run
earlier. An SQLite file has one server, which claims everything for good.

Claims only keep two servers from pushing at once; what each match still needs is decided by the leases, as ever.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
from uuid_utils import uuid7

from automation.errors import SubscriptionNotFound
from automation.subscriptions.push_store import (
    active_pushes,
    ask_for_pushes,
    claim_pushes,
    hand_over_pushes,
    pause_push,
    release_pushes,
    write_attempts,
)
from registry.times.timestamps import now_micros
from server.delivery.push.session import PushSession
from server.delivery.push.shares import PushClaim, keys_to_ask_for
from server.process.recurring import RETRY_SECONDS, Recurring
from server.storage.clock import database_now, transaction_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from automation.subscriptions.push import Push
    from automation.subscriptions.push_store import ActivePush
    from server.delivery.push.session import PushTools
    from server.logs.outages import Outages
    from server.process.shutdown import Shutdown
    from server.storage.database import Database

log = structlog.get_logger()

POLL_SECONDS: Final = 0.5
CLAIM_SECONDS: Final = 6.0
MARGIN_SECONDS: Final = 1.0
YIELD_SECONDS: Final = 0.75
"""The longest time for which a server leaves a new subscription to servers that push fewer."""
SAVE_SECONDS: Final = 1.0
"""How often the last requests are stored."""

_FOLLOWING: Final = "pushes"
_SAVING: Final = "push-attempts"
_SECOND: Final = 1_000_000
_FOREVER: Final = 1 << 62


class Pushers:
    """The subscriptions that this server pushes."""

    def __init__(self, database: Database, tools: PushTools, shutdown: Shutdown, outages: Outages) -> None:
        self._database = database
        self._tools = tools
        self._changed = asyncio.Event()
        self._applied: set[int] = set()
        self._deleted_projects: set[int] = set()
        self._shutdown = shutdown
        self._owner = str(uuid7())
        self._claims: dict[int, float] = {}
        self._sessions: dict[int, PushSession] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._following = Recurring(_FOLLOWING, self._follow, outages)
        self._outages = outages
        self._saving = Recurring(_SAVING, self._save_all, outages)

    def start(self) -> None:
        """Begin to push."""
        self._changed.set()
        self._following.start()
        self._saving.start()

    def apply(self, key: int, push: Push | None) -> None:
        """Apply the new settings of a push, None if there are none: no further request is sent with the old ones."""
        self._applied.add(key)
        session = self._sessions.get(key)
        if session is None and push is None:
            return
        if session is not None and (push is None or push.paused_at or push.version != session.push.version):
            session.stop()
        self._changed.set()

    def end_project(self, project_pk: int) -> None:
        """Push nothing more of a project, because it is deleted."""
        self._deleted_projects.add(project_pk)
        for session in self._sessions.values():
            if session.project_pk == project_pk:
                session.stop()
        self._changed.set()

    async def close(self) -> None:
        """Stop all sessions, wait for their requests a little, and let other servers go on."""
        await self._following.close()
        self._stop_all()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._saving.close()
        if self._claims:
            await self._database.write(partial(release_pushes, owner=self._owner))

    async def _follow(self) -> float:
        await self._wait()
        if self._shutdown.stopping.is_set():
            self._stop_all()
            return POLL_SECONDS
        try:
            await self._refresh()
        except BaseException:
            self._changed.set()
            raise
        return 0

    async def _wait(self) -> None:
        """Wait for a change, for the shutdown, or until it is time to look again."""
        waiting = [asyncio.ensure_future(event.wait()) for event in (self._changed, self._shutdown.stopping)]
        try:
            seconds = POLL_SECONDS if self._database.shared else None
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waiting:
                wait.cancel()
        self._changed.clear()

    async def _refresh(self) -> None:
        began = asyncio.get_running_loop().time()
        # A push that is applied during the reads below may be newer than they are, so the next refresh begins it.
        self._applied.clear()
        self._deleted_projects.clear()
        active = await self._database.read(active_pushes, brief=True)
        if self._database.shared and any(not each.owner for each in active):
            count = len(self._claims)
            await asyncio.sleep(YIELD_SECONDS * count / (count + 4))
            active = await self._database.read(active_pushes, brief=True)
        if self._must_claim(active):
            lasting = CLAIM_SECONDS - MARGIN_SECONDS if self._database.shared else float(_FOREVER)
            claimed = await self._database.write(self._claim)
            self._claims |= dict.fromkeys(claimed, began + lasting)
            active = await self._database.read(active_pushes, brief=True)
        mine = {each.subscription.key: each for each in active if each.owner == self._owner}
        if self._database.shared:
            await self._share(active, mine)
        self._claims = {key: until for key, until in self._claims.items() if key in mine}
        for key, session in self._sessions.items():
            if key not in mine or mine[key].wanted_by or mine[key].push.version != session.push.version:
                session.stop()
            else:
                session.wake()
        for key, each in mine.items():
            if key not in self._sessions and not each.wanted_by and not self._outdated(each):
                self._begin(each)
        self._tools.attempts.keep({*mine, *self._sessions})

    def _outdated(self, active: ActivePush) -> bool:
        """Return whether a push may have changed since it was read."""
        subscription = active.subscription
        return subscription.key in self._applied or subscription.project_pk in self._deleted_projects

    async def _share(self, active: Sequence[ActivePush], mine: dict[int, ActivePush]) -> None:
        """Ask others for a fair share, and hand over what they ask for; what is handed over is taken out of `mine`."""
        now = database_now()
        claims = [
            PushClaim(each.subscription.key, each.owner, each.wanted_by) for each in active if each.owned_until > now
        ]
        if keys := keys_to_ask_for(claims, self._owner):
            await self._database.write(partial(ask_for_pushes, owner=self._owner, keys=keys))
        if handed := [key for key, each in mine.items() if each.wanted_by and key not in self._sessions]:
            await self._database.write(partial(self._hand_over, keys=handed))
            for key in handed:
                del mine[key]

    def _hand_over(self, connection: Connection, keys: Sequence[int]) -> None:
        until = transaction_time(connection) + round(CLAIM_SECONDS * _SECOND)
        hand_over_pushes(connection, self._owner, keys, until)

    def _must_claim(self, active: Sequence[ActivePush]) -> bool:
        """Return whether a subscription can be claimed, or an own claim is to be renewed."""
        if any(each.owner == self._owner and each.subscription.key not in self._claims for each in active):
            # It was paused in between.
            return True
        if not self._database.shared:
            return any(each.owner != self._owner for each in active)
        now = database_now()
        soon = now + round(CLAIM_SECONDS * _SECOND * 2 / 3)
        return any(each.owned_until <= (soon if each.owner == self._owner else now) for each in active)

    def _claim(self, connection: Connection) -> set[int]:
        if not self._database.shared:
            return claim_pushes(connection, self._owner, _FOREVER, _FOREVER)
        now = transaction_time(connection)
        return claim_pushes(connection, self._owner, now, now + round(CLAIM_SECONDS * _SECOND))

    def _begin(self, active: ActivePush) -> None:
        key = active.subscription.key
        self._tools.attempts.open(key, active.push.attempts)
        session = PushSession(self._tools, active.subscription, active.push, partial(self._may_send, key))
        self._sessions[key] = session
        task = asyncio.create_task(self._run(key, session), name="push-subscription")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _may_send(self, key: int) -> bool:
        return self._claims.get(key, 0.0) > asyncio.get_running_loop().time()

    async def _run(self, key: int, session: PushSession) -> None:
        """Run a session; one that failed is begun again after a while."""
        try:
            reason = await session.run()
            if reason:
                await self._pause(key, session, reason)
        except SubscriptionNotFound:
            pass
        except Exception as error:
            # An outage counts as over when the subscriptions can be read, and nothing has failed since for a while.
            self._outages.report(_FOLLOWING, error, "push_interrupted", subscription=session.subscription_id)
            await self._pause_between_failures()
        finally:
            await self._save_last()
            del self._sessions[key]
            self._changed.set()

    async def _pause_between_failures(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SECONDS):
                await self._shutdown.stopping.wait()

    async def _pause(self, key: int, session: PushSession, reason: str) -> None:
        """Pause a subscription, unless how it pushes was changed since."""
        pause = partial(pause_push, key=key, version=session.push.version, reason=reason, now=now_micros())
        if await self._database.write(pause):
            log.warning("push_paused", subscription=session.subscription_id, reason=reason)

    async def _save_all(self) -> float:
        if unsaved := self._tools.attempts.take_unsaved():
            try:
                await self._database.write(partial(write_attempts, owner=self._owner, attempts=unsaved))
            except Exception:
                self._tools.attempts.return_unsaved(unsaved)
                raise
        return SAVE_SECONDS

    async def _save_last(self) -> None:
        """Store the last requests when a session ends; if that fails, it is tried again with those of the others."""
        try:
            await self._save_all()
        except Exception as error:
            self._outages.report(_SAVING, error)

    def _stop_all(self) -> None:
        for session in self._sessions.values():
            session.stop()
