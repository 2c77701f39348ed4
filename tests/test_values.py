"""Values at every endpoint: readers return accepted values unchanged; values that cannot be stored are refused."""

from __future__ import annotations

import json
import math
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import pytest
import pytest_asyncio
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.cli.arguments.message_parsers import properties as flag
from server.cli.client.event_lines import read_event
from server.cli.definitions.cases import read_cases, run_case
from server.cli.definitions.yaml_files import FileError
from server.cli.errors import Failure
from server.cli.output.tables import to_plain
from server.rpc.messages.structs import NO_KIND, read_struct, write_struct
from signalbox.v1 import automations_pb2, contacts_pb2, event_definitions_pb2, event_ingest_pb2, projects_pb2
from signalbox.v1 import match_stream_pb2 as pb
from tests.support.automations import automate
from tests.support.bridge import Caller, calling
from tests.support.consumers import EARLIEST, Engine, acknowledge, ids, pull, subscribe
from tests.support.messages import ADA
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    import httpx

    from tests.support.service import Client, Service

EXAMPLES = int(os.environ.get("SIGNALBOX_VALUES_EXAMPLES", "5"))
"""Of the law over JSON texts, on each database; the long form takes thousands."""

DIALECTS = ("autosend", "opensend", "emailsendx", "arsel", "resend")
OPEN = "open"
RANGE = "is beyond the range of a double; a number must be finite"
HALF = "contains half a surrogate pair, which is not a character"
NUL = "contains the character U+0000, which cannot be stored"


@dataclass(frozen=True)
class Endpoint:
    """A route that takes an object as it is: where in its body, and what the body holds beside it."""

    dialect: str
    call: str
    body: str
    root: str

    def __str__(self) -> str:
        return f"{self.dialect} {self.call}"

    def fill(self, text: str) -> bytes:
        """Put the JSON text of the object into a body, as raw bytes: no encoder decides how it is written."""
        return self.body.replace("OBJECT", text).encode("utf-8", "surrogatepass")


EVENT_ENDPOINTS = (
    Endpoint(
        "autosend",
        "POST /v1/events/send",
        f'{{"eventName":"{OPEN}","email":"{ADA}","eventProperties":OBJECT}}',
        "eventProperties",
    ),
    Endpoint("opensend", "POST /events/send", f'{{"event":"free","email":"{ADA}","payload":OBJECT}}', "payload"),
    Endpoint("emailsendx", "POST /api/v1/contacts/CONTACT/events", '{"name":"free","data":OBJECT}', "data"),
    Endpoint("arsel", "POST /v1/events/send", f'{{"event":"{OPEN}","email":"{ADA}","data":OBJECT}}', "data"),
    Endpoint("resend", "POST /events/send", f'{{"event":"free","email":"{ADA}","payload":OBJECT}}', "payload"),
)
CONTACT_ENDPOINTS = (
    Endpoint(
        "autosend", "POST /v1/contacts/email", '{"email":"bob@example.com","customFields":OBJECT}', "customFields"
    ),
    Endpoint("emailsendx", "POST /api/v1/contacts", '{"email":"bob@example.com","metadata":OBJECT}', "metadata"),
    Endpoint("arsel", "PATCH /v1/contacts/CONTACT", '{"properties":OBJECT}', "properties"),
)
STEP = '{"key":"end","type":"end","config":OBJECT}'
CONTACT_READERS = (
    ("autosend", "GET /v1/contacts/CONTACT", "customFields"),
    ("emailsendx", "GET /api/v1/contacts/CONTACT", "metadata"),
    ("emailsendx", "GET /api/v1/contacts", "metadata"),
    ("arsel", "GET /v1/contacts/CONTACT", "properties"),
    ("arsel", "GET /v1/contacts", "properties"),
)
"""Routes that show the properties of contacts: dialect, call, and the field that holds them."""

AUTOMATION_ENDPOINTS = (
    Endpoint(
        "opensend",
        "POST /automations",
        f'{{"trigger_event_name":"free","steps":[{{"key":"go","type":"trigger"}},{STEP}]}}',
        "steps[1].config",
    ),
)
ENDPOINTS = EVENT_ENDPOINTS + CONTACT_ENDPOINTS + AUTOMATION_ENDPOINTS


