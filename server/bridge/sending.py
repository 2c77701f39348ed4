"""Sending events through a dialect: events that it refuses are kept and counted like those that the service refuses.

A dialect reads the body of a request into a draft (`RestDialect.read_event`). If it refuses the body, which is at least
a JSON object, the draft is one that could not be read: the project's rules decide what becomes of it. An event that was
kept is read again by the same function, so that it is sent again under the rules of its dialect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from registry.errors import SignalboxError
from server.auth.caller import Caller
from server.bridge.errors import RuleBroken
from server.bridge.messages import Request
from server.ingest.draft import Draft, UnreadableRequest

if TYPE_CHECKING:
    from server.bridge.dialect import ReadEvent, RestDialect
    from server.bridge.operations import Services
    from server.storage.quarantine.refused_events import RefusedEvent

_NAMES: Final = ("event", "eventName", "name")
_CONTACT_IDS: Final = ("contact_id", "contactId")
_KEY_HEADER: Final = b"idempotency-key"


async def send(services: Services, request: Request, read_event: ReadEvent) -> Draft:
    """Record the event of a request, and return its draft. Raise the error that it is refused with."""
    draft = read_or_refuse(request, read_event)
    await services.ingest.send(request.caller.project_pk, draft, len(request.body))
    return draft


def read_or_refuse(request: Request, read_event: ReadEvent) -> Draft:
    """Read an event; one that the dialect refuses becomes a draft that is refused.

    Raise the error if the body is not a JSON object: then it is not an event at all.
    """
    try:
        return read_event(request)
    except (SignalboxError, RuleBroken) as error:
        body = _body(request)
        if body is None:
            raise
        if isinstance(error, SignalboxError):
            error = error.detached()
        return Draft("", "", "", {}, invalid=error, unread=_unread(request, body))


async def reread_request(dialect: RestDialect, project_pk: int, refused: RefusedEvent) -> Draft:
    """Read the body of a request that could not be read before, by the rules that its dialect has now."""
    caller, key = Caller(project_pk, "", frozenset(), dialect.name), refused.idempotency_key
    headers = {_KEY_HEADER: key.encode("latin-1", "replace")} if key else {}
    request = Request(caller, refused.content.params, b"", headers, refused.request)
    return read_or_refuse(request, dialect.read_event)


def _body(request: Request) -> dict[str, Any] | None:
    try:
        body = request.json()
    except SignalboxError:
        return None
    return body if isinstance(body, dict) else None


def _unread(request: Request, body: dict[str, Any]) -> UnreadableRequest:
    content = request.body
    return UnreadableRequest(
        lambda: content,
        len(content),
        name=_text(body, _NAMES),
        contact_id=_text(body, _CONTACT_IDS) or request.params.get("id", ""),
        email=_text(body, ("email",)),
        idempotency_key=request.header(_KEY_HEADER),
        params=request.params,
    )


def _text(body: dict[str, Any], names: tuple[str, ...]) -> str:
    """Return the first string that the body has under one of these names."""
    return next((value for name in names if isinstance(value := body.get(name), str)), "")
