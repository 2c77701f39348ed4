"""Resend's requests and responses, and its own clients for Python and Node."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import resend

from server.bridge.dialects.resend.endpoints import format_timestamp
from signalbox.v1 import automations_pb2 as pb
from tests.support.bridge import ID, TEXT, UNSENT, Caller, Case, Like, calling
from tests.support.messages import ADA

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.service import Service

NAME = "user.created"
TIME = Like("TIME", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\+00")
SCHEMA = {"plan": "string", "seats": "number", "trial": "boolean", "since": "date"}
USER = {"name": NAME, "schema": SCHEMA}
EVENT = {"id": ID, "name": NAME, "schema": SCHEMA, "created_at": TIME, "updated_at": TIME}
DEFINED = ("POST /events", USER)
EVENT_ID = {"object": "event", "id": ID}
SENT = {"object": "event", "event": NAME}
GRACE = {"email": "Grace@Example.com", "first_name": "Grace", "properties": {"plan": "pro", "age": 30, "vip": True}}
KNOWN = ("POST /contacts", GRACE)
LISTED = {
    "id": ID,
    "email": "grace@example.com",
    "first_name": "Grace",
    "last_name": None,
    "created_at": TIME,
    "unsubscribed": False,
}
PROPERTIES = {
    "plan": {"type": "string", "value": "pro"},
    "age": {"type": "number", "value": 30},
    "vip": {"type": "boolean", "value": True},
}
CONTACT = {"object": "contact", **LISTED, "properties": PROPERTIES}
CONTACT_ID = {"object": "contact", "id": ID}
NOBODY = "0190b6d0-0000-7000-8000-000000000000"


def error(status: int, name: str, message: Any = TEXT) -> dict[str, Any]:
    return {"statusCode": status, "message": message, "name": name}


def invalid(message: Any = TEXT) -> dict[str, Any]:
    return error(422, "validation_error", message)


def missing(field: str) -> dict[str, Any]:
    return error(422, "missing_required_field", f"Missing {field} field.")


def event(**changes: Any) -> dict[str, Any]:
    sent = {"event": NAME, "email": ADA, "payload": {"plan": "pro"}, **changes}
    return {name: value for name, value in sent.items() if value is not UNSENT}


def listing(*items: Any, more: bool = False) -> dict[str, Any]:
    return {"object": "list", "has_more": more, "data": list(items)}


NO_EVENT = error(404, "not_found", "Event not found")
NO_CONTACT = error(404, "not_found", "Contact not found")
SEND = "POST /events/send"

CASES = [
    # POST /events
    Case("a definition is created", *DEFINED, 201, EVENT_ID),
    Case("a name is enough", "POST /events", {"name": "a b/c"}, 201, EVENT_ID),
    Case("a schema may be null", "POST /events", {"name": "a", "schema": None}, 201, EVENT_ID),
    Case("a name is required", "POST /events", {}, 422, missing("`name`")),
    Case("a name is not blank", "POST /events", {"name": " "}, 422, invalid()),
    Case("a name has at most 255 characters", "POST /events", {"name": "a" * 256}, 422, invalid()),
    Case(
        "a name does not start with resend:",
        "POST /events",
        {"name": "Resend:x"},
        422,
        invalid('The event name must not start with "resend:".'),
    ),
    Case("a type is one of four", "POST /events", {"name": "a", "schema": {"x": "object"}}, 422, invalid()),
    Case("a schema is a flat map", "POST /events", {"name": "a", "schema": {"type": {"x": 1}}}, 422, invalid()),
    Case("a name is a string", "POST /events", {"name": 1}, 422, invalid()),
    Case(
        "the body is JSON",
        "POST /events",
        b"{",
        400,
        error(400, "validation_error", "The body is not valid JSON: it ends too early"),
    ),
    Case("a name is unique", *DEFINED, 409, error(409, "validation_error"), [DEFINED]),
    Case("a deleted name can be created again", *DEFINED, 201, EVENT_ID, [DEFINED, (f"DELETE /events/{NAME}", UNSENT)]),
    # GET /events
    Case("there are no definitions at first", "GET /events", UNSENT, 200, listing()),
    Case("definitions are listed", "GET /events", UNSENT, 200, listing(EVENT), [DEFINED]),
    Case(
        "the newest is listed first",
        "GET /events?limit=1",
        UNSENT,
        200,
        listing(EVENT | {"name": "b", "schema": None}, more=True),
        [DEFINED, ("POST /events", {"name": "b"})],
    ),
    Case(
        "a page comes after an id",
        "GET /events?after={1.id}",
        UNSENT,
        200,
        listing(EVENT),
        [DEFINED, ("POST /events", {"name": "b"})],
    ),
    Case(
        "a page comes before an id",
        "GET /events?before={0.id}",
        UNSENT,
        200,
        listing(EVENT | {"name": "b", "schema": None}),
        [DEFINED, ("POST /events", {"name": "b"})],
    ),
    Case("a page has one cursor", "GET /events?after=a&before=b", UNSENT, 422, invalid()),
    Case("a limit is at least 1", "GET /events?limit=0", UNSENT, 422, invalid()),
    Case("a limit is at most 100", "GET /events?limit=101", UNSENT, 422, invalid()),
    # GET, PATCH and DELETE /events/{id or name}
    Case("a definition has a name", f"GET /events/{NAME}", UNSENT, 200, {"object": "event", **EVENT}, [DEFINED]),
    Case("a definition has an id", "GET /events/{0.id}", UNSENT, 200, {"object": "event", **EVENT}, [DEFINED]),
    Case(
        "a name may be encoded",
        "GET /events/a%20b%2Fc",
        UNSENT,
        200,
        {"object": "event", **EVENT, "name": "a b/c", "schema": None},
        [("POST /events", {"name": "a b/c"})],
    ),
    Case("an unknown definition is not found", "GET /events/nothing", UNSENT, 404, NO_EVENT),
    Case(
        "a schema is replaced",
        f"GET /events/{NAME}",
        UNSENT,
        200,
        {"object": "event", **EVENT, "schema": {"x": "date"}},
        [DEFINED, (f"PATCH /events/{NAME}", {"schema": {"x": "date"}})],
    ),
    Case(
        "null removes a schema",
        f"GET /events/{NAME}",
        UNSENT,
        200,
        {"object": "event", **EVENT, "schema": None},
        [DEFINED, (f"PATCH /events/{NAME}", {"schema": None})],
    ),
    Case("an update returns the id", f"PATCH /events/{NAME}", {"schema": {"x": "date"}}, 200, EVENT_ID, [DEFINED]),
    Case("an update needs a schema", f"PATCH /events/{NAME}", {}, 422, missing("`schema`"), [DEFINED]),
    Case(
        "a name cannot change",
        f"PATCH /events/{NAME}",
        {"schema": None, "name": "b"},
        422,
        error(422, "invalid_parameter"),
        [DEFINED],
    ),
    Case("an unknown definition is not updated", "PATCH /events/nothing", {"schema": None}, 404, NO_EVENT),
    Case(
        "a definition is deleted",
        f"DELETE /events/{NAME}",
        UNSENT,
        200,
        {"object": "event", "id": "{0.id}", "deleted": True},
        [DEFINED],
    ),
    Case(
        "a deleted one is not found",
        f"GET /events/{NAME}",
        UNSENT,
        404,
        NO_EVENT,
        [DEFINED, (f"DELETE /events/{NAME}", {})],
    ),
    Case("an unknown definition is not deleted", "DELETE /events/nothing", UNSENT, 404, NO_EVENT),
    # POST /events/send
    Case("an event is sent", SEND, event(), 202, SENT, [DEFINED]),
    Case("an undefined event is sent", SEND, event(), 202, SENT),
    Case("a payload is optional", SEND, event(payload=UNSENT), 202, SENT, [DEFINED]),
    Case("a payload is coerced", SEND, event(payload={"seats": "5", "trial": "true"}), 202, SENT, [DEFINED]),
    Case("a payload may have other fields", SEND, event(payload={"other": [1]}), 202, SENT, [DEFINED]),
    Case("a contact has an id", SEND, event(email=UNSENT, contact_id="{0.id}"), 202, SENT, [KNOWN]),
    Case(
        "a value that cannot be coerced is invalid", SEND, event(payload={"seats": "five"}), 422, invalid(), [DEFINED]
    ),
    Case("a name is required at a send", SEND, event(event=UNSENT), 422, missing("`event`")),
    Case("a name is not reserved at a send", SEND, event(event="resend:x"), 422, invalid()),
    Case("a contact is required", SEND, event(email=UNSENT), 422, missing("`contact_id` or `email`")),
    Case("a contact is named once", SEND, event(contact_id=NOBODY), 422, error(422, "invalid_parameter")),
    Case("an id is a UUID", SEND, event(email=UNSENT, contact_id="x"), 422, invalid()),
    Case("an unknown id is not found", SEND, event(email=UNSENT, contact_id=NOBODY), 404, NO_CONTACT),
    Case("an address is valid", SEND, event(email="ada"), 422, invalid()),
    Case("a payload is an object", SEND, event(payload=[]), 422, invalid()),
    Case(
        "an idempotency key has at most 255 characters",
        SEND,
        event(),
        400,
        error(400, "invalid_idempotency_key"),
        sent={"idempotency-key": "k" * 256},
    ),
    # POST /contacts
    Case("a contact is created", *KNOWN, 201, CONTACT_ID),
    Case("segments and topics are ignored", "POST /contacts", GRACE | {"segments": [{"id": "s"}]}, 201, CONTACT_ID),
    Case("an address is required", "POST /contacts", {}, 422, missing("`email`")),
    Case("an address of a contact is valid", "POST /contacts", {"email": "grace"}, 422, invalid()),
    Case("a property is a scalar", "POST /contacts", GRACE | {"properties": {"a": [1]}}, 422, invalid()),
    Case("an address is unique", *KNOWN, 409, error(409, "validation_error"), [KNOWN]),
    # GET /contacts
    Case("there are no contacts at first", "GET /contacts", UNSENT, 200, listing()),
    Case("contacts are listed without properties", "GET /contacts", UNSENT, 200, listing(LISTED), [KNOWN]),
    Case(
        "contacts are listed after an id",
        "GET /contacts?after={0.id}&limit=1",
        UNSENT,
        200,
        listing(),
        [KNOWN],
    ),
    Case("a page of contacts has one cursor", "GET /contacts?after=a&before=b", UNSENT, 422, invalid()),
    # GET, PATCH and DELETE /contacts/{id or address}
    Case("a contact is read by its id", "GET /contacts/{0.id}", UNSENT, 200, CONTACT, [KNOWN]),
    Case("a contact is read by its address", "GET /contacts/grace@example.com", UNSENT, 200, CONTACT, [KNOWN]),
    Case("an unknown contact is not found", f"GET /contacts/{NOBODY}", UNSENT, 404, NO_CONTACT),
    Case(
        "a contact is updated",
        "GET /contacts/{0.id}",
        UNSENT,
        200,
        CONTACT
        | {"first_name": None, "last_name": "H", "unsubscribed": True}
        | {"properties": {"plan": {"type": "string", "value": "free"}, "age": PROPERTIES["age"]}},
        [
            KNOWN,
            (
                "PATCH /contacts/{0.id}",
                {
                    "first_name": None,
                    "last_name": "H",
                    "unsubscribed": True,
                    "properties": {"plan": "free", "vip": None},
                },
            ),
        ],
    ),
    Case("an update of a contact returns the id", "PATCH /contacts/{0.id}", {}, 200, CONTACT_ID, [KNOWN]),
    Case(
        "an update may repeat id and address",
        "PATCH /contacts/grace%40example.com",
        {"id": "{0.id}", "email": "GRACE@example.com"},
        200,
        CONTACT_ID,
        [KNOWN],
    ),
    Case(
        "an address cannot change",
        "PATCH /contacts/{0.id}",
        {"email": "other@example.com"},
        422,
        error(422, "invalid_parameter"),
        [KNOWN],
    ),
    Case("an unknown contact is not updated", f"PATCH /contacts/{NOBODY}", {}, 404, NO_CONTACT),
    Case(
        "a contact is deleted",
        "DELETE /contacts/{0.id}",
        UNSENT,
        200,
        {"object": "contact", "id": "{0.id}", "contact": "{0.id}", "deleted": True},
        [KNOWN],
    ),
    Case(
        "a contact that never existed counts as deleted",
        f"DELETE /contacts/{NOBODY}",
        UNSENT,
        200,
        {"object": "contact", "id": NOBODY, "contact": NOBODY, "deleted": True},
    ),
    # Headers
    Case(
        "every response states the limit",
        "GET /events",
        UNSENT,
        200,
        listing(),
        headers={
            "ratelimit-limit": "2",
            "ratelimit-policy": "2;w=1",
            "ratelimit-remaining": "2",
            "ratelimit-reset": "1",
        },
    ),
]


@pytest_asyncio.fixture
async def caller(lasting_service: Service) -> AsyncIterator[Caller]:
    async with calling(lasting_service, await lasting_service.project(), "resend") as caller:
        yield caller


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({case.what for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_resend_responds(caller: Caller, case: Case) -> None:
    await caller.check(case)


async def test_a_payload_is_recorded_as_the_schema_declares_it(caller: Caller) -> None:
    assert (await caller.call(*DEFINED)).status_code == 201
    payload = {"seats": "5", "trial": 1, "since": "2026-06-01", "other": {"kept": True}}
    assert (await caller.call(SEND, event(payload=payload))).status_code == 202
    (recorded,) = await caller.client.log()
    coerced = {"seats": 5, "trial": True, "since": "2026-06-01T00:00:00.000Z", "other": {"kept": True}}
    assert dict(recorded.properties) == coerced


async def test_an_invalid_payload_is_not_recorded(caller: Caller) -> None:
    assert (await caller.call(*DEFINED)).status_code == 201
    assert (await caller.call(SEND, event(payload={"seats": "five"}))).status_code == 422
    assert await caller.client.log() == []


async def test_a_contact_is_created_when_an_automation_matches(caller: Caller) -> None:
    assert (await caller.call(SEND, event())).status_code == 202
    assert (await caller.call(f"GET /contacts/{ADA}")).status_code == 404
    automation = pb.Automation(name="welcome", event_name=NAME, state=pb.AUTOMATION_STATE_ACTIVE)
    await caller.client.automations.CreateAutomation(pb.CreateAutomationRequest(automation=automation))
    assert (await caller.call(SEND, event())).status_code == 202
    assert (await caller.call(f"GET /contacts/{ADA}")).status_code == 200


def test_times_have_microseconds() -> None:
    assert format_timestamp(1_760_719_627_461_063) == "2025-10-17 16:47:07.461063+00"
    assert format_timestamp(0) == "1970-01-01 00:00:00.000000+00"


# The client for Python


@pytest.mark.parametrize("mount", ["", "/resend"])
async def test_the_client_for_python_works_unchanged(
    caller: Caller, mount: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resend, "api_url", caller.base_url + mount)
    monkeypatch.setattr(resend, "api_key", caller.secret)
    await asyncio.to_thread(use_events)
    await asyncio.to_thread(use_contacts)
    assert [(recorded.name, dict(recorded.properties)) for recorded in await caller.client.log()] == [
        (NAME, {"seats": 5}),
        (NAME, {}),
    ]


def use_events() -> None:
    """Call everything that the client offers for events."""
    created: Any = resend.Events.create({"name": NAME, "schema": {"seats": "number"}})
    assert created["id"] == ID
    assert created["http_headers"]["ratelimit-policy"] == "2;w=1"
    found: Any = resend.Events.get(NAME)
    assert (found["object"], found["id"], found["schema"]) == ("event", created["id"], {"seats": "number"})
    listed: Any = resend.Events.list({"limit": 5})
    assert [item["name"] for item in listed["data"]] == [NAME]
    assert listed["has_more"] is False
    assert resend.Events.list({"after": created["id"]})["data"] == []
    sent: Any = resend.Events.send({"event": NAME, "email": ADA, "payload": {"seats": "5"}})
    assert (sent["object"], sent["event"]) == ("event", NAME)
    refused = failure(lambda: resend.Events.send({"event": NAME, "email": ADA, "payload": {"seats": "x"}}))
    assert (type(refused), refused.code) == (resend.exceptions.ValidationError, 422)
    refused = failure(lambda: resend.Events.send({"event": NAME}))
    assert type(refused) is resend.exceptions.MissingRequiredFieldsError
    updated: Any = resend.Events.update({"identifier": NAME, "schema": None})
    assert updated["id"] == created["id"]
    assert resend.Events.get(created["id"])["schema"] is None


def use_contacts() -> None:
    """Call everything that the client offers for contacts without segments, topics and imports."""
    created: Any = resend.Contacts.create(
        {"email": "grace@example.com", "first_name": "Grace", "properties": {"age": 30}}
    )
    assert created["object"] == "contact"
    by_address: Any = resend.Contacts.get(email="grace@example.com")
    by_id: Any = resend.Contacts.get(id=created["id"])
    assert by_id["properties"] == by_address["properties"] == {"age": {"type": "number", "value": 30}}
    resend.Contacts.update({"id": created["id"], "last_name": "Hopper", "unsubscribed": True})
    listed: Any = resend.Contacts.list()
    assert [(item["last_name"], item["unsubscribed"]) for item in listed["data"]] == [("Hopper", True)]
    sent: Any = resend.Events.send({"event": NAME, "contact_id": created["id"]})
    assert sent["event"] == NAME
    removed: Any = resend.Contacts.remove(email="grace@example.com")
    assert (removed["contact"], removed["deleted"]) == (created["id"], True)
    assert resend.Contacts.remove(id=NOBODY)["deleted"] is True
    assert failure(lambda: resend.Contacts.get(id=created["id"])).code == 404
    assert resend.Events.remove(NAME)["deleted"] is True
    assert failure(lambda: resend.Events.get(NAME)).code == 404
    assert failure(lambda: resend.Emails.send({"from": ADA, "to": ADA, "subject": "x", "html": "x"})).code == 404


async def test_the_client_for_python_tells_a_missing_key_from_an_invalid_one(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resend, "api_url", caller.base_url)
    monkeypatch.setattr(resend, "api_key", "re_unknown")
    refused = await asyncio.to_thread(failure, resend.Events.list)
    assert (type(refused), refused.code) == (resend.exceptions.InvalidApiKeyError, 403)
    response = await caller.call("GET /resend/events", UNSENT, {"authorization": ""})
    assert (response.status_code, response.json()["name"]) == (401, "missing_api_key")


def failure(call: Any) -> Any:
    with pytest.raises(resend.exceptions.ResendError) as raised:
        call()
    return raised.value


# The client for Node

SCRIPT = Path(__file__).parent / "clients" / "resend.mjs"
CLIENT = os.environ.get("SIGNALBOX_RESEND_NODE", "")
"""The folder in which `npm install resend` was run."""


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_the_client_for_node_works_unchanged(caller: Caller) -> None:
    node = shutil.which("node")
    if node is None or not CLIENT:
        pytest.skip("node is not installed, or SIGNALBOX_RESEND_NODE does not name a folder with the package resend")
    process = await asyncio.create_subprocess_exec(
        *(node, str(SCRIPT), CLIENT),
        env=os.environ | {"RESEND_BASE_URL": caller.base_url, "RESEND_API_KEY": caller.secret},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, complaints = await process.communicate()
    assert (process.returncode, complaints.decode()) == (0, "")
    assert printed.decode().strip() == "ok"
    (first, again) = await caller.client.log()
    assert (dict(first.properties), first.contact_id) == ({"seats": 5}, again.contact_id)
