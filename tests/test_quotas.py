"""Quotas of projects: events per second, at once, and per day, by every API."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode

from server.ingest import quotas
from server.ingest.group_transaction import GroupTransaction
from server.ingest.quotas import Bucket
from server.services import quarantine
from server.storage import health
from server.storage.clock import database_now
from signalbox.v1 import event_ingest_pb2, refusals_pb2
from signalbox.v1 import projects_pb2 as pb
from tests.support.bridge import calling
from tests.support.connect import connecting
from tests.support.consumers import WAIT
from tests.support.held_writes import HeldWrite
from tests.support.messages import ADA, ANYTHING, INDEPENDENT, ORDER, event
from tests.support.quarantine import KEEP
from tests.support.refusals import refusal
from tests.support.service import serving

if TYPE_CHECKING:
    from tests.support.service import Client, Service
    from tests.support.stores import Store

pytestmark = pytest.mark.lasting
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


async def limit(service: Service, client: Client, **quota: Any) -> pb.Project:
    request = pb.UpdateProjectRequest(project=client.project, **quota)
    return (await service.admin.projects.UpdateProject(request)).project


async def count(service: Service, client: Client) -> int:
    return (await service.admin.projects.GetProject(pb.GetProjectRequest(project=client.project))).project.head_position


async def test_a_quota_is_read_back_and_changed(service: Service) -> None:
    wanted = pb.Project(name="limited", events_per_second=10, event_burst=50, events_per_day=1_000)
    made = (await service.admin.projects.CreateProject(pb.CreateProjectRequest(project=wanted))).project
    assert (made.events_per_second, made.event_burst, made.events_per_day) == (10, 50, 1_000)
    request = pb.UpdateProjectRequest(project="limited", events_per_second=0)
    changed = (await service.admin.projects.UpdateProject(request)).project
    assert (changed.events_per_second, changed.event_burst, changed.events_per_day) == (0, 0, 1_000)
    assert changed.etag != made.etag


BAD: list[tuple[dict[str, int], str]] = [
    ({"events_per_second": -1}, "events_per_second is -1; it must be 1 to 1,000,000, or 0 for any number"),
    ({"events_per_second": 1_000_001}, "events_per_second is 1,000,001; it must be 1 to 1,000,000"),
    ({"events_per_day": 1 << 62}, "events_per_day is "),
    ({"event_burst": 5}, "event_burst needs events_per_second"),
]


@on_sqlite
@pytest.mark.parametrize(("quota", "message"), BAD)
async def test_a_quota_that_makes_no_sense_is_refused(
    service: Service, shop: Client, quota: dict[str, Any], message: str
) -> None:
    refused = await refusal(limit(service, shop, **quota))
    assert (refused.code, refused.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert refused.message.startswith(message)
    project = pb.Project(name="x", **quota)
    assert (await refusal(service.admin.projects.CreateProject(pb.CreateProjectRequest(project=project)))) == refused


@on_sqlite
async def test_beyond_the_rate_every_api_is_told_when_to_send_again(service: Service, shop: Client) -> None:
    await limit(service, shop, events_per_second=1, event_burst=100)
    await shop.send_all([event()] * 100)
    refused = await refusal(shop.send())
    assert (refused.code, refused.reason) == (StatusCode.RESOURCE_EXHAUSTED, "PROJECT_RATE_EXCEEDED")
    assert refused.retry_after is not None
    assert 0 < refused.retry_after <= 1
    async with connecting(service, shop) as caller:
        response = await caller.post("SendEvents", {"events": [{"name": ORDER, "email": ADA}] * 50})
        assert (response.status_code, response.json()["code"]) == (429, "resource_exhausted")
        assert 20 <= int(response.headers["retry-after"]) <= 50
        metrics = (await caller.http.get("/metrics")).text
    assert await count(service, shop) == 100
    assert 'signalbox_refused_total{reason="PROJECT_RATE_EXCEEDED"}' in metrics


REST: dict[str, tuple[str, dict[str, Any], str]] = {
    "autosend": ("POST /v1/events/send", {"eventName": ORDER, "email": ADA}, "RATE_LIMIT_EXCEEDED"),
    "resend": ("POST /events/send", {"event": ORDER, "email": ADA}, "rate_limit_exceeded"),
}


@on_sqlite
@pytest.mark.parametrize("dialect", REST)
async def test_beyond_the_rate_a_dialect_answers_as_for_its_own_limit(
    service: Service, shop: Client, dialect: str
) -> None:
    call, body, code = REST[dialect]
    await limit(service, shop, events_per_second=1)
    async with calling(service, shop, dialect) as caller:
        assert (await caller.call(call, body)).status_code in {200, 201, 202}
        response = await caller.call(call, body)
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert code in response.text


@on_sqlite
async def test_a_stream_waits_for_the_rate(service: Service, shop: Client) -> None:
    await limit(service, shop, events_per_second=20, event_burst=5)

    async def messages() -> Any:
        for sequence in range(4):
            yield event_ingest_pb2.StreamEventsRequest(sequence=sequence, events=[event()] * 5)

    began = asyncio.get_running_loop().time()
    responses = [response async for response in shop.ingest.StreamEvents(messages())]
    assert [len(response.results) for response in responses] == [5] * 4
    assert asyncio.get_running_loop().time() - began >= 0.7


@on_sqlite
async def test_calls_that_gave_up_waiting_for_the_rate_take_nothing_of_it(service: Service, shop: Client) -> None:
    await limit(service, shop, events_per_second=1, event_burst=100)
    await shop.send_all([event()] * 100)

    async def messages() -> Any:
        yield event_ingest_pb2.StreamEventsRequest(events=[event()] * 100)

    for _ in range(3):
        refused = await refusal(shop.ingest.StreamEvents(messages(), timeout=0.1).read())
        assert refused.code is StatusCode.DEADLINE_EXCEEDED
    # The server notices the end of a call a little later than its client.
    for _ in range(100):
        if ((await refusal(shop.send())).retry_after or 0) <= 2:
            return
        await asyncio.sleep(0.02)
    pytest.fail("the events of calls that ended are still counted")


@on_sqlite
async def test_events_are_sent_again_at_the_rate_and_the_call_ends_in_time(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await service.shop(refused_events=KEEP)
    await shop.send_all([event(name="late")] * 45, INDEPENDENT)
    await service.admin.projects.UpdateProject(
        pb.UpdateProjectRequest(project=shop.project, undefined_events=pb.UNDEFINED_EVENTS_ACCEPT)
    )
    await limit(service, shop, events_per_second=80)
    monkeypatch.setattr(quarantine, "REINGEST_SECONDS", 0.0)
    calls: list[int] = []
    request = refusals_pb2.ReingestRefusedEventsRequest(filter=refusals_pb2.RefusedEventFilter())
    while not calls or request.continue_after:
        response = await shop.quarantine.ReingestRefusedEvents(request)
        calls.append(response.recorded_count)
        request.continue_after = response.continue_after
    assert calls == [20, 20, 5]


@on_sqlite
async def test_sending_again_leaves_a_part_of_the_rate_to_others(service: Service) -> None:
    shop = await service.shop(refused_events=KEEP)
    await shop.send_all([event({"order_total": "a lot"})] * 40, INDEPENDENT)
    await limit(service, shop, events_per_second=40)
    request = refusals_pb2.ReingestRefusedEventsRequest(filter=refusals_pb2.RefusedEventFilter())
    again = asyncio.ensure_future(shop.quarantine.ReingestRefusedEvents(request))
    while not again.done():
        await asyncio.gather(shop.send(), return_exceptions=True)
        await asyncio.sleep(0.01)
    assert (await again).refused_count == 40
    assert await count(service, shop) >= 10


@on_sqlite
async def test_events_that_were_sent_again_before_the_quota_ended_are_counted(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await service.shop(refused_events=KEEP)
    await shop.send_all([event(name="late")] * 5, INDEPENDENT)
    update = pb.UpdateProjectRequest(project=shop.project, undefined_events=pb.UNDEFINED_EVENTS_ACCEPT)
    await service.admin.projects.UpdateProject(update)
    await limit(service, shop, events_per_day=3)
    monkeypatch.setattr(quarantine, "PORTION_EVENTS", 2)
    request = refusals_pb2.ReingestRefusedEventsRequest(filter=refusals_pb2.RefusedEventFilter())
    response = await shop.quarantine.ReingestRefusedEvents(request)
    assert (response.recorded_count, await count(service, shop)) == (2, 2)
    request.continue_after = response.continue_after
    refused = await refusal(shop.quarantine.ReingestRefusedEvents(request))
    assert (refused.reason, (refused.metadata or {})["left"]) == ("PROJECT_QUOTA_EXCEEDED", "1")


async def test_no_more_is_recorded_on_a_day_than_the_quota_allows(
    service: Service, shop: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.send()
    await limit(service, shop, events_per_day=10)
    outcomes = await asyncio.gather(*(shop.send() for _ in range(20)), return_exceptions=True)
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 9
    refused = await refusal(shop.send())
    assert (refused.code, refused.reason) == (StatusCode.RESOURCE_EXHAUSTED, "PROJECT_QUOTA_EXCEEDED")
    assert refused.retry_after is not None
    assert 0 < refused.retry_after <= 86_400
    assert (refused.metadata or {})["limit"] == "10"
    await limit(service, shop, events_per_day=12)
    await shop.send_all([event(), event()])
    tomorrow = database_now() + quotas.DAY
    monkeypatch.setattr(quotas, "database_now", lambda: tomorrow)
    await shop.send()


async def test_events_that_a_wrong_clock_dated_later_than_today_do_not_count_each_day(
    service: Service, shop: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.send_all([event() for _ in range(5)])
    await limit(service, shop, events_per_day=3)
    for days in (3, 2):
        corrected = database_now() - days * quotas.DAY
        monkeypatch.setattr(quotas, "database_now", lambda corrected=corrected: corrected)
        await shop.send_all([event() for _ in range(3)])
        assert (await refusal(shop.send())).reason == "PROJECT_QUOTA_EXCEEDED"


async def test_a_duplicate_and_a_refused_event_take_nothing_of_the_day(service: Service, shop: Client) -> None:
    await limit(service, shop, events_per_day=2)
    keyed = event(key="k")
    await shop.send(keyed)
    await shop.send(keyed)
    await refusal(shop.send(event(name="undefined")))
    await shop.send()
    assert (await refusal(shop.send())).reason == "PROJECT_QUOTA_EXCEEDED"


async def test_the_day_is_counted_over_restarts(store: Store) -> None:
    async with serving(store.url) as service:
        client = await service.shop()
        await limit(service, client, events_per_day=3)
        await client.send_all([event(), event()])
    async with serving(store.url) as service:
        client = service.client(client.secret)
        await client.send()
        assert (await refusal(client.send())).reason == "PROJECT_QUOTA_EXCEEDED"


@pytest.mark.parametrize("answered_late", [False, True])
async def test_events_that_are_committed_after_their_caller_left_count_for_the_day(
    service: Service, shop: Client, monkeypatch: pytest.MonkeyPatch, *, answered_late: bool
) -> None:
    await limit(service, shop, events_per_day=4)
    await shop.send()
    if answered_late:
        monkeypatch.setattr(health, "LATE_SECONDS", 0.1)
        monkeypatch.setattr(health, "DOUBT_SECONDS", 0.2)
    held = HeldWrite(
        monkeypatch,
        lambda work: isinstance(work, GroupTransaction) and bool(work._batches),
        uncommitted=True,
    )
    sending = asyncio.ensure_future(shop.send_all([event()] * 3))
    await asyncio.wait_for(held.reached.wait(), WAIT)
    if answered_late:
        assert (await refusal(sending)).reason == "STORAGE_UNAVAILABLE"
    else:
        sending.cancel()
        await asyncio.wait({sending})
        # The server has seen that the caller left when it answers a later call.
        await count(service, shop)
    held.go.set()
    async with asyncio.timeout(WAIT):
        await held.ended.wait()
        while (refused := await refusal(shop.send())).reason == "STORAGE_LATE":
            assert answered_late
    assert refused.reason == "PROJECT_QUOTA_EXCEEDED"
    assert await count(service, shop) == 4


async def test_events_whose_commit_failed_take_nothing_of_the_day(store: Store) -> None:
    async with serving(store.url) as service:
        shop = await service.shop()
        await shop.define("poison", ANYTHING)
        await store.refuse_commits_of("poison")
        await limit(service, shop, events_per_day=2)
        assert (await refusal(shop.send_all([event(name="poison")] * 2))).code is StatusCode.INTERNAL
        await shop.send_all([event(), event()])
        assert (await refusal(shop.send())).reason == "PROJECT_QUOTA_EXCEEDED"


@on_sqlite
async def test_the_limits_of_one_project_are_not_those_of_another(service: Service, shop: Client) -> None:
    other = await service.shop()
    await limit(service, shop, events_per_second=1)
    await shop.send()
    await refusal(shop.send())
    await other.send_all([event()] * 100)
    assert await count(service, other) == 100


def test_a_bucket_holds_its_average_whatever_is_taken_at_once() -> None:
    bucket, now, taken = Bucket(10, 20, 0.0), 0.0, 0
    for size in (5, 50, 1, 1, 30, 20, 7) * 20:
        now += bucket.wait(size, now)
        assert bucket.wait(size, now) < 1e-6
        bucket.take(size)
        taken += size
        assert taken - size <= 20 + 10 * now + 1e-6
