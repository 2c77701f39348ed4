from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode

from registry.definitions.schema import Property, PropertyType, Schema
from server.auth.caller import Caller
from server.services.backtests import CHUNK_EVENTS, Backtests, BacktestScope
from server.storage.opening import open_database
from signalbox.v1 import event_definitions_pb2 as pb
from signalbox.v1 import projects_pb2
from tests.support.command_line import command
from tests.support.messages import ANYTHING, ORDER, ORDER_SCHEMA, event, orders, schema
from tests.support.refusals import refusal, verdict
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from google.protobuf.struct_pb2 import Struct
    from sqlalchemy import Connection

    from server.storage.database import Database
    from tests.support.service import Client, Service

pytestmark = pytest.mark.lasting

T = TypeVar("T")

REJECTED, ACCEPTED, DIFFERENT = (
    pb.BacktestSample.OUTCOME_NEWLY_REJECTED,
    pb.BacktestSample.OUTCOME_NEWLY_ACCEPTED,
    pb.BacktestSample.OUTCOME_DIFFERENTLY_COERCED,
)
TOTAL_AS_TEXT = schema(order_total="string", currency="string", is_first_purchase="boolean")
NO_TOTAL = schema(currency="string", is_first_purchase="boolean")
STOPPING = (StatusCode.UNAVAILABLE, "SERVER_STOPPING")

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


def asked(candidate: pb.Schema | None, name: str = ORDER, **fields: Any) -> pb.BacktestSchemaRequest:
    return pb.BacktestSchemaRequest(event_definition=name, schema=candidate, **fields)


async def answers(shop: Client, request: pb.BacktestSchemaRequest) -> list[pb.BacktestSchemaResponse]:
    return [answer async for answer in shop.definitions.BacktestSchema(request)]


async def backtested(shop: Client, candidate: pb.Schema, name: str = ORDER, **fields: Any) -> pb.BacktestReport:
    *_, last = await answers(shop, asked(candidate, name, **fields))
    assert last.HasField("report")
    return last.report


async def refused(shop: Client, candidate: pb.Schema | None = ORDER_SCHEMA, name: str = ORDER, **fields: Any) -> Any:
    return await refusal(answers(shop, asked(candidate, name, **fields)))


async def sent(shop: Client, *payloads: dict[str, Any], name: str = ORDER) -> None:
    for result in await shop.send_all([event(each, name=name) for each in payloads]):
        assert result.HasField("receipt")


def counts(report: pb.BacktestReport) -> tuple[int, int, int, int]:
    found = (
        report.unchanged_count,
        report.newly_rejected_count,
        report.newly_accepted_count,
        report.differently_coerced_count,
    )
    assert sum(found) == report.event_count
    return found


def plain(struct: Struct) -> Any:
    return MessageToDict(struct)


# What comes out


async def test_each_event_has_one_outcome(shop: Client) -> None:
    await sent(
        shop,
        {"currency": "EUR"},
        {"order_total": 5},
        {"is_first_purchase": True},
        {"order_total": "7"},
        {"currency": 5},
    )
    report = await backtested(shop, schema(order_total="string", currency="string"))
    assert counts(report) == (2, 1, 0, 2)
    assert (report.revision, report.head_position) == (1, 5)
    assert [(each.position, each.outcome) for each in report.samples] == [(2, DIFFERENT), (3, REJECTED), (4, DIFFERENT)]
    first, second, third = report.samples
    assert (plain(first.sent), plain(first.before), plain(first.after)) == (
        {"order_total": 5},
        {"order_total": 5},
        {"order_total": "5"},
    )
    assert second.HasField("before")
    assert not second.HasField("after")
    assert [(each.path, each.reason) for each in second.violations] == [
        ("properties.is_first_purchase", "UNKNOWN_PROPERTY")
    ]
    assert (plain(third.sent), plain(third.before), plain(third.after)) == (
        {"order_total": "7"},
        {"order_total": 7},
        {"order_total": "7"},
    )
    assert first.event_id == (await shop.log())[1].id


@on_sqlite
async def test_an_equal_schema_changes_nothing(shop: Client) -> None:
    await sent(shop, {"order_total": "5"}, {"currency": None}, {"order_total": 2.0**60}, {})
    report = await backtested(shop, ORDER_SCHEMA)
    assert counts(report) == (4, 0, 0, 0)
    assert not report.samples
    assert not report.reasons


