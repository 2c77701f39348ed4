"""The shares of projects in the queue before the log: who floods it fills only its own."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from registry.definitions.event_definitions import NewDefinition
from registry.definitions.schema import Property, PropertyType, Schema
from registry.errors import DefinitionNotFound
from server.auth.caller import Caller
from server.errors import BatchRejected, InternalError, QueueFull, StorageLate, StorageUnavailable
from server.ingest import commit_queue, group_commit
from server.ingest.catalog import Catalog
from server.ingest.commit_queue import (
    GROUP_EVENTS,
    PART_EVENTS,
    SHARED_GROUP_MICROSECONDS,
    SMALL_BYTES,
    SMALL_EVENTS,
    CommitQueue,
)
from server.ingest.draft import MAX_REPORTED, Batch, BatchMode, Draft
from server.model import RefusedEvents, Rules
from server.services.definitions import Definitions
from tests.support.ingest_pipeline import GatedDatabase, drafts, ingest_pipeline_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from server.storage.database import Database
    from tests.support.ingest_pipeline import IngestPipeline
    from tests.support.stores import Store


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for counts and does not tell
            await asyncio.sleep(0.001)


# What waits in the queue has not met the database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

EVENTS, SIZE = 100, 1_000_000


class Waiting:
    """A future of a batch, without a loop."""

    def __init__(self) -> None:
        self.cancelled = False

    def done(self) -> bool:
        return self.cancelled

    def get_loop(self) -> Any:
        return SimpleNamespace(create_future=Waiting)


def batch(project: int, events: int = 1, size: int = 0, mode: BatchMode = BatchMode.ALL_OR_NOTHING) -> Batch:
    snapshot: Any = SimpleNamespace(project_pk=project)
    done: Any = Waiting()
    return Batch(snapshot, drafts(events), mode, done, size)


def test_a_long_batch_is_stored_by_itself_while_others_send() -> None:
    """A batch that is all or nothing is one transaction, however large, and whoever is in it waits for it."""
    queue = CommitQueue(100_000)
    long = [batch(1, 10_000) for _ in range(2)]
    short = [batch(2), batch(3)]
    for each in (long[0], *short, long[1]):
        queue.push(each)
    groups = []
    while queue:
        groups.append(queue.take())
    assert groups in ([[long[0]], short, [long[1]]], [short, [long[0]], [long[1]]])


projects = st.integers(1, 4)
sends = st.tuples(projects, st.integers(1, 60), st.sampled_from([0, 100, 200_000]), st.sampled_from(BatchMode))


@given(st.lists(st.one_of(sends, st.none()), max_size=60))
def test_the_queue_is_bounded_and_ordered_and_takes_a_batch_of_a_project_that_is_not_in_it(steps: list[Any]) -> None:
    queue = queue_of(EVENTS, SIZE)
    waiting: dict[int, deque[Draft]] = defaultdict(deque)
    for step in steps:
        if step is None:
            take_and_check(queue, waiting)
        else:
            push_and_check(queue, waiting, *step)
        assert queue.events == sum(map(len, waiting.values()))
        newcomer = batch(99, SMALL_EVENTS, SMALL_BYTES)
        queue.push(newcomer)
        assert newcomer in taken_at_once(queue, waiting)
    while queue:
        take_and_check(queue, waiting)
    assert (queue.events, queue.bytes) == (0, 0)
    assert not any(waiting.values())


def push_and_check(
    queue: CommitQueue, waiting: dict[int, deque[Draft]], project: int, events: int, size: int, mode: BatchMode
) -> None:
    sent, empty, held = batch(project, events, size, mode), not queue.events, len(waiting[project])
    total = queue.events
    try:
        queue.push(sent)
    except QueueFull:
        assert not empty
        assert held + total + 2 * events > 2 * EVENTS or queue.bytes + 2 * sent.size > SIZE / 2
    else:
        waiting[project].extend(sent.drafts)
        assert queue.events <= 2 * EVENTS + SMALL_EVENTS * len(waiting)
        assert empty or queue.bytes <= SIZE + SMALL_BYTES * len(waiting) or size <= SMALL_BYTES


def take_and_check(queue: CommitQueue, waiting: dict[int, deque[Draft]]) -> list[Batch]:
    group = queue.take()
    for taken in group:
        for draft in taken.drafts:
            assert waiting[taken.snapshot.project_pk].popleft() is draft
    return group


def taken_at_once(queue: CommitQueue, waiting: dict[int, deque[Draft]]) -> list[Batch]:
    """Take the group that a newcomer is in, which is the next one."""
    group = queue.take()
    for taken in group:
        if taken.snapshot.project_pk != 99:
            for draft in taken.drafts:
                assert waiting[taken.snapshot.project_pk].popleft() is draft
    return group


def test_each_project_that_floods_has_the_same_share() -> None:
    for flooding in (1, 2, 3, 5):
        queue = queue_of(6_000, SIZE * 1_000)
        shares: Counter[int] = Counter()
        for _ in range(6_000):
            for project in range(flooding):
                try:
                    queue.push(batch(project, 2))
                except QueueFull:
                    continue
                shares[project] += 2
        assert all(abs(share - 2 * 6_000 / (flooding + 1)) < 8 for share in shares.values()), shares


def test_a_group_is_as_short_as_the_commits_of_its_projects_are_slow() -> None:
    queue = CommitQueue(100_000)
    for _ in range(30):
        queue.learn(1, [batch(1, 100)], 0.1)
    for _ in range(2_000):
        queue.push(batch(1))
    alone = len(queue.take())
    queue.push(batch(2))
    shared = len(queue.take())
    # A millisecond for each event: 50 while nobody else sends, then as many as take six.
    assert 45 <= alone <= 55
    assert shared <= 2 + SHARED_GROUP_MICROSECONDS / 900
    cheap = CommitQueue(100_000)
    for _ in range(2_000):
        cheap.push(batch(1))
    assert len(cheap.take()) == GROUP_EVENTS


def test_what_a_project_pays_is_the_time_of_the_writer() -> None:
    queue = CommitQueue(100_000)
    for _ in range(40):
        queue.learn(1, [batch(1, 100)], 0.01)
        queue.learn(2, [batch(2, 100)], 0.001)
    for _ in range(2_000):
        queue.push(batch(1))
        queue.push(batch(2))
    taken = Counter(each.snapshot.project_pk for _ in range(3) for each in queue.take())
    assert 8 < taken[2] / taken[1] < 12


def queue_of(events: int, size: int) -> CommitQueue:
    """Return a queue of a number of events and a size in bytes."""
    with patch.object(commit_queue, "queue_bytes", lambda: size):
        return CommitQueue(events)


@pytest_asyncio.fixture
async def pipeline(database: Database) -> AsyncIterator[IngestPipeline]:
    async with ingest_pipeline_over(GatedDatabase(database), limit=2_000) as made:
        yield made
        made.gate.set()


@on_sqlite
async def test_a_batch_waits_a_short_time_for_room(pipeline: IngestPipeline) -> None:
    pipeline.gate.clear()
    under_way = pipeline.begin(drafts())
    await until(lambda: pipeline.writes == 1)
    flood = [pipeline.begin(drafts(1_000)) for _ in range(2)]
    await until(lambda: pipeline.queued == 2_000)
    patient = [pipeline.begin(drafts(100)) for _ in range(5)]
    await asyncio.sleep(0.05)
    assert not any(each.done() for each in patient)
    gone = patient.pop(0)
    gone.cancel()
    pipeline.gate.set()
    await asyncio.gather(under_way, *flood, *patient)
    assert len(await pipeline.stored()) == 2_401


@on_sqlite
async def test_a_single_send_beside_a_flood_is_in_the_next_commit(
    pipeline: IngestPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 0.1)
    neighbour = await pipeline.neighbour("neighbour")
    pipeline.gate.clear()
    under_way = pipeline.begin(drafts())
    await until(lambda: pipeline.writes == 1)
    flood = [pipeline.begin(drafts(50)) for _ in range(41)]
    await until(lambda: any(each.done() for each in flood))
    lone = neighbour.begin(drafts())
    await until(lambda: pipeline.queued == 2_001)
    pipeline.gate.set()
    await lone
    # The commit that was under way, and its own.
    assert pipeline.writes <= 2 + 1
    assert not all(each.done() for each in flood)
    await under_way
    (refused,) = [each for each in await asyncio.gather(*flood, return_exceptions=True) if each is not None]
    assert isinstance(refused, QueueFull)
    assert "2,000 events of this project are waiting" in str(refused)


async def test_a_single_send_beside_a_flood_of_refused_events_is_in_the_next_commit(pipeline: IngestPipeline) -> None:
    flooding = await pipeline.neighbour("flooding", Rules(refused_events=RefusedEvents.QUARANTINE))
    pipeline.gate.clear()
    under_way = pipeline.begin(drafts())
    await until(lambda: pipeline.writes == 1)
    batches = [drafts(50) for _ in range(24)] + [drafts() for _ in range(300)]
    flood = [asyncio.create_task(flooding.send(each, BatchMode.INDEPENDENT)) for each in batches]
    await until(lambda: pipeline.queued == 1_500)
    lone = pipeline.begin(drafts(name="lone"))
    await until(lambda: pipeline.queued == 1_501)
    pipeline.gate.set()
    await lone
    # The commit that was under way, and its own.
    assert pipeline.writes <= 2 + 1
    assert not all(each.done() for each in flood)
    await asyncio.gather(under_way, *flood)
    assert all(isinstance(draft.error, DefinitionNotFound) for each in batches for draft in each)
    assert await pipeline.stored() == ["page_viewed", "lone"]


@on_sqlite
async def test_a_stream_of_a_project_waits_for_its_share_and_loses_nothing(pipeline: IngestPipeline) -> None:
    neighbour = await pipeline.neighbour("neighbour")
    pipeline.gate.clear()
    flood = [asyncio.create_task(pipeline.enqueue(drafts(100))) for _ in range(50)]
    beside = [asyncio.create_task(neighbour.enqueue(drafts(100))) for _ in range(50)]
    await until(lambda: pipeline.queued > 2_000)
    assert any(not each.done() for each in flood)
    pipeline.gate.set()
    for each in [*flood, *beside]:
        await (await each).done
    assert len(await pipeline.stored()) == 5_000


async def test_a_large_independent_batch_is_stored_in_parts_and_a_whole_one_at_once(pipeline: IngestPipeline) -> None:
    await pipeline.send(drafts(8 * PART_EVENTS), BatchMode.ALL_OR_NOTHING)
    assert pipeline.writes == 1
    await pipeline.send(drafts(8 * PART_EVENTS), BatchMode.INDEPENDENT)
    assert pipeline.writes >= 3
    assert len(await pipeline.stored()) == 16 * PART_EVENTS


async def test_a_part_that_is_refused_is_reported_in_its_own_events(pipeline: IngestPipeline, store: Store) -> None:
    await store.refuse_events_named("poison")
    sent = drafts(4 * PART_EVENTS)
    sent[-1].name = "poison"
    await pipeline.send(sent, BatchMode.INDEPENDENT)
    refused = [draft for draft in sent if draft.error is not None]
    assert 0 < len(refused) <= PART_EVENTS
    assert {type(draft.error) for draft in refused} == {InternalError}
    assert refused == sent[-len(refused) :]
    assert {draft.event is None for draft in refused} == {True}
    assert len(await pipeline.stored()) == len(sent) - len(refused)
    poison = drafts(2 * PART_EVENTS, name="poison")
    with pytest.raises(InternalError):
        await pipeline.send(poison, BatchMode.INDEPENDENT)


@on_sqlite
async def test_the_violations_of_a_batch_are_found_for_its_first_hundred_events_only(
    pipeline: IngestPipeline, database: Database
) -> None:
    schema = Schema(tuple(Property(f"p{number}", PropertyType.NUMBER) for number in range(50)))
    caller = Caller(pipeline.project_pk, "id", frozenset())
    await Definitions(database, Catalog(database)).create(caller, NewDefinition("measured", schema))
    wrong: dict[str, Any] = {f"p{number}": "wrong" for number in range(50)}
    sent = [Draft("measured", "", "ada@example.com", wrong) for _ in range(300)]
    await pipeline.send(sent, BatchMode.INDEPENDENT)
    errors: list[Any] = [draft.error for draft in sent]
    found = [len(error.violations) for error in errors]
    assert found == [50] * MAX_REPORTED + [1] * (300 - MAX_REPORTED)
    assert {error.violations[0] for error in errors} == {errors[0].violations[0]}
    with pytest.raises(BatchRejected) as rejected:
        await pipeline.send(sent)
    assert "300 of 300 events" in str(rejected.value)
    assert len(rejected.value.violations) == MAX_REPORTED


async def test_a_batch_of_which_a_part_is_in_doubt_is_in_doubt() -> None:
    snapshot: Any = SimpleNamespace(project_pk=1)
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    whole = Batch(snapshot, drafts(30), BatchMode.INDEPENDENT, done)
    for part, error in zip(whole.split(10), (StorageLate(), StorageUnavailable(), StorageLate()), strict=True):
        part.resolve(error)
    assert isinstance(done.exception(), StorageUnavailable)


@on_sqlite
async def test_parts_whose_caller_leaves_are_not_stored(pipeline: IngestPipeline) -> None:
    neighbour = await pipeline.neighbour("neighbour")
    pipeline.gate.clear()
    first = neighbour.begin(drafts())
    await until(lambda: pipeline.writes == 1)
    waiting = asyncio.create_task(pipeline.send(drafts(4 * PART_EVENTS), BatchMode.INDEPENDENT))
    await until(lambda: pipeline.queued == 4 * PART_EVENTS)
    waiting.cancel()
    pipeline.gate.set()
    await first
    await pipeline.send(drafts(name="later"))
    assert (await pipeline.stored())[-1] == "later"
    assert len(await pipeline.stored()) <= PART_EVENTS + 1


def test_the_share_of_a_project_is_bounded_in_bytes_too() -> None:
    queue = queue_of(EVENTS, SIZE)
    queue.push(batch(1, 1, 3 * SIZE))
    with pytest.raises(QueueFull, match="bytes of events"):
        queue.push(batch(1, 1, 100))
    queue.push(batch(2, 1, 100))
