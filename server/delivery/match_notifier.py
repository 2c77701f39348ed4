"""Notifies the followers of a match log, watchers and dispatchers, of its growth.

A commit of this server wakes them at once, watchers in portions if there are many. On a database that is shared with
other servers, the ends of the followed logs are read every POLL_SECONDS, in one query for all of them, so that
followers cost no query each.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from server.delivery.recent_matches import RecentMatches
from server.delivery.wake_ups import WakeUps
from server.logs.outages import Outages
from server.process.recurring import Recurring
from server.storage.projects.heads import match_positions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from server.storage.database import Database

POLL_SECONDS = 0.1
"""The interval at which the ends of followed logs are read on a shared database."""

_FOLLOWING: Final = "following"


class _Head:
    """The end of one log: the position of its newest match, and the event that wakes the followers."""

    def __init__(self, wake_ups: WakeUps) -> None:
        self.position = 0
        self.known = False
        self.followers = 0
        self.moved = asyncio.Event()
        self._wake_ups = wake_ups
        self._watchers: dict[asyncio.Future[None], None] = {}

    def watch(self, position: int) -> asyncio.Future[None]:
        """Return a future that is resolved in its turn, once the end differs from a position."""
        turn = asyncio.get_running_loop().create_future()
        if self.position == position:
            self._watchers[turn] = None
        else:
            self._wake_ups.add([turn])
        return turn

    def unwatch(self, turn: asyncio.Future[None]) -> None:
        """Drop a future that nobody waits for any more."""
        turn.cancel()
        self._watchers.pop(turn, None)

    def move(self, position: int) -> None:
        """Move the end of the log to the position of a commit or a read; an earlier position changes nothing."""
        if position > self.position:
            self._set(position)

    def check(self, known: int, found: int) -> None:
        """Set the end of the log to the position that a read found; `known` was the end when the read began.

        The known end was durable, so a log that ends before it has lost its tail in a failover or a restore.
        """
        if found < known:
            self._set(found)
        else:
            self.move(found)

    def _set(self, position: int) -> None:
        self.position = position
        self.moved.set()
        self.moved = asyncio.Event()
        watchers, self._watchers = self._watchers, {}
        self._wake_ups.add(watchers)


class MatchNotifier:
    """The ends of the followed match logs."""

    def __init__(self, database: Database, outages: Outages | None = None, recent: RecentMatches | None = None) -> None:
        self.recent = recent or RecentMatches()
        self._database = database
        self._wake_ups = WakeUps()
        self._heads: dict[int, _Head] = {}
        self._outages = outages or Outages()
        self._task = Recurring(_FOLLOWING, self._poll, self._outages)

    def start(self) -> None:
        """Follow the matches of other servers, if the database is shared."""
        if self._database.shared:
            self._task.start()

    async def close(self) -> None:
        """Stop following."""
        await self._task.close()

    def advance(self, project_pk: int, position: int) -> None:
        """Move the end of a log after a commit, and wake its followers."""
        if head := self._heads.get(project_pk):
            head.move(position)

    def forget(self, project_pk: int) -> None:
        """Forget the log of a project that is deleted for good."""
        self._heads.pop(project_pk, None)
        self.recent.forget(project_pk)

    def report(self, error: Exception) -> None:
        """Report that a follower failed, which tries again as long as it needs the log."""
        self._outages.report(_FOLLOWING, error, awaited=False)

    def followed(self, project_pk: int) -> bool:
        """Return whether somebody follows the log of a project."""
        head = self._heads.get(project_pk)
        return head is not None and head.followers > 0

    def known_position(self, project_pk: int) -> int:
        """Return the end of a log as far as it is known."""
        head = self._heads.get(project_pk)
        return head.position if head is not None else 0

    async def position(self, project_pk: int) -> int:
        """Return the position of the newest match of a project, 0 if there is none."""
        head = self._head(project_pk)
        if not head.known or (self._database.shared and not head.followers):
            await self._refresh([project_pk])
        return head.position

    async def wait_beyond(self, project_pk: int, position: int, seconds: float) -> int:
        """Wait until the log has matches after a position, or for `seconds`. Return the position of the newest match.

        A log that ends before the position, after a failover or a restore, is returned at once too.
        """
        head = self._head(project_pk)
        head.followers += 1
        try:
            async with asyncio.timeout(seconds):
                if not head.known or head.position < position:
                    await self._refresh([project_pk])
                while head.position == position:
                    await head.moved.wait()
        except TimeoutError:
            pass
        finally:
            head.followers -= 1
        return head.position

    @contextmanager
    def following(self, project_pk: int) -> Iterator[None]:
        """Follow a log while the context is open, also between two waits: its matches are kept in memory."""
        head = self._head(project_pk)
        head.followers += 1
        try:
            yield
        finally:
            head.followers -= 1

    async def wait_turn(self, project_pk: int, position: int, seconds: float) -> int:
        """Wait as `wait_beyond` does, then for a turn among all watchers: they are woken in portions."""
        head, loop = self._head(project_pk), asyncio.get_running_loop()
        until = loop.time() + seconds
        if not head.known or head.position < position:
            try:
                async with asyncio.timeout_at(until):
                    await self._refresh([project_pk])
            except TimeoutError:
                return head.position
        turn = head.watch(position)
        timer = loop.call_at(until, _resolve, turn)
        try:
            await turn
        finally:
            timer.cancel()
            head.unwatch(turn)
        return head.position

    def _head(self, project_pk: int) -> _Head:
        head = self._heads.get(project_pk)
        if head is None:
            head = self._heads[project_pk] = _Head(self._wake_ups)
        return head

    async def _poll(self) -> float:
        """Read the ends of the logs that are followed. Return the seconds after which to do so again."""
        if followed := [key for key, head in self._heads.items() if head.followers]:
            await self._refresh(followed)
        return POLL_SECONDS

    async def _refresh(self, project_pks: Iterable[int]) -> None:
        heads = {key: self._heads[key] for key in project_pks}
        known = {key: head.position for key, head in heads.items()}
        found = await self._database.read(lambda connection: match_positions(connection, list(heads)), brief=True)
        for key, position in known.items():
            # A missing project was lost with its log, or deleted.
            end = found.get(key, 0)
            if end < position:
                self.recent.forget(key)
            heads[key].check(position, end)
            heads[key].known = True


def _resolve(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