class House:
    """A project that takes every event, with Ada and a key of every dialect."""

    def __init__(self, client: Client, contact: str, callers: Mapping[str, Caller]) -> None:
        self.client = client
        self.contact = contact
        self.callers = callers
        self.events = self.matches = 0
        self._opened = False

    async def open(self) -> None:
        """Make the automations and subscriptions that follow the events, once."""
        if self._opened:
            return
        self._opened = True
        for name in ("free", OPEN):
            await automate(self.client, name)
        for name in ("pulling", "consuming"):
            await subscribe(self.client, name, EARLIEST)

    async def post(self, endpoint: Endpoint, text: str) -> httpx.Response:
        call = endpoint.call.replace("CONTACT", self.contact)
        return await self.callers[endpoint.dialect].call(call, endpoint.fill(text))


@pytest_asyncio.fixture
async def house(lasting_service: Service) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        client = await lasting_service.project(
            undefined_events=projects_pb2.UNDEFINED_EVENTS_ACCEPT, unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE
        )
        kept = event_definitions_pb2.UNKNOWN_PROPERTIES_KEEP
        await client.define(OPEN, event_definitions_pb2.Schema(unknown_properties=kept))
        contact = (await client.upsert()).id
        callers = {name: await stack.enter_async_context(calling(lasting_service, client, name)) for name in DIALECTS}
        yield House(client, contact, callers)


def words_of(dialect: str, answer: Any) -> list[tuple[str, str]]:
    """Return what an error reports about fields: the field, where the dialect names it, and the message."""
    match dialect:
        case "autosend":
            return [(each["field"], each["message"]) for each in answer["error"]["details"]]
        case "opensend":
            details = answer["details"]
            form = [("", words) for words in details["formErrors"]]
            return form + [(name, words) for name, each in details["fieldErrors"].items() for words in each]
        case "emailsendx":
            return [("", answer["error"])]
        case _:
            return [("", answer["message"])]


refused_before_storage = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
"""No database is asked about these, so that they run on one."""


@refused_before_storage
@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)
async def test_a_value_that_no_reader_could_give_back_is_refused_with_path_and_reason(
    house: House, endpoint: Endpoint
) -> None:
    for text, inner, fault in (
        ("1e400", ".v", RANGE),
        ("-1.8e308", ".v", RANGE),
        ("9" * 309, ".v", RANGE),
        ("-" + "9" * 309, ".v", RANGE),
        ("9" * 5_000, ".v", RANGE),
        (f'[{{"a.b": [{"9" * 310}]}}]', '.v[0]["a.b"][0]', RANGE),
        (r'"\ud800"', ".v", HALF),
        (r'"x\udc00y"', ".v", HALF),
        ('"\ud800"', ".v", HALF),
        (r'{"\udfff": 1}', r'.v["\udfff"]', HALF),
    ):
        refused = await house.post(endpoint, f'{{"v": {text}}}')
        assert refused.status_code in (400, 422), (text[:20], refused.text)
        field, words = words_of(endpoint.dialect, refused.json())[0]
        place = endpoint.root + inner
        assert words == f"{place} {fault}", text[:20]
        if field:
            assert place.startswith(field)


@refused_before_storage
@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)
async def test_a_value_that_a_later_one_of_its_name_overrides_must_be_right_all_the_same(
    house: House, endpoint: Endpoint
) -> None:
    for text in ("9" * 309, "[" + "9" * 5_000 + "]", "1e400", r'{"a": "\ud800"}'):
        refused = await house.post(endpoint, f'{{"v": {text}, "v": []}}')
        assert refused.status_code in (400, 422), (text[:20], refused.text)
        assert words_of(endpoint.dialect, refused.json())[0][1].startswith(f"{endpoint.root}.v")
    accepted = await house.post(endpoint, f'{{"v": {"9" * 308}, "v": "{"9" * 400}"}}')
    assert accepted.is_success, accepted.text


