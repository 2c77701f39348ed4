"""Notices on stderr about a server that a command waits for."""

from __future__ import annotations

import click


class Availability:
    """Whether a server can be reached; prints a notice when that changes. It is reachable at first."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._away = False

    def lost(self) -> None:
        """Note that the server went away."""
        if not self._away:
            click.echo(f"{self._server} went away; waiting for it", err=True)
        self._away = True

    def found(self) -> None:
        """Note that the server responds."""
        if self._away:
            click.echo(f"{self._server} is back", err=True)
        self._away = False