@on_sqlite
async def test_one_and_true_are_not_the_same(shop: Client) -> None:
    await sent(shop, {"is_first_purchase": 1})
    report = await backtested(shop, schema(is_first_purchase="number"))
    assert counts(report) == (0, 0, 0, 1)
    assert (plain(report.samples[0].before), plain(report.samples[0].after)) == (
        {"is_first_purchase": True},
        {"is_first_purchase": 1},
    )


async def test_events_are_compared_as_they_were_sent(shop: Client) -> None:
    lines = pb.Property(
        name="lines",
        type=pb.PROPERTY_TYPE_ARRAY,
        item_type=pb.PROPERTY_TYPE_OBJECT,
        properties=schema(**{"sku": "string", "a.b": "number"}).properties,
    )
    dropping = pb.Schema(properties=[lines], unknown_properties=pb.UNKNOWN_PROPERTIES_DROP)
    await shop.define("basket", dropping)
    payload = {"lines": [{"sku": 5, "a.b": "1"}, {"sku": None, "x": {"y": [None]}}], "note": "hello", 'quo"te': False}
    await sent(shop, payload, name="basket")
    assert plain((await shop.log())[0].properties) == {"lines": [{"sku": "5", "a.b": 1}, {}]}
    report = await backtested(shop, ANYTHING, "basket")
    assert plain(report.samples[0].sent) == plain(report.samples[0].after) == payload


async def test_another_revision_can_be_compared(shop: Client) -> None:
    wider = schema(currency="string", coupon="string")
    await shop.redefine(wider)
    await sent(shop, {"coupon": "SPRING"}, {"currency": "EUR"})
    await shop.redefine(ORDER_SCHEMA)
    report = await backtested(shop, wider, revision=1)
    assert counts(report) == (1, 0, 1, 0)
    (sample,) = report.samples
    assert (report.revision, sample.outcome, sample.revision) == (1, ACCEPTED, 2)
    assert not sample.HasField("before")
    assert plain(sample.after) == {"coupon": "SPRING"}
    assert [each.path for each in sample.violations] == ["properties.coupon"]
    assert counts(await backtested(shop, ORDER_SCHEMA, revision=2)) == (1, 1, 0, 0)
    assert counts(await backtested(shop, schema(currency="string"), revision=3)) == (2, 0, 0, 0)


async def test_events_accepted_undefined_are_compared_once_they_are_defined(service: Service) -> None:
    rules = {
        "undefined_events": projects_pb2.UNDEFINED_EVENTS_ACCEPT,
        "unknown_contacts": projects_pb2.UNKNOWN_CONTACTS_CREATE,
    }
    shop = await service.project(**rules)
    await sent(shop, {"order_total": "5"}, {"order_total": "abc"})
    await shop.define(ORDER, ANYTHING)
    report = await backtested(shop, ORDER_SCHEMA)
    assert counts(report) == (0, 1, 0, 1)
    assert [(plain(each.sent), each.revision) for each in report.samples] == [
        ({"order_total": "5"}, 0),
        ({"order_total": "abc"}, 0),
    ]


async def test_a_deleted_definition_is_backtested_by_its_id(shop: Client) -> None:
    await sent(shop, {"order_total": 1})
    deleted = await shop.undefine()
    assert (await refused(shop)).reason == "DEFINITION_NOT_FOUND"
    assert counts(await backtested(shop, TOTAL_AS_TEXT, deleted.id)) == (0, 0, 0, 1)


async def test_other_events_and_projects_are_left_alone(shop: Client, service: Service) -> None:
    await shop.define("other", ANYTHING)
    await sent(shop, {"order_total": "x"}, name="other")
    await sent(await service.shop(), {"order_total": 1})
    report = await backtested(shop, NO_TOTAL)
    assert (report.event_count, report.head_position) == (0, 1)


# Reasons


