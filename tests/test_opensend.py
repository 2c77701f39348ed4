"""OpenSend's requests and responses for events and contacts, in the order of its documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from signalbox.v1 import automations_pb2 as pb
from signalbox.v1 import event_definitions_pb2 as definitions_pb2
from tests.support.bridge import ID, MILLIS, TEXT, UNSENT, Caller, Case, calling, mistyped
from tests.support.messages import ADA, schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.service import Service

# Requests are refused before the database has a part in it.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

NAME = "user.signed_up"
SCHEMA = {
    "type": "object",
    "properties": {
        "plan": {"type": "string"},
        "seats": {"type": "number"},
        "trial": {"type": "boolean"},
        "team": {"type": "object", "properties": {"size": {"type": "number"}}, "required": ["size"]},
        "tags": {"type": "array"},
    },
    "required": ["plan"],
}
SIGNUP = {"name": NAME, "schema": SCHEMA}
SIGNUP_ANSWER = {"object": "event", "id": ID, **SIGNUP, "created_at": MILLIS, "updated_at": MILLIS}
DEFINED = ("POST /events", SIGNUP)
GRACE = {"email": " Grace@Example.com", "first_name": "Grace", "properties": {"plan": "pro"}}
KNOWN = ("POST /contacts", GRACE)
GRACE_ANSWER = {
    "object": "contact",
    "id": ID,
    "email": "grace@example.com",
    "first_name": "Grace",
    "last_name": None,
    "unsubscribed": False,
    "properties": {"plan": "pro"},
    "created_at": MILLIS,
    "updated_at": MILLIS,
}
NOBODY = "01957e3a-4b5c-7d8e-9f0a-1b2c3d4e5f6a"
B_AND_A = {"b": {"type": "string"}, "a": {"type": "number"}}
BACKEND = {"x-ratelimit-backend": "memory"}
EXACTLY_ONE = "provide exactly one contact identifier: contact_id/contactId or email"


def failed(form: list[Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"error": "Validation failed", "details": {"formErrors": form or [], "fieldErrors": fields}}


def rule(code: str, message: Any = TEXT) -> dict[str, Any]:
    return {"error": message, "code": code}


def mismatch(*faults: tuple[str, str]) -> dict[str, Any]:
    return {
        "error": "Event payload does not match schema",
        "code": "event_payload_invalid",
        "details": [{"path": path, "message": message} for path, message in faults],
    }


def sent(payload: Any = UNSENT, **changes: Any) -> dict[str, Any]:
    body = {"event": NAME, "email": ADA, "payload": payload, **changes}
    return {name: value for name, value in body.items() if value is not UNSENT}


def delivered(payload: Any = None, **changes: Any) -> dict[str, Any]:
    delivery = {
        "object": "event_delivery",
        "id": ID,
        "event": NAME,
        "contact_id": ID,
        "email": ADA,
        "payload": payload or {},
        "received_at": MILLIS,
    }
    return {"object": "event_delivery", "delivery": delivery | changes, "resumed_runs": [], "automation_runs": []}


def listing(*items: Any, more: bool = False) -> dict[str, Any]:
    return {"object": "list", "data": list(items), "has_more": more}


RESEND_MISSING_KEY = {
    "statusCode": 401,
    "message": "Missing API key in the authorization header",
    "name": "missing_api_key",
}
RESEND_INVALID_KEY = {"statusCode": 401, "message": "API key is invalid", "name": "invalid_api_key"}
"""Without a known key, OpenSend and Resend share this path: the error has the fields of both."""


NO_EVENT = {"error": "Event not found"}
NO_CONTACT = {"error": "Contact not found"}
UNDEFINED = "Invalid input: expected string, received undefined"

CASES = [
    # POST /events
    Case("a definition is created", *DEFINED, 201, SIGNUP_ANSWER),
    Case("a definition is created under /api", "POST /api/events", SIGNUP, 201, SIGNUP_ANSWER),
    Case("a schema is optional", "POST /events", {"name": NAME}, 201, SIGNUP_ANSWER | {"schema": None}),
    Case(
        "a name may have any characters",
        "POST /events",
        {"name": "Ünï \u2713"},
        201,
        SIGNUP_ANSWER | {"name": "Ünï \u2713", "schema": None},
    ),
    Case("a name is required", "POST /events", {}, 422, failed(name=[UNDEFINED])),
    Case("an empty body is an empty object", "POST /events", b"", 422, failed(name=[UNDEFINED])),
    Case("a body is an object", "POST /events", [], 422, failed(["Invalid input: expected object, received array"])),
    Case("a body is JSON", "POST /events", b"{", 400, {"error": "Invalid JSON body"}),
    Case(
        "a name is a string",
        "POST /events",
        {"name": 5},
        422,
        failed(name=["Invalid input: expected string, received number"]),
    ),
    Case(
        "a name is not empty",
        "POST /events",
        {"name": ""},
        422,
        failed(name=["Too small: expected string to have >=1 characters"]),
    ),
    Case(
        "a name has at most 255 characters",
        "POST /events",
        {"name": "a" * 256},
        422,
        failed(name=["Too big: expected string to have <=255 characters"]),
    ),
    Case("a name is not blank", "POST /events", {"name": "  "}, 422, rule("event_name_required")),
    Case("send is reserved", "POST /events", {"name": " Send "}, 422, failed(name=['" Send " is a reserved name'])),
    Case(
        "a reserved name is reported with other violations",
        "POST /events",
        {"name": "send", "schema": []},
        422,
        failed(name=['"send" is a reserved name'], schema=["schema must be an object"]),
    ),
    Case(
        "a prefix is reserved",
        "POST /events",
        {"name": "Resend:x"},
        422,
        rule("event_name_reserved", 'event_name "Resend:x" uses reserved prefix "resend:"'),
    ),
    Case("a name is unique", *DEFINED, 409, {"error": "An event with this name already exists"}, [DEFINED]),
    Case(
        "a name in another case is another name",
        "POST /events",
        {"name": "User.Signed_Up"},
        201,
        SIGNUP_ANSWER | {"name": "User.Signed_Up", "schema": None},
        [DEFINED],
    ),
    *(
        Case(f"not {given}", "POST /events", {"name": "a", "schema": given}, 422, failed(schema=[message]))
        for given, message in (
            ([], "schema must be an object"),
            ({"type": "array"}, 'schema.type must be "object"'),
            ({"type": "object", "properties": []}, "schema.properties must be an object"),
            ({"type": "object", "required": "plan"}, "schema.required must be an array of non-empty strings"),
            ({"type": "object", "required": [" "]}, "schema.required must be an array of non-empty strings"),
            ({"type": "object", "title": "x"}, "schema.title is not a supported schema keyword"),
            (
                {"type": "object", "properties": {"plan": {"type": "date"}}},
                "schema.properties.plan.type must be one of: string, number, boolean, object, array",
            ),
            (
                {"type": "object", "properties": {"plan": {"type": "string", "enum": ["a"]}}},
                "schema.properties.plan.enum is not a supported schema keyword",
            ),
            ({"type": "object", "properties": {"plan": "string"}}, "schema.properties.plan must be an object"),
            (
                {"type": "object", "properties": {"plan": {"type": "string", "properties": {}}}},
                "schema.properties.plan.properties is only supported for objects",
            ),
        )
    ),
    Case(
        "a flat map of types is not a schema",
        "POST /events",
        {"name": "a", "schema": {"plan": "string"}},
        422,
        failed(schema=["schema.plan is not a supported schema keyword", 'schema.type must be "object"']),
    ),
    Case(
        "a required property need not be declared",
        "POST /events",
        {"name": NAME, "schema": {"type": "object", "required": ["id"]}},
        201,
        SIGNUP_ANSWER | {"schema": {"type": "object", "required": ["id"]}},
    ),
    Case(
        "required is shown in the order of the properties",
        "POST /events",
        {"name": NAME, "schema": {"type": "object", "properties": B_AND_A, "required": ["z", "a", "b"]}},
        201,
        SIGNUP_ANSWER | {"schema": {"type": "object", "properties": B_AND_A, "required": ["b", "a", "z"]}},
    ),
    Case(
        "an object without properties is no schema",
        "POST /events",
        {"name": NAME, "schema": {"type": "object"}},
        201,
        SIGNUP_ANSWER | {"schema": None},
    ),
    Case(
        "a name has no control characters",
        "POST /events",
        {"name": "a\tb"},
        422,
        failed(name=[TEXT]),
    ),
    # GET /events
    Case("there are no definitions at first", "GET /events", UNSENT, 200, listing()),
    Case(
        "definitions are listed",
        "GET /events?limit=1",
        UNSENT,
        200,
        listing(SIGNUP_ANSWER, more=True),
        [("POST /events", {"name": "a"}), DEFINED],
    ),
    Case(
        "a page comes after an id",
        "GET /events?after={1.id}",
        UNSENT,
        200,
        listing(SIGNUP_ANSWER),
        [DEFINED, ("POST /events", {"name": "a"})],
    ),
    Case("a limit is at most 100", "GET /events?limit=101", UNSENT, 422, failed(limit=[TEXT])),
    # /events/{identifier}
    Case("a definition is returned by its name", f"GET /events/{NAME}", UNSENT, 200, SIGNUP_ANSWER, [DEFINED]),
    Case(
        "a definition is returned by its id",
        "GET /api/events/{0.id}",
        UNSENT,
        200,
        SIGNUP_ANSWER | {"id": "{0.id}"},
        [DEFINED],
    ),
    Case(
        "a name may have a slash",
        "GET /events/a%2Fb%20c",
        UNSENT,
        200,
        SIGNUP_ANSWER | {"name": "a/b c", "schema": None},
        [("POST /events", {"name": "a/b c"})],
    ),
    Case(
        "a name may look like an id",
        f"GET /events/{NOBODY}",
        UNSENT,
        200,
        SIGNUP_ANSWER | {"name": NOBODY, "schema": None},
        [("POST /events", {"name": NOBODY})],
    ),
    Case("a name is found in its own case only", "GET /events/User.Signed_Up", UNSENT, 404, NO_EVENT, [DEFINED]),
    Case("an unknown definition is not found", "GET /events/other", UNSENT, 404, NO_EVENT),
    *(
        Case(f"none to {method}", f"{method} /events/other", body, 404, NO_EVENT)
        for method, body in (("PATCH", {"name": "a"}), ("DELETE", UNSENT))
    ),
    Case(
        "a name can change",
        f"PATCH /events/{NAME}",
        {"id": "x", "name": "user.joined"},
        200,
        SIGNUP_ANSWER | {"name": "user.joined"},
        [DEFINED],
    ),
    Case(
        "a new name must be unused",
        f"PATCH /events/{NAME}",
        {"name": "a"},
        409,
        {"error": "An event with this name already exists"},
        [DEFINED, ("POST /events", {"name": "a"})],
    ),
    Case(
        "null removes a schema",
        f"PATCH /events/{NAME}",
        {"schema": None},
        200,
        SIGNUP_ANSWER | {"schema": None},
        [DEFINED],
    ),
    Case(
        "a schema is replaced",
        f"PATCH /events/{NAME}",
        {"schema": {"type": "object", "properties": {"a": {"type": "array"}}}},
        200,
        SIGNUP_ANSWER | {"schema": {"type": "object", "properties": {"a": {"type": "array"}}}},
        [DEFINED],
    ),
    *(
        Case(f"not the name {name!r}", f"PATCH /events/{NAME}", {"name": name}, 422, refusal, [DEFINED])
        for name, refusal in (
            ("send", failed(name=['"send" is a reserved name'])),
            (" ", rule("event_name_required")),
            ("resend:x", rule("event_name_reserved", 'event_name "resend:x" uses reserved prefix "resend:"')),
            ("", failed(name=["Too small: expected string to have >=1 characters"])),
        )
    ),
    Case(
        "a schema must be valid in an update",
        f"PATCH /events/{NAME}",
        {"schema": {"plan": "string"}},
        422,
        failed(schema=["schema.plan is not a supported schema keyword", 'schema.type must be "object"']),
        [DEFINED],
    ),
    Case(
        "an update needs at least one field",
        f"PATCH /events/{NAME}",
        {},
        422,
        failed(["Provide at least one field to update"]),
        [DEFINED],
    ),
    Case(
        "a contact is deleted",
        f"DELETE /events/{NAME}",
        UNSENT,
        200,
        {"object": "event", "id": ID, "deleted": True},
        [DEFINED],
    ),
    Case(
        "a definition is deleted by the id in the query",
        "DELETE /api/events?id={0.id}",
        UNSENT,
        200,
        {"object": "event", "id": "{0.id}", "deleted": True},
        [DEFINED],
    ),
    Case(
        "a definition is identified by its id only", f"DELETE /api/events?id={NAME}", UNSENT, 404, NO_EVENT, [DEFINED]
    ),
    Case("an id is required", "DELETE /api/events", UNSENT, 422, failed(id=["Required"])),
    Case(
        "the root has no DELETE by query", "DELETE /events", UNSENT, 405, {"error": TEXT, "code": "method_not_allowed"}
    ),
    Case(
        "a deleted one is not found",
        f"GET /events/{NAME}",
        UNSENT,
        404,
        NO_EVENT,
        [DEFINED, (f"DELETE /events/{NAME}", UNSENT)],
    ),
    # POST /events/send
    Case("an event is recorded", "POST /events/send", sent({"plan": "pro"}), 202, delivered({"plan": "pro"})),
    Case(
        "an event is recorded under /api",
        "POST /api/events/send",
        sent({"plan": "pro"}),
        202,
        delivered({"plan": "pro"}),
    ),
    Case("a payload is optional", "POST /events/send", sent(), 202, delivered()),
    Case("an address is shown in lower case", "POST /events/send", sent(email=" ADA@Example.com"), 202, delivered()),
    Case(
        "an unknown address becomes a contact",
        "POST /events/send",
        sent(email="new@example.com"),
        202,
        delivered(email="new@example.com"),
    ),
    Case(
        "a contact may be identified by its id",
        "POST /events/send",
        sent(email=UNSENT, contact_id="{0.id}"),
        202,
        delivered(email=None, contact_id="{0.id}"),
        [KNOWN],
    ),
    Case(
        "contact_id has an alias",
        "POST /events/send",
        sent(email=UNSENT, contactId="{0.id}"),
        202,
        delivered(email=None, contact_id="{0.id}"),
        [KNOWN],
    ),
    Case(
        "contact_id and its alias may be equal",
        "POST /events/send",
        sent(email=UNSENT, contactId="{0.id}", contact_id="{0.id}"),
        202,
        delivered(email=None, contact_id="{0.id}"),
        [KNOWN],
    ),
    Case(
        "an unknown id is recorded as null",
        "POST /events/send",
        sent(email=UNSENT, contact_id=NOBODY),
        202,
        delivered(email=None, contact_id=None),
    ),
    Case("the name send is accepted at a send", "POST /events/send", sent(event="send"), 202, delivered(event="send")),
    Case("properties are ignored", "POST /events/send", sent(properties={"a": 1}), 202, delivered()),
    Case("a contact is required", "POST /events/send", sent(email=UNSENT), 422, failed(contact_id=[EXACTLY_ONE])),
    Case(
        "a contact is identified once",
        "POST /events/send",
        sent(contact_id=NOBODY),
        422,
        failed(email=[EXACTLY_ONE]),
    ),
    *(
        Case(f"the event {name!r:.20}", "POST /events/send", sent(event=name), 422, refusal)
        for name, refusal in (
            ("", failed(event=["Too small: expected string to have >=1 characters"])),
            ("a" * 256, failed(event=["Too big: expected string to have <=255 characters"])),
            ("  ", rule("event_name_required")),
            ("a\tb", failed(event=[TEXT])),
        )
    ),
    *(
        Case(f"the body {body!r}", "POST /events/send", body, 422, failed([f"Invalid input: expected object, {seen}"]))
        for body, seen in ((b"[]", "received array"), (b"null", "received null"), (b"5", "received number"))
    ),
    Case(
        "contact_id and its alias may not differ",
        "POST /events/send",
        sent(email=UNSENT, contact_id="{0.id}", contactId=NOBODY),
        422,
        failed(contact_id=["contactId and contact_id must match when both are provided"]),
        [KNOWN],
    ),
    Case(
        "all violations are reported at once",
        "POST /events/send",
        {"email": "ada", "payload": []},
        422,
        failed(
            event=[UNDEFINED],
            email=["Invalid email address"],
            payload=["Invalid input: expected record, received array"],
        ),
    ),
    Case(
        "an id is a UUID",
        "POST /events/send",
        sent(email=UNSENT, contact_id="11111111-1111-1111-1111-111111111111"),
        422,
        failed(contact_id=["Invalid UUID"]),
    ),
    Case(
        "an id may not be longer",
        "POST /events/send",
        sent(email=UNSENT, contactId="x" * 600),
        422,
        failed(contactId=["Invalid UUID"]),
    ),
    Case(
        "an address is no longer than 512 characters",
        "POST /events/send",
        sent(email="a" * 513),
        422,
        failed(email=["Too big: expected string to have <=512 characters"]),
    ),
    Case(
        "the nil UUID is valid",
        "POST /events/send",
        sent(email=UNSENT, contact_id="00000000-0000-0000-0000-000000000000"),
        202,
        delivered(email=None, contact_id=None),
    ),
    Case(
        "an address has three characters",
        "POST /events/send",
        sent(email="a@"),
        422,
        failed(email=["Too small: expected string to have >=3 characters"]),
    ),
    Case(
        "a reserved prefix is rejected at a send",
        "POST /events/send",
        sent(event="resend:x"),
        422,
        rule("event_name_reserved", 'event_name "resend:x" uses reserved prefix "resend:"'),
    ),
    Case(
        "undeclared fields are kept",
        "POST /events/send",
        sent({"plan": "pro", "more": [1, None], "team": {"size": 3, "x": 1}}),
        202,
        delivered({"plan": "pro", "more": [1, None], "team": {"size": 3, "x": 1}}),
        [DEFINED],
    ),
    Case(
        "missing fields are reported before mistyped ones",
        "POST /events/send",
        sent({"seats": "5", "trial": 1, "team": {"size": "x"}, "tags": {}}),
        422,
        mismatch(
            ("payload.plan", "Missing required field payload.plan"),
            ("payload.seats", 'Expected payload.seats to be "number"'),
            ("payload.trial", 'Expected payload.trial to be "boolean"'),
            ("payload.team.size", 'Expected payload.team.size to be "number"'),
            ("payload.tags", 'Expected payload.tags to be "array"'),
        ),
        [DEFINED],
    ),
    Case(
        "a required undeclared field may not be missing",
        "POST /events/send",
        sent({}),
        422,
        mismatch(("payload.id", "Missing required field payload.id")),
        [("POST /events", {"name": NAME, "schema": {"type": "object", "required": ["id"]}})],
    ),
    Case(
        "a required undeclared field may have any type",
        "POST /events/send",
        sent({"id": [1]}),
        202,
        delivered({"id": [1]}),
        [("POST /events", {"name": NAME, "schema": {"type": "object", "required": ["id"]}})],
    ),
    Case(
        "null has no type",
        "POST /events/send",
        sent({"plan": None}),
        422,
        mismatch(("payload.plan", 'Expected payload.plan to be "string"')),
        [DEFINED],
    ),
    Case(
        "a nested required field may not be missing",
        "POST /events/send",
        sent({"plan": "a", "team": {}}),
        422,
        mismatch(("payload.team.size", "Missing required field payload.team.size")),
        [DEFINED],
    ),
    # Contacts
    Case("a contact is created", *KNOWN, 201, {"object": "contact", "id": ID}),
    Case("a contact is created once", *KNOWN, 409, {"error": "A contact with this email already exists"}, [KNOWN]),
    Case("an address is required", "POST /contacts", {}, 422, failed(email=[UNDEFINED])),
    Case(
        "properties are strings",
        "POST /contacts",
        {"email": ADA, "properties": {"a": 1}},
        422,
        failed(properties=["a must be a string"]),
    ),
    Case("a contact is returned by its id", "GET /contacts/{0.id}", UNSENT, 200, GRACE_ANSWER, [KNOWN]),
    Case("a contact is returned by its address", "GET /contacts/grace@example.com", UNSENT, 200, GRACE_ANSWER, [KNOWN]),
    Case(
        "a contact is returned by an encoded address",
        "GET /api/contacts/Grace%40example.com",
        UNSENT,
        200,
        GRACE_ANSWER,
        [KNOWN],
    ),
    Case(
        "a contact is updated",
        "PATCH /contacts/grace@example.com",
        {"unsubscribed": True},
        200,
        {"object": "contact", "id": "{0.id}"},
        [KNOWN],
    ),
    Case(
        "an update may repeat the address",
        "PATCH /contacts/{0.id}",
        {"id": "{0.id}", "email": "GRACE@example.com", "last_name": "Hopper"},
        200,
        {"object": "contact", "id": "{0.id}"},
        [KNOWN],
    ),
    Case(
        "an address cannot change",
        "PATCH /contacts/{0.id}",
        {"email": "hopper@example.com"},
        422,
        failed(email=["The address of a contact cannot be changed"]),
        [KNOWN],
    ),
    Case(
        "an update is visible",
        "GET /contacts/{0.id}",
        UNSENT,
        200,
        GRACE_ANSWER | {"unsubscribed": True},
        [KNOWN, ("PATCH /contacts/{0.id}", {"unsubscribed": True})],
    ),
    Case(
        "a contact is deleted",
        "DELETE /contacts/grace@example.com",
        UNSENT,
        200,
        {"object": "contact", "id": "{0.id}", "deleted": True},
        [KNOWN],
    ),
    *(
        Case(f"nobody to {method}", f"{method} /contacts/nobody@example.com", body, 404, NO_CONTACT)
        for method, body in (("GET", UNSENT), ("PATCH", {}), ("DELETE", UNSENT))
    ),
    Case("a limit of contacts is at most 100", "GET /contacts?limit=101", UNSENT, 422, failed(limit=[TEXT])),
    Case(
        "contacts are listed after an id",
        "GET /contacts?after={1.id}",
        UNSENT,
        200,
        listing(GRACE_ANSWER),
        [KNOWN, ("POST /contacts", {"email": ADA})],
    ),
    Case(
        "contacts are listed",
        "GET /contacts?limit=1",
        UNSENT,
        200,
        listing(GRACE_ANSWER, more=True),
        [("POST /contacts", {"email": ADA}), KNOWN],
    ),
    # Keys
    *(
        Case(
            f"no key: {said!r}",
            "GET /events",
            UNSENT,
            401,
            {"error": "Missing or invalid API key"} | resend_error,
            sent={"authorization": said},
            headers=BACKEND,
        )
        for said, resend_error in (
            ("Bearer os_unknown", {}),
            ("bearer {key}", {}),
            ("", RESEND_MISSING_KEY),
            ("{key}", RESEND_MISSING_KEY),
            ("Basic {key}", RESEND_MISSING_KEY),
            ("Bearer  {key}", RESEND_INVALID_KEY),
        )
    ),
    Case(
        "every response names the backend of rate limits",
        "GET /events",
        UNSENT,
        200,
        listing(),
        headers=BACKEND,
    ),
    Case(
        "an unknown path", "GET /events/a/b", UNSENT, 404, {"error": TEXT, "code": "route_not_found"}, headers=BACKEND
    ),
    Case("an invalid body", "POST /events", {}, 422, failed(name=[UNDEFINED]), headers=BACKEND),
    # The order of checks
    Case("first the body must be JSON", "PATCH /events/other", b"{", 400, {"error": "Invalid JSON body"}),
    Case(
        "then the body must be valid",
        "PATCH /events/other",
        {"name": 5},
        422,
        failed(name=["Invalid input: expected string, received number"]),
    ),
]


@pytest_asyncio.fixture
async def opensend(lasting_service: Service) -> AsyncIterator[Caller]:
    async with calling(lasting_service, await lasting_service.project(), "opensend") as caller:
        yield caller


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_opensend_responds(opensend: Caller, case: Case) -> None:
    await opensend.check(case)


@on_sqlite
async def test_a_missing_scope_is_reported_in_a_shape_of_its_own(lasting_service: Service) -> None:
    async with calling(lasting_service, await lasting_service.project(), "opensend", "events:read") as caller:
        refused = await caller.call("POST /events/send", b"{")
    name = "insufficient_api_key_permission"
    message = "This API key does not have permission to access this resource."
    assert refused.status_code == 403
    assert refused.json() == {"name": name, "code": name, "message": message, "statusCode": 403}
    assert refused.headers["x-ratelimit-backend"] == "memory"


@on_sqlite
@pytest.mark.parametrize(
    ("call", "document"), [DEFINED, ("POST /events/send", sent({"plan": "pro"}, contactId=NOBODY)), KNOWN]
)
async def test_values_of_other_types_cause_no_internal_error(opensend: Caller, call: str, document: Any) -> None:
    for wrong in mistyped(document):
        answer = await opensend.call(call, wrong)
        assert answer.status_code in {201, 202, 409, 422}, wrong


async def test_a_refused_event_stores_nothing_not_even_its_contact(opensend: Caller) -> None:
    await opensend.call(*DEFINED)
    assert (await opensend.call("POST /events/send", sent({}, email="new@example.com"))).status_code == 422
    assert await opensend.client.log() == []
    assert (await opensend.call("GET /contacts/new@example.com")).status_code == 404


async def test_a_contact_of_another_project_is_unknown(lasting_service: Service, opensend: Caller) -> None:
    other = await (await lasting_service.project()).upsert()
    answer = await opensend.call("POST /events/send", sent(email=UNSENT, contact_id=other.id))
    assert (answer.status_code, answer.json()) == (202, delivered(email=None, contact_id=None))


async def test_a_contact_is_found_by_its_id_in_any_case(opensend: Caller) -> None:
    contact = (await opensend.call(*KNOWN)).json()["id"]
    assert (await opensend.call(f"GET /contacts/{contact.upper()}")).json()["id"] == contact
    answer = await opensend.call("POST /events/send", sent(email=UNSENT, contact_id=contact.upper()))
    assert answer.json()["delivery"]["contact_id"] == contact


async def test_an_event_of_a_deleted_definition_is_accepted_without_a_schema(opensend: Caller) -> None:
    await opensend.call(*DEFINED)
    automation = pb.Automation(name="welcome", event_name=NAME, state=pb.AUTOMATION_STATE_ACTIVE)
    await opensend.client.automations.CreateAutomation(pb.CreateAutomationRequest(automation=automation))
    assert (await opensend.call("POST /events/send", sent({}))).status_code == 422
    assert (await opensend.call(f"DELETE /events/{NAME}")).status_code == 200
    answer = await opensend.call("POST /events/send", sent({"plan": 5}))
    assert (answer.status_code, len(answer.json()["automation_runs"])) == (202, 1)


async def test_a_definition_of_another_dialect_keeps_its_rules_until_its_schema_is_removed(opensend: Caller) -> None:
    await opensend.client.define(NAME, schema(plan="string"))

    async def shown() -> Any:
        return (await opensend.call(f"GET /events/{NAME}")).json()["schema"]

    async def taken(payload: Any) -> Any:
        answer = await opensend.call("POST /events/send", sent(payload))
        return answer.json()["delivery"]["payload"] if answer.is_success else answer.json()

    assert await taken({"plan": 5}) == {"plan": "5"}
    assert await taken({"more": 1}) == mismatch(("payload.more", "Unexpected field payload.more"))
    await opensend.client.redefine(schema(), NAME)
    assert await shown() == {"type": "object"}
    await opensend.call(f"PATCH /events/{NAME}", {"schema": None})
    assert await shown() is None
    assert await taken({"more": 1}) == {"more": 1}


async def test_a_repeated_send_reports_the_same_runs(opensend: Caller) -> None:
    automation = pb.Automation(name="welcome", event_name=NAME, state=pb.AUTOMATION_STATE_ACTIVE)
    await opensend.client.automations.CreateAutomation(pb.CreateAutomationRequest(automation=automation))
    first, again = [await opensend.call("POST /events/send", sent(), {"idempotency-key": "k1"}) for _ in range(2)]
    assert len(first.json()["automation_runs"]) == 1
    assert (again.status_code, again.json()) == (202, first.json())
    assert len(await opensend.client.log()) == 1


async def test_renaming_a_definition_changes_no_automation_and_no_recorded_event(opensend: Caller) -> None:
    await opensend.call(*DEFINED)
    automation = pb.Automation(name="welcome", event_name=NAME, state=pb.AUTOMATION_STATE_ACTIVE)
    await opensend.client.automations.CreateAutomation(pb.CreateAutomationRequest(automation=automation))
    await opensend.call("POST /events/send", sent({"plan": "a"}))
    await opensend.call(f"PATCH /events/{NAME}", {"name": "user.joined"})
    answer = (await opensend.call("POST /events/send", sent({}))).json()
    assert len(answer["automation_runs"]) == 1
    assert (await opensend.call("POST /events/send", sent({}, event="user.joined"))).status_code == 422
    assert [each.name for each in await opensend.client.log()] == [NAME, NAME]


async def test_field_numbers_outlive_a_renaming_under_both_names(opensend: Caller) -> None:
    async def define(name: str, prop: str) -> None:
        schema = {"type": "object", "properties": {prop: {"type": "string"}}}
        assert (await opensend.call("POST /events", {"name": name, "schema": schema})).status_code == 201

    async def text(name: str) -> str:
        request = definitions_pb2.GetDescriptorSetRequest(event_definitions=[name])
        answer = await opensend.client.definitions.GetDescriptorSet(request)
        (found,) = answer.files.values()
        return found

    await define("b", "old")
    await opensend.call("DELETE /events/b")
    await define("a", "first")
    await opensend.call("PATCH /events/a", {"name": "b"})
    await define("a", "second")
    assert "string first = 2 " in await text("b")
    assert "string second = 2 " in await text("a")
