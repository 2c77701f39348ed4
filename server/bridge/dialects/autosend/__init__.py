"""AutoSend: `/v1/events`, `/v1/events/send` and contacts. JSON in camelCase, in envelopes of `success` and `data`.

A property is declared or unknown, never required: declared ones are coerced, unknown ones rejected. The contact of an
event must exist.
"""

from __future__ import annotations

from registry.times.timestamps import format_millis
from server.bridge.dialect import DemoCall, DemoEvent, RestDialect
from server.bridge.dialects.autosend.bodies import ErrorAnswer, EventLog, EventLogAnswer
from server.bridge.dialects.autosend.endpoints import ROUTES, RULES, read_event
from server.bridge.dialects.autosend.errors import ERRORS, write_error
from server.bridge.rate_limits import RateLimit
from server.model import Dialect


def _demo_call(event: DemoEvent) -> DemoCall:
    body = {"eventName": event.name, "email": event.email, "eventProperties": event.properties}
    recorded = EventLog(
        id=event.id,
        event_name=event.name,
        contact_id=event.contact_id,
        properties=dict(event.properties),
        created_at=format_millis(event.received_at),
    )
    return DemoCall("/v1/events/send", body, EventLogAnswer(data=recorded))


AUTOSEND = RestDialect(
    name=Dialect.AUTOSEND,
    title="AutoSend",
    routes=ROUTES,
    paths=("/v1",),
    key_prefixes=("AS_",),
    rules=RULES,
    read_event=read_event,
    error_table=ERRORS,
    write_error=write_error,
    error_type=ErrorAnswer,
    rate_limit=RateLimit(600, 60.0),
    demo_call=_demo_call,
)