@refused_before_storage
@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)
async def test_a_payload_of_too_many_values_bytes_or_levels_is_refused(house: House, endpoint: Endpoint) -> None:
    values, size = (1_000, 64 * 1024) if endpoint in CONTACT_ENDPOINTS else (10_000, 256 * 1024)
    if endpoint.dialect == "emailsendx" and endpoint in EVENT_ENDPOINTS:
        size = 16 * 1024
    flat = "{" + ",".join(f'"p{number}":0' for number in range(values + 1)) + "}"
    for text, words in (
        (flat, f"may hold {values:,} values, not more"),
        (f'{{"v":[{"0," * values}0]}}', f"may hold {values:,} values, not more"),
        (f'{{"v":"{"x" * size}"}}', f"at most {size:,} are allowed"),
        ('{"v":' * 32 + "{}" + "}" * 32, "is nested too deep; at most 32 levels are allowed"),
    ):
        refused = await house.post(endpoint, text)
        assert refused.status_code in (400, 422), (text[:20], refused.text)
        assert words in words_of(endpoint.dialect, refused.json())[0][1]


# The law: every reader returns an accepted value unchanged

digits = st.text("0123456789", min_size=1, max_size=25).map(lambda text: text.lstrip("0") or "0")
numbers = st.builds(
    lambda sign, whole, fraction, exponent: f"{sign}{whole}{fraction}{exponent}",
    st.sampled_from(["", "-"]),
    digits,
    st.just("") | digits.map(lambda text: f".{text}"),
    st.just("") | st.integers(-400, 400).map(lambda power: f"e{power}"),
)
boundaries = st.sampled_from(
    [
        "-0", "-0.0", "5.0", "1e15", "1E22", "5e-324", "1e-400", "1.7976931348623157e308", "1.8e308", "-1e400",
        str(2**53), str(2**53 + 1), str(2**63), str(-(2**63) - 1), str(2**64), "9" * 308, "9" * 309, "-" + "9" * 4_301,
        r'"\u0000"', r'"\ud83d\ude00"', r'"\ud83d"', r'"\ude00x"', '"\ud800"', '"\U0001f600"',
        r'"\n\/\u007f"', '"\u2028"',
        "null", "true", "NaN", "Infinity", "[]", "{}", "[" * 31 + "]" * 31, "[" * 32 + "]" * 32,
        '{"a":' * 40 + "1" + "}" * 40,
        "[" * 2_000 + "]" * 2_000, '{"a":1,"a":2}', "01", "", "'a'", '"', "\ufeff1", '"\x01"',
    ]
)  # fmt: skip
escapes = st.sampled_from([r"\u0000", r"\ud83d\ude00", r"\ud800", r"\udc00", r"\\", r"\"", r"\n", r"\u001f"])
strings = st.lists(st.characters(min_codepoint=32, exclude_characters='"\\') | escapes, max_size=4).map(
    lambda parts: f'"{"".join(parts)}"'
)
values = st.recursive(
    boundaries | numbers | strings,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.lists(st.tuples(strings, inner), max_size=3).map(
            lambda items: "{" + ",".join(f"{name}:{value}" for name, value in items) + "}"
        )
    ),
    max_leaves=4,
)
objects = st.lists(st.tuples(st.just('"p"') | strings, values), min_size=1, max_size=3).map(
    lambda items: "{" + ",".join(f"{name}:{value}" for name, value in items) + "}"
)


def meant(text: str) -> Any:
    """Return what a text means, its numbers as doubles; NotImplemented for one that must be refused."""
    try:
        value = json.loads(text, parse_int=float, parse_constant=lambda _: math.nan, object_pairs_hook=checked_object)
        check_dumps(value)
    except (ValueError, RecursionError):
        return NotImplemented
    return value if depth_of(value) <= 32 else NotImplemented


def checked_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object, the last value of a name counting; one that is overridden must be right all the same."""
    for _, value in pairs:
        check_dumps(value)
    return dict(pairs)


def check_dumps(value: Any) -> None:
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


def without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in value.items() if each is not None}


def equal(one: Any, other: Any) -> bool:
    """Compare as JSON does: true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(each, other[name]) for name, each in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


