"""Typed properties and structs have the same limits, wherever in a payload they are reached."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.struct_pb2 import Struct

from registry.codegen.proto_text import proto_text
from registry.definitions.schema import Property, PropertyType, Schema
from registry.values.json_values import PayloadBudget
from server.errors import InvalidArgument
from server.paging import Page
from server.rpc.messages import descriptors
from server.rpc.messages.descriptors import file_descriptor, write_types
from server.rpc.messages.response_size import size_of
from server.rpc.messages.structs import read_struct, write_struct
from server.rpc.messages.typed_properties import MAX_READERS, TypedReader, TypedReaders
from server.services.generated_types import GeneratedType, RevisionKey
from signalbox.v1 import event_ingest_pb2
from tests.support.revisions import layouts, typed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

P, T = Property, PropertyType

RICH = Schema(
    (
        P("free", T.ANY),
        P("grid", T.ARRAY, item_type=T.ARRAY),
        P("lines", T.ARRAY, item_type=T.OBJECT, properties=(P("more", T.OBJECT), P("n", T.NUMBER))),
        P("list", T.ARRAY),
        P("more", T.OBJECT),
        P("n", T.NUMBER),
        P("nested", T.OBJECT, properties=(P("free", T.ANY), P("more", T.OBJECT))),
        P("objects", T.ARRAY, item_type=T.OBJECT),
        P("tags", T.ARRAY, item_type=T.STRING, required=True),
        P("values", T.ARRAY, item_type=T.ANY),
    )
)
(LAYOUT,) = layouts([RICH], "rich")
READER = TypedReader("rich", RICH, LAYOUT)


def read_typed(payload: dict[str, Any]) -> Any:
    return outcome(lambda: READER.read(typed("rich", LAYOUT, payload).SerializeToString()))


def read_plain(payload: dict[str, Any]) -> Any:
    made = Struct()
    write_struct(payload, made)
    return outcome(lambda: read_struct(made))


def outcome(read: Callable[[], Any]) -> Any:
    """Return what is read, or why it is not."""
    try:
        return read()
    except InvalidArgument as error:
        return [(each.path, each.reason) for each in error.violations]


def objects(levels: int) -> Any:
    """Return objects of a number of levels, the last one empty."""
    return {"x": objects(levels - 1)} if levels > 1 else {}


def lists(levels: int) -> Any:
    return [lists(levels - 1)] if levels > 1 else []


PLACES: dict[str, tuple[int, Callable[[int], dict[str, Any]]]] = {
    "object": (1, lambda levels: {"more": objects(levels)}),
    "value": (1, lambda levels: {"free": objects(levels)}),
    "list as value": (1, lambda levels: {"free": lists(levels)}),
    "list": (1, lambda levels: {"list": lists(levels)}),
    "object in a message": (2, lambda levels: {"nested": {"more": objects(levels)}}),
    "value in a message": (2, lambda levels: {"nested": {"free": objects(levels)}}),
    "list in a list": (2, lambda levels: {"grid": [[], lists(levels)]}),
    "object in a list": (2, lambda levels: {"objects": [objects(levels)]}),
    "value in a list": (2, lambda levels: {"values": [1, objects(levels)]}),
    "object in a message in a list": (3, lambda levels: {"lines": [{}, {"more": objects(levels)}]}),
}
"""Properties that hold a number of levels, and how many levels are above them."""


@pytest.mark.parametrize("place", PLACES)
def test_a_payload_has_32_levels_wherever_it_is_nested(place: str) -> None:
    above, make = PLACES[place]
    within, beyond = ({"tags": [], **make(levels - above)} for levels in (32, 33))
    assert read_typed(within) == read_plain(within) == within
    refused = read_typed(beyond)
    assert refused == read_plain(beyond)
    assert [reason for _, reason in refused] == ["TOO_DEEP"]


COUNTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "strings": lambda count: {"tags": [""] * (count - 1)},
    "open list": lambda count: {"list": [0] * (count - 2), "tags": []},
    "open object": lambda count: {"more": {str(number): 0 for number in range(count - 2)}, "tags": []},
    "objects": lambda count: {"lines": [{}] * (count - 2), "tags": []},
    "numbers of objects": lambda count: {"lines": [{"n": 1}] * ((count - 2) // 2), "tags": []},
    "lists of lists": lambda count: {"grid": [[0]] * ((count - 2) // 2), "tags": []},
}
"""Payloads of a number of values."""


@pytest.mark.parametrize("kind", COUNTS)
def test_a_payload_holds_10000_values_wherever_they_are(kind: str) -> None:
    within, beyond = (COUNTS[kind](count) for count in (10_000, 10_002))
    assert read_typed(within) == read_plain(within) == within
    assert read_typed(beyond) == read_plain(beyond) == [("properties", "TOO_MANY_VALUES")]
    if "of" not in kind:
        assert read_typed(COUNTS[kind](10_001)) == [("properties", "TOO_MANY_VALUES")]


@pytest.mark.parametrize(("more", "refused"), [(0, False), (1, True)])
def test_a_message_has_256_kibibytes(more: int, refused: bool) -> None:
    text = "x" * (256 * 1024 - 6)
    data = typed("rich", LAYOUT, {"tags": [text]}).SerializeToString()
    text += "x" * (256 * 1024 - len(data) + more)
    data = typed("rich", LAYOUT, {"tags": [text]}).SerializeToString()
    assert len(data) == 256 * 1024 + more
    expected: Any = [("typed_properties.message", "TOO_LARGE")] if refused else {"tags": [text]}
    assert outcome(lambda: READER.read(data)) == expected


@pytest.mark.parametrize(("less", "refused"), [(0, False), (1, True)])
@pytest.mark.parametrize("payload", [{"text": "x" * 9_000}, {f"p{number}": 1 for number in range(101)}, {"a": [1]}])
def test_a_struct_has_the_bytes_of_its_budget(payload: dict[str, Any], less: int, refused: bool) -> None:
    made = Struct()
    write_struct(payload, made)
    budget = PayloadBudget(size=made.ByteSize() - less)
    found = outcome(lambda: read_struct(made, "attributes", budget))
    assert found == ([("attributes", "TOO_LARGE")] if refused else payload)


def test_a_required_list_is_there_though_it_is_empty_and_an_optional_one_is_not() -> None:
    assert READER.read(b"") == {"tags": []}


def test_an_integral_number_is_an_int_as_far_as_a_double_is_exact() -> None:
    for number, exact in ((2.0**53, True), (-(2.0**53), True), (2.0**53 + 2, False), (-(2.0**53) - 2, False)):
        for found in (read_plain({"n": number})["n"], read_typed({"n": number, "tags": []})["n"]):
            assert (found, type(found)) == (number, int if exact else float)


# The readers that are kept


class Types:
    """Stands for the generated types: it counts how often each revision is read."""

    def __init__(self) -> None:
        self.epoch = 1
        self.read: list[int] = []

    async def identify(self, _project_pk: int, revisions: Collection[tuple[str, int]]) -> dict[Any, Any]:
        return {(name, number): RevisionKey("d1", number, name) for name, number in revisions}

    async def revisions(self, keys: Collection[RevisionKey]) -> dict[RevisionKey, Any]:
        self.read += sorted(key.number for key in keys)
        return {key: (Schema(), layouts([Schema()], key.event_name)[0]) for key in keys}


def sent(*revisions: int) -> list[event_ingest_pb2.EventInput]:
    made = [event_ingest_pb2.EventInput(name="paid") for _ in revisions]
    for message, revision in zip(made, revisions, strict=True):
        message.typed_properties.revision = revision
    return made


async def test_readers_are_kept_and_the_longest_unused_one_goes() -> None:
    assert MAX_READERS == 256
    types: Any = Types()
    readers = TypedReaders(types)
    assert await readers.needed(1, [event_ingest_pb2.EventInput(name="paid")]) == {}
    assert types.read == []
    for number in range(1, 257):
        await readers.needed(1, sent(number))
    assert types.read == list(range(1, 257))
    types.read.clear()
    found = await readers.needed(1, sent(1, 1, 2))
    assert (set(found), types.read) == ({("paid", 1), ("paid", 2)}, [])
    # Another one takes the place of the third.
    await readers.needed(1, sent(257))
    await readers.needed(1, sent(1, 2, 4))
    assert types.read == [257]
    await readers.needed(1, sent(3))
    assert types.read == [257, 3]


async def test_readers_are_forgotten_when_the_database_is_another() -> None:
    types: Any = Types()
    readers = TypedReaders(types)
    await readers.needed(1, sent(1))
    await readers.needed(1, sent(1))
    types.epoch = 2
    for _ in range(2):
        await readers.needed(1, sent(1))
    assert types.read == [1, 1]


# The types of a page


def generated(name: str, description: str) -> GeneratedType:
    return GeneratedType((1, name), name, description, RICH, layouts([RICH], name)[0])


def size_of_type(each: GeneratedType) -> int:
    file = file_descriptor(each.event_name, each.layout)
    text = proto_text(each.event_name, each.description, each.schema, each.layout)
    return size_of(file) + len(text.encode()) + 2 * len(file.name)


@pytest.mark.parametrize(("more", "count", "token"), [(0, 2, "after b"), (-1, 1, "after a"), (-100_000, 1, "after a")])
async def test_a_page_of_types_ends_with_the_last_one_that_fits(
    monkeypatch: pytest.MonkeyPatch, more: int, count: int, token: str
) -> None:
    types = [generated(name, "é" * 100) for name in "abc"]
    room = size_of_type(types[0]) + size_of_type(types[1]) + more
    monkeypatch.setattr(descriptors, "MAX_RESPONSE_BYTES", room)
    message = await write_types(Page(types, "", lambda each: f"after {each.event_name}"))
    assert (len(message.files), message.next_page_token) == (count, token)
    names = [file.name for file in message.file_descriptor_set.file if "signalbox" in file.name]
    assert names == sorted(message.files) == [f"signalbox/events/v1/{name}.proto" for name in "abc"[:count]]


async def test_a_large_page_of_types_leaves_others_their_turn() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    await write_types(Page([generated(name, "") for name in "abcdefgh"], "", lambda _: ""))
    beside.cancel()
    assert turns >= 8
