"""What events set off, and how runs move: over the wire, with the match log read from the database."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from grpc import StatusCode
from structlog.testing import capture_logs

from automation.automations import AutomationState, NewAutomation
from automation.errors import RunWithoutContact
from automation.matches import MatchKind
from automation.run_transitions import set_run_waiting
from automation.runs import Run, RunStatus, Wait
from server.background import run_timeouts as run_timer
from server.background.run_timeouts import RunTimeouts
from server.delivery.match_notifier import MatchNotifier
from server.errors import StorageUnavailable
from server.logs.outages import Outages
from server.metrics import Metrics
from server.process import recurring
from server.services import runs
from server.sharing.work_thread import WorkThread
from signalbox.v1 import automations_pb2 as pb
from signalbox.v1 import event_ingest_pb2, projects_pb2
from tests.support.automations import (
    RESUMED,
    STARTED,
    TIMED_OUT,
    automate,
    await_event,
    cancel,
    complete,
    get_run,
    list_runs,
    match_log,
    matches_of,
    no_longer_waiting,
    pause,
    started,
)
from tests.support.bridge import http_client
from tests.support.consumers import Engine, subscribe
from tests.support.ingest_pipeline import GatedDatabase, drafts, ingest_pipeline_over
from tests.support.messages import ADA, ANYTHING, BOB, INDEPENDENT, MATCHES, ORDER, event, orders, struct
from tests.support.refusals import refusal, verdict
from tests.support.service import serving
from tests.support.wire import nested_struct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.storage.database import Database
    from tests.support.service import Client, Service
    from tests.support.stores import Store

pytestmark = [pytest.mark.lasting, pytest.mark.usefixtures("neighbour")]
# Requests are refused before the database has a part in it.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

INVALID = StatusCode.INVALID_ARGUMENT
NOT_FOUND = (StatusCode.NOT_FOUND, "RUN_NOT_FOUND")
FINISHED = (StatusCode.FAILED_PRECONDITION, "RUN_FINISHED")
MOVED_ON = (StatusCode.FAILED_PRECONDITION, "RUN_MOVED_ON")
QUEUED, WAITING = pb.RUN_STATUS_QUEUED, pb.RUN_STATUS_WAITING
ONCE, WHILE_RUNNING = pb.ENTRY_RULE_ONCE_PER_CONTACT, pb.ENTRY_RULE_ONCE_WHILE_RUNNING
HOUR = 3_600_000_000
PAID = event(name="paid")


@pytest_asyncio.fixture
async def till(shop: Client) -> Client:
    """The shop, with Bob, another event, and an automation on orders."""
    await shop.define("paid", ANYTHING)
    await shop.upsert(BOB)
    await automate(shop, labels={"team": "growth"})
    return shop


# Starting


async def test_a_match_names_its_automation_event_and_run(till: Client, served_store: Store) -> None:
    receipt = await till.send(event({"order_total": "5"}), MATCHES)
    (match,) = receipt.matches
    assert (match.kind, match.position, match.automation_name) == (STARTED, 1, "Welcome")
    assert dict(match.labels) == {"team": "growth"}
    assert (match.contact_id, match.matched_at) == (receipt.event.contact_id, receipt.event.received_at)
    assert match.event == receipt.event
    run = await get_run(till, match.run_id)
    assert (run.automation_id, run.contact_id, run.event_id, run.match_id) == (
        match.automation_id,
        match.contact_id,
        receipt.event.id,
        match.id,
    )
    assert (run.status, run.HasField("wait"), run.HasField("finished_at")) == (QUEUED, False, False)
    assert run.created_at == run.updated_at == match.matched_at
    assert [each.id for each in await match_log(served_store, till)] == [match.id]


async def test_only_the_view_of_matches_holds_them(till: Client) -> None:
    for view in (event_ingest_pb2.RESULT_VIEW_RECEIPT, event_ingest_pb2.RESULT_VIEW_COERCED):
        receipt = await till.send(event(), view)
        assert (receipt.match_count, len(receipt.matches)) == (1, 0)
    (result,) = await till.send_all([event()], view=MATCHES)
    assert [each.position for each in result.receipt.matches] == [3]
    stream = till.ingest.StreamEvents(iter([event_ingest_pb2.StreamEventsRequest(events=[event()], view=MATCHES)]))
    async for answer in stream:
        assert [each.position for each in answer.results[0].receipt.matches] == [4]


async def test_an_event_matches_every_automation_of_its_name_in_their_order(till: Client) -> None:
    await automate(till, name="Second")
    await automate(till, "paid", name="Other event")
    await automate(till, name="Draft", active=False)
    assert [each.automation_name for each in await matches_of(till)] == ["Welcome", "Second"]


async def test_properties_as_deep_as_allowed_come_back_beside_their_matches(till: Client) -> None:
    await automate(till, "paid")
    deepest = Struct.FromString(nested_struct(31))
    inner = deepest
    for _ in range(31):
        inner = inner.fields["x"].struct_value
    inner.fields["x"].number_value = 1
    for result in (
        await till.send(event(deepest, name="paid"), MATCHES),
        (await till.send_all([event(deepest, name="paid")], view=MATCHES))[0].receipt,
    ):
        assert result.event.properties == deepest
        assert [each.event.id for each in result.matches] == [result.event.id]
    less = deepest.fields["x"].struct_value
    ((match,),) = [each.receipt.matches for each in await till.send_all([event(less, name="paid")], view=MATCHES)]
    assert match.event.properties == less


async def test_a_refused_batch_sets_nothing_off(till: Client, served_store: Store) -> None:
    assert await verdict(till.send_all([event(), event({"order_total": "abc"})])) == (INVALID, "BATCH_REJECTED")
    assert await match_log(served_store, till) == []
    assert await list_runs(till) == []
    results = await till.send_all([event({"order_total": "abc"}), event()], INDEPENDENT)
    assert [each.receipt.match_count for each in results] == [0, 1]
    assert [each.event_position for each in await match_log(served_store, till)] == [1]
    assert len(await list_runs(till)) == 1


async def test_a_duplicate_sets_nothing_off_and_answers_the_first_matches(till: Client, served_store: Store) -> None:
    await automate(till, name="Second")
    sent = event(key="once")
    batch = await till.send_all([sent, sent], view=MATCHES)
    again = await till.send(sent, MATCHES)
    both = await till.send_all([sent, event(key="twice")], view=MATCHES)
    first, *others = [batch[0].receipt, batch[1].receipt, again, both[0].receipt]
    assert [each.position for each in first.matches] == [1, 2]
    for each in others:
        assert (each.duplicate, each.match_count) == (True, 2)
        assert list(each.matches) == list(first.matches)
    assert len(await match_log(served_store, till)) == 4


async def test_duplicates_in_one_group_answer_the_first_matches(till: Client, store: Store) -> None:
    async with store.held():
        sending = [asyncio.create_task(till.send(event(key="once"), MATCHES)) for _ in range(10)]
        await asyncio.sleep(0.2)
    receipts = await asyncio.gather(*sending)
    assert sorted(each.duplicate for each in receipts) == [False] + [True] * 9
    assert {tuple(match.id for match in each.matches) for each in receipts} == {(receipts[0].matches[0].id,)}
    assert len(await match_log(store)) == 1


# Entry rules


async def test_once_per_contact_means_the_first_event_of_each(till: Client) -> None:
    await automate(till, "paid", entry_rule=ONCE)
    ada, bob = event(name="paid"), event(name="paid", email=BOB)
    results = await till.send_all([ada, ada, bob])
    assert [each.receipt.match_count for each in results] == [1, 0, 1]
    for run in await list_runs(till):
        await complete(till, run)
    assert (await till.send(ada)).match_count == 0


async def test_once_while_running_means_one_open_run_of_a_contact(till: Client) -> None:
    await automate(till, "paid", entry_rule=WHILE_RUNNING)
    results = await till.send_all([PAID, PAID, event(name="paid", email=BOB)], view=MATCHES)
    assert [each.receipt.match_count for each in results] == [1, 0, 1]
    run = await get_run(till, results[0].receipt.matches[0].run_id)
    await await_event(till, run, "refunded")
    assert (await till.send(PAID)).match_count == 0
    await complete(till, run)
    assert (await till.send(PAID)).match_count == 1


async def test_every_time_means_every_event(till: Client) -> None:
    assert [each.receipt.match_count for each in await till.send_all(orders(5))] == [1] * 5


async def test_an_unknown_contact_is_created_when_something_matches_and_not_before(service: Service) -> None:
    shop = await service.shop(
        undefined_events=projects_pb2.UNDEFINED_EVENTS_ACCEPT,
        unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE_ON_MATCH,
    )
    await automate(shop, "paid", entry_rule=ONCE)
    results = await shop.send_all(
        [event(name=name, email=BOB) for name in ("seen", "paid", "seen", "paid")], view=MATCHES
    )
    before, matched, after, second = [each.receipt for each in results]
    bob = matched.event.contact_id
    assert bob
    assert [each.event.contact_id for each in (before, after, second)] == ["", bob, bob]
    assert [each.match_count for each in (before, matched, after, second)] == [0, 1, 0, 0]
    assert (await get_run(shop, matched.matches[0].run_id)).contact_id == bob
    assert (await shop.send(event(name="seen", email="eve@example.com"))).event.contact_id == ""
    many = [event(name="paid", email=f"{number}@example.com") for number in range(50)]
    assert {each.receipt.match_count for each in await shop.send_all(many)} == {1}


# Waiting


async def test_a_waiting_run_is_resumed_by_its_contacts_next_event(till: Client, served_store: Store) -> None:
    run = await started(till)
    parked = await await_event(till, run, attributes=struct({"step": 2}))
    assert (parked.status, parked.wait.event_name, parked.wait.from_position) == (WAITING, "paid", 1)
    assert (parked.wait.HasField("timeout_at"), parked.attributes) == (False, struct({"step": 2}))
    assert await get_run(till, run.id) == parked
    assert (await till.send(event(name="paid", email=BOB))).match_count == 0
    receipt = await till.send(PAID, MATCHES)
    (match,) = receipt.matches
    assert (match.kind, match.run_id, match.event, receipt.match_count) == (RESUMED, run.id, receipt.event, 0)
    resumed = await get_run(till, run.id)
    assert (resumed.status, resumed.match_id, resumed.HasField("wait")) == (QUEUED, match.id, False)
    assert (resumed.attributes, resumed.event_id) == (struct({"step": 2}), run.event_id)
    assert len({run.etag, parked.etag, resumed.etag}) == 3
    assert await matches_of(till, PAID) == []
    assert [each.kind for each in await match_log(served_store, till)] == ["started", "resumed"]


async def test_a_repeated_send_answers_the_run_it_resumed(till: Client) -> None:
    run = await started(till)
    await await_event(till, run)
    sent = event(name="paid", key="once")
    first, second = await till.send(sent, MATCHES), await till.send(sent, MATCHES)
    assert second.duplicate
    assert [each.id for each in second.matches] == [each.id for each in first.matches]


async def test_resumes_come_before_starts_in_one_event(till: Client) -> None:
    run = await started(till)
    await await_event(till, run, ORDER)
    receipt = await till.send(event(), MATCHES)
    assert [(each.kind, each.position) for each in receipt.matches] == [(RESUMED, 2), (STARTED, 3)]
    assert receipt.match_count == 1
    assert receipt.matches[0].run_id == run.id


async def test_a_batch_resumes_a_run_once(till: Client) -> None:
    await await_event(till, await started(till))
    results = await till.send_all([PAID] * 3, view=MATCHES)
    assert [len(each.receipt.matches) for each in results] == [1, 0, 0]


async def test_a_new_wait_replaces_the_old_one(till: Client) -> None:
    run = await started(till)
    await await_event(till, run, "paid", seconds=60)
    parked = await await_event(till, run, ORDER)
    assert (parked.wait.event_name, parked.wait.HasField("timeout_at")) == (ORDER, False)
    assert await matches_of(till, PAID) == []


async def test_a_paused_automations_waiting_runs_are_resumed(till: Client) -> None:
    run = await started(till)
    await await_event(till, run)
    await pause(till, pb.Automation(id=run.automation_id))
    assert [each.kind for each in await matches_of(till, PAID)] == [RESUMED]
    assert await matches_of(till) == []


async def test_names_of_awaited_events_are_compared_by_the_rule_of_the_project(service: Service) -> None:
    for case, resumed in ((projects_pb2.NAME_CASE_SENSITIVE, 0), (projects_pb2.NAME_CASE_INSENSITIVE, 1)):
        shop = await service.shop(undefined_events=projects_pb2.UNDEFINED_EVENTS_ACCEPT, name_case=case)
        await automate(shop)
        await await_event(shop, await started(shop), "PAID")
        assert len(await matches_of(shop, PAID)) == resumed


async def test_a_wait_lasts_a_second_to_366_days(till: Client) -> None:
    run = await started(till)
    for seconds, nanos in ((0, 0), (0, 999_999_999), (-5, 0), (366 * 86_400, 1_000)):
        request = pb.AwaitEventRequest(run_id=run.id, event_name="paid", timeout=Duration(seconds=seconds, nanos=nanos))
        refused = await refusal(till.automations.AwaitEvent(request))
        assert (refused.code, refused.violations) == (INVALID, (("timeout", "OUT_OF_RANGE"),))
    for wrong in (Duration(seconds=5, nanos=-1), Duration(seconds=5, nanos=1_000_000_000)):
        request = pb.AwaitEventRequest(run_id=run.id, event_name="paid", timeout=wrong)
        refused = await refusal(till.automations.AwaitEvent(request))
        assert (refused.code, refused.violations) == (INVALID, (("timeout", "INVALID_DURATION"),))
    longest = await await_event(till, run, seconds=366 * 86_400)
    assert longest.wait.timeout_at.seconds - longest.updated_at.seconds in range(366 * 86_400 - 1, 366 * 86_400 + 2)


async def test_a_wait_for_no_event_is_refused(till: Client) -> None:
    run = await started(till)
    assert await verdict(await_event(till, run, " ")) == (INVALID, "INVALID_NAME")
    assert (await get_run(till, run.id)).status == QUEUED


async def test_a_run_without_a_contact_cannot_wait_for_an_event(database: Database) -> None:
    nobody = Run(1, "id", 1, 0, 1, RunStatus.QUEUED, 1, None, "", {}, 1, 1, 1, 0, 0)
    with pytest.raises(RunWithoutContact):
        await database.write(lambda connection: set_run_waiting(connection, 1, nobody, Wait("paid", "", 0, 0), None, 1))


# Timing out


@pytest.fixture
def short_waits() -> Iterator[None]:
    """Allow waits of a hundredth of a second, which are noticed as soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "MIN_TIMEOUT", 10_000)
        patch.setattr(run_timer, "POLL_SECONDS", 0.05)
        yield


