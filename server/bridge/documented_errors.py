"""The errors of a route in the OpenAPI document: an example of each, written as the dialect writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from automation.automation_store import MAX_AUTOMATIONS
from automation.errors import AutomationActive, AutomationNotFound, RunFinished, RunNotFound, TooManyAutomations
from registry.errors import (
    DefinitionAlreadyExists,
    DefinitionNotFound,
    PayloadRejected,
    SignalboxError,
    TooManyDefinitions,
    Violation,
)
from registry.storage.definition_store import MAX_LIVE_DEFINITIONS
from server.bridge.errors import report_error
from server.errors import (
    ContactAlreadyExists,
    ContactNotFound,
    ContactRequired,
    DefinitionInUse,
    IdempotencyKeyReused,
    KeyInvalid,
    KeyMissing,
    ScopeMissing,
)
from server.http.errors import BodyTooLarge, InvalidBody, MalformedJson, RateLimited, UnsupportedMediaType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.bridge.dialect import RestDialect
    from server.bridge.routes import Route

_EVENT, _EMAIL, _ID = "order_completed", "ada@example.com", "01a221cd-e423-720a-a48c-8ba08d986cf0"


def _payload_rejected() -> PayloadRejected:
    message = "properties.order_total must be a number"
    error = PayloadRejected((Violation("properties.order_total", "INVALID_PROPERTY_VALUE", message, "number"),))
    error.metadata["event"] = _EVENT
    return error


_OF_BODIES: Final = (
    MalformedJson("The body is not valid JSON: it ends too early"),
    InvalidBody([Violation("email", "INVALID_FIELD", "email must be a string; got a number")]),
    BodyTooLarge(1024 * 1024),
    UnsupportedMediaType("text/plain"),
)
_OF_QUERIES: Final = (InvalidBody([Violation("limit", "OUT_OF_RANGE", "limit must be a whole number from 1 to 100")]),)

_SAMPLES: Final[dict[str, SignalboxError]] = {
    error.reason: error
    for error in (
        AutomationActive(_ID),
        AutomationNotFound(_ID),
        ContactAlreadyExists(_EMAIL),
        ContactNotFound(_EMAIL),
        ContactRequired(),
        DefinitionAlreadyExists(_EVENT),
        DefinitionInUse(_EVENT, 2),
        DefinitionNotFound(_EVENT),
        IdempotencyKeyReused("order-1042"),
        RunFinished(_ID, "completed"),
        RunNotFound(_ID),
        TooManyAutomations(MAX_AUTOMATIONS),
        TooManyDefinitions(MAX_LIVE_DEFINITIONS),
        _payload_rejected(),
    )
}
"""An example of each reason that routes list."""


def error_examples(dialect: RestDialect, route: Route) -> dict[int, dict[str, Any]]:
    """Return the bodies of the errors that a route responds with, by status and reason."""
    examples: dict[int, dict[str, Any]] = {}
    for error in _errors(route):
        reported = report_error(dialect.error_table, error, route.error_group)
        body = dialect.write_error(reported, error, route.error_group)
        examples.setdefault(reported.status, {})[error.reason] = body
    return dict(sorted(examples.items()))


def _errors(route: Route) -> Iterator[SignalboxError]:
    yield from (KeyMissing(), KeyInvalid(), ScopeMissing(route.scope), RateLimited(1, ()))
    if route.query is not None:
        yield from _OF_QUERIES
    if route.body is not None:
        yield from _OF_BODIES
    yield from (_SAMPLES[reason] for reason in route.errors)
