"""Large requests that are parsed in pieces, against the library that parses them at once."""

from __future__ import annotations

import asyncio
from random import Random
from time import thread_time
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import SignalboxError
from server.rpc import parsing
from server.rpc.parsing import Parser
from server.sharing.loop_time import LoopTime
from signalbox.v1 import event_ingest_pb2
from tests.support.contract import METHODS
from tests.support.fuzzing import Things, message, mutated
from tests.support.messages import event
from tests.support.wire import field, nested_struct, send_event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

SEND = METHODS["EventIngest.SendEvent"]
SEND_ALL = METHODS["EventIngest.SendEvents"]


def outcome(parser: Parser, data: bytes) -> tuple[str, Message | None]:
    """Return the message of some bytes, or the reason and text of the refusal."""
    try:
        return "", parser.parse(data)
    except SignalboxError as error:
        return f"{error.reason}: {error.message}", None


def outcome_in_slices(runner: asyncio.Runner, parser: Parser, data: bytes) -> tuple[str, Message | None]:
    async def parse() -> Message:
        return await parser.parse_in_slices(data, LoopTime(), 1)

    try:
        return "", runner.run(parse())
    except SignalboxError as error:
        return f"{error.reason}: {error.message}", None


def assert_same(runner: asyncio.Runner, method: Any, data: bytes) -> None:
    parser = Parser(method)
    at_once, in_slices = outcome(parser, data), outcome_in_slices(runner, parser, data)
    assert in_slices[0] == at_once[0]
    # NaN differs from itself, so that messages are compared by their bytes.
    assert written(in_slices[1]) == written(at_once[1])


def written(made: Message | None) -> bytes:
    return b"" if made is None else made.SerializeToString(deterministic=True)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all requests: to make one takes ten times as long as to parse a request."""
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "PIECE_BYTES", 8)
    monkeypatch.setattr(parsing, "_SLICE_TEXTS", 3)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_request_is_the_same_in_pieces(runner: asyncio.Runner, name: str) -> None:
    method = METHODS[name]
    for seed in range(16):
        random = Random(seed)  # noqa: S311 - test data
        made = message(random, method.input_type, Things())
        data = made.SerializeToString()
        assert_same(runner, method, data)
        # Parts that are repeated are merged, and bytes that are changed are refused or not, as the library does.
        assert_same(runner, method, data + data)
        assert_same(runner, method, mutated(random, data))


@given(st.lists(st.binary(max_size=40), max_size=12))
def test_fields_in_any_order_are_the_same_in_pieces(runner: asyncio.Runner, parts: list[bytes]) -> None:
    """Parts of a Struct: names come twice, values change their kind, and some of it is no message at all."""
    names = [b"a", b"b", b"ccccccccccccccccc"]
    entries = b"".join(
        field(1, field(1, names[len(part) % 3]) + field(2, part)) if index % 3 else part
        for index, part in enumerate(parts)
    )
    assert_same(runner, SEND, field(1, field(4, entries)))


@pytest.mark.parametrize(
    "data",
    [
        send_event(nested_struct(30)),
        send_event(field(1, field(2, field(3, b"x" * 50)) + field(1, b"name"))),
        send_event(field(1, field(1, b"\xff" * 20) + field(2, field(3, b"x" * 50)))),
        send_event(field(1, field(1, b"name") + field(2, field(3, b"x" * 50)) + field(2, field(6, b"")))),
        field(1, b"\x0b" + b"\x08\x01" * 20 + b"\x0c"),
        field(1, b"\x80" * 11 + b"\x01" * 20),
        field(1, field(1, b"name"))[:-2],
        field(1, field(1, b"name" * 10) + b"\xff\xff\xff\xff\x0f")[:-1],
        b"\0" * 40,
    ],
)
def test_unusual_bytes_are_the_same_in_pieces(runner: asyncio.Runner, data: bytes) -> None:
    assert_same(runner, SEND, data)


def test_a_character_that_cannot_be_stored_is_found_in_pieces(runner: asyncio.Runner) -> None:
    method = METHODS["MatchStream.AcknowledgeMatches"]
    made: Any = GetMessageClass(method.input_type)(subscription="engine")
    made.nacks.add(delivery_ids=[*map(str, range(50)), "a\0b"])
    reason, _ = outcome_in_slices(runner, Parser(method), made.SerializeToString())
    assert reason.startswith("UNSTORABLE_TEXT: nacks[0].delivery_ids[50] contains")
    assert_same(runner, method, made.SerializeToString())


def test_the_loop_is_not_held_by_a_large_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    values = field(6, b"".join(field(1, b"\x11" + bytes(8)) for _ in range(300_000)))
    list_of_values = send_event(field(1, field(1, b"name") + field(2, values)))
    events = event_ingest_pb2.SendEventsRequest(events=[event({"a": "x" * 5_000})] * 800).SerializeToString()
    for method, data in ((SEND, list_of_values), (SEND_ALL, events)):
        # The best of a few: on a busy machine the caches belong to others, too.
        assert min(asyncio.run(_longest_round(Parser(method), data)) for _ in range(3)) < 0.01


async def _longest_round(parser: Parser, data: bytes) -> float:
    """Return the longest time that the thread worked between two rounds of the loop."""
    longest = 0.0
    parsed = asyncio.create_task(parser.parse_in_slices(data, LoopTime(), 1))
    while not parsed.done():
        began = thread_time()
        await asyncio.sleep(0)
        longest = max(longest, thread_time() - began)
    await parsed
    return longest
