"""A deleted project is gone at once for its callers, and in every table soon after."""

from __future__ import annotations

import asyncio
import gc
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest
from grpc import StatusCode

from automation.errors import SubscriptionNotFound
from automation.tables import metadata as automation_metadata
from registry.storage.tables import metadata as registry_metadata
from server.auth.access import Access
from server.background import project_deletion, run_timeouts
from server.background.each_project import try_each_project
from server.background.match_retention import MatchRetention
from server.background.retention_clock import RetentionClock
from server.background.run_timeouts import RunTimeouts
from server.delivery.deliveries import Deliveries
from server.ingest import refusal_log
from server.logs.outages import Outages
from server.model import Rules
from server.services import erasures
from server.storage.projects.deletion import mark_deleted
from server.storage.projects.projects import insert_project
from server.storage.tables import metadata as server_metadata
from signalbox.v1 import audit_pb2, contacts_pb2, event_ingest_pb2, match_stream_pb2
from signalbox.v1 import projects_pb2 as pb
from tests.support.automations import automate
from tests.support.consumers import PARK, Engine, acknowledge, ids, pull, subscribe
from tests.support.messages import ADA, event
from tests.support.quarantine import reingest
from tests.support.refusals import verdict
from tests.support.service import ADMIN_KEY, serving

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection

    from server.storage.database import Database
    from tests.support.service import Client, Service
    from tests.support.stores import Backend, Store

TABLES = [table for each in (registry_metadata, automation_metadata, server_metadata) for table in each.sorted_tables]
OF_THE_SERVER = {"server_secret", "server_setting", "used_key", "used_project_key", "project"}
OF_PARENTS = {
    "event_definition_revision": ("definition_id", "event_definition", "id"),
    "automation_version": ("automation_key", "automation", "key"),
    "subscription_delivery": ("subscription_key", "subscription", "key"),
    "subscription_parked": ("subscription_key", "subscription", "key"),
    "subscription_push": ("subscription_key", "subscription", "key"),
}


async def filled(service: Service) -> Client:
    """Make a project with something of everything."""
    shop = await service.shop()
    await automate(shop)
    await subscribe(shop, "pushing", push=match_stream_pb2.Push(url="https://93.184.216.34/hook", paused=True))
    await subscribe(shop)
    await shop.send_all([event() for _ in range(40)])
    first, *_ = await pull(shop, 20, wait=5)
    nack = match_stream_pb2.NackDeliveries(delivery_ids=ids([first]), action=PARK)
    await acknowledge(shop, nacks=[nack])
    return shop


def deletion(service: Service, project: pb.Project, **fields: Any) -> Any:
    request = pb.DeleteProjectRequest(**{"project": project.id, "confirm_name": project.name, **fields})
    return service.admin.projects.DeleteProject(request)


async def project_of(service: Service, client: Client) -> pb.Project:
    return (await service.admin.projects.GetProject(pb.GetProjectRequest(project=client.project))).project


async def left(store: Store, project_id: str, key: int) -> dict[str, int]:
    """Count the rows of a project, and those without their parent, in every table that has any."""
    counts: dict[str, int] = {}
    for table in TABLES:
        if table.name in OF_PARENTS:
            column, parent, own = OF_PARENTS[table.name]
            condition = f"{column} NOT IN (SELECT {own} FROM {parent})"  # noqa: S608 - tables of our own
        elif "project_key" in table.c:
            condition = f"project_key = {key}"
        elif "project_id" in table.c:
            condition = f"project_id = '{project_id}'"
        elif table.name == "project":
            condition = f"id = '{project_id}'"
        else:
            assert table.name in OF_THE_SERVER
            continue
        counts[table.name] = len(await store.rows(f"{table.name} WHERE {condition}"))
    return {name: count for name, count in counts.items() if count}


def watch_all() -> match_stream_pb2.WatchMatchesRequest:
    return match_stream_pb2.WatchMatchesRequest(
        start=match_stream_pb2.StartPoint(log_end=match_stream_pb2.LOG_END_LATEST)
    )


async def key_of(store: Store, project_id: str) -> int:
    [row] = await store.rows(f"project WHERE id = '{project_id}'")
    return int(row[0])


async def gone(store: Store, project_id: str, key: int) -> None:
    async with asyncio.timeout(20):
        # Its own row goes last, and takes one query.
        while await store.rows(f"project WHERE id = '{project_id}'"):  # noqa: ASYNC110 - a background task has no event
            await asyncio.sleep(0.05)
        while set(await left(store, project_id, key)) != {"audit_entry"}:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project_deletion, "PORTION_ROWS", 7)
    monkeypatch.setattr(project_deletion, "LOOK_SECONDS", 0.05)


