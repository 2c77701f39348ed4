"""OpenSend: `/events`, `/automations` and `/contacts`, and the same under `/api`. JSON in snake_case, with `object`.

A payload must have the types of its schema, and may have more properties; nothing is coerced. Events without a
definition are accepted, and contacts of unknown addresses are created at once.
"""

from __future__ import annotations

from registry.times.timestamps import format_millis
from server.bridge.dialect import DemoCall, DemoEvent, RestDialect
from server.bridge.dialects.opensend.bodies import Delivery, ErrorAnswer, Sent
from server.bridge.dialects.opensend.endpoints import ROUTES
from server.bridge.dialects.opensend.errors import ERRORS, write_error
from server.bridge.dialects.opensend.events import RULES, read_event
from server.bridge.rate_limits import RateLimit
from server.model import Dialect


def _demo_call(event: DemoEvent) -> DemoCall:
    body = {"event": event.name, "email": event.email, "payload": event.properties}
    delivery = Delivery(
        id=event.id,
        event=event.name,
        contact_id=event.contact_id,
        email=event.email,
        payload=dict(event.properties),
        received_at=format_millis(event.received_at),
    )
    return DemoCall("/events/send", body, Sent(delivery=delivery, resumed_runs=[], automation_runs=[]))


OPENSEND = RestDialect(
    name=Dialect.OPENSEND,
    title="OpenSend",
    routes=ROUTES,
    paths=("/events", "/automations", "/contacts", "/api/events", "/api/automations", "/api/contacts"),
    key_prefixes=("os_",),
    rules=RULES,
    read_event=read_event,
    error_table=ERRORS,
    write_error=write_error,
    error_type=ErrorAnswer,
    rate_limit=RateLimit(30, 60.0, fixed=True, reads=100),
    demo_call=_demo_call,
    headers=((b"x-ratelimit-backend", b"memory"),),
    exact_scheme=True,
)