async def send_by_rest(house: House, text: str) -> list[Any]:
    """Send an event by every dialect; returns what each reads, and what the dialects answer with it."""
    wanted = meant(text)
    read = []
    for endpoint in EVENT_ENDPOINTS:
        answer = await house.post(endpoint, text)
        assert answer.is_success or answer.status_code in (400, 422), answer.text
        assert answer.is_success is (wanted is not NotImplemented), (ascii(text)[:300], answer.text[:200])
        if answer.is_success and endpoint.dialect == "autosend":
            read.append(answer.json()["data"]["properties"])
        elif answer.is_success and endpoint.dialect == "opensend":
            read.append(answer.json()["delivery"]["payload"])
    return read


async def send_by_the_command_line(house: House, text: str) -> int:
    """Send an event as `--properties` and as a line of `--from` do. Return how many were recorded: two or none.

    An object that has a name twice is refused: its author has overlooked one of them.
    """
    refused = meant(text) is NotImplemented or repeats_a_name(text)
    line = f'{{"name":"free","email":"{ADA}","properties":{text}}}'.encode("utf-8", "surrogatepass")
    made = []
    try:
        made.append(event_ingest_pb2.EventInput(name="free", email=ADA, properties=flag(text)))
    except click.BadParameter:
        assert refused, text[:80]
    try:
        made.append(read_event(line, ""))
    except ValueError:
        assert refused, text[:80]
    assert len(made) == (0 if refused else 2), text[:80]
    for event in made:
        await house.client.send(event)
    return len(made)


def repeats_a_name(text: str) -> bool:
    repeated = []
    json.loads(text, object_pairs_hook=lambda pairs: repeated.append(len(pairs) > len(dict(pairs))))
    return any(repeated)


async def call_natively(house: House, text: str) -> int:
    """Send what a text means through every call that takes a Struct. Return how many such events were recorded."""
    wanted = meant(text)
    if wanted is NotImplemented:
        return 0
    client, sent = house.client, Struct()
    write_struct(wanted, sent)
    for name in ("free", OPEN):
        receipt = await client.send(event_ingest_pb2.EventInput(name=name, email=ADA, properties=sent))
        assert equal(read_struct(receipt.event.properties), wanted), text
    contact = await upsert_natively(house, sent)
    stored = without_nulls(wanted)
    assert equal(read_struct(contact.properties), stored), text
    await check_contact_readers(house, contact.id, stored)
    await client.forget(contact.email)
    await check_attributes(house, sent, wanted)
    return 2


async def upsert_natively(house: House, sent: Struct) -> contacts_pb2.Contact:
    request = contacts_pb2.UpsertContactRequest(email="carol@example.com", properties=sent)
    return (await house.client.contacts.UpsertContact(request)).contact


async def check_contact_readers(house: House, contact_id: str, stored: dict[str, Any]) -> None:
    """Expect every route of the dialects that reads a contact to show its properties whole."""
    for dialect, call, place in CONTACT_READERS:
        answer = await house.callers[dialect].call(call.replace("CONTACT", contact_id))
        assert answer.status_code == 200, (dialect, call, answer.text)
        document = answer.json()
        shown = document.get("data", document)
        if isinstance(shown, list):
            (shown,) = [each for each in shown if each["id"] == contact_id]
        assert equal(shown[place], stored), (dialect, call)


