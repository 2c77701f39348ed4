"""OpenSend: `/events`, `/automations` and `/contacts`, and the same under `/api`. JSON in snake_case, objects named.

A payload must have the types that the schema says, and may hold more; nothing is converted. Events without a definition
are taken, contacts of unknown addresses are made at once.
"""

from __future__ import annotations

from dataclasses import replace

from server.bridge.dialect import Door
from server.bridge.dialects.opensend import automations as a
from server.bridge.dialects.opensend import contacts as c
from server.bridge.dialects.opensend import events as e
from server.bridge.dialects.opensend import runs as r
from server.bridge.dialects.opensend.errors import ErrorAnswer, write_error
from server.bridge.rate_limits import RateLimit
from server.bridge.routes import Route
from server.model import Dialect, Scope

_EVENT, _CONTACT = "/events/{identifier}", "/contacts/{identifier}"
_AUTOMATION = "/automations/{id}"
_RUNS, _RUN = f"{_AUTOMATION}/runs", f"{_AUTOMATION}/runs/{{run_id}}"
_READ, _WRITE = Scope.AUTOMATIONS_READ, Scope.AUTOMATIONS_WRITE

_ROUTES = (
    Route("POST", "/events/send", e.send_event, Scope.EVENTS_WRITE, {202: e.Sent}, e.SendEventBody),
    Route("GET", "/events", e.list_events, Scope.DEFINITIONS_READ, {200: e.EventList}, query=e.EventsQuery),
    Route("POST", "/events", e.create_event, Scope.DEFINITIONS_WRITE, {201: e.EventData}, e.CreateEventBody),
    Route("GET", _EVENT, e.get_event, Scope.DEFINITIONS_READ, {200: e.EventData}),
    Route("PATCH", _EVENT, e.update_event, Scope.DEFINITIONS_WRITE, {200: e.EventData}, e.UpdateEventBody),
    Route("DELETE", _EVENT, e.delete_event, Scope.DEFINITIONS_WRITE, {200: e.DeletedEvent}),
    Route("GET", "/automations", a.list_automations, _READ, {200: a.AutomationList}, query=a.AutomationsQuery),
    Route("POST", "/automations", a.create_automation, _WRITE, {201: a.AutomationData}, a.AutomationBody),
    Route("GET", _AUTOMATION, a.get_automation, _READ, {200: a.AutomationData}),
    Route("PATCH", _AUTOMATION, a.update_automation, _WRITE, {200: a.AutomationData}, a.AutomationBody),
    Route("DELETE", _AUTOMATION, a.delete_automation, _WRITE, {200: a.DeletedAutomation}),
    Route("POST", f"{_AUTOMATION}/stop", a.stop_automation, _WRITE, {200: a.AutomationData}),
    Route("GET", _RUNS, r.list_runs, _READ, {200: r.RunList}, query=r.RunsQuery),
    Route("GET", _RUN, r.get_run, _READ, {200: r.DetailedRun}),
    Route("GET", "/contacts", c.list_contacts, Scope.CONTACTS_READ, {200: c.ContactList}, query=c.ContactsQuery),
    Route("POST", "/contacts", c.create_contact, Scope.CONTACTS_WRITE, {201: c.CreatedContact}, c.ContactBody),
    Route("GET", _CONTACT, c.get_contact, Scope.CONTACTS_READ, {200: c.ContactData}),
    Route("PATCH", _CONTACT, c.update_contact, Scope.CONTACTS_WRITE, {200: c.CreatedContact}, c.ContactBody),
    Route("DELETE", _CONTACT, c.delete_contact, Scope.CONTACTS_WRITE, {200: c.DeletedContact}),
)

_UNDER_API_ALONE = (
    Route("DELETE", "/events", e.delete_by_query, Scope.DEFINITIONS_WRITE, {200: e.DeletedEvent}, query=e.IdQuery),
    Route("POST", f"{_RUN}/cancel", r.cancel_run, _WRITE, {200: r.DetailedRun}, r.CancelRunBody),
)


OPENSEND = Door(
    dialect=Dialect.OPENSEND,
    title="OpenSend",
    routes=(*_ROUTES, *(replace(each, path=f"/api{each.path}") for each in (*_ROUTES, *_UNDER_API_ALONE))),
    paths=("/events", "/automations", "/contacts", "/api/events", "/api/automations", "/api/contacts"),
    key_prefix="os_",
    write_error=write_error,
    error_type=ErrorAnswer,
    limit=RateLimit(30, 60.0, fixed=True, reads=100),
    headers=((b"x-ratelimit-backend", b"memory"),),
    exact_scheme=True,
)