@on_sqlite
async def test_reasons_count_events_not_items(shop: Client) -> None:
    await shop.define("basket", ANYTHING)
    await sent(shop, {"scores": ["a", "b", 1]}, {"scores": ["c"]}, {"scores": [1]}, {"x": 1}, name="basket")
    scores = pb.Property(name="scores", type=pb.PROPERTY_TYPE_ARRAY, item_type=pb.PROPERTY_TYPE_NUMBER, required=True)
    report = await backtested(shop, pb.Schema(properties=[scores]), "basket")
    assert counts(report) == (1, 3, 0, 0)
    (first, *rest) = [(each.path, each.reason, each.event_count) for each in report.reasons]
    assert first == ("properties.scores[]", "INVALID_PROPERTY_VALUE", 2)
    assert sorted(rest) == [
        ("properties.scores", "REQUIRED_PROPERTY_MISSING", 1),
        ("properties.x", "UNKNOWN_PROPERTY", 1),
    ]


@on_sqlite
async def test_the_reasons_of_declared_properties_are_found_behind_any_number_of_others(shop: Client) -> None:
    await shop.define("basket", ANYTHING)
    strange = [{f"p{part}_{name}": 1 for name in range(90)} for part in range(12)]
    await sent(shop, *strange, {"order_total": "x"}, {"order_total": "y"}, name="basket")
    report = await backtested(shop, ORDER_SCHEMA, "basket")
    assert report.newly_rejected_count == 14
    assert len(report.reasons) == 100
    assert (report.reasons[0].path, report.reasons[0].event_count) == ("properties.order_total", 2)


@on_sqlite
async def test_a_thousand_undeclared_properties_are_distinguished(shop: Client) -> None:
    await shop.define("basket", ANYTHING)
    strange = [{f"p{part}_{name}": 1 for name in range(90)} for part in range(11)]
    strange.append({f"q{name}": 1 for name in range(9)})
    await sent(shop, *strange, *[{"last": 1}] * 3, *[{"beyond": 1}] * 4, *strange[:1], name="basket")
    report = await backtested(shop, ORDER_SCHEMA, "basket")
    found = [(each.path.removeprefix("properties."), each.event_count) for each in report.reasons]
    assert found[0] == ("last", 3)
    assert dict(found[1:91]) == dict.fromkeys(strange[0], 2)
    assert [count for _, count in found[91:]] == [1] * 9


# Samples


@on_sqlite
async def test_samples_are_the_oldest_of_each_outcome(shop: Client) -> None:
    await sent(shop, *({"order_total": 1} if number % 2 else {"currency": "EUR"} for number in range(60)))
    candidate = schema(order_total="string")
    assert [each.position for each in (await backtested(shop, candidate)).samples] == list(range(1, 21))
    assert [each.position for each in (await backtested(shop, candidate, max_samples=1)).samples] == [1, 2]
    assert len((await backtested(shop, candidate, max_samples=100)).samples) == 60


@on_sqlite
@pytest.mark.parametrize("values", [["x" * 100_000, "y"], [1] * 9_000], ids=["text", "numbers"])
async def test_a_report_stays_below_what_clients_take(shop: Client, values: list[Any]) -> None:
    await shop.define("big", ANYTHING)
    await sent(shop, *({"values": values, "n": number} for number in range(16)), name="big")
    candidate = pb.Schema(properties=schema(n="string").properties, unknown_properties=pb.UNKNOWN_PROPERTIES_KEEP)
    report = await backtested(shop, candidate, "big", max_samples=100)
    assert report.differently_coerced_count == 16
    assert 1 <= len(report.samples) < 16
    assert report.ByteSize() <= 3 * 1024 * 1024
    assert [plain(each.after)["n"] for each in report.samples] == [str(n) for n in range(len(report.samples))]


# The range


async def test_the_range_is_pinned_when_the_call_begins(shop: Client) -> None:
    await shop.send_all(orders(3))
    call = shop.definitions.BacktestSchema(asked(TOTAL_AS_TEXT))
    stream = aiter(call)
    first = await anext(stream)
    await shop.send_all(orders(5))
    *_, last = [answer async for answer in stream]
    assert counts(last.report) == (0, 0, 0, 3)
    assert last.report.head_position == first.progress.event_count == 3


async def test_a_backtest_during_a_flow_of_events_compares_those_recorded_before_it(shop: Client) -> None:
    await shop.send_all(orders(1_000))
    flow = asyncio.create_task(_flow(shop))
    for _ in range(3):
        before = (await shop.log())[-1].position
        report = await backtested(shop, TOTAL_AS_TEXT)
        assert before <= report.head_position == report.event_count == report.differently_coerced_count
    flow.cancel()
    await asyncio.gather(flow, return_exceptions=True)


async def _flow(shop: Client) -> None:
    while True:
        await shop.send_all(orders(20))