async def check_attributes(house: House, sent: Struct, wanted: dict[str, Any]) -> None:
    """Keep attributes with an automation and with a run, and read them by every call."""
    calls = house.client.automations
    made = await automate(house.client, "kept", name="Kept", attributes=sent)
    listing = (await calls.ListAutomations(automations_pb2.ListAutomationsRequest(event_name="kept"))).automations
    assert list(listing) == [made]
    assert equal(read_struct(made.attributes), wanted)
    await house.client.send(event_ingest_pb2.EventInput(name="kept", email=ADA))
    (run,) = (await calls.ListRuns(automations_pb2.ListRunsRequest(automation_id=made.id))).runs
    waiting = automations_pb2.AwaitEventRequest(run_id=run.id, event_name="never", attributes=sent)
    waiting.timeout.seconds = 3_600
    await calls.AwaitEvent(waiting)
    for _ in range(2):
        (listed,) = (await calls.ListRuns(automations_pb2.ListRunsRequest(automation_id=made.id))).runs
        assert (await calls.GetRun(automations_pb2.GetRunRequest(id=run.id))).run == listed
        assert equal(read_struct(listed.attributes), wanted)
        await calls.CompleteRun(
            automations_pb2.CompleteRunRequest(
                run_id=run.id, outcome=automations_pb2.RUN_OUTCOME_COMPLETED, attributes=sent
            )
        )
    await calls.PauseAutomation(automations_pb2.PauseAutomationRequest(id=made.id))
    await calls.DeleteAutomation(automations_pb2.DeleteAutomationRequest(id=made.id))


async def check_contacts(house: House, text: str) -> None:
    """Write a contact by every dialect, and read it by all and over gRPC."""
    wanted = meant(text)
    for endpoint in CONTACT_ENDPOINTS:
        answer = await house.post(endpoint, text)
        assert answer.is_success is (wanted is not NotImplemented), (ascii(text)[:300], answer.text[:200])
        if not answer.is_success:
            assert answer.status_code in (400, 422)
            continue
        shown = answer.json()
        made = shown.get("data", shown)
        place = endpoint.root if endpoint.dialect != "autosend" else "customFields"
        request = contacts_pb2.GetContactRequest(id=made["id"])
        contact = (await house.client.contacts.GetContact(request)).contact
        listing = (await house.client.contacts.ListContacts(contacts_pb2.ListContactsRequest())).contacts
        (listed,) = [each for each in listing if each.id == made["id"]]
        stored = without_nulls(wanted)
        assert equal(read_struct(listed.properties), read_struct(contact.properties))
        for each in (read_struct(contact.properties), to_plain(contact)["properties"]):
            assert all(name in each and equal(each[name], value) for name, value in stored.items()), (endpoint, text)
        assert all(equal(made[place][name], value) for name, value in stored.items() if name in made[place])
        if endpoint.dialect != "arsel":
            await house.client.forget(contact.email)


async def check_automations(house: House, text: str) -> None:
    """Write the steps of an automation, and read them by two dialects and over gRPC."""
    wanted = meant(text)
    (endpoint,) = AUTOMATION_ENDPOINTS
    answer = await house.post(endpoint, text)
    # The steps stand three levels further in, and their keys are the dialect's.
    accepted = wanted is not NotImplemented and depth_of(wanted) <= 29
    assert answer.is_success is accepted, (text[:80], answer.text)
    if not accepted:
        assert answer.status_code in (400, 422)
        return
    made = answer.json()
    request = automations_pb2.GetAutomationRequest(id=made["id"])
    automation = (await house.client.automations.GetAutomation(request)).automation
    shown = await house.callers["emailsendx"].call(f"GET /api/v1/automations/{made['id']}")
    again = await house.callers["opensend"].call(f"GET /automations/{made['id']}")
    for steps in (
        made["steps"],
        again.json()["steps"],
        shown.json()["data"]["steps"],
        read_struct(automation.attributes)["steps"],
        to_plain(automation)["attributes"]["steps"],
    ):
        assert equal(steps[1]["config"], wanted), text
    await house.client.automations.DeleteAutomation(automations_pb2.DeleteAutomationRequest(id=made["id"]))


