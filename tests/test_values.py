"""Values at every door: whatever one accepts every reader gives back equal, and what none can hold is refused."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from signalbox.v1 import event_definitions_pb2, projects_pb2
from tests.support.bridge import Caller, calling
from tests.support.messages import ADA

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import httpx

    from tests.support.service import Client, Service

DIALECTS = ("autosend", "opensend", "emailsendx", "arsel")
OPEN = "open"
RANGE = "is beyond the range of a double; a number must be finite"
HALF = "holds half a surrogate pair, which is no character"
NUL = "holds the character U+0000, which cannot be stored"


@dataclass(frozen=True)
class Door:
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


EVENT_DOORS = (
    Door(
        "autosend",
        "POST /v1/events/send",
        f'{{"eventName":"{OPEN}","email":"{ADA}","eventProperties":OBJECT}}',
        "eventProperties",
    ),
    Door("opensend", "POST /events/send", f'{{"event":"free","email":"{ADA}","payload":OBJECT}}', "payload"),
    Door("emailsendx", "POST /api/v1/contacts/CONTACT/events", '{"name":"free","data":OBJECT}', "data"),
    Door("arsel", "POST /v1/events/send", f'{{"event":"{OPEN}","email":"{ADA}","data":OBJECT}}', "data"),
)
CONTACT_DOORS = (
    Door("autosend", "POST /v1/contacts/email", '{"email":"bob@example.com","customFields":OBJECT}', "customFields"),
    Door("emailsendx", "POST /api/v1/contacts", '{"email":"bob@example.com","metadata":OBJECT}', "metadata"),
    Door("arsel", "PATCH /v1/contacts/CONTACT", '{"properties":OBJECT}', "properties"),
)
STEP = '{"key":"end","type":"end","config":OBJECT}'
AUTOMATION_DOORS = (
    Door(
        "opensend",
        "POST /automations",
        f'{{"trigger_event_name":"free","steps":[{{"key":"go","type":"trigger"}},{STEP}]}}',
        "steps[1].config",
    ),
)
DOORS = EVENT_DOORS + CONTACT_DOORS + AUTOMATION_DOORS


class House:
    """A project that takes every event, with Ada and a key of every dialect."""

    def __init__(self, client: Client, contact: str, callers: Mapping[str, Caller]) -> None:
        self.client = client
        self.contact = contact
        self.callers = callers

    async def post(self, door: Door, text: str) -> httpx.Response:
        call = door.call.replace("CONTACT", self.contact)
        return await self.callers[door.dialect].call(call, door.fill(text))


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
    """Take what is said of fields out of an error: the field, where the dialect names it, and the words."""
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


@pytest.mark.parametrize("door", DOORS, ids=str)
async def test_a_value_that_no_reader_could_give_back_is_refused_with_path_and_reason(house: House, door: Door) -> None:
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
        refused = await house.post(door, f'{{"v": {text}}}')
        assert refused.status_code in (400, 422), (text[:20], refused.text)
        field, words = words_of(door.dialect, refused.json())[0]
        place = door.root + inner
        assert words == f"{place} {fault}", text[:20]
        if field:
            assert place.startswith(field)


@pytest.mark.parametrize("door", DOORS, ids=str)
async def test_a_payload_of_too_many_values_bytes_or_levels_is_refused(house: House, door: Door) -> None:
    values, size = (1_000, 64 * 1024) if door in CONTACT_DOORS else (10_000, 256 * 1024)
    if door.dialect == "emailsendx" and door in EVENT_DOORS:
        size = 16 * 1024
    flat = "{" + ",".join(f'"p{number}":0' for number in range(values + 1)) + "}"
    for text, words in (
        (flat, f"may hold {values:,} values, not more"),
        (f'{{"v":[{"0," * values}0]}}', f"may hold {values:,} values, not more"),
        (f'{{"v":"{"x" * size}"}}', f"at most {size:,} are allowed"),
        ('{"v":' * 32 + "{}" + "}" * 32, "may be nested 32 levels deep, not more"),
    ):
        refused = await house.post(door, text)
        assert refused.status_code in (400, 422), (text[:20], refused.text)
        assert words in words_of(door.dialect, refused.json())[0][1]
