"""The root of the command line, and the one place where errors become a line on stderr and an exit code."""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.options import connection_options
from server.cli.errors import INTERNAL, INTERRUPTED, Failure, InternalError
from server.cli.output.json_text import to_json
from server.cli.output.streams import prepare_streams
from server.version import version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_MESSAGE = 1_000

_SURROGATE = re.compile("[\ud800-\udfff]")

_COMMANDS = {
    "serve": ("server.cli.commands.serve", "Run a server."),
    "check": ("server.cli.commands.check", "Check the health of a server."),
    "project": ("server.cli.commands.projects", "Manage projects."),
    "key": ("server.cli.commands.keys", "Manage API keys."),
    "whoami": ("server.cli.commands.whoami", "Show what a key may do, and the version of the server."),
    "definition": ("server.cli.commands.definitions", "Manage event definitions."),
    "event": ("server.cli.commands.events", "Send, list and follow events."),
    "refused": ("server.cli.commands.refused", "Inspect refused events and send them again."),
    "contact": ("server.cli.commands.contacts", "Manage contacts."),
    "automation": ("server.cli.commands.automations", "Manage automations."),
    "run": ("server.cli.commands.runs", "Inspect and advance runs."),
    "match": ("server.cli.commands.matches", "Watch and consume matches."),
    "subscription": ("server.cli.commands.subscriptions", "Manage subscriptions."),
    "backup": ("server.cli.commands.backups", "Copy a database into a file."),
    "restore": ("server.cli.commands.backups", "Make a database of a backup."),
    "compact": ("server.cli.commands.backups", "Return the free space of a database."),
    "audit": ("server.cli.commands.audit", "Show who changed what."),
    "migrate": ("server.cli.commands.migrate", "Migrate a database to the schema of this version."),
}
"""The module of each command, which defines it under the same name, and its summary."""


class LazyGroup(click.Group):
    """A group that imports a command only when it is called, so that `--help` does not wait for gRPC."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Describe the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"auto_envvar_prefix": "SIGNALBOX", "max_content_width": 100})
@click.version_option(version(), message="%(prog)s %(version)s")
@connection_options
def cli() -> None:
    """Signalbox validates custom product events against a schema, stores them and matches them with automations.

    The options below can also be given after the command. Every option can be set by the environment variable that
    its help names.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Return the exit code: 0, 1 after a failure, 2 after a wrong command line or a negative result of a CheckCommand,
    70 after an internal error, 130 after Ctrl-C. Raise SystemExit if the reader of the output is gone.
    """
    # The command reports a failed connection in one sentence, without the log lines of gRPC.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    prepare_streams()
    options: dict[str, Any] = {}
    try:
        code = cli.main(arguments, standalone_mode=False, obj=options)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except Exception as error:
        failure = _failure_of(error, arguments, debug=options.get("debug", False))
        if _wants_json(options, arguments):
            click.echo(to_json({"error": _as_json(failure)}), err=True)
        else:
            _report(failure)
        return failure.exit_code
    return code if isinstance(code, int) else 0


def _failure_of(error: Exception, arguments: Sequence[str] | None, *, debug: bool) -> click.ClickException:
    """Return the failure to report for an exception."""
    if isinstance(error, click.ClickException):
        return error
    if isinstance(error, OSError):
        # A full disk or a missing file is not a bug.
        return Failure(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
    if isinstance(error, UnicodeEncodeError) and (named := _not_text(arguments)):
        # Exit code 2 is a negative result of some commands.
        return Failure(f"{named} is not text in UTF-8")
    return InternalError(error, debug=debug)


def _not_text(arguments: Sequence[str] | None) -> str:
    """Return the name of an argument or variable that is not valid text; empty if there is none."""
    texts = sys.argv[1:] if arguments is None else arguments
    given = {f"argument {number}": text for number, text in enumerate(texts, 1)}
    given |= {name: value for name, value in os.environ.items() if name.startswith("SIGNALBOX_")}
    return next((name for name, text in given.items() if _SURROGATE.search(text)), "")


def _wants_json(options: Mapping[str, Any], arguments: Sequence[str] | None) -> bool:
    """Return whether errors are to be JSON; also those of a command line that could not be read to its end."""
    texts = sys.argv[1:] if arguments is None else arguments
    return options.get("json", False) or "--json" in texts


def _as_json(error: click.ClickException) -> dict[str, Any]:
    """Return an error for programs: its reason is that of the server, or says what kind of error it is."""
    failure = error if isinstance(error, Failure) else None
    kind = "USAGE" if isinstance(error, click.UsageError) else "INTERNAL" if error.exit_code == INTERNAL else "FAILED"
    violations = failure.violations if failure else ()
    described = {
        "message": _message_of(error),
        "reason": (failure.reason if failure else "") or kind,
        "violations": [
            {"path": violation.path, "reason": violation.reason, "message": violation.message}
            for violation in violations
        ],
        "exit_code": error.exit_code,
    }
    details = failure.details if failure and not violations else ()
    return described | ({"details": list(details)} if details else {})


def _message_of(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split())
    if len(message) > MAX_MESSAGE:
        # The long part of a message is a quotation in its middle.
        message = f"{message[: MAX_MESSAGE // 2]} … {message[-MAX_MESSAGE // 2 :]}"
    return message


def _report(error: click.ClickException) -> None:
    message = _message_of(error)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message += f" (see: {error.ctx.command_path} --help)"
    click.echo(f"error: {message}", err=True)
    for line in error.details if isinstance(error, Failure) else ():
        click.echo(f"  {line}", err=True)