async def test_nothing_but_the_audit_log_is_left_of_a_project(store: Store, service: Service) -> None:
    other, shop = await filled(service), await filled(service)
    project, kept = await project_of(service, shop), await project_of(service, other)
    key, kept_key = await key_of(store, project.id), await key_of(store, kept.id)
    before = await left(store, kept.id, kept_key)
    assert before.keys() >= {"event", "run", "contact", "automation", "subscription", "event_definition", "api_key"}

    planned = await deletion(service, project, validate_only=True)
    assert await project_of(service, shop) == project
    deleted = await deletion(service, project)
    assert planned == deleted
    assert (deleted.event_count, deleted.match_count, deleted.contact_count, deleted.subscription_count) == (
        40,
        40,
        1,
        2,
    )

    await gone(store, project.id, key)
    assert await left(store, kept.id, kept_key) == before
    await other.send()
    request = audit_pb2.ListAuditEntriesRequest(filter=audit_pb2.AuditFilter(project_id=project.id))
    newest, *_ = (await service.admin.audit.ListAuditEntries(request)).entries
    assert (newest.action, newest.before["name"]) == ("DeleteProject", project.name)
    again = await service.project()
    assert await key_of(store, (await project_of(service, again)).id) > key


async def test_its_callers_are_refused_at_once_and_its_streams_end(store: Store, service: Service) -> None:
    shop = await filled(service)
    project = await project_of(service, shop)
    named = service.client(ADMIN_KEY, project.id)
    streams = [client.matches.WatchMatches(watch_all()) for client in (shop, named)]
    for stream in streams:
        await stream.read()
    engine = await Engine.open(shop, name="engine")
    await deletion(service, project)
    listing = contacts_pb2.ListContactsRequest()
    assert await verdict(shop.contacts.ListContacts(listing)) == (StatusCode.UNAUTHENTICATED, "API_KEY_INVALID")
    missing = (StatusCode.NOT_FOUND, "PROJECT_NOT_FOUND")
    assert await verdict(named.contacts.ListContacts(listing)) == missing
    async with asyncio.timeout(1):
        assert [await verdict(stream.read()) for stream in streams] == [missing, missing]
        assert await verdict(engine.ended()) == missing
    again = pb.CreateProjectRequest(project=pb.Project(name=project.name))
    assert (await service.admin.projects.CreateProject(again)).project.id != project.id


async def test_a_stream_that_answers_before_it_is_ended_says_that_its_project_is_gone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing_is_found(_: Access) -> None:
        """The stream finds out by itself."""

    shop = await filled(service)
    stream = shop.ingest.StreamEvents()
    sent = event_ingest_pb2.StreamEventsRequest(sequence=1, events=[event()])
    await stream.write(sent)
    await stream.read()
    monkeypatch.setattr(Access, "_recheck_suspects", nothing_is_found)
    await deletion(service, await project_of(service, shop))
    await stream.write(sent)
    assert await verdict(stream.read()) == (StatusCode.NOT_FOUND, "PROJECT_NOT_FOUND")


async def test_a_pull_that_misses_its_subscription_first_says_that_its_project_is_gone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, waiting = asyncio.Event(), asyncio.Event()

    async def found_no_more(*_: object) -> None:
        waiting.set()
        await gone.wait()
        raise SubscriptionNotFound("engine")

    async def nothing_is_found(_: Access) -> None:
        """The call finds out by itself."""

    shop = await filled(service)
    monkeypatch.setattr(Deliveries, "pull", found_no_more)
    monkeypatch.setattr(Access, "_recheck_suspects", nothing_is_found)
    pulling = asyncio.create_task(verdict(pull(shop, wait=20)))
    await waiting.wait()
    await deletion(service, await project_of(service, shop))
    gone.set()
    assert await pulling == (StatusCode.NOT_FOUND, "PROJECT_NOT_FOUND")


async def test_a_pull_of_no_subscription_says_that_its_subscription_is_missing(service: Service) -> None:
    shop = await service.shop()
    assert await verdict(pull(shop, name="missing")) == (StatusCode.NOT_FOUND, "SUBSCRIPTION_NOT_FOUND")


async def test_work_on_a_project_fails_unless_that_is_deleted(database: Database) -> None:
    def projects(connection: Connection) -> tuple[int, int]:
        kept, gone = (insert_project(connection, name, name, Rules(), now=1) for name in ("kept", "gone"))
        mark_deleted(connection, gone, "", now=2)
        return kept.pk, gone.pk

    async def work(project_pk: int) -> None:
        done.append(project_pk)
        raise LookupError(project_pk)

    done: list[int] = []
    kept, gone = await database.write(projects)
    await try_each_project(database, [gone, 987_654_321], int, work)
    with pytest.raises(LookupError, match=str(kept)):
        await try_each_project(database, [kept, gone], int, work)
    assert done == [gone, 987_654_321, kept, gone]


async def test_no_retention_fails_for_a_project_that_was_deleted_since_it_was_listed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = 987_654_321
    matches = MatchRetention(database, 1.0, RetentionClock(database), Outages())
    monkeypatch.setattr(matches, "_periods", lambda _: ({key: 1}, {key: 1}))
    await matches._prune_all()
    timeouts: Any = RunTimeouts(database, MagicMock(), MagicMock(), Outages())
    monkeypatch.setattr(run_timeouts, "due_projects", lambda *_: [key])
    await timeouts._time_out_due()


