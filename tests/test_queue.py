"""The queue before the log: on its own with a gate before the database, then over the wire."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import pytest
import pytest_asyncio
from grpc import StatusCode
from structlog.testing import capture_logs

from automation.automations import AutomationState, NewAutomation
from registry.definitions.event_definitions import NewDefinition
from registry.definitions.schema import Property, PropertyType, Schema
from registry.storage.definition_store import DefinitionChanges
from server.auth.caller import Caller
from server.errors import BatchRejected, IdempotencyKeyReused, KeyInvalid, QueueFull, Stopping
from server.ingest import commit_timer, group_commit
from server.ingest.catalog import Catalog
from server.ingest.draft import BatchMode, Draft
from server.metrics import Metrics
from server.model import NameCase, Rules, UndefinedEvents, UnknownContacts
from server.services.definitions import Definitions
from signalbox.v1 import event_ingest_pb2 as pb
from tests.support.ingest_pipeline import GatedDatabase, drafts, ingest_pipeline_over
from tests.support.messages import orders
from tests.support.plans import plans
from tests.support.refusals import refusal, verdict
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy import Connection

    from server.storage.database import Database
    from tests.support.ingest_pipeline import IngestPipeline
    from tests.support.service import Client
    from tests.support.stores import Store


T = TypeVar("T")

# What waits in the queue has not met the database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for counts and does not tell
            await asyncio.sleep(0.001)


@pytest_asyncio.fixture
async def pipeline(database: Database) -> AsyncIterator[IngestPipeline]:
    """A queue of ten events, its gate shut and its first commit, of one event, under way."""
    async with ingest_pipeline_over(GatedDatabase(database), limit=10) as made:
        made.gate.clear()
        first = made.begin(drafts(name="first"))
        await until(lambda: made.writes == 1)
        yield made
        made.gate.set()
        await first


@on_sqlite
async def test_all_queued_batches_go_into_one_commit(pipeline: IngestPipeline) -> None:
    waiting = [pipeline.begin(drafts(name=f"waiting_{number}")) for number in range(10)]
    await asyncio.sleep(0.01)
    pipeline.gate.set()
    await asyncio.gather(*waiting)
    assert pipeline.writes == 2
    assert await pipeline.stored() == ["first", *(f"waiting_{number}" for number in range(10))]


@on_sqlite
async def test_a_full_queue_refuses_further_batches_and_stores_nothing_of_them(
    pipeline: IngestPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 0.1)
    waiting = pipeline.begin(drafts(8))
    await asyncio.sleep(0.01)
    with pytest.raises(QueueFull):
        await pipeline.send(drafts(3, "too_many"))
    fits = pipeline.begin(drafts(2))
    await asyncio.sleep(0.01)
    with pytest.raises(QueueFull):
        await pipeline.send(drafts(1, "too_many"))
    pipeline.gate.set()
    await asyncio.gather(waiting, fits)
    await pipeline.send(drafts(1, "later"))
    assert await pipeline.stored() == ["first", *["page_viewed"] * 10, "later"]


@on_sqlite
async def test_queued_events_are_counted(pipeline: IngestPipeline) -> None:
    waiting = pipeline.metrics.registry.get_sample_value
    assert waiting("signalbox_queue_events") == 0
    pipeline.gate.clear()
    sends = [pipeline.begin(drafts(2)), pipeline.begin(drafts(3))]
    async with asyncio.timeout(10):
        while waiting("signalbox_queue_events") != 5:  # noqa: ASYNC110 - a gauge wakes nobody
            await asyncio.sleep(0.001)
    pipeline.gate.set()
    await asyncio.gather(*sends)
    assert waiting("signalbox_queue_events") == 0


@on_sqlite
async def test_a_batch_larger_than_the_queue_is_accepted_when_the_queue_is_empty(pipeline: IngestPipeline) -> None:
    large = pipeline.begin(drafts(50))
    await asyncio.sleep(0.01)
    pipeline.gate.set()
    await large
    assert len(await pipeline.stored()) == 51


@on_sqlite
async def test_a_batch_whose_caller_is_cancelled_in_the_queue_is_not_stored(pipeline: IngestPipeline) -> None:
    given_up, kept = pipeline.begin(drafts(3, "given_up")), pipeline.begin(drafts(3, "kept"))
    await asyncio.sleep(0.01)
    given_up.cancel()
    pipeline.gate.set()
    await kept
    assert await pipeline.stored() == ["first", *["kept"] * 3]


async def test_a_batch_whose_caller_is_cancelled_during_its_commit_is_stored_whole(pipeline: IngestPipeline) -> None:
    waiting = pipeline.begin(drafts(5))
    await asyncio.sleep(0.01)
    pipeline.gate.set()
    await until(lambda: pipeline.writes == 2)
    waiting.cancel()
    await pipeline.send(drafts(1, "later"))
    assert await pipeline.stored() == ["first", *["page_viewed"] * 5, "later"]


async def test_closing_stores_queued_batches_and_refuses_further_ones(pipeline: IngestPipeline) -> None:
    waiting = pipeline.begin(drafts(5))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(pipeline.queue.close())
    await asyncio.sleep(0.01)
    with pytest.raises(Stopping):
        await pipeline.send(drafts(1, "too_late"))
    assert not closing.done()
    pipeline.gate.set()
    await asyncio.gather(waiting, closing)
    assert await pipeline.stored() == ["first", *["page_viewed"] * 5]


async def test_a_batch_that_the_database_refuses_does_not_fail_its_group(
    pipeline: IngestPipeline, store: Store
) -> None:
    await store.refuse_events_named("poison")
    good, bad = pipeline.begin(drafts(3, "good")), pipeline.begin([*drafts(2, "good"), *drafts(1, "poison")])
    also_good = pipeline.begin(drafts(3, "also_good"))
    await asyncio.sleep(0.01)
    pipeline.gate.set()
    with capture_logs() as logs:
        outcomes = await asyncio.gather(good, bad, also_good, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["NoneType", "InternalError", "NoneType"]
    assert await pipeline.stored() == ["first", *["good"] * 3, *["also_good"] * 3]
    assert [entry["event"] for entry in logs] == ["commit_failed"]


@on_sqlite
async def test_after_a_large_group_a_commit_waits_for_all_of_its_senders_but_one(
    pipeline: IngestPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_timer, "GATHER_SECONDS", 60)
    group = [pipeline.begin(drafts()) for _ in range(5)]
    await asyncio.sleep(0.01)
    pipeline.gate.set()
    async with asyncio.timeout(30):
        await asyncio.gather(*group)
        waiting = [pipeline.begin(drafts()) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert pipeline.writes == 2
        await asyncio.gather(*waiting, pipeline.begin(drafts()))
        assert pipeline.writes == 3
        # Four were no large group: a lone sender does not wait.
        await pipeline.send(drafts())


@on_sqlite
async def test_senders_that_do_not_come_are_not_waited_for(pipeline: IngestPipeline) -> None:
    group = [pipeline.begin(drafts()) for _ in range(5)]
    await asyncio.sleep(0.01)
    pipeline.gate.set()
    async with asyncio.timeout(30):
        await asyncio.gather(*group)
        await pipeline.send(drafts())


# What a commit decides


ALWAYS = NewAutomation("Always", "page_viewed", "", AutomationState.ACTIVE)


def keyed(key: str, text: str = "", name: str = "page_viewed") -> Draft:
    (draft,) = drafts(name=name, text=text)
    draft.idempotency_key = key
    return draft


def repeats(again: Draft, first: Draft) -> bool:
    """Return whether a draft was answered with what an earlier one set off, which is one match."""
    assert (len(first.matches), first.duplicate) == (1, False)
    return again.duplicate and again.event == first.event and again.matches == first.matches


async def test_an_idempotency_key_is_stored_once_in_a_batch_a_group_and_the_log(pipeline: IngestPipeline) -> None:
    pipeline.gate.set()
    await pipeline.automate(ALWAYS)
    await pipeline.send(drafts(name="other"))
    pipeline.gate.clear()
    under_way = pipeline.begin(drafts(name="other"))
    within, beside, other = [keyed("a"), keyed("b"), keyed("a")], [keyed("a"), keyed("b")], [keyed("b", "changed")]
    sends = [
        pipeline.begin(within),
        pipeline.begin(beside),
        asyncio.create_task(pipeline.send(other, BatchMode.INDEPENDENT)),
    ]
    await asyncio.sleep(0.01)
    pipeline.gate.set()
    await asyncio.gather(under_way, *sends)
    later = [keyed("a"), keyed("c"), keyed("b", "changed")]
    await pipeline.send(later, BatchMode.INDEPENDENT)
    assert repeats(within[2], within[0])
    assert repeats(beside[0], within[0])
    assert repeats(beside[1], within[1])
    assert repeats(later[0], within[0])
    assert [type(each.error) for each in (*other, *later)] == [
        IdempotencyKeyReused,
        type(None),
        type(None),
        IdempotencyKeyReused,
    ]
    assert await pipeline.stored() == ["first", "other", "other", *["page_viewed"] * 3]


async def test_a_rejected_batch_leaves_its_idempotency_keys_free(pipeline: IngestPipeline) -> None:
    pipeline.gate.set()
    with pytest.raises(BatchRejected):
        await pipeline.send([keyed("k"), keyed("k", "changed")])
    again = keyed("k")
    await pipeline.send([again])
    assert not again.duplicate
    assert await pipeline.stored() == ["first", "page_viewed"]


async def test_a_batch_validated_by_an_outdated_catalog_is_validated_again(
    pipeline: IngestPipeline, database: Database
) -> None:
    waiting = drafts(text="5")
    sends = [pipeline.begin(waiting), pipeline.begin(drafts(name="other"))]
    await asyncio.sleep(0.01)
    caller = Caller(pipeline.project_pk, "id", frozenset())
    schema = Schema((Property("text", PropertyType.NUMBER),))
    elsewhere = Definitions(database, Catalog(database))
    defined = await elsewhere.create(caller, NewDefinition("page_viewed", schema))
    pipeline.gate.set()
    await asyncio.gather(*sends)
    later = drafts(name="Page_Viewed", text="6")
    later[0].rules = Rules(UndefinedEvents.REJECT, UnknownContacts.CREATE, NameCase.INSENSITIVE)
    await pipeline.send(later)
    for draft, number in ((waiting[0], 5), (later[0], 6)):
        assert draft.event is not None
        assert (draft.event.definition_id, draft.event.revision) == (defined.id, 1)
        assert (draft.event.name, draft.event.properties) == ("page_viewed", {"text": number})


async def test_an_event_is_refused_only_under_the_current_catalog(pipeline: IngestPipeline, database: Database) -> None:
    pipeline.gate.set()
    caller = Caller(pipeline.project_pk, "id", frozenset())
    here, elsewhere = (Definitions(database, Catalog(database)) for _ in range(2))
    number, text = (Schema((Property("text", kind),)) for kind in (PropertyType.NUMBER, PropertyType.STRING))
    await here.create(caller, NewDefinition("page_viewed", number))
    await pipeline.send(drafts(text="5"))
    with pytest.raises(BatchRejected):
        await pipeline.send(drafts(text="five"))
    await elsewhere.update(caller, "page_viewed", DefinitionChanges(schema=text), "")
    await pipeline.send(drafts(text="five"))
    await elsewhere.update(caller, "page_viewed", DefinitionChanges(schema=number), "")
    with pytest.raises(BatchRejected):
        await pipeline.send(drafts(text="five"))


async def test_an_event_has_the_values_of_its_draft(pipeline: IngestPipeline) -> None:
    pipeline.gate.set()
    plain, dated = drafts(2)
    dated.occurred_at = 5
    await pipeline.send([plain, dated])
    assert plain.event is not None
    assert dated.event is not None
    by_id = Draft("page_viewed", plain.event.contact_id, "", {})
    await pipeline.send([by_id])
    assert by_id.event is not None
    for event in (plain.event, dated.event, by_id.event):
        assert (event.name, event.definition_id, event.revision, event.match_count) == ("page_viewed", "", 0, 0)
        assert (event.email, event.contact_id) == ("ada@example.com", plain.event.contact_id)
    assert (plain.event.occurred_at, dated.event.occurred_at) == (plain.event.received_at, 5)
    assert [each.event.position for each in (plain, dated, by_id) if each.event] == [2, 3, 4]


async def test_nothing_is_stored_for_a_project_whose_row_stands_for_another(
    pipeline: IngestPipeline, store: Store
) -> None:
    waiting = pipeline.begin(drafts(name="lost"))
    await asyncio.sleep(0.01)
    pipeline.gate.set()
    await until(lambda: pipeline.writes == 2)
    await waiting
    await store.execute("UPDATE project SET id = 'another'")
    await store.execute("UPDATE project_head SET catalog_version = catalog_version + 1")
    with pytest.raises(KeyInvalid):
        await pipeline.send(drafts(name="misplaced"))
    assert await pipeline.stored() == ["first", "lost"]


async def test_a_commit_is_counted_and_wakes_watchers_of_the_match_log(pipeline: IngestPipeline) -> None:
    pipeline.gate.set()
    await pipeline.automate(ALWAYS)
    await pipeline.send(drafts(name="other"))
    assert await pipeline.notifier.position(pipeline.project_pk) == 0
    following = asyncio.create_task(pipeline.notifier.wait_beyond(pipeline.project_pk, 0, 5))
    await asyncio.sleep(0)
    began = perf_counter()
    await pipeline.send(drafts(2))
    assert await following == 2
    count = pipeline.metrics.registry.get_sample_value
    assert count("signalbox_events_recorded_total") == 4
    assert count("signalbox_matches_total") == 2
    assert count("signalbox_commit_events_sum") == 4
    assert count("signalbox_commit_seconds_count") == count("signalbox_commit_events_count") == 3
    assert 0 < (count("signalbox_commit_seconds_sum") or 0) < began


async def tables_read_by(pipeline: IngestPipeline, *emails: str) -> set[str]:
    """Send an event about each address. Return the tables that the commits read."""
    with plans() as noted:
        for email in emails:
            await pipeline.send([Draft("page_viewed", "", email, {})])
    return {table for statement in noted.statements for table in re.findall(r"FROM (\w+)", statement)}


async def test_a_commit_reads_only_contacts_that_no_commit_before_it_has_read(pipeline: IngestPipeline) -> None:
    pipeline.gate.set()
    assert "contact" in await tables_read_by(pipeline, "ada@example.com", "bob@example.com")
    assert "contact" not in await tables_read_by(pipeline, "ada@example.com", "bob@example.com", "ada@example.com")


async def test_a_commit_under_a_new_catalog_reads_catalog_and_contacts_once(
    pipeline: IngestPipeline, database: Database
) -> None:
    pipeline.gate.set()
    await pipeline.send(drafts())
    elsewhere = Definitions(database, Catalog(database))
    caller = Caller(pipeline.project_pk, "id", frozenset())
    await elsewhere.create(caller, NewDefinition("page_viewed", Schema()))
    assert {"contact", "event_definition"} <= await tables_read_by(pipeline, "ada@example.com")
    assert not {"contact", "event_definition"} & await tables_read_by(pipeline, "ada@example.com", "ada@example.com")


def test_the_largest_commits_have_a_bucket_of_their_own() -> None:
    metrics = Metrics()
    for events, seconds in ((10_000, 2.5), (10_001, 2.51)):
        metrics.commits.count(events, 0, seconds)
    count = metrics.registry.get_sample_value
    for name, bound in (("events", "10000.0"), ("seconds", "2.5")):
        assert count(f"signalbox_commit_{name}_bucket", {"le": bound}) == 1
        assert count(f"signalbox_commit_{name}_bucket", {"le": "+Inf"}) == 2


class BrokenOffError(Exception):
    """What ends the first attempt."""


class BreakingOff(GatedDatabase):
    """A database whose next transaction breaks off before its commit and is begun anew, if it is told to."""

    breaks_off = False

    async def write(self, work: Callable[[Connection], T]) -> T:
        if self.breaks_off:
            self.breaks_off = False
            with suppress(BrokenOffError):
                await super().write(partial(self._break_off, work))
        return await super().write(work)

    @staticmethod
    def _break_off(work: Callable[[Connection], T], connection: Connection) -> T:
        work(connection)
        raise BrokenOffError


async def test_a_repeated_commit_keeps_nothing_of_its_first_attempt(database: Database) -> None:
    breaking = BreakingOff(database)
    async with ingest_pipeline_over(breaking) as pipeline:
        await pipeline.automate(ALWAYS)
        breaking.breaks_off = True
        first, again, other = sent = [keyed("k"), keyed("k"), keyed("k", "changed")]
        await pipeline.send(sent, BatchMode.INDEPENDENT)
        assert not breaking.breaks_off
        assert repeats(again, first)
        assert isinstance(other.error, IdempotencyKeyReused)
        stored = await database.read(lambda connection: connection.exec_driver_sql("SELECT id FROM event").fetchall())
        assert first.event is not None
        assert [row.id for row in stored] == [first.event.id]


# Over the wire


@asynccontextmanager
async def narrow(database_url: str, queue_events: int) -> AsyncIterator[Client]:
    async with serving(database_url, queue_events=queue_events) as service:
        shop = await service.shop()
        await shop.send()
        yield shop


@on_sqlite
async def test_a_refused_sender_gets_a_retry_delay(database_url: str, store: Store) -> None:
    async with narrow(database_url, queue_events=2) as shop:
        async with store.held():
            under_way = asyncio.create_task(shop.send())
            await asyncio.sleep(0.1)
            waiting = asyncio.create_task(shop.send_all(orders(2)))
            await asyncio.sleep(0.1)
            refused = await refusal(shop.send())
        await asyncio.gather(under_way, waiting)
        assert (refused.code, refused.reason) == (StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert refused.retry_after
        assert await shop.positions() == [1, 2, 3, 4]


@on_sqlite
@pytest.mark.parametrize("queue_events", [1, 4])
async def test_a_stream_waits_where_a_sender_is_refused(database_url: str, store: Store, queue_events: int) -> None:
    async with narrow(database_url, queue_events) as shop:
        async with store.held():
            under_way = asyncio.create_task(shop.send())
            await asyncio.sleep(0.1)
            call = shop.ingest.StreamEvents()
            for number in range(6):
                await call.write(pb.StreamEventsRequest(sequence=number, events=orders(3)))
            await call.done_writing()
            await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            answers = [answer async for answer in call]
        await under_way
        assert [(answer.sequence, len(answer.results)) for answer in answers] == [(number, 3) for number in range(6)]
        assert await shop.positions() == list(range(1, 21))


async def test_a_deadline_that_passes_in_the_queue_leaves_nothing_half_written(database_url: str, store: Store) -> None:
    async with narrow(database_url, queue_events=1_000) as shop:
        async with store.held():
            under_way = asyncio.create_task(shop.send())
            await asyncio.sleep(0.1)
            late = pb.SendEventsRequest(events=orders(50))
            code, _ = await verdict(shop.ingest.SendEvents(late, timeout=0.2))
            assert code is StatusCode.DEADLINE_EXCEEDED
            await asyncio.sleep(0.1)
        await under_way
        assert (await shop.send()).event.position == 3
        assert await shop.positions() == [1, 2, 3]


async def test_a_server_that_stops_stores_what_waits_and_answers_it(database_url: str, store: Store) -> None:
    async with AsyncExitStack() as server:
        service = await server.enter_async_context(serving(database_url))
        shop = await service.shop()
        async with store.held():
            waiting = [asyncio.create_task(shop.send_all(orders(5))) for _ in range(10)]
            await asyncio.sleep(0.2)
            stopping = asyncio.create_task(server.aclose())
            await asyncio.sleep(0.1)
        answers = await asyncio.gather(*waiting)
        await stopping
    answered = sorted(result.receipt.event.position for answer in answers for result in answer)
    assert answered == list(range(1, 51))
    assert len(await store.rows("event")) == 50


@on_sqlite
async def test_conditions_that_fail_are_counted_after_the_commit(database: Database) -> None:
    async with ingest_pipeline_over(GatedDatabase(database)) as counting:
        for condition in ("properties.missing == 1.0", "7 / 0 > 1", 'properties.text == ""'):
            await counting.automate(NewAutomation("x", "page_viewed", condition, AutomationState.ACTIVE))
        await counting.send(drafts(2))
        count = counting.metrics.registry.get_sample_value
        for word in ("missing", "error"):
            labels = {"project": "id", "verdict": word}
            # A test of equality is the index's: what is not there is ruled out, and not evaluated.
            assert count("signalbox_condition_failures_total", labels) == (2 if word == "error" else None)
