"""WatchMatches: following the match log, from any place in it, over a real channel."""

from __future__ import annotations

import asyncio
import shutil
from base64 import urlsafe_b64encode
from contextlib import AsyncExitStack, aclosing
from hashlib import sha256
from statistics import median
from time import monotonic
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from automation.match_log import READ_LIMIT, read_filtered
from automation.matches import MatchFilter
from server.api.accepting import ACCEPTING
from server.delivery import match_reader
from server.delivery.match_notifier import MatchNotifier
from server.delivery.match_reader import MatchReader, WatchQuery, WatchUpdate, load_in, read_on
from server.delivery.recent_matches import LoadedMatch
from server.delivery.start_points import Place
from server.model import Rules
from server.rpc.servicers import match_stream
from server.rpc.servicers.match_stream import MatchStreamServicer
from server.storage.opening import open_database
from server.storage.projects.projects import get_project, insert_project
from signalbox.v1 import match_stream_pb2 as pb
from signalbox.v1 import projects_pb2
from tests.support.automations import (
    RESUMED,
    STARTED,
    TIMED_OUT,
    automate,
    await_event,
    change,
    delete,
    match_log,
    no_longer_waiting,
    pause,
    started,
)
from tests.support.messages import ANYTHING, ORDER, event, orders
from tests.support.refusals import refusal, verdict
from tests.support.service import serving
from tests.support.watches import (
    EARLIEST,
    LATEST,
    PAID,
    after,
    all_of,
    answer_of,
    begin,
    positions,
    read_to_end,
    watching,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from grpc.aio import UnaryStreamCall
    from sqlalchemy import Connection

    from server.delivery.match_reader import UnreadableMatch

    Loaded = LoadedMatch | UnreadableMatch
    from server.storage.database import Database
    from signalbox.v1.match_pb2 import Match
    from tests.support.service import Client, Service
    from tests.support.stores import Store

    Watch = UnaryStreamCall[pb.WatchMatchesRequest, pb.WatchMatchesResponse]

pytestmark = pytest.mark.lasting

LATEST_BEAT = 3.0
"""Seconds to wait for a heartbeat whose interval is one second; a slow machine may be late."""

T = TypeVar("T")

# Requests are checked, and watchers read, in the same way on every database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


async def refused(client: Client, start: pb.StartPoint, **stated: Any) -> tuple[StatusCode, str]:
    return await verdict(begin(client, start, **stated).read())


# What a match says


async def test_a_match_is_told_with_its_automation_and_its_event(shop: Client) -> None:
    automation = await automate(shop, labels={"team": "growth"})
    async with watching(shop) as call:
        assert list((await answer_of(call)).matches) == []
        receipt = await shop.send(event({"order_total": 12.5}))
        (match,) = (await answer_of(call)).matches
    assert (match.position, match.automation_id, match.automation_name) == (1, automation.id, automation.name)
    assert dict(match.labels) == {"team": "growth"}
    assert match.event == await shop.get(receipt.event.id)
    assert match.contact_id == match.event.contact_id


async def test_a_match_of_a_deleted_automation_is_still_told(shop: Client) -> None:
    automation = await automate(shop)
    await shop.send()
    await delete(shop, await pause(shop, automation))
    (match,) = all_of(await read_to_end(shop, EARLIEST))
    assert match.automation_id == automation.id


async def test_a_resumed_match_tells_of_the_new_event_and_a_timeout_of_the_one_that_started_the_run(
    shop: Client,
) -> None:
    await shop.define(PAID, ANYTHING)
    await automate(shop)
    await await_event(shop, await started(shop), PAID)
    await shop.send(event(name=PAID))
    run = await await_event(shop, await started(shop), PAID, seconds=1)
    await no_longer_waiting(shop, run)
    told = all_of(await read_to_end(shop, EARLIEST))
    assert [(match.kind, match.event.name) for match in told] == [
        (STARTED, ORDER),
        (RESUMED, PAID),
        (STARTED, ORDER),
        (TIMED_OUT, ORDER),
    ]
    assert told[3].event == told[2].event
    paid = await read_to_end(shop, EARLIEST, filter=pb.MatchFilter(event_names=[PAID]))
    assert all_of(paid) == told[1:2]


async def test_matches_are_loaded_in_the_order_asked_for_as_many_as_fit(database_url: str) -> None:
    async with serving(database_url) as service:
        shop = await service.shop()
        await shop.define(PAID, ANYTHING)
        await automate(shop, PAID, name="First")
        await automate(shop, PAID, name="Second")
        await shop.send_all([event({"text": "x" * 240_000}, name=PAID) for _ in range(3)])
    database = await open_database(database_url)

    def work(connection: Connection) -> tuple[list[Loaded], list[Loaded], list[Loaded]]:
        project_pk = get_project(connection, shop.project).pk
        asked = read_filtered(connection, project_pk, MatchFilter(), 0, 10)[::-1]
        loaded = load_in(connection, project_pk, asked)
        return loaded, load_in(connection, project_pk, asked[len(loaded) :]), load_in(connection, project_pk, [])

    loaded, rest, none = await database.read(work)
    await database.close()
    assert [each.match.position for each in loaded] == [6, 5]
    assert [each.match.position for each in rest] == [4, 3]
    assert none == []
    for each in loaded + rest:
        assert isinstance(each, LoadedMatch)
        assert each.event.position == each.match.event_position
        assert each.automation.name == ("Second", "First")[each.match.position % 2]


# Ordered, and from any place on


async def test_answers_hold_no_more_than_asked_for_and_positions_rise_without_a_gap(shop: Client) -> None:
    """Ordered."""
    await automate(shop)
    await shop.send_all(orders(25))
    answers = await read_to_end(shop, EARLIEST, max_matches=10)
    assert [len(answer.matches) for answer in answers] == [10, 10, 5]
    assert positions(answers) == list(range(1, 26))
    assert [answer.position for answer in answers] == [10, 20, 25]


async def test_every_cursor_resumes_with_the_match_after_its_response(shop: Client) -> None:
    """Resumable, Bookmarkable."""
    await shop.define(PAID, ANYTHING)
    await automate(shop)
    await automate(shop, PAID)
    await shop.send_all([event(name=(ORDER, PAID)[number % 3 == 0]) for number in range(20)])
    for wanted in (pb.MatchFilter(), pb.MatchFilter(event_names=[PAID])):
        answers = await read_to_end(shop, EARLIEST, filter=wanted, max_matches=3)
        everything = positions(answers)
        for answer in answers:
            answered = [position for position in everything if position <= answer.position]
            resumed = await read_to_end(shop, pb.StartPoint(cursor=answer.cursor), filter=wanted)
            assert answered + positions(resumed) == everything


async def test_a_watch_begins_where_it_is_told(shop: Client, store: Store) -> None:
    await automate(shop)
    for _ in range(3):
        await shop.send()
        await asyncio.sleep(0.002)
    log = await match_log(store)
    for start, expected in (
        (EARLIEST, [1, 2, 3]),
        (after(0), [1, 2, 3]),
        (after(2), [3]),
        (after(3), []),
        (LATEST, []),
        (pb.StartPoint(), []),
        (pb.StartPoint(log_end=pb.LOG_END_UNSPECIFIED), []),
    ):
        assert positions(await read_to_end(shop, start)) == expected
    year_1 = -62_135_596_800_000_000
    for micros, expected in (
        (year_1, [1, 2, 3]),
        (-1, [1, 2, 3]),
        (0, [1, 2, 3]),
        *((each.matched_at, list(range(each.position, 4))) for each in log),
        *((each.matched_at + 1, list(range(each.position + 1, 4))) for each in log),
    ):
        time = Timestamp()
        time.FromMicroseconds(micros)
        assert positions(await read_to_end(shop, pb.StartPoint(time=time))) == expected


async def test_a_log_without_matches_is_watched_from_every_end(shop: Client) -> None:
    times = (pb.StartPoint(time=Timestamp(seconds=seconds)) for seconds in (-1, 0, 1))
    for start in (EARLIEST, LATEST, after(0), *times):
        (answer,) = await read_to_end(shop, start)
        assert (answer.position, answer.head_position, list(answer.matches)) == (0, 0, [])
        assert positions(await read_to_end(shop, pb.StartPoint(cursor=answer.cursor))) == []


async def test_a_position_beyond_the_newest_match_is_refused(shop: Client) -> None:
    await automate(shop)
    await shop.send()
    refusal_ = await refusal(begin(shop, after(2)).read())
    assert (refusal_.code, refusal_.reason) == (StatusCode.OUT_OF_RANGE, "POSITION_BEYOND_HEAD")
    assert refusal_.metadata == {"position": "2", "head_position": "1"}


@on_sqlite
async def test_what_is_no_cursor_of_the_project_is_refused(service: Service, shop: Client) -> None:
    await automate(shop)
    await shop.send()
    cursor = (await read_to_end(shop, EARLIEST))[-1].cursor
    changed = ("B" if cursor[0] == "A" else "A") + cursor[1:]
    for bad in ("", "x", cursor[:-1], cursor + "A", cursor + "====", changed, cursor[:-1] + "é", "A" * 20):
        assert await refused(shop, pb.StartPoint(cursor=bad)) == (StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID")
    other = await service.project()
    assert await refused(other, pb.StartPoint(cursor=cursor)) == (StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID")


# Filters


async def test_a_filter_lets_through_exactly_what_it_names(shop: Client) -> None:
    """FilterExact."""
    await shop.define(PAID, ANYTHING)
    made = [
        await automate(shop, ORDER, labels={"team": "growth", "tier": "1"}),
        await automate(shop, ORDER, labels={"team": "core"}),
        await automate(shop, PAID, labels={"team": "growth"}),
    ]
    await shop.send_all([event(name=(ORDER, PAID)[number % 2]) for number in range(8)])
    everything = all_of(await read_to_end(shop, EARLIEST))
    assert len(everything) == 12
    first, _, third = (each.id for each in made)
    for wanted in (
        pb.MatchFilter(automation_ids=[first]),
        pb.MatchFilter(automation_ids=[first, third, "unknown"]),
        pb.MatchFilter(automation_ids=["unknown"]),
        pb.MatchFilter(labels={"team": "growth"}),
        pb.MatchFilter(labels={"team": "growth", "tier": "1"}),
        pb.MatchFilter(labels={"team": ""}),
        pb.MatchFilter(event_names=[PAID]),
        pb.MatchFilter(event_names=[PAID.upper()]),
        pb.MatchFilter(labels={"team": "growth"}, event_names=[ORDER, PAID], automation_ids=[third]),
        pb.MatchFilter(automation_ids=[first], event_names=[PAID]),
    ):
        expected = [match for match in everything if passes(match, wanted)]
        assert all_of(await read_to_end(shop, EARLIEST, filter=wanted, max_matches=2)) == expected


def passes(match: Match, wanted: pb.MatchFilter) -> bool:
    return (
        (not wanted.automation_ids or match.automation_id in wanted.automation_ids)
        and (not wanted.event_names or match.event.name in wanted.event_names)
        and wanted.labels.items() <= match.labels.items()
    )


async def test_a_filter_by_label_goes_by_the_labels_of_now(shop: Client) -> None:
    automation = await automate(shop, labels={"team": "growth"})
    growth, core = (pb.MatchFilter(labels={"team": team}) for team in ("growth", "core"))
    async with watching(shop, filter=core, seconds=1) as call:
        await answer_of(call)
        await shop.send()
        await change(shop, automation, labels={"team": "core"})
        await shop.send()
        # If the first match is read late, the automation has its new label by then.
        while positions([await answer_of(call)])[-1:] != [2]:
            pass
    assert positions(await read_to_end(shop, EARLIEST, filter=core)) == [1, 2]
    assert positions(await read_to_end(shop, EARLIEST, filter=growth)) == []


async def test_a_log_that_is_longer_than_one_reading_is_looked_through_to_its_end(shop: Client) -> None:
    await shop.define(PAID, ANYTHING)
    await automate(shop)
    await automate(shop, PAID)
    await shop.send_all(orders(2 * READ_LIMIT))
    await shop.send(event(name=PAID))
    answers = await read_to_end(shop, EARLIEST, filter=pb.MatchFilter(event_names=[PAID]))
    assert positions(answers) == [2 * READ_LIMIT + 1]
    assert positions(await read_to_end(shop, EARLIEST, max_matches=1_000)) == list(range(1, 2 * READ_LIMIT + 2))


# Live


async def test_a_filtered_bookmark_moves_on_a_quiet_log(shop: Client) -> None:
    """Live: heartbeats keep their interval, and their cursor advances where the filter lets nothing through."""
    await automate(shop)
    async with watching(shop, filter=pb.MatchFilter(event_names=[PAID]), seconds=1) as call:
        before = await answer_of(call, LATEST_BEAT)
        for _ in range(2):
            await shop.send_all(orders(3))
            answer = await answer_of(call, LATEST_BEAT)
            assert (answer.position, list(answer.matches)) == (before.position + 3, [])
            assert positions(await read_to_end(shop, pb.StartPoint(cursor=answer.cursor))) == []
            before = answer


@on_sqlite
async def test_nothing_is_read_for_the_heartbeats_of_an_idle_watcher(
    shop: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await automate(shop)
    await shop.send()
    reads: list[Place] = []

    def counted(connection: Connection, project_pk: int, query: WatchQuery, after: Place) -> WatchUpdate:
        reads.append(after)
        return read_on(connection, project_pk, query, after)

    async with watching(shop, EARLIEST, seconds=1) as watch:
        while not (await answer_of(watch)).matches:
            pass
        assert not (await answer_of(watch, LATEST_BEAT)).matches
        monkeypatch.setattr(match_reader, "read_on", counted)
        beats = [await answer_of(watch, LATEST_BEAT) for _ in range(2)]
        assert [(beat.position, beat.head_position) for beat in beats] == [(1, 1)] * 2
        assert reads == []
        await shop.send()
        assert positions([await answer_of(watch)]) == [2]
        # It is still in memory.
        assert reads == []


@on_sqlite
async def test_heartbeats_come_while_a_reading_takes_longer(database: Database) -> None:
    project = await database.write(lambda connection: insert_project(connection, "id", "shop", Rules(), 1))
    slow = SlowDatabase(database)
    # Where no other server writes, nothing is read for a heartbeat.
    slow.shared = True
    matches = MatchReader(slow, MatchNotifier(slow))
    async with aclosing(matches.watch(project.pk, WatchQuery(heartbeat_seconds=0.4))) as answers:
        await anext(answers)
        slow.gate.clear()
        for _ in range(2):
            async with asyncio.timeout(LATEST_BEAT):
                assert await anext(answers) == WatchUpdate((), Place(0, ""), 0)
        slow.gate.set()
        assert await anext(answers) == WatchUpdate((), Place(0, ""), 0)


class SlowDatabase:
    """A database whose reads wait while the gate is shut."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.shared, self.epoch = database.shared, database.epoch
        self.write, self.check, self.close = database.write, database.check, database.close
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self, work: Callable[[Connection], T], *, brief: bool = False, delivery: bool = False) -> T:
        await self.gate.wait()
        return await self._database.read(work, brief=brief, delivery=delivery)


async def test_a_match_is_there_soon_after_its_event_is_accepted(
    shop: Client, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    await automate(shop)
    waits = []
    async with watching(shop) as call:
        await answer_of(call)
        for number in range(1, 21):
            await shop.send()
            accepted = monotonic()
            assert positions([await answer_of(call)]) == [number]
            waits.append(monotonic() - accepted)
    record_property("accept_to_delivered_ms", round(median(waits) * 1_000, 2))
    with capsys.disabled():
        print(f"accepted to delivered: median {median(waits) * 1_000:.1f} ms, longest {max(waits) * 1_000:.1f} ms")  # noqa: T201
    assert median(waits) < 1


@on_postgresql
async def test_concurrent_transactions_hide_no_position_from_a_follower(database_url: str) -> None:
    """Senders on two servers commit in the order of their positions."""
    async with AsyncExitStack() as stack:
        services = [await stack.enter_async_context(serving(database_url)) for _ in range(2)]
        shop = await services[0].shop()
        shops = [service.client(shop.secret, shop.project) for service in services]
        await automate(shop)
        await automate(shop, name="Another")
        calls = [await stack.enter_async_context(watching(each, max_matches=7)) for each in shops for _ in range(2)]
        for call in calls:
            await answer_of(call)

        async def follow(call: Watch) -> list[int]:
            answers = [await answer_of(call)]
            while answers[-1].position < 96:
                answers.append(await answer_of(call))
            return positions(answers)

        async def send(client: Client) -> None:
            for _ in range(12):
                await client.send_all(orders(1))

        *seen, _, _, _, _ = await asyncio.gather(*map(follow, calls), *map(send, [*shops, *shops]))
    assert seen == [list(range(1, 97))] * 4


# Bounded


@on_sqlite
async def test_a_watcher_that_reads_nothing_is_ended_and_harms_nobody(
    shop: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BoundedMemory."""
    monkeypatch.setattr(match_stream, "SLOW_SECONDS", 1.0)
    await shop.define(PAID, ANYTHING)
    await automate(shop, PAID)
    large = "x" * 100_000
    for _ in range(10):
        await shop.send_all([event({"text": large}, name=PAID) for _ in range(10)])
    async with watching(shop, EARLIEST, seconds=1) as stuck, watching(shop, seconds=1) as lively:
        while not (first := await answer_of(stuck)).matches:
            pass
        assert len(first.matches) <= 10
        await answer_of(lively)
        # Longer by far than SLOW_SECONDS: nobody tells when the transport took no more.
        for number in range(101, 108):
            await asyncio.sleep(0.3)
            await shop.send(event(name=PAID))
            while not (answer := await answer_of(lively, LATEST_BEAT)).matches:
                pass
            assert positions([answer]) == [number]
        read = [first]

        async def read_on() -> None:
            while read[-1].position < 107:
                read.append(await answer_of(stuck))

        ended = await refusal(read_on())
    assert (ended.code, ended.reason, ended.retry_after) == (StatusCode.RESOURCE_EXHAUSTED, "WATCHER_TOO_SLOW", 1.0)
    assert positions(read) == list(range(1, read[-1].position + 1))
    assert read[-1].position < 100
    rest = await read_to_end(shop, pb.StartPoint(cursor=read[-1].cursor))
    assert positions(read) + positions(rest) == list(range(1, 108))


@pytest.mark.parametrize(("heartbeat", "patience"), [(1, 3), (5, 15), (10, 30), (60, 30)])
async def test_a_watcher_has_three_heartbeats_and_at_most_half_a_minute_to_take_a_response(
    heartbeat: int, patience: float
) -> None:
    async def watch(project_pk: int, query: object) -> AsyncGenerator[WatchUpdate, None]:
        yield WatchUpdate((), Place(0, ""), 0)

    async def send(response: bytes, seconds: float) -> None:
        assert seconds == patience

    matches: Any = SimpleNamespace(watch=watch)
    nothing: Any = None
    caller: Any = SimpleNamespace(project_pk=1, project_id="p")
    request = pb.WatchMatchesRequest()
    request.heartbeat_interval.FromSeconds(heartbeat)
    await MatchStreamServicer(matches, nothing, nothing, nothing).WatchMatches(request, caller, send)


@on_sqlite
async def test_an_answer_ends_before_it_is_too_large_for_a_client(shop: Client) -> None:
    await shop.define(PAID, ANYTHING)
    await automate(shop, PAID)
    await shop.send_all([event({"text": "x" * 240_000}, name=PAID) for _ in range(5)])
    answers = await read_to_end(shop, EARLIEST)
    assert positions(answers) == [1, 2, 3, 4, 5]
    assert [len(answer.matches) for answer in answers] == [2, 2, 1]


def tasks_of_calls() -> int:
    """Return the number of tasks, without those that wait for further calls: they stay, and their number rises."""
    return sum(task.get_name() != ACCEPTING for task in asyncio.all_tasks())


@on_sqlite
async def test_a_watch_that_its_client_leaves_frees_everything(shop: Client) -> None:
    before = tasks_of_calls()
    calls = [begin(shop) for _ in range(20)]
    for call in calls:
        await answer_of(call)
    assert tasks_of_calls() > before + 20
    for call in calls:
        call.cancel()
    async with asyncio.timeout(5):
        while tasks_of_calls() > before:  # noqa: ASYNC110 - that a task ends, nobody is told
            await asyncio.sleep(0.01)


async def test_a_watch_is_told_that_the_server_stops(database_url: str) -> None:
    async with AsyncExitStack() as server:
        service = await server.enter_async_context(serving(database_url))
        call = begin(await service.shop())
        await answer_of(call)
        stopping = asyncio.create_task(server.aclose())
        assert await verdict(call.read()) == (StatusCode.UNAVAILABLE, "SERVER_STOPPING")
        async with asyncio.timeout(2):
            await stopping


async def test_a_watch_ends_with_its_key(service: Service, shop: Client) -> None:
    answer = await service.admin.projects.CreateApiKey(
        projects_pb2.CreateApiKeyRequest(project=shop.project, scopes=["matches:read"])
    )
    call = begin(service.client(answer.secret, shop.project), seconds=1)
    await answer_of(call)
    await service.admin.projects.RevokeApiKey(projects_pb2.RevokeApiKeyRequest(id=answer.api_key.id))
    assert await verdict(answer_of(call, 2)) == (StatusCode.UNAUTHENTICATED, "API_KEY_INVALID")


# What is refused


@on_sqlite
@pytest.mark.parametrize(
    ("path", "stated"),
    [
        ("max_matches", {"max_matches": -1}),
        ("max_matches", {"max_matches": 1_001}),
        ("heartbeat_interval", {"seconds": 0.999}),
        ("heartbeat_interval", {"seconds": 60.001}),
        ("start.after_position", {"start": after(-1)}),
        ("start.log_end", {"start": pb.StartPoint(log_end=9)}),  # type: ignore[arg-type]
        ("filter.automation_ids", {"filter": pb.MatchFilter(automation_ids=[str(each) for each in range(101)])}),
        ("filter.labels", {"filter": pb.MatchFilter(labels={str(each): "x" for each in range(33)})}),
        ("filter.event_names", {"filter": pb.MatchFilter(event_names=[str(each) for each in range(101)])}),
    ],
)
async def test_what_is_out_of_range_is_refused_with_its_path(shop: Client, path: str, stated: Any) -> None:
    bad = await refusal(begin(shop, **stated).read())
    assert bad.code is StatusCode.INVALID_ARGUMENT
    assert [where for where, _ in bad.violations] == [path]


async def test_the_bounds_themselves_are_taken(shop: Client) -> None:
    many = pb.MatchFilter(
        automation_ids=[str(each) for each in range(100)],
        labels={str(each): "x" for each in range(32)},
        event_names=[str(each) for each in range(100)],
    )
    for stated in ({"max_matches": 1_000, "seconds": 1}, {"max_matches": 1, "seconds": 60}, {"filter": many}):
        assert positions(await read_to_end(shop, EARLIEST, **stated)) == []


# Cursors of another history


@on_sqlite
async def test_a_cursor_of_a_file_that_was_replaced_by_an_older_copy_is_refused(
    database_url: str, tmp_path: Path
) -> None:
    path = database_url.removeprefix("sqlite:///")
    async with serving(database_url) as service:
        shop = await service.shop()
        await automate(shop)
        await shop.send()
        [kept] = await read_to_end(shop, EARLIEST)
    copy = shutil.copy(path, tmp_path / "copy.db")
    async with serving(database_url) as service:
        shop = service.client(shop.secret)
        await shop.send()
        lost = (await read_to_end(shop, EARLIEST))[-1]
    shutil.copy(copy, path)
    async with serving(database_url) as service:
        shop = service.client(shop.secret)
        assert await refused(shop, pb.StartPoint(cursor=lost.cursor)) == (StatusCode.OUT_OF_RANGE, "CURSOR_REWOUND")
        await shop.send_all(orders(2))
        assert await refused(shop, pb.StartPoint(cursor=lost.cursor)) == (StatusCode.OUT_OF_RANGE, "CURSOR_REWOUND")
        assert positions(await read_to_end(shop, pb.StartPoint(cursor=kept.cursor))) == [2, 3]


@on_sqlite
async def test_cursors_of_earlier_versions_are_accepted(shop: Client) -> None:
    await automate(shop)
    await shop.send_all(orders(3))
    for position, later in ((0, [1, 2, 3]), (2, [3]), (3, [])):
        place = position.to_bytes(8, "big")
        digest = sha256(b"match cursor " + shop.project.encode() + place).digest()[:7]
        cursor = urlsafe_b64encode(place + digest).decode()
        assert positions(await read_to_end(shop, pb.StartPoint(cursor=cursor))) == later
