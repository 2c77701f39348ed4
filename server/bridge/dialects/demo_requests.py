"""The requests that `serve --dev` shows: one for each dialect, which sends the event of the demo."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from server.bridge.dialect import DemoEvent
from server.bridge.dialects import DIALECTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.services.demo import Demo


class DemoRequest(NamedTuple):
    """A POST request with a JSON body, and the title of its dialect."""

    title: str
    path: str
    secret: str
    body: Mapping[str, Any]


def demo_requests(demo: Demo) -> tuple[DemoRequest, ...]:
    """Return a request for each dialect, about the contact "ID" if the demo has none."""
    event = DemoEvent(demo.event, demo.email, demo.contact_id or "ID", json.loads(demo.properties))
    calls = ((dialect, dialect.demo_call(event)) for dialect in DIALECTS)
    return tuple(
        DemoRequest(dialect.title, call.path, demo.secrets[dialect.name], call.body) for dialect, call in calls
    )
