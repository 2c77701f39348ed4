"""Callers: authenticated by their secrets, authorized by their scopes.

A stream may stay open long after its key was checked. `Access.watch` registers it. When the key may have been revoked,
it is read again, and if it was, the stream is ended, even a silent one:

    revoked on this server       `invalidate`, right after the commit
    revoked on another server    `invalidate_outdated`, with the next refresh
    after a failover             `_check_epoch`: every key is read again
"""

from __future__ import annotations

import asyncio
import hmac
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

from registry.times.timestamps import now_micros
from server.auth.caller import ADMIN, Caller
from server.auth.credentials import bearer_secret, digest_of
from server.auth.lookup import Lookup
from server.current_call.context import as_server, authenticated
from server.current_call.personal_access import show_personal
from server.errors import (
    KeyExpired,
    KeyInvalid,
    ProjectNotFound,
    StorageError,
    TooManyKeyLookups,
)
from server.paging import sign_with
from server.process.futures import mark_retrieved
from server.sharing.current_project import work_for
from server.storage.projects.heads import catalog_version
from server.storage.projects.keys import key_by_digest
from server.storage.projects.projects import get_project, project_by_pk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy import Connection

    from server.model import ApiKey, Project
    from server.storage.database import Database

MAX_LOOKUPS: Final = 500
"""The most uncached keys that are looked up at the same time. Real keys are few and cached; a flood of invented ones
would fill the queue of brief reads, at 0.1 ms each, in which senders and heartbeats wait too."""

EXPIRY_SECONDS: Final = 30.0
"""The longest time for which a key that expires is cached."""

UNKNOWN_SECONDS: Final = 1.0
"""How long a key that was not found is refused without looking it up again."""

RETRY_SECONDS: Final = 0.25
"""The time between attempts to read the keys of open streams again while the database does not respond."""


@dataclass(eq=False, slots=True)
class WatchedStream:
    """An open stream. While it is `suspect`, its key is read again, and each of its requests is authenticated."""

    digest: bytes
    caller: Caller
    end: Callable[[Exception], None]
    version: int | None = None
    suspect: bool = False


