"""Resend: `/events`, `/events/send` and `/contacts`. JSON in snake_case, most objects with `object`.

A schema is a flat map of names to types, without required properties. Payloads are coerced to it, and may have more
properties. The contact of an unknown address is created when an automation matches.
"""

from __future__ import annotations

from server.bridge.dialect import DemoCall, DemoEvent, RestDialect
from server.bridge.dialects.resend.bodies import ErrorAnswer, SentEvent
from server.bridge.dialects.resend.endpoints import ROUTES, RULES, read_event
from server.bridge.dialects.resend.errors import ERRORS, write_error
from server.bridge.rate_limits import Headers, RateLimit, RateLimitState, ratelimit_headers
from server.model import Dialect

_NOT_SERVED = (
    "/api-keys",
    "/audiences",
    "/broadcasts",
    "/contact-properties",
    "/domains",
    "/emails",
    "/segments",
    "/templates",
    "/topics",
    "/webhooks",
)
"""Paths of Resend without routes here: they respond with Resend's 404, and without a key with its 401."""


def _rate_headers(state: RateLimitState) -> Headers:
    return (*ratelimit_headers(state), (b"ratelimit-policy", b"%d;w=1" % state.limit))


def _demo_call(event: DemoEvent) -> DemoCall:
    body = {"event": event.name, "email": event.email, "payload": event.properties}
    return DemoCall("/events/send", body, SentEvent(event=event.name))


RESEND = RestDialect(
    name=Dialect.RESEND,
    title="Resend",
    routes=ROUTES,
    paths=("/events", "/contacts", *_NOT_SERVED),
    key_prefixes=("re_",),
    rules=RULES,
    read_event=read_event,
    error_table=ERRORS,
    write_error=write_error,
    error_type=ErrorAnswer,
    rate_limit=RateLimit(2, 1.0, _rate_headers),
    demo_call=_demo_call,
)