@pytest.mark.usefixtures("short_waits")
async def test_a_wait_in_vain_times_out(till: Client, served_store: Store) -> None:
    run = await started(till)
    parked = await await_event(till, run, seconds=0.01)
    late = await no_longer_waiting(till, run)
    assert (late.status, late.HasField("wait"), late.event_id) == (QUEUED, False, run.event_id)
    assert 0 <= late.updated_at.ToMicroseconds() - parked.wait.timeout_at.ToMicroseconds() < 5_000_000
    start, end = await match_log(served_store, till)
    assert (end.kind, end.id, end.run_id, end.event_position, end.event_name) == (
        "timed_out",
        late.match_id,
        run.id,
        start.event_position,
        ORDER,
    )
    assert await matches_of(till, PAID) == []
    assert (await till.send()).event.received_at.ToMicroseconds() >= end.matched_at


async def test_a_timeout_reaches_a_waiting_consumer_and_is_counted(
    short_waits: None, service: Service, till: Client, store: Store
) -> None:
    await subscribe(till)
    engine = await Engine.open(till, heartbeat_interval=Duration(seconds=60))
    run = await started(till)
    await engine.ack(await engine.deliveries())
    await await_event(till, run, seconds=0.01)
    (late,) = await engine.deliveries()
    assert (late.match.kind, late.match.run_id) == (TIMED_OUT, run.id)
    async with http_client(service) as http:
        counted = re.search(r"^signalbox_matches_total ([0-9.]+)$", (await http.get("/metrics")).text, re.MULTILINE)
    assert counted is not None
    assert float(counted[1]) == len(await match_log(store))
    await engine.close()


