"""EmailSendX: `/api/v1/contacts/{id}/events`, contacts and automations. JSON in camelCase, in envelopes of `data`.

It has no definitions: events of any name are accepted, and names match in any case. If the project has a definition of
the name, the data are validated all the same.
"""

from __future__ import annotations

from registry.times.timestamps import format_seconds
from server.bridge.dialect import DemoCall, DemoEvent, RestDialect
from server.bridge.dialects.emailsendx.bodies import ErrorAnswer, Fired, FiredAnswer
from server.bridge.dialects.emailsendx.endpoints import ROUTES, RULES, read_event
from server.bridge.dialects.emailsendx.errors import ERRORS, write_error
from server.bridge.rate_limits import Headers, RateLimit, RateLimitState
from server.model import Dialect


def _rate_headers(state: RateLimitState) -> Headers:
    return (
        (b"x-ratelimit-limit", b"%d" % state.limit),
        (b"x-ratelimit-remaining", b"%d" % state.remaining),
        (b"x-ratelimit-reset", b"%d" % state.reset_at),
    )


def _demo_call(event: DemoEvent) -> DemoCall:
    body = {"name": event.name, "data": event.properties}
    fired = Fired(event.contact_id, event.name, 0, format_seconds(event.received_at))
    return DemoCall(f"/api/v1/contacts/{event.contact_id}/events", body, FiredAnswer(fired))


EMAILSENDX = RestDialect(
    name=Dialect.EMAILSENDX,
    title="EmailSendX",
    routes=ROUTES,
    paths=("/api/v1",),
    key_prefixes=("esx_live_", "esx_"),
    rules=RULES,
    read_event=read_event,
    error_table=ERRORS,
    write_error=write_error,
    error_type=ErrorAnswer,
    rate_limit=RateLimit(120, 60.0, _rate_headers),
    demo_call=_demo_call,
    key_header=b"x-api-key",
)
