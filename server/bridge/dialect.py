"""What a dialect is: its endpoints, its rules for events, and the shape of its errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from registry.errors import Violation
    from server.bridge.rate_limits import Headers, RateLimit
    from server.bridge.routes import Route
    from server.model import Dialect


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as a dialect answers it: status, the dialect's name for it, and its text; and the error itself.

    Without a name the dialect makes one of the status or of the error's reason. `topic` is that of the route, empty
    where none was found.
    """

    status: int
    code: str | None
    message: str
    error: Exception
    topic: str = ""

    @property
    def violations(self) -> tuple[Violation, ...]:
        """What is wrong at which places, where the error says so."""
        found: tuple[Violation, ...] = getattr(self.error, "violations", ())
        return found


WriteError: TypeAlias = "Callable[[Refusal], Mapping[str, Any]]"
"""Writes an error in the shape of a dialect."""


@dataclass(frozen=True, slots=True)
class Door:
    """One dialect.

    `key_prefix` is what its keys begin with, and `paths` what its paths do: an error has its shape where nothing else
    tells the dialect. `key_header` is another header than `authorization` that may carry the key bare, and
    `exact_scheme` says that the word `Bearer` and the one blank behind it must be just so. A description of the fields
    of errors is `error_type`, a msgspec type. `headers` go out with every answer, those to unknown keys too.
    """

    dialect: Dialect
    title: str
    routes: tuple[Route, ...]
    paths: tuple[str, ...]
    key_prefix: str
    write_error: WriteError
    error_type: Any
    limit: RateLimit
    headers: Headers = ()
    key_header: bytes = b""
    exact_scheme: bool = False