@pytest.mark.usefixtures("short_waits")
async def test_a_short_wait_is_not_held_up_by_an_earlier_long_one(till: Client) -> None:
    long, short = await started(till), await started(till)
    await await_event(till, long, seconds=3_600)
    # By now the timer has seen the long wait, and rests.
    await asyncio.sleep(1.2)
    await await_event(till, short, seconds=0.01)
    assert (await no_longer_waiting(till, short)).status == QUEUED
    assert (await get_run(till, long.id)).status == WAITING


async def test_a_wait_times_out_although_the_server_was_away(database_url: str, store: Store) -> None:
    async with serving(database_url) as service:
        shop = await service.shop()
        await automate(shop)
        run = await started(shop)
        await await_event(shop, run, ORDER, seconds=1)
    await asyncio.sleep(1)
    async with serving(database_url) as service:
        again = service.client(shop.secret)
        # The time is up, whether or not the timer has seen it yet.
        assert [each.kind for each in await matches_of(again)] == [STARTED]
        assert (await no_longer_waiting(again, run)).status == QUEUED
    assert sorted(each.kind for each in await match_log(store)) == ["started", "started", "timed_out"]


@pytest.mark.usefixtures("short_waits")
async def test_either_an_event_or_the_timeout_wins(till: Client, served_store: Store) -> None:
    runs = [
        await get_run(till, each.receipt.matches[0].run_id) for each in await till.send_all(orders(20), view=MATCHES)
    ]
    waiting = [
        await await_event(till, run, "paid" if number % 2 else ORDER, seconds=0.2) for number, run in enumerate(runs)
    ]
    # The first event comes when half of the waits are over, or about to be.
    await asyncio.sleep(waiting[len(waiting) // 2].wait.timeout_at.ToMicroseconds() / 1_000_000 - time.time())
    for _ in range(20):
        await till.send(PAID)
        await asyncio.sleep(0.005)
    for run in runs:
        await no_longer_waiting(till, run)
    ends = [each.run_id for each in await match_log(served_store, till) if each.kind != "started"]
    assert sorted(ends) == sorted(run.id for run in runs)


async def test_a_run_that_was_ended_does_not_time_out(till: Client, served_store: Store) -> None:
    first, second, later = [await started(till) for _ in range(3)]
    for run in (first, second):
        await await_event(till, run, seconds=1)
    await complete(till, first)
    await cancel(till, second)
    await await_event(till, later, seconds=1)
    # By then the timer has passed the others.
    await no_longer_waiting(till, later)
    assert (await get_run(till, first.id)).status == pb.RUN_STATUS_COMPLETED
    assert (await get_run(till, second.id)).status == pb.RUN_STATUS_CANCELLED
    ends = [each.run_id for each in await match_log(served_store, till) if each.kind != "started"]
    assert ends == [later.id]


async def test_more_waits_than_a_batch_time_out(
    short_waits: None, till: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_timer, "BATCH_RUNS", 2)
    results = await till.send_all(orders(7), view=MATCHES)
    runs = [await get_run(till, each.receipt.matches[0].run_id) for each in results]
    for run in runs:
        await await_event(till, run, seconds=0.05)
    for run in runs:
        await no_longer_waiting(till, run)
    assert [each.kind for each in await match_log(store)] == ["started"] * 7 + ["timed_out"] * 7


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_two_servers_keep_one_match_log(short_waits: None, database_url: str, store: Store) -> None:
    async with serving(database_url) as one, serving(database_url) as other:
        shop = await one.shop()
        there = other.client(shop.secret)
        await automate(shop)
        senders = [client.send_all(orders(4), view=MATCHES) for _ in range(3) for client in (shop, there)]
        results = [each for answer in await asyncio.gather(*senders) for each in answer]
        runs = [await get_run(there, each.receipt.matches[0].run_id) for each in results]
        await asyncio.gather(*(await_event(there, run, seconds=0.05) for run in runs))
        for run in runs:
            await no_longer_waiting(shop, run)
        log = await match_log(store)
        assert [each.kind for each in log] == ["started"] * 24 + ["timed_out"] * 24
        assert [each.event_position for each in log[:24]] == list(range(1, 25))
        assert len({each.run_id for each in log}) == 24


async def test_positions_of_matches_are_gapless_and_in_commit_order(till: Client, served_store: Store) -> None:
    await automate(till, name="Second")
    await asyncio.gather(*(till.send_all(orders(10)) for _ in range(10)), *(till.send() for _ in range(50)))
    log = await match_log(served_store, till)
    assert [each.event_position for each in log] == [position for position in range(1, 151) for _ in range(2)]


async def test_an_outage_is_logged_in_a_line_and_outlived(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_timer, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(recurring, "RETRY_SECONDS", 0.02)

    class Away:
        """A database that is not there at first."""

        shared = False

        def __init__(self) -> None:
            self.reads = 0

        async def read(self, work: Any, *, brief: bool = False, delivery: bool = False) -> Any:
            self.reads += 1
            if self.reads <= 3:
                raise StorageUnavailable from OSError("gone")
            return await database.read(work, brief=brief)

    away: Any = Away()
    timer = RunTimeouts(away, MatchNotifier(database), Metrics(), Outages())
    with capture_logs() as logs:
        timer.start()
        async with asyncio.timeout(10):
            while away.reads < 5:  # noqa: ASYNC110 - what is waited for counts and does not tell
                await asyncio.sleep(0.01)
        await timer.close()
    # Servers of other tests log their own outages, and the ends of these, which name no work.
    assert [(each["event"], each["work"]) for each in logs if each.get("cause") == "gone"] == [
        ("storage_outage", "timeouts")
    ]


# Ending


ENDS = {
    pb.RUN_OUTCOME_UNSPECIFIED: pb.RUN_STATUS_COMPLETED,
    pb.RUN_OUTCOME_COMPLETED: pb.RUN_STATUS_COMPLETED,
    pb.RUN_OUTCOME_FAILED: pb.RUN_STATUS_FAILED,
    pb.RUN_OUTCOME_SKIPPED: pb.RUN_STATUS_SKIPPED,
}


async def test_a_run_ends_once(till: Client) -> None:
    for outcome, status in ENDS.items():
        run = await started(till)
        await await_event(till, run)
        ended = await complete(till, run, outcome=outcome, reason="because", attributes=struct({"step": 3}))
        assert (ended.status, ended.reason, ended.HasField("wait")) == (status, "because", False)
        assert (ended.attributes, ended.finished_at) == (struct({"step": 3}), ended.updated_at)
        assert await complete(till, run, outcome=outcome, reason="again") == ended
        other = pb.RUN_OUTCOME_SKIPPED if status == pb.RUN_STATUS_FAILED else pb.RUN_OUTCOME_FAILED
        for call in (complete(till, run, outcome=other), cancel(till, run), await_event(till, run)):
            assert await verdict(call) == FINISHED
        assert await get_run(till, run.id) == ended
    assert await matches_of(till, PAID) == []


async def test_a_cancelled_run_stays_as_it_is(till: Client) -> None:
    run = await started(till)
    cancelled = await cancel(till, run, reason="no need")
    assert (cancelled.status, cancelled.reason) == (pb.RUN_STATUS_CANCELLED, "no need")
    assert await cancel(till, run, reason="again") == cancelled
    assert await verdict(complete(till, run)) == FINISHED


async def test_an_outdated_etag_cancels_nothing(till: Client) -> None:
    run = await started(till)
    parked = await await_event(till, run)
    assert await verdict(cancel(till, run, etag=run.etag)) == (StatusCode.ABORTED, "ETAG_MISMATCH")
    assert (await cancel(till, run, etag=parked.etag)).status == pb.RUN_STATUS_CANCELLED


async def test_an_engine_that_works_on_an_older_match_is_refused(till: Client) -> None:
    run = await started(till)
    assert (await await_event(till, run, match_id=run.match_id)).status == WAITING
    assert (await await_event(till, run, match_id=run.match_id)).status == WAITING
    await till.send(PAID)
    resumed = await get_run(till, run.id)
    refused = await refusal(await_event(till, run, match_id=run.match_id))
    assert (refused.code, refused.reason) == MOVED_ON
    assert refused.metadata == {"run": run.id, "match": resumed.match_id}
    assert await verdict(complete(till, run, match_id=run.match_id)) == MOVED_ON
    assert await verdict(complete(till, run, match_id="nothing")) == MOVED_ON
    assert await get_run(till, run.id) == resumed
    assert (await complete(till, run, match_id=resumed.match_id)).status == pb.RUN_STATUS_COMPLETED


@on_sqlite
async def test_attributes_and_reasons_of_an_engine_have_limits(till: Client) -> None:
    run = await started(till)
    for call, path in (
        (complete(till, run, reason="x" * 1_001), "reason"),
        (cancel(till, run, reason="x" * 1_001), "reason"),
        (complete(till, run, attributes=struct({"x": "x" * 65 * 1024})), "attributes"),
        (complete(till, run, attributes=struct({"x": [0] * 1_000})), "attributes"),
        (await_event(till, run, attributes=struct({"x": [0] * 1_000})), "attributes"),
        (complete(till, run, outcome=99), "outcome"),
        (list_runs(till, statuses=[QUEUED, 99]), "statuses[1]"),
    ):
        refused = await refusal(call)
        assert (refused.code, [place for place, _ in refused.violations]) == (INVALID, [path])
    kept = struct({"x": [0] * 998, "y": "x" * 40_000})
    assert (await complete(till, run, reason="x" * 1_000, attributes=kept)).attributes == kept


@on_sqlite
async def test_a_wait_takes_from_a_second_to_a_year_and_a_day(till: Client) -> None:
    run = await started(till)
    for seconds in (0, 0.999999, 366 * 86_400 + 1):
        refused = await refusal(await_event(till, run, seconds=seconds))
        assert (refused.code, [place for place, _ in refused.violations]) == (INVALID, ["timeout"])
    for seconds in (366 * 86_400, 1):
        assert (await await_event(till, run, seconds=seconds)).status == WAITING


async def test_another_projects_run_is_not_found(service: Service, till: Client) -> None:
    run = await started(till)
    other = await service.shop()
    await automate(other)
    await started(other)
    for unknown, expected in (
        (run, NOT_FOUND),
        (pb.Run(id="nothing"), NOT_FOUND),
        (pb.Run(id="a\x00b"), (INVALID, "UNSTORABLE_TEXT")),
        (pb.Run(id=""), NOT_FOUND),
    ):
        for call in (
            get_run(other, unknown.id),
            await_event(other, unknown),
            complete(other, unknown),
            cancel(other, unknown),
        ):
            assert await verdict(call) == expected
    assert await get_run(till, run.id) == run


# Listing


async def test_runs_are_listed_newest_first_and_narrowed(till: Client) -> None:
    second = await automate(till, "paid", name="Second")
    first = await started(till)
    bobs = await started(till, event(email=BOB))
    paid = await started(till, PAID)
    await complete(till, first)
    assert [each.id for each in await list_runs(till)] == [paid.id, bobs.id, first.id]
    assert await list_runs(till, automation_id=second.id) == [paid]
    assert [each.id for each in await list_runs(till, email=" Ada@Example.com ")] == [paid.id, first.id]
    assert await list_runs(till, contact_id=bobs.contact_id) == [bobs]
    assert await list_runs(till, statuses=[QUEUED]) == [paid, bobs]
    assert len(await list_runs(till, statuses=[QUEUED, pb.RUN_STATUS_COMPLETED])) == 3
    assert await list_runs(till, statuses=[QUEUED], email=ADA, automation_id=first.automation_id) == []
    for nobodys in ({"automation_id": "nothing"}, {"email": "eve@example.com"}, {"contact_id": "nothing"}):
        assert await list_runs(till, **nobodys) == []
    assert await verdict(list_runs(till, contact_id="")) == (INVALID, "CONTACT_REQUIRED")


async def test_the_runs_of_a_deleted_contact_are_found_by_its_id(till: Client) -> None:
    run = await started(till)
    await till.forget()
    assert [each.id for each in await list_runs(till, contact_id=run.contact_id)] == [run.id]


async def test_runs_are_read_page_by_page(till: Client) -> None:
    await till.send_all(orders(5))
    request = pb.ListRunsRequest(page_size=2, email=ADA)
    pages = []
    while True:
        answer = await till.automations.ListRuns(request)
        pages.append(len(answer.runs))
        request.page_token = answer.next_page_token
        if not answer.next_page_token:
            break
    assert pages == [2, 2, 1]
    first = await till.automations.ListRuns(pb.ListRunsRequest(page_size=2, email=ADA))
    other = pb.ListRunsRequest(page_size=2, email=BOB, page_token=first.next_page_token)
    assert await verdict(till.automations.ListRuns(other)) == (INVALID, "INVALID_PAGE_TOKEN")


async def test_a_run_whose_match_was_deleted_names_none(database: Database, store: Store) -> None:
    async with ingest_pipeline_over(GatedDatabase(database)) as pipeline:
        await pipeline.automate(NewAutomation("x", "page_viewed", "", AutomationState.ACTIVE))
        sent = drafts(2)
        await pipeline.send(sent)
        (gone, _), (kept, _) = [draft.matches[0] for draft in sent]
        await store.execute(f"DELETE FROM automation_match WHERE position = {gone.position}")  # noqa: S608 - a number
        named = [
            await runs.Runs(database, WorkThread()).get(pipeline.project_pk, match.run_id) for match in (gone, kept)
        ]
        assert [(each.run.id, each.match_id, each.match_kind) for each in named] == [
            (gone.run_id, "", None),
            (kept.run_id, kept.id, MatchKind.STARTED),
        ]


@pytest.mark.parametrize(("later", "resumed"), [(-1, True), (0, False), (1, False)])
async def test_an_event_received_when_the_time_is_up_resumes_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch, later: int, *, resumed: bool
) -> None:
    async with ingest_pipeline_over(GatedDatabase(database)) as pipeline:
        await pipeline.automate(NewAutomation("x", "page_viewed", "", AutomationState.ACTIVE))
        (start,) = drafts()
        await pipeline.send([start])
        ((match, _),) = start.matches
        awaited = runs.AwaitedEvent("paid", timeout=HOUR)
        waiting = await runs.Runs(database, WorkThread()).await_event(
            pipeline.project_pk, match.run_id, awaited, runs.EngineUpdate()
        )
        assert waiting.run.wait is not None
        received_at = waiting.run.wait.timeout_at + later
        monkeypatch.setattr("server.ingest.commit.log_time", lambda _read_at: received_at)
        (paid,) = drafts(name="paid")
        await pipeline.send([paid])
        kinds = [found.kind for found, _ in paid.matches]
        assert kinds == ([MatchKind.RESUMED] if resumed else [])
