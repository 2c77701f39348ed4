"""The option `--yes` of commands that delete."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from server.cli.arguments.options import option
from server.cli.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.cli.arguments.options import F


def confirmed(harm: str) -> Callable[[F], F]:
    """Ask on a terminal before a command does harm; elsewhere it needs `--yes`. A dry run does none.

    `harm` is a template over the parameters of the command.
    """

    def ask(context: click.Context, _parameter: click.Parameter, yes: bool) -> None:
        if yes or context.resilient_parsing or context.params.get("dry_run"):
            return
        shown = harm.format_map(context.params)
        check_terminal(shown)
        confirm(shown)

    return option("--yes", is_flag=True, expose_value=False, callback=ask, help="Do not ask for confirmation.")


def check_terminal(harm: str) -> None:
    """Raise Failure if there is no terminal to ask on."""
    if not sys.stdin.isatty():
        raise Failure(f"this {harm}: confirm with --yes, because standard input is no terminal to ask on")


def confirm(harm: str) -> None:
    """Ask whether to do it. Raise Abort if not."""
    click.confirm(f"This {harm}. Go on?", abort=True, err=True)
