"""Errors that end a command.

Failure
├── ServerAway       the server is unreachable or shutting down; a later attempt may succeed
└── InternalError    an unexpected exception, which is a bug
"""

from __future__ import annotations

import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from server.cli.urls import without_password

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from registry.errors import Violation

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

INTERNAL = 70
"""Exit code after an internal error."""

MAX_SHOWN_ERROR = 500


class Failure(click.ClickException):
    """The command failed: a message of one line, and optional details below it.

    `reason` is the machine-readable reason of the server, empty for failures of the client itself. `violations` are
    the invalid fields that the server reported.
    """

    def __init__(
        self, message: str, details: Sequence[str] = (), reason: str = "", violations: Sequence[Violation] = ()
    ) -> None:
        super().__init__(message)
        self.details = tuple(details)
        self.reason = reason
        self.violations = tuple(violations)


class ServerAway(Failure):
    """The server is unreachable or shutting down."""


class InternalError(Failure):
    """An unexpected exception, which is a bug. Its exit code is EX_SOFTWARE of sysexits.h."""

    exit_code = INTERNAL

    def __init__(self, error: Exception, *, debug: bool) -> None:
        text = " ".join(str(error).split())
        shown = text if len(text) <= MAX_SHOWN_ERROR else text[:MAX_SHOWN_ERROR] + "…"
        what = ": ".join(part for part in (type(error).__name__, without_password(shown)) if part)
        # A traceback shows no values of variables, but the message of each exception.
        lines = without_password("".join(traceback.format_exception(error))).splitlines()
        super().__init__(
            f"internal error: {what} (please report this)",
            lines if debug else ["run the command with --debug for the traceback"],
        )


class CheckCommand(click.Command):
    """A command whose exit code 2 is a negative result; a wrong command line therefore exits with 1."""

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        """Parse the command line."""
        with _misuse_as_failure():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, which may itself raise usage errors."""
        with _misuse_as_failure():
            return super().invoke(ctx)


@contextmanager
def _misuse_as_failure() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        seen = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
        raise Failure(error.format_message() + seen) from None
