"""Options that many commands share."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from server.cli.arguments.value_parsers import Seconds, WholeNumber, address, key
from server.settings import DEFAULT_DATABASE, DEFAULT_GRPC

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_SOURCES = f"{__name__}.sources"
_PRECEDENCE = (
    ParameterSource.DEFAULT,
    ParameterSource.DEFAULT_MAP,
    ParameterSource.ENVIRONMENT,
    ParameterSource.PROMPT,
    ParameterSource.COMMANDLINE,
)

F = TypeVar("F", bound="Callable[..., Any]")


@dataclass(frozen=True, slots=True)
class Connection:
    """The server that a command calls, how it connects, and the project.

    Without a key the admin key of this machine is used.
    """

    server: str
    key: str | None
    project: str
    database: str
    timeout: float
    json: bool
    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @property
    def secure(self) -> bool:
        """Whether the connection uses TLS."""
        return self.tls or self.tls_ca is not None or self.tls_cert is not None or self.tls_key is not None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Connection:
        """Return the connection for the options of a command line."""
        return cls(**{field.name: options[field.name] for field in fields(cls)})


class FlagOption(click.Option):
    """An option whose environment variable is named after its flag.

    click names it after the parameter, which still works: `--event` may set the parameter `event_name`.
    """

    def _variable(self, ctx: click.Context) -> str:
        """Return the variable; empty if the option has one that is named, or none."""
        if self.envvar or not self.allow_from_autoenv or ctx.auto_envvar_prefix is None:
            return ""
        return f"{ctx.auto_envvar_prefix}_{flag_of(self).replace('-', '_').upper()}"

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return the value of the variable."""
        return os.environ.get(self._variable(ctx)) or super().resolve_envvar_value(ctx)

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Return the facts that the help shows after the text, with the variable in place of click's own."""
        extra = super().get_help_extra(ctx)
        if "envvars" in extra and (variable := self._variable(ctx)):
            extra["envvars"] = (variable,)
        return extra


def flag_of(parameter: click.Option) -> str:
    """Return the long flag of an option, without the dashes."""
    return next(flag.removeprefix("--") for flag in parameter.opts if flag.startswith("--"))


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """Return an option whose help names its environment variable."""
    return click.option(*names, show_envvar=True, cls=FlagOption, **settings)


def _anywhere(*names: str, **settings: Any) -> Callable[[F], F]:
    """Return an option that can be given before or after the command; after it takes precedence."""

    def remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        values = context.ensure_object(dict)
        assert parameter.name is not None
        sources: dict[str, int] = context.meta.setdefault(_SOURCES, {})
        source = _PRECEDENCE.index(context.get_parameter_source(parameter.name) or ParameterSource.DEFAULT)
        if source >= sources.get(parameter.name, 0):
            values[parameter.name], sources[parameter.name] = value, source

    return option(*names, expose_value=False, callback=remember, **settings)


database_option = _anywhere(
    "--database",
    envvar="SIGNALBOX_DATABASE",
    metavar="URL",
    default=DEFAULT_DATABASE,
    show_default=True,
    help="Database of the server, sqlite:///FILE or postgresql://USER@HOST/NAME. Other commands only read the "
    "admin key beside it.",
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
        help="Address of the server.",
    ),
    _anywhere(
        "--key",
        envvar="SIGNALBOX_KEY",
        type=key,
        metavar="SECRET",
        help="API key or admin key; by default the admin key of this machine: SIGNALBOX_ADMIN_KEY, or the file beside "
        "the database, which is sent without TLS only to a loopback address.",
    ),
    _anywhere(
        "--project",
        envvar="SIGNALBOX_PROJECT",
        metavar="NAME",
        default="",
        help="Name or id of the project; needed with the admin key if there are several.",
    ),
    database_option,
    _anywhere(
        "--tls",
        envvar="SIGNALBOX_TLS",
        is_flag=True,
        help="Use TLS, and trust the certificate authorities of this machine.",
    ),
    _anywhere(
        "--tls-ca",
        envvar="SIGNALBOX_TLS_CA",
        type=_FILE,
        help="Use TLS, and trust only the certificate authority in this file.",
    ),
    _anywhere(
        "--tls-cert",
        envvar="SIGNALBOX_TLS_CERT",
        type=_FILE,
        help="Use TLS, and show this certificate to the server.",
    ),
    _anywhere("--tls-key", envvar="SIGNALBOX_TLS_KEY", type=_FILE, help="Private key of that certificate."),
    _anywhere(
        "--timeout",
        envvar="SIGNALBOX_TIMEOUT",
        type=Seconds(min_open=True),
        metavar="SECONDS",
        default=30.0,
        show_default=True,
        help="Time limit of one call.",
    ),
    json_option,
    debug_option,
)


def connection_options(command: F) -> F:
    """Add the connection options to a command. Their values are in the context, not in its arguments."""
    return reduce(lambda decorated, decorate: decorate(decorated), reversed(_CONNECTION_OPTIONS), command)


etag_option = option("--etag", metavar="ETAG", default="", help="Fail if this is not the current etag.")

validate_only_option = option("--validate-only", is_flag=True, help="Validate the request without changing anything.")

force_option = option("--force", is_flag=True, help="Apply the change even if it breaks conditions in use.")


def limit_option(items: str) -> Callable[[F], F]:
    """Return the option for the maximum number of listed items."""
    return option("--limit", type=WholeNumber(min=1), default=50, show_default=True, help=f"Maximum number of {items}.")