async def check_matches(house: House, events: dict[str, Any]) -> None:
    """Expect the matches of events from a watch, a pull and a consumer, each with the event as it was sent."""
    client, count = house.client, len(events)
    if not count:
        return
    watch = client.matches.WatchMatches(pb.WatchMatchesRequest(start=pb.StartPoint(after_position=house.matches)))
    watched: list[Any] = []
    while len(watched) < count:
        answer = await watch.read()
        assert isinstance(answer, pb.WatchMatchesResponse)
        watched += answer.matches
    watch.cancel()
    pulled = await pull(client, 1_000, wait=10, name="pulling")
    await acknowledge(client, "pulling", ack=pb.AckDeliveries(delivery_ids=ids(pulled)))
    engine = await Engine.open(client, "consuming")
    consumed = await engine.deliveries(count)
    await engine.ack(consumed)
    await engine.close()
    house.matches += count
    for matches in (watched, [each.match for each in pulled], [each.match for each in consumed]):
        assert {each.event.id for each in matches} == events.keys()
        for match in matches:
            # Payloads that reach the limit of nesting have no room inside a match.
            if depth_of(events[match.event.id]) < 32:
                assert equal(read_struct(match.event.properties), events[match.event.id])


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(texts=st.lists(objects, min_size=1, max_size=4))
async def test_accepted_values_are_returned_equal_by_every_reader(house: House, texts: list[str]) -> None:
    await house.open()
    wanted: list[Any] = []
    for text in texts:
        for read in await send_by_rest(house, text):
            assert equal(read, meant(text)), text
        recorded = await send_by_the_command_line(house, text)
        await check_contacts(house, text)
        await check_automations(house, text)
        recorded += await call_natively(house, text)
        if meant(text) is not NotImplemented:
            wanted += [meant(text)] * (len(EVENT_ENDPOINTS) + recorded) + [{}]
    events = (await house.client.log())[house.events :]
    house.events += len(events)
    assert len(events) == len(wanted)
    for event, value in zip(events, wanted, strict=True):
        assert equal(read_struct(event.properties), value)
        assert equal(to_plain(event)["properties"], value)
        assert (await house.client.get(event.id)) == event
    await check_matches(house, {event.id: value for event, value in zip(events, wanted, strict=True)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("yaml")
    (made / "definitions.yaml").write_text("definitions:\n  free: {unknown_properties: keep}\n")
    return made


def test_the_command_line_looks_at_both_values_of_a_name() -> None:
    with pytest.raises(click.BadParameter, match="half a surrogate pair"):
        flag('{"p":"\\ud800","p":0}')


@settings(max_examples=EXAMPLES * 10)
@given(text=objects)
def test_whatever_a_yaml_file_takes_is_held_and_equal_to_what_json_means(folder: Path, text: str) -> None:
    """JSON is YAML with few exceptions, which are refused; what YAML takes beyond JSON must be a value as well."""
    content = f"definitions: definitions.yaml\ncases:\n  - event: free\n    properties: {text}\n"
    (folder / "cases.yaml").write_bytes(content.encode("utf-8", "surrogatepass"))
    try:
        ((case,),) = (each.cases for each in read_cases([folder / "cases.yaml"], []))
    except (Failure, FileError):
        return
    found = run_case(case).properties
    wanted = meant(text)
    if wanted is not NotImplemented:
        assert found is not None
        assert equal(found, wanted)
    elif found is not None:
        check_dumps(found)
        assert depth_of(found) <= 32


@pytest.mark.parametrize(
    ("sent", "place"),
    [
        (Struct(fields={"plan": Value()}), "properties.plan"),
        (
            Struct(fields={"a": Value(list_value=ListValue(values=[Value(bool_value=True), Value()]))}),
            "properties.a[1]",
        ),
        (Struct(fields={"a.b": Value(struct_value=Struct(fields={"c": Value()}))}), 'properties["a.b"].c'),
    ],
)
async def test_a_value_without_a_kind_is_refused_and_a_contact_keeps_its_properties(
    house: House, sent: Struct, place: str
) -> None:
    client = house.client
    before = await client.upsert("bob@example.com", {"plan": "pro", "a": 1})
    for call in (
        client.contacts.UpsertContact(contacts_pb2.UpsertContactRequest(email="bob@example.com", properties=sent)),
        client.send(event_ingest_pb2.EventInput(name=OPEN, email=ADA, properties=sent)),
    ):
        refused = await refusal(call)
        assert refused.violations == ((place, "INVALID_PROPERTY_VALUE"),)
        assert refused.message == f"{place} {NO_KIND}"
    request = contacts_pb2.GetContactRequest(id=before.id)
    assert (await client.contacts.GetContact(request)).contact == before
    await client.forget("bob@example.com")
