"""What stops a command.

Failure
└── ServerAway    no server answers, or it is about to stop; trying again later may help
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

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