async def test_a_deletion_needs_the_name_once_more(store: Store, service: Service) -> None:
    project = await project_of(service, await service.project())
    for fields in ({"confirm_name": ""}, {"confirm_name": project.id}, {"etag": "999"}):
        code, _ = await verdict(deletion(service, project, **fields))
        assert code in {StatusCode.INVALID_ARGUMENT, StatusCode.ABORTED}
    assert (await service.admin.projects.GetProject(pb.GetProjectRequest(project=project.id))).project == project


async def test_a_project_is_deleted_even_if_another_is_named_like_its_id(store: Store, service: Service) -> None:
    shop = await service.shop()
    found = (await service.admin.projects.GetProject(pb.GetProjectRequest(project=shop.project))).project
    await service.admin.projects.CreateProject(pb.CreateProjectRequest(project=pb.Project(name=found.id)))
    watches = [each.matches.WatchMatches(watch_all()) for each in (shop, service.client(ADMIN_KEY, found.id))]
    for watch in watches:
        await watch.read()
    request = pb.DeleteProjectRequest(project=found.id, confirm_name=found.name)
    await service.admin.projects.DeleteProject(request)
    async with asyncio.timeout(1):
        assert {await verdict(watch.read()) for watch in watches} == {(StatusCode.NOT_FOUND, "PROJECT_NOT_FOUND")}
    other = (await service.admin.projects.GetProject(pb.GetProjectRequest(project=found.id))).project
    assert other.name == found.id


async def test_a_deletion_goes_on_after_a_restart(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(project_deletion, "LOOK_SECONDS", 3_600.0)
        async with serving(store.url) as service:
            project = await project_of(service, await filled(service))
            key = await key_of(store, project.id)
            await deletion(service, project)
            assert "event" in await left(store, project.id, key)
    async with serving(store.url):
        await gone(store, project.id, key)


async def test_no_server_remembers_a_project_of_which_nothing_is_left(
    store: Store, backend: Backend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(refusal_log, "LOG_SECONDS", 0.1)
    # A key that no other object has by accident.
    key = 987_654_321
    numbering = {
        "sqlite": f"UPDATE used_key SET key = {key - 1} WHERE table_name = 'project'",  # noqa: S608 - ours
        "postgresql": f"SELECT setval(pg_get_serial_sequence('project', 'key'), {key - 1})",
    }
    await store.execute(numbering[backend.name])
    async with AsyncExitStack() as servers:
        servers_count = 1 if backend.name == "sqlite" else 2
        services = [await servers.enter_async_context(serving(store.url)) for _ in range(servers_count)]
        rules: Any = {
            "refused_events": pb.REFUSED_EVENTS_QUARANTINE,
            "events_per_second": 1_000,
            "events_per_day": 1_000,
        }
        request = pb.CreateProjectRequest(project=pb.Project(name="forgotten", **rules))
        project = (await services[0].admin.projects.CreateProject(request)).project
        assert await key_of(store, project.id) == key
        shop = await services[0].key(project.id)
        await shop.define()
        await shop.upsert()
        await automate(shop)
        await subscribe(shop)
        for service in services:
            client = service.client(shop.secret)
            for _ in range(2):
                await client.send()
            await verdict(client.send(event({"order_total": "none"})))
            await reingest(client)
            assert await pull(client, 1, wait=5)
        assert remembering(key, project.id)
        await deletion(services[0], project)
        await gone(store, project.id, key)
        async with asyncio.timeout(10):
            while left := remembering(key, project.id):  # noqa: ASYNC110 - memory has no event
                await asyncio.sleep(0.1)
        assert not left
    # Two servers that end a deletion at the same time.
    assert "work_failed" not in capsys.readouterr().out


async def test_an_erasure_in_progress_goes_with_its_project(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(erasures, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(erasures, "PORTION_ROWS", 2)
    async with serving(store.url) as service:
        shop = await filled(service)
        project = await project_of(service, shop)
        key = await key_of(store, project.id)
        request = contacts_pb2.EraseContactRequest(email=ADA)
        erasing = asyncio.create_task(verdict(shop.contacts.EraseContact(request)))
        async with asyncio.timeout(10):
            while not await store.rows("contact_erasure"):  # noqa: ASYNC110 - only the table shows it
                await asyncio.sleep(0.001)
        await deletion(service, project)
        assert await erasing == (StatusCode.UNAUTHENTICATED, "API_KEY_INVALID")
        await gone(store, project.id, key)
        assert not await store.rows("contact_erasure")
    assert "work_failed" not in capsys.readouterr().out


def remembering(key: int, project_id: str) -> list[str]:
    """Return the texts of the dictionaries and sets of all servers in which a project is a key."""

    def has_it(each: Collection[object]) -> bool:
        # Found by its hash, as this process has millions of keys.
        return key in each or project_id in each or any(type(name) is tuple and project_id in name for name in [*each])

    found = (each for each in gc.get_objects() if isinstance(each, dict | set) and each)
    return [repr(each) for each in found if has_it(each)]
