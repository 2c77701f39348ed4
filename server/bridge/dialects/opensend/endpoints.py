"""The routes of OpenSend: at the root, and under `/api`, which has two more."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from server.bridge.dialects.opensend import automations, bodies, contacts, events, runs
from server.bridge.dialects.opensend.automation_bodies import (
    AutomationBody,
    AutomationData,
    AutomationList,
    AutomationsQuery,
    CancelRunBody,
    DeletedAutomation,
    DetailedRun,
    RunList,
    RunsQuery,
)
from server.bridge.routes import Route
from server.model import Scope

_EVENT, _CONTACT = "/events/{identifier}", "/contacts/{identifier}"
_AUTOMATION = "/automations/{id}"
_RUNS, _RUN = f"{_AUTOMATION}/runs", f"{_AUTOMATION}/runs/{{run_id}}"
_DEFINE, _DEFINED = Scope.DEFINITIONS_WRITE, Scope.DEFINITIONS_READ
_READ, _WRITE = Scope.AUTOMATIONS_READ, Scope.AUTOMATIONS_WRITE
_READ_CONTACTS, _WRITE_CONTACTS = Scope.CONTACTS_READ, Scope.CONTACTS_WRITE
_EVENT_DATA, _DELETED = {200: bodies.EventData}, {200: bodies.DeletedEvent}
_SAVED = {200: bodies.CreatedContact}

_SENDING = ("PAYLOAD_REJECTED", "IDEMPOTENCY_KEY_REUSED")
_DEFINING = ("DEFINITION_ALREADY_EXISTS", "TOO_MANY_DEFINITIONS")
_NO_EVENT = ("DEFINITION_NOT_FOUND",)
_RENAMING = ("DEFINITION_NOT_FOUND", "DEFINITION_ALREADY_EXISTS")
_DELETING = ("DEFINITION_NOT_FOUND", "DEFINITION_IN_USE")
_AUTOMATION_LIMIT = ("TOO_MANY_AUTOMATIONS",)
_NO_AUTOMATION = ("AUTOMATION_NOT_FOUND",)
_AUTOMATION_ACTIVE = ("AUTOMATION_NOT_FOUND", "AUTOMATION_ACTIVE")
_NO_RUN = ("RUN_NOT_FOUND",)
_CONTACT_EXISTS = ("CONTACT_ALREADY_EXISTS",)
_NO_CONTACT = ("CONTACT_NOT_FOUND",)
_CANCELLING = ("RUN_NOT_FOUND", "RUN_FINISHED")

_EVENTS = (
    Route(
        "POST",
        "/events/send",
        events.send_event,
        Scope.EVENTS_WRITE,
        {202: bodies.Sent},
        bodies.SendEventBody,
        errors=_SENDING,
    ),
    Route("GET", "/events", events.list_events, _DEFINED, {200: bodies.EventList}, query=bodies.EventsQuery),
    Route(
        "POST",
        "/events",
        events.create_event,
        _DEFINE,
        {201: bodies.EventData},
        bodies.CreateEventBody,
        errors=_DEFINING,
    ),
    Route("GET", _EVENT, events.get_event, _DEFINED, _EVENT_DATA, errors=_NO_EVENT),
    Route("PATCH", _EVENT, events.update_event, _DEFINE, _EVENT_DATA, bodies.UpdateEventBody, errors=_RENAMING),
    Route("DELETE", _EVENT, events.delete_event, _DEFINE, _DELETED, errors=_DELETING),
)

_AUTOMATIONS = (
    Route("GET", "/automations", automations.list_automations, _READ, {200: AutomationList}, query=AutomationsQuery),
    Route(
        "POST",
        "/automations",
        automations.create_automation,
        _WRITE,
        {201: AutomationData},
        AutomationBody,
        errors=_AUTOMATION_LIMIT,
    ),
    Route("GET", _AUTOMATION, automations.get_automation, _READ, {200: AutomationData}, errors=_NO_AUTOMATION),
    Route(
        "PATCH",
        _AUTOMATION,
        automations.update_automation,
        _WRITE,
        {200: AutomationData},
        AutomationBody,
        errors=_NO_AUTOMATION,
    ),
    Route(
        "DELETE",
        _AUTOMATION,
        automations.delete_automation,
        _WRITE,
        {200: DeletedAutomation},
        errors=_AUTOMATION_ACTIVE,
    ),
    Route(
        "POST", f"{_AUTOMATION}/stop", automations.stop_automation, _WRITE, {200: AutomationData}, errors=_NO_AUTOMATION
    ),
    Route("GET", _RUNS, runs.list_runs, _READ, {200: RunList}, query=RunsQuery, errors=_NO_AUTOMATION),
    Route("GET", _RUN, runs.get_run, _READ, {200: DetailedRun}, errors=_NO_RUN),
)

_CONTACTS = (
    Route(
        "GET",
        "/contacts",
        contacts.list_contacts,
        _READ_CONTACTS,
        {200: bodies.ContactList},
        query=bodies.ContactsQuery,
    ),
    Route(
        "POST",
        "/contacts",
        contacts.create_contact,
        _WRITE_CONTACTS,
        {201: bodies.CreatedContact},
        bodies.ContactBody,
        errors=_CONTACT_EXISTS,
    ),
    Route("GET", _CONTACT, contacts.get_contact, _READ_CONTACTS, {200: bodies.ContactData}, errors=_NO_CONTACT),
    Route("PATCH", _CONTACT, contacts.update_contact, _WRITE_CONTACTS, _SAVED, bodies.ContactBody, errors=_NO_CONTACT),
    Route(
        "DELETE", _CONTACT, contacts.delete_contact, _WRITE_CONTACTS, {200: bodies.DeletedContact}, errors=_NO_CONTACT
    ),
)

_BOTH = (*_EVENTS, *_AUTOMATIONS, *_CONTACTS)

_ONLY_UNDER_API = (
    Route("DELETE", "/events", events.delete_by_query, _DEFINE, _DELETED, query=bodies.IdQuery, errors=_DELETING),
    Route("POST", f"{_RUN}/cancel", runs.cancel_run, _WRITE, {200: DetailedRun}, CancelRunBody, errors=_CANCELLING),
)

ROUTES: Final = (*_BOTH, *(replace(route, path=f"/api{route.path}") for route in (*_BOTH, *_ONLY_UNDER_API)))
