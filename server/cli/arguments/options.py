"""The options that many commands share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from server.cli.arguments.kinds import address, secret
from server.settings import DEFAULT_DATABASE, DEFAULT_GRPC

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

F = TypeVar("F", bound="Callable[..., Any]")


@dataclass(frozen=True, slots=True)
class Connection:
    """The server that a command calls, how it connects, and the project.

    Without a key the admin key of this machine is used.
    """

    server: str
    key: str
    project: str
    database: str
    tls_ca: Path | None
    timeout: float
    json: bool

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Connection:
        """Return the connection that the options of a command line describe."""
        return cls(**{each.name: options[each.name] for each in fields(cls)})


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """Make an option whose help names its variable."""
    return click.option(*names, show_envvar=True, **settings)


def _anywhere(*names: str, **settings: Any) -> Callable[[F], F]:
    """Make an option that may stand before the command or after it; what stands after it counts."""

    def remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        values = context.ensure_object(dict)
        assert parameter.name is not None
        if context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            values[parameter.name] = value
        else:
            values.setdefault(parameter.name, value)

    return option(*names, expose_value=False, callback=remember, **settings)


database_option = _anywhere(
    "--database",
    envvar="SIGNALBOX_DATABASE",
    metavar="URL",
    default=DEFAULT_DATABASE,
    show_default=True,
    help="Database of the server, sqlite:///FILE or postgresql://USER@HOST/NAME. Other commands look beside it for "
    "the admin key; they never open it.",
)

json_option = _anywhere("--json", envvar="SIGNALBOX_JSON", is_flag=True, help="Print JSON.")

debug_option = _anywhere(
    "--debug", envvar="SIGNALBOX_DEBUG", is_flag=True, help="Show the traceback of an internal error."
)

_CONNECTION_OPTIONS = (
    _anywhere(
        "--server",
        envvar="SIGNALBOX_SERVER",
        type=address,
        metavar="HOST:PORT",
        default=DEFAULT_GRPC,
        show_default=True,
        help="Server to talk to.",
    ),
    _anywhere(
        "--key",
        envvar="SIGNALBOX_KEY",
        type=secret,
        metavar="SECRET",
        default="",
        help="API key, or the admin key; by default the admin key of this machine: SIGNALBOX_ADMIN_KEY, or the file "
        "beside the database. That key is sent in clear only to a loopback address.",
    ),
    _anywhere(
        "--project",
        envvar="SIGNALBOX_PROJECT",
        metavar="NAME",
        default="",
        help="Project, by name or id; needed with the admin key if there are several.",
    ),
    database_option,
    _anywhere(
        "--tls-ca",
        envvar="SIGNALBOX_TLS_CA",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Talk TLS; the certificate authority of the server.",
    ),
    _anywhere(
        "--timeout",
        envvar="SIGNALBOX_TIMEOUT",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        default=30.0,
        show_default=True,
        help="How long one call may take.",
    ),
    json_option,
    debug_option,
)


def connection_options(command: F) -> F:
    """Give a command the options of a connection. They go into the context, not into the command's arguments."""
    return reduce(lambda decorated, decorate: decorate(decorated), reversed(_CONNECTION_OPTIONS), command)


etag_option = option("--etag", metavar="ETAG", default="", help="Refuse if the etag has changed meanwhile.")

validate_only_option = option("--validate-only", is_flag=True, help="Check everything and change nothing.")

force_option = option("--force", is_flag=True, help="Change it although it breaks conditions in use.")


def limit_option(what: str) -> Callable[[F], F]:
    """How many items a list shows at most."""
    return option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help=f"At most so many {what}.")
