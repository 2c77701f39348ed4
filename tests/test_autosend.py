"""AutoSend's requests and responses, in the order of its documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.support.bridge import ID, MILLIS, TEXT, UNSENT, Caller, Case, calling
from tests.support.messages import ADA

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.service import Service

# The limit is that of the native API, which is shown over both databases.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

SIGNUP = {
    "eventName": "signed_up",
    "description": "A user signed up",
    "properties": [
        {"propertyName": "seats", "type": "number", "description": "How many"},
        {"propertyName": "plan", "type": "string", "suggestedValues": ["free", "pro"]},
        {"propertyName": "trial", "type": "boolean"},
        {"propertyName": "until", "type": "date"},
    ],
}
SIGNUP_ANSWER = {
    "id": ID,
    "eventName": "signed_up",
    "description": "A user signed up",
    "properties": [
        {"propertyName": "seats", "type": "number", "description": "How many", "suggestedValues": []},
        {"propertyName": "plan", "type": "string", "suggestedValues": ["free", "pro"]},
        {"propertyName": "trial", "type": "boolean", "suggestedValues": []},
        {"propertyName": "until", "type": "date", "suggestedValues": []},
    ],
    "createdAt": MILLIS,
    "updatedAt": MILLIS,
}
SIGNED_UP = ("POST /v1/events", SIGNUP)
GRACE = {"email": "Grace@Example.com", "firstName": "Grace", "userId": "u_1", "customFields": {"plan": "pro"}}
GRACE_ANSWER = {
    "id": ID,
    "email": "grace@example.com",
    "firstName": "Grace",
    "lastName": None,
    "userId": "u_1",
    "customFields": {"plan": "pro"},
    "createdAt": MILLIS,
    "updatedAt": MILLIS,
    "projectId": ID,
}


def ok(data: Any) -> dict[str, Any]:
    return {"success": True, "data": data}


def error(code: str, message: Any, **more: Any) -> dict[str, Any]:
    return {"success": False, "error": {"message": message, "code": code, **more}}


def invalid(field: str, message: Any = TEXT, **more: Any) -> dict[str, Any]:
    details = [{"field": field, "message": message}]
    return error("VALIDATION_FAILED", "Validation failed", details=details, **more)


def event(properties: Any = UNSENT, **more: Any) -> dict[str, Any]:
    sent = {"eventName": "signed_up", "email": ADA, **more}
    return sent if properties is UNSENT else {**sent, "eventProperties": properties}


CASES = [
    # POST /v1/events
    Case("a definition is created", *SIGNED_UP, 201, ok(SIGNUP_ANSWER)),
    Case(
        "a name is enough for a definition",
        "POST /v1/events",
        {"eventName": "bare"},
        201,
        ok(
            {
                "id": ID,
                "eventName": "bare",
                "description": None,
                "properties": [],
                "createdAt": MILLIS,
                "updatedAt": MILLIS,
            }
        ),
    ),
    Case(
        "a name has ASCII letters, digits and underscores",
        "POST /v1/events",
        {"eventName": "order.completed"},
        400,
        error(
            "INVALID_EVENT_NAME_CHARACTERS",
            "Event name can only contain ASCII letters (a-z, A-Z), numbers (0-9), and underscores (_).",
        ),
    ),
    Case("a name has at most 64 characters", "POST /v1/events", {"eventName": "a" * 65}, 400, invalid("eventName")),
    Case("a name is required", "POST /v1/events", {}, 400, invalid("eventName", "eventName is required")),
    Case("an empty body is an empty object", "POST /v1/events", b"", 400, invalid("eventName")),
    Case("a name is a string", "POST /v1/events", {"eventName": 5}, 400, invalid("eventName")),
    Case("the body is an object", "POST /v1/events", [], 400, invalid("")),
    Case(
        "a property has one of four types",
        "POST /v1/events",
        {"eventName": "a", "properties": [{"propertyName": "b", "type": "object"}]},
        400,
        invalid("properties[0].type"),
    ),
    Case(
        "a property's name has the same characters",
        "POST /v1/events",
        {"eventName": "a", "properties": [{"propertyName": "b-c", "type": "string"}]},
        400,
        invalid("properties[0].propertyName"),
    ),
    Case(
        "a property is declared once",
        "POST /v1/events",
        {"eventName": "a", "properties": [{"propertyName": "b", "type": "string"}] * 2},
        400,
        invalid("properties[1].propertyName"),
    ),
    Case(
        "a definition has at most 50 properties",
        "POST /v1/events",
        {"eventName": "a", "properties": [{"propertyName": f"p{n}", "type": "string"} for n in range(51)]},
        400,
        invalid("properties[50]"),
    ),
    Case(
        "values are suggested for strings only",
        "POST /v1/events",
        {"eventName": "a", "properties": [{"propertyName": "b", "type": "number", "suggestedValues": ["1"]}]},
        400,
        invalid("properties[0].suggestedValues"),
    ),
    Case(
        "a name is unique",
        *SIGNED_UP,
        409,
        error("EVENT_ALREADY_EXISTS", "Event with this name already exists in the project"),
        given=[SIGNED_UP],
    ),
    # GET /v1/events
    Case("there are no definitions at first", "GET /v1/events", UNSENT, 200, ok({"events": []})),
    Case("definitions are listed", "GET /v1/events", UNSENT, 200, ok({"events": [SIGNUP_ANSWER]}), [SIGNED_UP]),
    # /v1/events/eventName/{eventName}
    Case("a definition is returned", "GET /v1/events/eventName/signed_up", UNSENT, 200, ok(SIGNUP_ANSWER), [SIGNED_UP]),
    Case("a segment is decoded", "GET /v1/events/eventName/signed%5Fup", UNSENT, 200, ok(SIGNUP_ANSWER), [SIGNED_UP]),
    Case(
        "an unknown one is not found",
        "GET /v1/events/eventName/other",
        UNSENT,
        404,
        error("EVENT_NOT_FOUND", "Event not found"),
    ),
    Case(
        "an id is not a name",
        "GET /v1/events/eventName/{0.data.id}",
        UNSENT,
        404,
        error("EVENT_NOT_FOUND", "Event not found"),
        [SIGNED_UP],
    ),
    Case(
        "a description is updated",
        "PATCH /v1/events/eventName/signed_up",
        {"description": "Someone signed up"},
        200,
        ok(SIGNUP_ANSWER | {"description": "Someone signed up"}),
        [SIGNED_UP],
    ),
    Case(
        "all properties are replaced",
        "PATCH /v1/events/eventName/signed_up",
        {"eventName": "ignored", "properties": [{"propertyName": "plan", "type": "string"}]},
        200,
        ok(SIGNUP_ANSWER | {"properties": [{"propertyName": "plan", "type": "string", "suggestedValues": []}]}),
        [SIGNED_UP],
    ),
    Case("an update needs a field", "PATCH /v1/events/eventName/signed_up", {}, 400, invalid(""), [SIGNED_UP]),
    Case(
        "an unknown one is not updated",
        "PATCH /v1/events/eventName/other",
        {"description": "x"},
        404,
        error("EVENT_NOT_FOUND", "Event not found"),
    ),
    Case(
        "a definition is deleted", "DELETE /v1/events/eventName/signed_up", UNSENT, 200, ok(SIGNUP_ANSWER), [SIGNED_UP]
    ),
    Case(
        "a body of a DELETE is ignored",
        "DELETE /v1/events/eventName/signed_up",
        {},
        200,
        ok(SIGNUP_ANSWER),
        [SIGNED_UP],
    ),
    Case(
        "a deleted one is not found",
        "GET /v1/events/eventName/signed_up",
        UNSENT,
        404,
        error("EVENT_NOT_FOUND", "Event not found"),
        [SIGNED_UP, ("DELETE /v1/events/eventName/signed_up", UNSENT)],
    ),
    Case(
        "a deleted name can be created again",
        *SIGNED_UP,
        201,
        ok(SIGNUP_ANSWER),
        [SIGNED_UP, ("DELETE /v1/events/eventName/signed_up", UNSENT)],
    ),
    # POST /v1/events/send
    Case(
        "an event is recorded with coerced values",
        "POST /v1/events/send",
        event({"seats": " 5 ", "plan": 7, "trial": "TRUE", "until": "2026-06-01"}),
        201,
        ok(
            {
                "id": ID,
                "eventName": "signed_up",
                "contactId": ID,
                "properties": {"seats": 5, "plan": "7", "trial": True, "until": "2026-06-01T00:00:00.000Z"},
                "createdAt": MILLIS,
            }
        ),
        [SIGNED_UP],
    ),
    Case(
        "no property is required",
        "POST /v1/events/send",
        event(),
        201,
        ok({"id": ID, "eventName": "signed_up", "contactId": ID, "properties": {}, "createdAt": MILLIS}),
        [SIGNED_UP],
    ),
    Case(
        "the contact's id takes precedence over the address",
        "POST /v1/events/send",
        event(email="nobody@example.com", contactId="{1.data.id}"),
        201,
        ok({"id": ID, "eventName": "signed_up", "contactId": "{1.data.id}", "properties": {}, "createdAt": MILLIS}),
        [SIGNED_UP, ("POST /v1/contacts/email", GRACE)],
    ),
    Case(
        "a contact is required",
        "POST /v1/events/send",
        {"eventName": "signed_up"},
        400,
        error("EMAIL_OR_CONTACT_ID_REQUIRED", "Either email or contactId is required"),
        [SIGNED_UP],
    ),
    Case(
        "an unknown contact is not found",
        "POST /v1/events/send",
        event(email="nobody@example.com"),
        404,
        error("CONTACT_NOT_FOUND_FOR_EVENT", "Contact not found for the provided email or contactId"),
        [SIGNED_UP],
    ),
    Case(
        "an invalid address belongs to no contact",
        "POST /v1/events/send",
        event(email="nobody"),
        404,
        error("CONTACT_NOT_FOUND_FOR_EVENT", "Contact not found for the provided email or contactId"),
        [SIGNED_UP],
    ),
    Case(
        "an undefined event is not found",
        "POST /v1/events/send",
        event(),
        404,
        error("EVENT_NOT_FOUND", "Event not found"),
    ),
    Case(
        "an event of a deleted definition is not found",
        "POST /v1/events/send",
        event(),
        404,
        error("EVENT_NOT_FOUND", "Event not found"),
        [SIGNED_UP, ("DELETE /v1/events/eventName/signed_up", UNSENT)],
    ),
    Case(
        "an undeclared property is rejected",
        "POST /v1/events/send",
        event({"foo": 1}),
        400,
        error("UNKNOWN_PROPERTY", 'Property "foo" is not declared on event "signed_up"'),
        [SIGNED_UP],
    ),
    *(
        Case(
            f"{value!r} is not {wanted}",
            "POST /v1/events/send",
            event({name: value}),
            400,
            error("INVALID_PROPERTY_VALUE", f'Property "{name}" must be {wanted}'),
            [SIGNED_UP],
        )
        for name, value, wanted in (
            ("seats", "many", "a number"),
            ("seats", True, "a number"),
            ("plan", ["pro"], "a string"),
            ("trial", "yes", "a boolean"),
            ("until", "tomorrow", "a date"),
        )
    ),
    Case("properties are an object", "POST /v1/events/send", event([1]), 400, invalid("eventProperties"), [SIGNED_UP]),
    Case("the body is JSON", "POST /v1/events/send", b"{", 400, error("MALFORMED_JSON", TEXT)),
    Case(
        "the body is declared as JSON",
        "POST /v1/events/send",
        b"{}",
        415,
        error("UNSUPPORTED_MEDIA_TYPE", TEXT),
        sent={"content-type": "text/plain"},
    ),
    # Contacts
    Case("a contact is created", "POST /v1/contacts", GRACE, 201, ok(GRACE_ANSWER)),
    Case(
        "an address is unique",
        "POST /v1/contacts",
        GRACE,
        409,
        error("CONTACT_ALREADY_EXISTS", "Contact with this email already exists", status=409),
        [("POST /v1/contacts", GRACE)],
    ),
    Case("an address is valid", "POST /v1/contacts", {"email": "grace"}, 400, invalid("email", status=400)),
    Case("a contact is created by its address", "POST /v1/contacts/email", GRACE, 200, ok(GRACE_ANSWER)),
    Case(
        "and updated by it",
        "POST /v1/contacts/email",
        {"email": "grace@example.com", "lastName": "Hopper", "customFields": {"rank": 7}},
        200,
        ok(GRACE_ANSWER | {"lastName": "Hopper", "customFields": {"plan": "pro", "rank": 7}}),
        [("POST /v1/contacts", GRACE)],
    ),
    Case(
        "a contact is returned",
        "GET /v1/contacts/{0.data.id}",
        UNSENT,
        200,
        ok(GRACE_ANSWER | {"id": "{0.data.id}"}),
        [("POST /v1/contacts", GRACE)],
    ),
    Case(
        "a contact is deleted",
        "DELETE /v1/contacts/{0.data.id}",
        UNSENT,
        200,
        {"success": True, "message": "Contact deleted successfully"},
        [("POST /v1/contacts", GRACE)],
    ),
    *(
        Case(f"no contact is there to {method}", f"{method} /v1/contacts/x", UNSENT, 404, gone)
        for method, gone in (
            ("GET", error("CONTACT_NOT_FOUND", "Contact not found", status=404)),
            ("DELETE", error("CONTACT_NOT_FOUND", "Contact not found", status=404)),
        )
    ),
    # What is not there
    Case(
        "a key of another dialect is invalid",
        "GET /v1/events",
        UNSENT,
        401,
        error("UNAUTHORIZED", "Unauthorized"),
        sent={"authorization": "Bearer AS_unknown"},
    ),
    Case("an unknown path", "GET /v1/other", UNSENT, 404, error("ROUTE_NOT_FOUND", TEXT)),
    Case(
        "another method",
        "PUT /v1/events",
        {},
        405,
        error("METHOD_NOT_ALLOWED", TEXT),
        headers={"allow": "GET, POST"},
    ),
]


@pytest_asyncio.fixture
async def autosend(lasting_service: Service) -> AsyncIterator[Caller]:
    client = await lasting_service.project()
    await client.upsert()
    async with calling(lasting_service, client, "autosend") as caller:
        yield caller


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_autosend_responds(autosend: Caller, case: Case) -> None:
    await autosend.check(case)


@on_sqlite
async def test_a_project_has_at_most_100_definitions(autosend: Caller) -> None:
    for number in range(100):
        assert (await autosend.call("POST /v1/events", {"eventName": f"event_{number}"})).status_code == 201
    listed = (await autosend.call("GET /v1/events")).json()["data"]["events"]
    assert [each["eventName"] for each in listed] == [f"event_{number}" for number in reversed(range(100))]
    refused = await autosend.call("POST /v1/events", {"eventName": "one_more"})
    message = "Maximum number of events (100) reached for this project."
    assert (refused.status_code, refused.json()) == (400, error("MAX_EVENTS_REACHED", message))
