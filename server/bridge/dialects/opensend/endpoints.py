"""The routes of OpenSend: at the root, and under `/api`, which has two more."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from server.bridge.dialects.opensend import automations, bodies, contacts, events, runs
from server.bridge.routes import Route
from server.model import Scope

_EVENT, _CONTACT = "/events/{identifier}", "/contacts/{identifier}"
_AUTOMATION = "/automations/{id}"
_RUNS, _RUN = f"{_AUTOMATION}/runs", f"{_AUTOMATION}/runs/{{run_id}}"
_READ, _WRITE = Scope.AUTOMATIONS_READ, Scope.AUTOMATIONS_WRITE

_BOTH = (
    Route("POST", "/events/send", events.send_event, Scope.EVENTS_WRITE, {202: bodies.Sent}, bodies.SendEventBody),
    Route(
        "GET", "/events", events.list_events, Scope.DEFINITIONS_READ, {200: bodies.EventList}, query=bodies.EventsQuery
    ),
    Route(
        "POST", "/events", events.create_event, Scope.DEFINITIONS_WRITE, {201: bodies.EventData}, bodies.CreateEventBody
    ),
    Route("GET", _EVENT, events.get_event, Scope.DEFINITIONS_READ, {200: bodies.EventData}),
    Route(
        "PATCH", _EVENT, events.update_event, Scope.DEFINITIONS_WRITE, {200: bodies.EventData}, bodies.UpdateEventBody
    ),
    Route("DELETE", _EVENT, events.delete_event, Scope.DEFINITIONS_WRITE, {200: bodies.DeletedEvent}),
    Route(
        "GET",
        "/automations",
        automations.list_automations,
        _READ,
        {200: bodies.AutomationList},
        query=bodies.AutomationsQuery,
    ),
    Route(
        "POST",
        "/automations",
        automations.create_automation,
        _WRITE,
        {201: bodies.AutomationData},
        bodies.AutomationBody,
    ),
    Route("GET", _AUTOMATION, automations.get_automation, _READ, {200: bodies.AutomationData}),
    Route(
        "PATCH", _AUTOMATION, automations.update_automation, _WRITE, {200: bodies.AutomationData}, bodies.AutomationBody
    ),
    Route("DELETE", _AUTOMATION, automations.delete_automation, _WRITE, {200: bodies.DeletedAutomation}),
    Route("POST", f"{_AUTOMATION}/stop", automations.stop_automation, _WRITE, {200: bodies.AutomationData}),
    Route("GET", _RUNS, runs.list_runs, _READ, {200: bodies.RunList}, query=bodies.RunsQuery),
    Route("GET", _RUN, runs.get_run, _READ, {200: bodies.DetailedRun}),
    Route(
        "GET",
        "/contacts",
        contacts.list_contacts,
        Scope.CONTACTS_READ,
        {200: bodies.ContactList},
        query=bodies.ContactsQuery,
    ),
    Route(
        "POST",
        "/contacts",
        contacts.create_contact,
        Scope.CONTACTS_WRITE,
        {201: bodies.CreatedContact},
        bodies.ContactBody,
    ),
    Route("GET", _CONTACT, contacts.get_contact, Scope.CONTACTS_READ, {200: bodies.ContactData}),
    Route(
        "PATCH",
        _CONTACT,
        contacts.update_contact,
        Scope.CONTACTS_WRITE,
        {200: bodies.CreatedContact},
        bodies.ContactBody,
    ),
    Route("DELETE", _CONTACT, contacts.delete_contact, Scope.CONTACTS_WRITE, {200: bodies.DeletedContact}),
)

_ONLY_UNDER_API = (
    Route(
        "DELETE",
        "/events",
        events.delete_by_query,
        Scope.DEFINITIONS_WRITE,
        {200: bodies.DeletedEvent},
        query=bodies.IdQuery,
    ),
    Route("POST", f"{_RUN}/cancel", runs.cancel_run, _WRITE, {200: bodies.DetailedRun}, bodies.CancelRunBody),
)

ROUTES: Final = (*_BOTH, *(replace(route, path=f"/api{route.path}") for route in (*_BOTH, *_ONLY_UNDER_API)))
