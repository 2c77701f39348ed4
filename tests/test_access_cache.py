"""The cache of authenticated keys: what it spares, and when it forgets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from server.auth import access, lookup
from server.auth.access import UNKNOWN_SECONDS, Access
from server.auth.caller import ADMIN, Caller
from server.auth.credentials import bearer_secret, digest_of
from server.errors import (
    AdminRequired,
    KeyInvalid,
    KeyMissing,
    ProjectNotFound,
    ProjectRequired,
    ScopeMissing,
    StorageLate,
)
from server.model import ApiKey, Dialect, Rules, Scope
from server.storage.projects.keys import insert_key
from server.storage.projects.projects import insert_project

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.model import Project
    from server.storage.database import Database

SECRETS = ("sb_the_first_of_all_keys", "sb_the_second_of_all_keys", "sb_the_third_of_all_keys")
ADMIN_SECRET = "sb_admin_of_this_test"

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


class Counted:
    """A database that counts its reads and may enter another epoch."""

    def __init__(self, database: Database) -> None:
        self.epoch = 0
        self.reads = 0
        self.during_read: Callable[[], None] = lambda: None
        self.responds = asyncio.Event()
        self.responds.set()
        self._database = database

    async def read(self, work: Any, *, brief: bool = False) -> Any:
        assert brief
        self.reads += 1
        await self.responds.wait()
        found = await self._database.read(work, brief=brief)
        self.during_read()
        return found


class Keys:
    """Access to a database with two projects, of which the first has three keys."""

    def __init__(self, database: Database, project: Project, other: Project) -> None:
        counted: Any = Counted(database)
        self.database: Counted = counted
        self.access = Access(counted, ADMIN_SECRET, b"page secret")
        self.project = project
        self.other = other

    async def reads(self, *secrets: str) -> int:
        """Authenticate each secret in turn, and return how many reads that took."""
        before = self.database.reads
        for secret in secrets:
            assert (await self.access.authenticate_secret(secret)).project_id == self.project.id
        return self.database.reads - before


@pytest_asyncio.fixture
async def keys(database: Database) -> Keys:
    def insert(connection: Any) -> tuple[Project, Project]:
        project, other = (insert_project(connection, name, name, Rules(), 1) for name in ("shop", "other"))
        for number, secret in enumerate(SECRETS):
            key = ApiKey(
                f"k{number}", project.pk, project.id, Dialect.NATIVE, frozenset({Scope.ALL}), "", "", False, 1, None
            )
            insert_key(connection, key, digest_of(secret))
        return project, other

    return Keys(database, *await database.write(insert))


@on_sqlite
async def test_a_key_is_read_once(keys: Keys) -> None:
    assert await keys.reads(SECRETS[0], SECRETS[0], SECRETS[1], SECRETS[0]) == 2
    caller = await keys.access.authenticate_secret(SECRETS[0])
    assert (caller.key_id, caller.project_pk, caller.scopes) == ("k0", keys.project.pk, frozenset({"*"}))


@on_sqlite
async def test_an_unknown_key_is_looked_up_once_a_second_and_when_a_key_was_created(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(access, "monotonic", lambda: now)

    async def reads() -> int:
        with pytest.raises(KeyInvalid):
            await keys.access.authenticate_secret("sb_nobody_made_this_key")
        return keys.database.reads

    assert [await reads() for _ in range(2)] == [1, 1]
    keys.access.key_created()
    assert [await reads() for _ in range(2)] == [2, 2]
    now = UNKNOWN_SECONDS
    assert [await reads() for _ in range(2)] == [3, 3]


@on_sqlite
async def test_a_key_that_is_created_while_it_is_looked_up_is_looked_up_again(keys: Keys) -> None:
    keys.database.during_read = keys.access.key_created
    for reads in (1, 2):
        with pytest.raises(KeyInvalid):
            await keys.access.authenticate_secret("sb_nobody_made_this_key")
        assert keys.database.reads == reads


@on_sqlite
async def test_the_cache_begins_anew_once_it_is_full(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Access.LIMIT == 10_000
    monkeypatch.setattr(Access, "LIMIT", 2)
    assert await keys.reads(SECRETS[0], SECRETS[1], SECRETS[0], SECRETS[1]) == 2
    assert await keys.reads(SECRETS[2], SECRETS[2], SECRETS[0]) == 2
    assert await keys.reads(SECRETS[0], SECRETS[2]) == 0


@on_sqlite
async def test_the_keys_of_a_project_are_forgotten_when_one_of_them_is_revoked(keys: Keys) -> None:
    await keys.reads(*SECRETS)
    keys.access.invalidate(keys.other.pk)
    assert await keys.reads(*SECRETS) == 0
    keys.access.invalidate(keys.project.pk)
    assert await keys.reads(*SECRETS) == 3


@on_sqlite
async def test_keys_of_another_catalog_version_are_forgotten(keys: Keys) -> None:
    await keys.reads(*SECRETS)
    version = next(version for _, version in keys.access._callers.values())
    keys.access.invalidate_outdated({keys.project.pk: version, keys.other.pk: version + 1})
    assert await keys.reads(*SECRETS) == 0
    keys.access.invalidate_outdated({keys.project.pk: version + 1})
    assert await keys.reads(*SECRETS) == 3
    keys.access.invalidate_outdated({})
    assert await keys.reads(*SECRETS) == 3


@on_sqlite
async def test_all_keys_are_forgotten_when_the_database_is_another(keys: Keys) -> None:
    await keys.reads(*SECRETS)
    keys.database.epoch = 1
    assert await keys.reads(*SECRETS) == 3
    assert await keys.reads(*SECRETS) == 0


@on_sqlite
async def test_a_key_that_is_revoked_while_it_is_read_is_not_kept(keys: Keys) -> None:
    keys.database.during_read = lambda: keys.access.invalidate(keys.other.pk)
    assert await keys.reads(SECRETS[0], SECRETS[0]) == 2
    keys.database.during_read = lambda: None
    assert await keys.reads(SECRETS[0], SECRETS[0]) == 1


@on_sqlite
async def test_a_call_may_name_the_project_of_its_key_by_id_alone_without_a_read(keys: Keys) -> None:
    await keys.reads(*SECRETS)
    before = keys.database.reads
    assert (await keys.access.authenticate(f"Bearer {SECRETS[0]}", keys.project.id)).project_id == keys.project.id
    assert keys.database.reads == before
    for project in (keys.other.id, "nothing"):
        with pytest.raises(ProjectNotFound):
            await keys.access.authenticate(f"Bearer {SECRETS[0]}", project)


@on_sqlite
async def test_the_admin_key_acts_for_the_project_that_it_names(keys: Keys) -> None:
    alone = await keys.access.authenticate_secret(ADMIN_SECRET)
    assert (alone.project_pk, alone.project_id, alone.key_id, alone.admin) == (0, "", "", True)
    named = await keys.access.authenticate_secret(ADMIN_SECRET, keys.project.id)
    assert (named.project_pk, named.project_id, named.admin) == (keys.project.pk, keys.project.id, True)
    with pytest.raises(ProjectNotFound):
        await keys.access.authenticate_secret(ADMIN_SECRET, "nothing")


ONE, ALL = frozenset({"events:read"}), frozenset({Scope.ALL})


@on_sqlite
async def test_no_call_waits_for_a_database_that_does_not_respond(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "LATE_SECONDS", 0.3)
    loop = asyncio.get_running_loop()
    began = loop.time()
    keys.database.responds.clear()
    calls = [keys.access.authenticate_secret(secret) for secret in SECRETS[:2]]
    calls.append(keys.access.authenticate_secret(ADMIN_SECRET, keys.project.id))
    refused = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in refused] == [StorageLate] * 3
    assert 0.3 <= loop.time() - began < 5
    began = loop.time()
    with pytest.raises(StorageLate):
        await keys.access.authenticate_secret(SECRETS[0])
    assert loop.time() - began < 0.3
    keys.database.responds.set()
    assert await keys.reads(*SECRETS[:2]) == 0


def test_a_call_without_its_scope_is_refused_with_the_missing_one() -> None:
    for caller, scope, error in (
        (Caller(1, "p", ONE), "events:read", None),
        (Caller(1, "p", ONE), "events:write", ScopeMissing),
        (Caller(1, "p", ONE), ADMIN, AdminRequired),
        (Caller(1, "p", ALL), "events:write", None),
        (Caller(1, "p", ALL), ADMIN, AdminRequired),
        (Caller(1, "p", frozenset({ADMIN})), "events:write", None),
        (Caller(0, "", frozenset({ADMIN})), ADMIN, None),
        (Caller(0, "", frozenset({ADMIN})), "events:write", ProjectRequired),
    ):
        if error is None:
            caller.authorize(scope)
        else:
            with pytest.raises(error):
                caller.authorize(scope)


def test_a_secret_follows_the_word_bearer() -> None:
    for authorization in ("Bearer secret", "bearer secret", "BEARER secret"):
        assert bearer_secret(authorization) == "secret"
    for authorization in ("", "Bearer", "Bearer ", "Basic secret", "secret", "Bearersecret"):
        with pytest.raises(KeyMissing):
            bearer_secret(authorization)