async def test_events_of_a_time_range_can_be_compared_alone(shop: Client) -> None:
    times = [(await shop.send(event({"order_total": number}))).event.received_at for number in range(4)]
    for first, behind in ((0, 4), (1, 3), (2, 2), (3, 1)):
        until = times[behind] if behind < 4 else None
        report = await backtested(shop, TOTAL_AS_TEXT, received_from=times[first], received_until=until)
        assert [each.position - 1 for each in report.samples] == list(range(first, behind))
        assert report.event_count == len(report.samples)
        assert report.head_position == 4


async def test_the_newest_events_can_be_compared_alone(shop: Client) -> None:
    times = [(await shop.send(event({"order_total": number}))).event.received_at for number in range(4)]
    for most, positions in ((1, [4]), (3, [2, 3, 4]), (4, [1, 2, 3, 4]), (2**63 - 1, [1, 2, 3, 4])):
        report = await backtested(shop, TOTAL_AS_TEXT, max_events=most)
        assert [each.position for each in report.samples] == positions
    report = await backtested(shop, TOTAL_AS_TEXT, max_events=2, received_until=times[3])
    assert [each.position for each in report.samples] == [2, 3]


# Progress, end and refusals


@on_sqlite
async def test_progress_comes_first_and_one_report_last(shop: Client) -> None:
    await shop.send_all(orders(CHUNK_EVENTS * 2 + 1))
    *progress, last = await answers(shop, asked(TOTAL_AS_TEXT))
    assert [each.WhichOneof("kind") for each in progress] == ["progress"] * len(progress)
    counts = [each.progress.judged_count for each in progress]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert {each.progress.event_count for each in progress} == {last.report.event_count} == {CHUNK_EVENTS * 2 + 1}


async def test_a_name_without_events_has_an_empty_report(shop: Client) -> None:
    first, last = await answers(shop, asked(TOTAL_AS_TEXT))
    assert first.progress == pb.BacktestProgress()
    assert last.report == pb.BacktestReport(revision=1)


