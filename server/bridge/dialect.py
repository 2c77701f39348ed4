"""The shape of a dialect: what each package in `dialects` declares about the system whose API it speaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from server.bridge.errors import ErrorTable, WriteError
    from server.bridge.messages import Request
    from server.bridge.rate_limits import Headers, RateLimit
    from server.bridge.routes import Route
    from server.ingest.draft import Draft
    from server.model import Dialect, Rules


@dataclass(frozen=True, slots=True)
class DemoEvent:
    """The event that the demo sends, its contact, and its ID and time in examples."""

    name: str
    email: str
    contact_id: str
    properties: Mapping[str, Any]
    id: str = "01a221cd-e7a7-7000-8000-00057fc55430"
    received_at: int = 1_795_863_472_039_000


@dataclass(frozen=True, slots=True)
class DemoCall:
    """A POST request that sends an event: its path, its JSON body, and an example of a response body."""

    path: str
    body: Mapping[str, Any]
    response: Any


ReadEvent: TypeAlias = "Callable[[Request], Draft]"
"""Reads the event of a request that sends one; raises errors of the services, or RuleBroken."""

MakeDemoCall: TypeAlias = "Callable[[DemoEvent], DemoCall]"


@dataclass(frozen=True, slots=True)
class RestDialect:
    """One dialect, complete: a package exports one of these, and `dialects/__init__.py` lists it.

    `name` is its value in the contract's enum, and the first segment of its own mount (`/<name>/...`).

    Identification. New secrets start with the first of `key_prefixes`. Where no key identifies the dialect, an error is
    written by the dialect of the key's prefix, or else by those whose `paths` cover the path. `key_header` is a header
    that may carry the bare key in place of `authorization`. With `exact_scheme` the value of `authorization` must be
    the word `Bearer`, one blank and the key.

    Events. `rules` take the place of the project's rules for events sent through this dialect. `read_event` reads the
    event of a request.

    Errors. `error_table` maps reasons to statuses, codes and messages, `write_error` writes the body, and `error_type`
    is the msgspec type that describes such bodies. `headers` are sent with every response.
    """

    name: Dialect
    title: str
    routes: tuple[Route, ...]
    paths: tuple[str, ...]
    key_prefixes: tuple[str, ...]
    rules: Rules
    read_event: ReadEvent
    error_table: ErrorTable
    write_error: WriteError
    error_type: Any
    rate_limit: RateLimit
    demo_call: MakeDemoCall
    headers: Headers = ()
    key_header: bytes = b""
    exact_scheme: bool = False
