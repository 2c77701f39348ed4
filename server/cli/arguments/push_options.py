"""Options of how a subscription pushes, and the messages that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.message_parsers import duration
from server.cli.arguments.options import option
from server.cli.arguments.value_parsers import WholeNumber
from signalbox.v1 import match_stream_pb2 as pb

if TYPE_CHECKING:
    from server.cli.arguments.options import F

    _Pairs = click.ParamType[tuple[str, str]]
else:
    # Not every version of Click that is supported has it generic.
    _Pairs = click.ParamType


class Header(_Pairs):
    """NAME:VALUE. Values may contain blanks, so those of the environment variable are separated by line breaks."""

    name = "header"
    envvar_list_splitter = "\n"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Parse NAME:VALUE. Raise click.BadParameter, without the value."""
        if isinstance(value, tuple):
            return value
        name, colon, text = value.partition(":")
        if not name or not colon:
            self.fail("write NAME:VALUE, such as 'Authorization: Bearer ...'", param, ctx)
        return name, text.strip()


_SETTINGS = (
    option("--push", "url", metavar="URL", help="Push the matches to this http or https URL, as signed requests."),
    option(
        "--secret",
        "secrets",
        metavar="whsec_...",
        multiple=True,
        help="Secret that signs the requests, the newest first; one is made and shown once by default. (at most twice)",
    ),
    option(
        "--header",
        "headers",
        type=Header(),
        metavar="NAME:VALUE",
        multiple=True,
        help="Further header of each request; the variable has one a line. (repeatable)",
    ),
    option("--push-timeout", type=duration, metavar="TIME", help="Time for a response; 15s by default."),
    option(
        "--max-in-flight",
        type=WholeNumber(min=1, max=2**31 - 1),
        metavar="N",
        help="Maximum number of requests in progress; 16 by default.",
    ),
)
_CHANGES = (
    option("--rotate-secret", is_flag=True, help="Make a new secret; the newest of the old ones signs too."),
    option("--pause/--resume", "paused", default=None, help="Stop pushing for a while, or go on."),
    option("--no-push", "clear_push", is_flag=True, help="Push no longer, so that consumers can connect."),
)


def push_options(command: F) -> F:
    """Add the options of a new push."""
    return _added(command, _SETTINGS)


def push_change_options(command: F) -> F:
    """Add the options that change a push."""
    return _added(command, (*_SETTINGS, *_CHANGES))


def take_push(options: dict[str, Any]) -> pb.Push | None:
    """Remove the options of a new push; None if there is none. Raise click.UsageError."""
    stated = _take(options)
    if stated.get("url") is None:
        if stated:
            raise click.UsageError("--secret, --header, --push-timeout and --max-in-flight need --push")
        return None
    return pb.Push(**stated)


def take_push_changes(options: dict[str, Any]) -> pb.PushChanges | None:
    """Remove the options that change a push; None if there is none. Raise click.UsageError."""
    stated = _take(options)
    if "headers" in stated:
        stated["headers"] = pb.PushHeaders(headers=stated["headers"])
    return pb.PushChanges(**stated) if stated else None


def _added(command: F, options: tuple[Any, ...]) -> F:
    for decorate in reversed(options):
        command = decorate(command)
    return command


def _take(options: dict[str, Any]) -> dict[str, Any]:
    settings = ("url", "secrets", "headers", "max_in_flight", "rotate_secret", "paused")
    taken: dict[str, Any] = {name: options.pop(name, None) for name in settings}
    # An option `timeout` would be that of the call.
    taken |= {"timeout": options.pop("push_timeout", None)}
    stated = {name: value for name, value in taken.items() if value not in (None, (), False) or name == "paused"}
    if stated["paused"] is None:
        del stated["paused"]
    if "headers" in stated:
        names = [name for name, _ in stated["headers"]]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise click.UsageError(f"--header {repeated[0]} is given twice; give each header once")
        stated["headers"] = dict(stated["headers"])
    return stated