class Access:
    """Authenticates callers.

    Only hashes of secrets are held: the time that it takes to look up a hash reveals nothing of the secret, and the
    admin key's hash is compared in constant time all the same. A revoked key is dropped from this cache at once, and on
    other servers with their next refresh. A key is cached with the catalog version under which it was read, and for one
    epoch of the database, so that a key lost in a failover is dropped too. `page_secret` signs the page tokens of
    authenticated calls.
    """

    LIMIT = 10_000
    """The most keys in the cache, and the most unknown ones; beyond it they are dropped and read again."""

    def __init__(self, database: Database, admin_secret: str, page_secret: bytes, *, demo: bool = False) -> None:
        self._database = database
        self._admin_digest = digest_of(admin_secret)
        self._demo = demo
        self._page_secret = page_secret
        self._callers: dict[bytes, tuple[Caller, int]] = {}
        self._epoch = database.epoch
        self._invalidations = 0
        self._unknown: dict[bytes, tuple[float, KeyInvalid | KeyExpired]] = {}
        self._creations = 0
        self._lookups: dict[tuple[bytes, int, int], Lookup[Caller]] = {}
        """The lookups in progress. Calls with the same key share one."""
        self._used: set[str] = set()
        """The keys that were used since `take_used`."""
        self._expiring: dict[bytes, asyncio.TimerHandle] = {}
        """When to read the cached keys again that expire. So calls need not look at the time."""
        self._streams: set[WatchedStream] = set()
        self._rechecking: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Stop reading keys again."""
        for timer in self._expiring.values():
            timer.cancel()
        if self._rechecking is not None:
            self._rechecking.cancel()
            with suppress(asyncio.CancelledError):
                await self._rechecking

    async def authenticate(self, authorization: str, project: str) -> Caller:
        """Return the caller of an `authorization` value; `project` is the one that the call names, if any.

        Raise KeyMissing, KeyInvalid, TooManyKeyLookups, ProjectNotFound and StorageError.
        """
        return await self.authenticate_secret(bearer_secret(authorization), project)

    async def authenticate_secret(self, secret: str, project: str = "") -> Caller:
        """Return the caller of a bare secret.

        From now on the current task works for the caller's project, and signs page tokens with this server's secret.
        Raise KeyInvalid, TooManyKeyLookups, ProjectNotFound and StorageError.
        """
        digest = digest_of(secret)
        return self._cached(digest, project) or self._served(await self._identify(digest, project))

    def recognized(self, authorization: str, project: str) -> Caller | None:
        """Return what `authenticate` returns if that needs no waiting, or else None. Raise KeyMissing.

        A call saves four coroutines by it.
        """
        return self._cached(digest_of(bearer_secret(authorization)), project)

    def _cached(self, digest: bytes, project: str) -> Caller | None:
        self._check_epoch()
        known = self._callers.get(digest)
        if known is None or (project and project != known[0].project_id):
            return None
        return self._served(known[0])

    def _served(self, caller: Caller) -> Caller:
        """Note the caller as the one that the current task serves."""
        work_for(caller.project_pk)
        authenticated(caller.key_id, caller.project_id)
        self._used.add(caller.key_id)
        show_personal(shown=caller.sees_personal)
        sign_with(self._page_secret)
        return caller

    async def _identify(self, digest: bytes, project: str) -> Caller:
        known = self._callers.get(digest)
        if known is not None:
            caller = known[0]
        else:
            if hmac.compare_digest(digest, self._admin_digest):
                return await self._admin(project)
            caller = await self._by_key(digest)
        if project and project != caller.project_id and (await self._project(project)).pk != caller.project_pk:
            raise ProjectNotFound(project)
        return caller

    def watch(self, authorization: str, caller: Caller, end: Callable[[Exception], None]) -> WatchedStream:
        """Call `end` with KeyInvalid once the key of an open stream is found to be revoked.

        If the project is deleted, it is called with ProjectNotFound, also for the admin key, which cannot be revoked
        while the server runs. The stream is given to `unwatch` when it is closed.
        """
        stream = WatchedStream(digest_of(bearer_secret(authorization)), caller, end)
        if caller.project_pk:
            self._streams.add(stream)
            known = self._callers.get(stream.digest)
            if caller.admin:
                self._recheck([stream])
            elif known is None:
                # A key of the project was revoked while this one was read.
                self._recheck([stream])
            else:
                stream.version = known[1]
        return stream

    def unwatch(self, stream: WatchedStream) -> None:
        """Forget a stream that is closed."""
        self._streams.discard(stream)

    def is_admin_key(self, secret: str) -> bool:
        """Return whether a secret is the admin key."""
        return hmac.compare_digest(digest_of(secret), self._admin_digest)

    def take_used(self) -> set[str]:
        """Return the IDs of the keys that were used since the last call."""
        used, self._used = self._used, set()
        return used - {""}

    def key_created(self) -> None:
        """Forget which keys were not found: one of them may exist now."""
        self._creations += 1
        self._unknown.clear()

    def invalidate(self, project_pk: int) -> None:
        """Drop the keys of a project from the cache, because one of them was revoked."""
        self._invalidations += 1
        self._drop_where(lambda caller, _: caller.project_pk == project_pk)

    def invalidate_outdated(self, versions: Mapping[int, int]) -> None:
        """Drop the keys that were read under other catalog versions than `versions`, by project."""
        self._check_epoch()
        self._drop_where(lambda caller, version: versions.get(caller.project_pk) != version)

    def _drop_where(self, outdated: Callable[[Caller, int | None], bool]) -> None:
        for digest in [digest for digest, known in self._callers.items() if outdated(*known)]:
            del self._callers[digest]
        self._recheck(stream for stream in self._streams if outdated(stream.caller, stream.version))

    def _check_epoch(self) -> None:
        if self._epoch != self._database.epoch:
            self._epoch = self._database.epoch
            self._callers.clear()
            self._recheck(self._streams)

    def _recheck(self, streams: Iterable[WatchedStream]) -> None:
        """Read the keys of streams again, in the background."""
        suspects = False
        for stream in streams:
            stream.suspect = suspects = True
        if suspects and (self._rechecking is None or self._rechecking.done()):
            self._rechecking = asyncio.create_task(self._recheck_suspects(), name="recheck-keys")

    async def _recheck_suspects(self) -> None:
        as_server()
        while digests := {stream.digest for stream in self._streams if stream.suspect}:
            for digest in digests:
                try:
                    await self._recheck_key(digest)
                except StorageError:
                    await asyncio.sleep(RETRY_SECONDS)

    async def _recheck_key(self, digest: bytes) -> None:
        """Read a key, and end its streams if it is invalid or their project is deleted. Raise StorageError."""
        if digest == self._admin_digest:
            await self._recheck_projects(self._suspects(digest))
            return
        try:
            if digest not in self._callers:
                await self._read_key(digest)
        except (KeyInvalid, KeyExpired) as error:
            suspects = self._suspects(digest)
            gone = await self._recheck_projects(suspects)
            for stream in suspects:
                stream.suspect = False
                if not gone:
                    stream.end(error)
            return
        known = self._callers.get(digest)
        # None if another key was revoked meanwhile: this one is read once more.
        if known is not None:
            for stream in self._suspects(digest):
                stream.suspect, stream.version = False, known[1]

    async def _recheck_projects(self, streams: Iterable[WatchedStream]) -> bool:
        """End streams whose project is deleted, and trust the others. Return whether it was any. Raise StorageError."""
        gone = False
        for stream in streams:
            caller = stream.caller
            found, version = await self._database.read(partial(_project_and_version, caller), brief=True)
            stream.suspect, stream.version = False, version
            if not found:
                gone = True
                stream.end(ProjectNotFound(caller.project_id))
        return gone

    async def expect_project(self, caller: Caller) -> None:
        """Raise ProjectNotFound if the project of a caller is deleted."""
        found, _ = await self._database.read(partial(_project_and_version, caller), brief=True)
        if not found:
            raise ProjectNotFound(caller.project_id)

    def _suspects(self, digest: bytes) -> list[WatchedStream]:
        return [stream for stream in self._streams if stream.suspect and stream.digest == digest]

    async def _admin(self, project: str) -> Caller:
        if not project:
            return Caller(0, "", frozenset({ADMIN}))
        found = await self._project(project)
        return Caller(found.pk, found.id, frozenset({ADMIN}))

    async def _project(self, project: str) -> Project:
        read = self._database.read(lambda connection: get_project(connection, project), brief=True)
        lookup = Lookup(read, "look-up-project")
        try:
            return await lookup.result()
        finally:
            lookup.task.cancel()

    async def _by_key(self, digest: bytes) -> Caller:
        """Look up a key that is not cached. Raise KeyInvalid, KeyExpired, TooManyKeyLookups and StorageError."""
        unknown_until = self._unknown.get(digest)
        if unknown_until is not None:
            until, error = unknown_until
            if monotonic() < until:
                raise type(error)
            del self._unknown[digest]
        # A key that was created or revoked since a lookup began needs a new one.
        lookup = digest, self._creations, self._invalidations
        looking = self._lookups.get(lookup)
        if looking is None:
            if len(self._lookups) >= MAX_LOOKUPS:
                raise TooManyKeyLookups
            looking = self._lookups[lookup] = Lookup(self._look_up(digest), "look-up-key")
            looking.task.add_done_callback(partial(self._looked_up, lookup))
        return await looking.result()

    async def _look_up(self, digest: bytes) -> Caller:
        as_server()
        creations = self._creations
        try:
            return await self._read_key(digest)
        except (KeyInvalid, KeyExpired) as error:
            if len(self._unknown) >= self.LIMIT:
                self._unknown.clear()
            # A key that was created while it was read must not be refused afterwards.
            if creations == self._creations:
                self._unknown[digest] = monotonic() + UNKNOWN_SECONDS, error.with_traceback(None)
            raise

    def _looked_up(self, lookup: tuple[bytes, int, int], looking: asyncio.Task[Caller]) -> None:
        del self._lookups[lookup]
        # The callers that waited may have gone.
        mark_retrieved(looking)

    async def _read_key(self, digest: bytes) -> Caller:
        invalidations = self._invalidations
        key, version = await self._database.read(lambda connection: _key_and_version(connection, digest), brief=True)
        if key is None or key.revoked_at is not None or (key.demo and not self._demo):
            raise KeyInvalid
        left = None if key.expires_at is None else (key.expires_at - now_micros()) / 1_000_000
        if left is not None and left <= 0:
            raise KeyExpired
        caller = Caller(key.project_pk, key.project_id, frozenset(key.scopes), key.dialect, key.id)
        if len(self._callers) >= self.LIMIT:
            self._callers.clear()
        # A key that was revoked while it was read must not be kept.
        if invalidations == self._invalidations:
            self._callers[digest] = caller, version
            if left is not None:
                self._expire_in(left, digest)
        return caller

    def _expire_in(self, seconds: float, digest: bytes) -> None:
        """Read a key again once it has expired: at most EXPIRY_SECONDS late if the clock is set meanwhile."""
        if (timer := self._expiring.pop(digest, None)) is not None:
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._expiring[digest] = loop.call_later(min(seconds, EXPIRY_SECONDS), self._expire, digest)

    def _expire(self, digest: bytes) -> None:
        del self._expiring[digest]
        self._callers.pop(digest, None)
        self._recheck([stream for stream in self._streams if stream.digest == digest])


def _key_and_version(connection: Connection, digest: bytes) -> tuple[ApiKey | None, int]:
    key = key_by_digest(connection, digest)
    return key, catalog_version(connection, key.project_pk) if key is not None else 0


def _project_and_version(caller: Caller, connection: Connection) -> tuple[bool, int]:
    try:
        project_by_pk(connection, caller.project_pk)
    except KeyInvalid:
        return False, 0
    return True, catalog_version(connection, caller.project_pk)
