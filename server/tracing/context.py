"""The trace of the call that the running code serves, as the W3C's Trace Context has it.

    traceparent    00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01    version, trace, span, flags

A caller sends it, it is stored with the event, and goes out with its matches; whether spans are exported
(`server.tracing.tracer`) makes no difference to that. Each transport sets it once the headers of a request have
arrived: `server.api.interceptor`, `server.connect.request` and `server.bridge.app`. A value that is not of this form is
ignored, as the standard wants it: a fault of a tracing library must not stop an event.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Final

TRACEPARENT: Final = "traceparent"
"""The name of the header."""

_VERSION: Final = "00"
_FORM: Final = re.compile(
    "(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
).fullmatch
_SAMPLED: Final = 1
_LONGEST: Final = 512

_traceparent: ContextVar[str] = ContextVar("traceparent", default="")


def valid_traceparent(text: str) -> str:
    """Return a traceparent in the form of version 00; empty for a text that is none.

    A higher version may have more fields, of which nothing is known: they are left out, and so are unknown flags.
    """
    found = _FORM(text) if len(text) <= _LONGEST else None
    if found is None:
        return ""
    version, trace, span, flags, more = found.groups()
    if more and version == _VERSION:
        return ""
    return f"{_VERSION}-{trace}-{span}-{int(flags, 16) & _SAMPLED:02x}"


def receive_trace(text: str) -> None:
    """Begin to serve a call with this traceparent, empty if it has none."""
    _traceparent.set(valid_traceparent(text) if text else "")


def continue_trace(traceparent: str) -> None:
    """Count the rest of the current task, and the tasks that it starts, as a part of a span."""
    _traceparent.set(traceparent)


def current_trace() -> str:
    """Return the traceparent of the call that the current task serves, empty if it has none."""
    return _traceparent.get()
