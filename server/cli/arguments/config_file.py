"""The option `--config`: a TOML file with the settings of a command, named like its flags.

A flag takes precedence over an environment variable, that over the file, and the file over the default.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.suggestions import Suggestions
from server.cli.arguments.options import flag_of, option
from server.cli.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from server.cli.arguments.options import F

_OWN = "config"


def config_option() -> Callable[[F], F]:
    """Return the option, which is read before all others."""
    return option(
        "--config",
        _OWN,
        envvar="SIGNALBOX_CONFIG",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_use,
        help="TOML file with settings, named like the options; those and variables take precedence.",
    )


def _use(context: click.Context, _parameter: click.Parameter, file: Path | None) -> None:
    """Take the settings of a file as defaults. Raise Failure, which names the file and the key."""
    if file is None:
        return
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise Failure(f"{file} is not text in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise Failure(f"{file} is not TOML: {error}") from None
    options = dict(_options(context.command))
    context.default_map = dict(_default(file, options, key, value) for key, value in settings.items())


def _options(command: click.Command) -> Iterator[tuple[str, click.Option]]:
    """Yield the options that a file may set, by key."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name not in {_OWN, "help"}:
            yield flag_of(parameter), parameter


def _default(file: Path, options: dict[str, click.Option], key: str, value: Any) -> tuple[str, Any]:
    """Return the parameter and the default for a setting. Raise Failure."""
    parameter = options.get(key)
    if parameter is None:
        meant = Suggestions([*options]).closest(key)
        raise Failure(f'{file}: "{key}" is no setting' + (f"; did you mean {meant}?" if meant else ""))
    assert parameter.name is not None
    if parameter.is_flag:
        if not isinstance(value, bool):
            raise Failure(f"{file}: {key} must be true or false")
        return parameter.name, value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Failure(f"{file}: {key} must be a text or a number, or a list of texts for one that takes several")
    try:
        parameter.type.convert(str(value), parameter, None)
    except click.BadParameter as error:
        raise Failure(f"{file}: {key}: {error.message}") from None
    return parameter.name, str(value)
