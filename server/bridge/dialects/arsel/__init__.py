"""Arsel: `/v1/events`, `/v1/events/send` and contacts. JSON in snake_case, single objects without an envelope.

An event names its contact by exactly one of address and id. The contact of an unknown address is created when an
automation matches.
"""

from __future__ import annotations

from server.bridge.dialect import DemoCall, DemoEvent, RestDialect
from server.bridge.dialects.arsel.bodies import Accepted, ErrorAnswer
from server.bridge.dialects.arsel.endpoints import ROUTES, RULES, read_event
from server.bridge.dialects.arsel.errors import ERRORS, write_error
from server.bridge.rate_limits import RateLimit, ratelimit_headers
from server.model import Dialect


def _demo_call(event: DemoEvent) -> DemoCall:
    body = {"event": event.name, "email": event.email, "data": event.properties}
    return DemoCall("/v1/events/send", body, Accepted(event.id))


ARSEL = RestDialect(
    name=Dialect.ARSEL,
    title="Arsel",
    routes=ROUTES,
    paths=("/v1",),
    key_prefixes=("be_",),
    rules=RULES,
    read_event=read_event,
    error_table=ERRORS,
    write_error=write_error,
    error_type=ErrorAnswer,
    rate_limit=RateLimit(2, 1.0, ratelimit_headers),
    demo_call=_demo_call,
)
