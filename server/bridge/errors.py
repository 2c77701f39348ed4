"""Errors in the words of a dialect: from an error's reason to a status, a code and a message.

A handler raises an error of the services, or RuleBroken for a rule that only its dialect has. The dialect's table turns
the error into a ReportedError, its `write_error` turns that into a body, and the bridge sends it as a Response.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from registry.errors import SignalboxError
from server.http.errors import MethodNotAllowed, RateLimited, UnsupportedEncoding
from server.status import http_status_of, message_of, reason_of

if TYPE_CHECKING:
    from registry.errors import Violation


@dataclass(frozen=True, slots=True)
class ReportedError:
    """How a dialect reports an error.

    A `code` of None is derived by `write_error` from the status or the error's reason; an empty one is left out. In a
    table, `message` is a template over the error's metadata, and an empty one stands for the error's own message.
    """

    status: int
    code: str | None = None
    message: str = ""


ErrorTable: TypeAlias = Mapping[str, ReportedError]
"""Reports by reason, or by "group: reason" where the routes of a group report the error differently."""

WriteError: TypeAlias = Callable[[ReportedError, Exception, str], dict[str, Any]]
"""Writes the body of an error; takes the report, the error, and the `error_group` of the route, empty without one."""

NO_DIALECT: Final[ErrorTable] = {}
"""The table for requests whose dialect is unknown."""


class RuleBroken(Exception):
    """The request breaks a rule that only its dialect has.

    Where refused events are kept, counted and logged, its `reason` is the code that the caller sees.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.reason = code.upper()
        self.message = message
        self.report = ReportedError(status, code, message)


def report_error(table: ErrorTable, error: Exception, group: str = "") -> ReportedError:
    """Return how a dialect reports an error on the routes of a group, with its message filled in."""
    if isinstance(error, RuleBroken):
        return error.report
    reason = reason_of(error)
    listed = table.get(f"{group}: {reason}") or table.get(reason)
    if listed is None:
        return ReportedError(http_status_of(error), None, message_of(error))
    metadata = error.metadata if isinstance(error, SignalboxError) else {}
    return ReportedError(listed.status, listed.code, listed.message.format_map(metadata) or message_of(error))


def violations_of(error: Exception) -> tuple[Violation, ...]:
    """Return the violations that an error lists, by path."""
    found: tuple[Violation, ...] = getattr(error, "violations", ())
    return found


def headers_of(error: Exception) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that a response with an error has in every dialect."""
    headers: list[tuple[bytes, bytes]] = []
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allowed).encode()))
    if isinstance(error, RateLimited):
        headers += error.headers
    if isinstance(error, UnsupportedEncoding):
        headers.append((b"accept-encoding", ", ".join(error.supported).encode()))
    if isinstance(error, SignalboxError) and error.retry_after:
        headers.append((b"retry-after", str(ceil(error.retry_after)).encode()))
    return tuple(headers)
