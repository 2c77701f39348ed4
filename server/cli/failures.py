"""What stops a command.

Failure
└── ServerAway    no server answers, or it is about to stop; trying again later may help
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from registry.errors import Violation

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


class Failure(click.ClickException):
    """The command cannot do what it was asked to: one line that says why, and perhaps lines below it.

    `reason` is the server's machine-readable one, empty where the failure is not the server's word; `violations` are
    what the server found wrong, field by field.
    """

    def __init__(
        self, message: str, details: Sequence[str] = (), reason: str = "", violations: Sequence[Violation] = ()
    ) -> None:
        super().__init__(message)
        self.details = tuple(details)
        self.reason = reason
        self.violations = tuple(violations)


class ServerAway(Failure):
    """No server answers, or it is about to stop."""


class JudgingCommand(click.Command):
    """A command whose exit code 2 is a verdict; so a wrong command line leaves with 1."""

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        """Read the command line."""
        with _misuse_as_failure():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, which may find more that is wrong with its command line."""
        with _misuse_as_failure():
            return super().invoke(ctx)


@contextmanager
def _misuse_as_failure() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        seen = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
        raise Failure(error.format_message() + seen) from None