class CountedReads:
    """A database that counts its reads, and says when the third one begins."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.shared, self.epoch = database.shared, database.epoch
        self.reads = 0
        self.third = asyncio.Event()

    async def read(self, work: Callable[[Connection], T], *, brief: bool = False, delivery: bool = False) -> T:
        self.reads += 1
        if self.reads == 3:
            self.third.set()
        return await self._database.read(work, brief=brief, delivery=delivery)

    async def write(self, work: Callable[[Connection], T]) -> T:
        return await self._database.write(work)

    async def check(self) -> None:
        await self._database.check()

    async def close(self) -> None:
        await self._database.close()


@on_sqlite
async def test_a_backtest_that_is_given_up_reads_no_further(database_url: str) -> None:
    async with serving(database_url) as service:
        shop = await service.shop()
        await shop.send_all(orders(CHUNK_EVENTS * 5))
    async with AsyncExitStack() as stack:
        database = await open_database(database_url)
        stack.push_async_callback(database.close)
        counted = CountedReads(database)
        running = asyncio.create_task(_run(counted))
        await counted.third.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert counted.reads == 3


async def _run(database: Database) -> None:
    query = "SELECT key, id FROM project"
    ((key, project_id),) = await database.read(lambda connection: connection.exec_driver_sql(query).fetchall())
    caller = Caller(key, project_id, frozenset())
    candidate = Schema((Property("order_total", PropertyType.STRING),))
    async for _ in Backtests(database, asyncio.Event()).run(caller, ORDER, candidate, BacktestScope()):
        pass


async def test_a_call_that_is_cancelled_leaves_the_server_well(shop: Client) -> None:
    await shop.send_all(orders(CHUNK_EVENTS * 3))
    for _ in range(5):
        call = shop.definitions.BacktestSchema(asked(NO_TOTAL))
        await call.read()
        call.cancel()
    assert counts(await backtested(shop, NO_TOTAL)) == (0, CHUNK_EVENTS * 3, 0, 0)


@on_sqlite
async def test_a_backtest_ends_with_stopping_at_a_shutdown(database_url: str) -> None:
    async with AsyncExitStack() as server:
        service = await server.enter_async_context(serving(database_url))
        shop = await service.shop()
        await shop.send_all(orders(10_000))
        call = shop.definitions.BacktestSchema(asked(NO_TOTAL))
        stream = aiter(call)
        assert (await anext(stream)).progress.event_count == 10_000
        stopping = asyncio.create_task(server.aclose())
        assert await verdict(_to_the_end(stream)) == STOPPING
        async with asyncio.timeout(2):
            await stopping


async def _to_the_end(stream: AsyncIterator[pb.BacktestSchemaResponse]) -> None:
    async for _ in stream:
        pass


@on_sqlite
async def test_what_cannot_be_backtested_is_refused(shop: Client) -> None:
    twice = pb.Schema(properties=[*ORDER_SCHEMA.properties, ORDER_SCHEMA.properties[0]])
    assert (await refused(shop, twice)).violations == (("schema.properties[3].name", "DUPLICATE_PROPERTY"),)
    untyped = pb.Schema(properties=[pb.Property(name="a")])
    assert (await refused(shop, untyped)).violations == (("schema.properties[0].type", "INVALID_ENUM_VALUE"),)
    assert (await refused(shop, None)).violations == (("schema", "INVALID_ARGUMENT"),)
    assert (await refused(shop, name="nothing")).reason == "DEFINITION_NOT_FOUND"
    assert (await refused(shop, revision=2)).reason == "REVISION_NOT_FOUND"
    for field, value in (("revision", -1), ("max_events", -1), ("max_samples", -1), ("max_samples", 101)):
        wrong: dict[str, Any] = {field: value}
        assert (await refused(shop, **wrong)).violations == ((field, "OUT_OF_RANGE"),)


# The command line


async def backtest_command(service: Service, shop: Client, *arguments: str) -> tuple[int, str, str]:
    variables = {"SIGNALBOX_SERVER": service.address, "SIGNALBOX_KEY": shop.secret}
    done = await asyncio.to_thread(command, "definition", "backtest", *arguments, variables=variables)
    return done.code, done.out, done.err


@on_sqlite
async def test_the_command_shows_what_would_break(service: Service, shop: Client) -> None:
    await sent(shop, {"order_total": 5}, {"currency": "EUR"}, {"order_total": 7, "currency": "EUR"})
    code, out, err = await backtest_command(
        service, shop, ORDER, "--remove", "currency", "--property", "order_total:string"
    )
    assert (code, err) == (2, "")
    summary, reasons, samples = ([line.split(maxsplit=3) for line in part.splitlines()] for part in out.split("\n\n"))
    assert summary[1:4] == [["events", "3"], ["unchanged", "0"], ["newly", "rejected", "2"]]
    assert reasons[1:] == [["properties.currency", "UNKNOWN_PROPERTY", "2"]]
    assert [line[0] for line in samples[1:]] == ["differently_coerced", "newly_rejected", "newly_rejected"]
    assert re.split(" {2,}", samples[1][3]) == ['{"order_total": 5}', '{"order_total": 5} becomes {"order_total": "5"}']
    assert samples[2][3].endswith('properties.currency: Property "currency" is not declared')


@on_sqlite
async def test_the_command_prints_the_report_as_json(service: Service, shop: Client) -> None:
    await sent(shop, {"order_total": 5, "currency": "EUR"}, {"order_total": 7})
    arguments = ("--property", "order_total:string", "--max-events", "1", "--since", "2026-01-01T00:00:00Z", "--json")
    code, out, err = await backtest_command(service, shop, ORDER, *arguments)
    assert (code, err) == (2, "")
    report = json.loads(out)
    assert (report["event_count"], report["differently_coerced_count"], report["head_position"]) == (1, 1, 2)
    assert [each["sent"] for each in report["samples"]] == [{"order_total": 7}]


@on_sqlite
async def test_the_command_ends_well_where_nothing_breaks(service: Service, shop: Client) -> None:
    await sent(shop, {"order_total": 5})
    await shop.redefine(schema(currency="string"))
    code, out, _ = await backtest_command(service, shop, ORDER, "--property", "order_total:number")
    assert code == 0
    assert "newly accepted       1\n" in out


@on_sqlite
async def test_the_command_reports_errors(service: Service, shop: Client) -> None:
    code, _, err = await backtest_command(service, shop, ORDER)
    assert code == 1
    assert "Give the schema with" in err
    code, _, err = await backtest_command(service, shop, ORDER, "--property", "x:string", "--revision", "9")
    assert code == 1
    assert err.startswith("error: ")
