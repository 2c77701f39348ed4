"""The option `--label`, for labels and for filters by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.message_parsers import label
from server.cli.arguments.options import option

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.cli.arguments.options import F


def label_option(meaning: str) -> Callable[[F], F]:
    """Return the repeatable option, whose value is a dict. A key that is given twice is refused."""

    def labels(_context: click.Context, _parameter: click.Parameter, pairs: tuple[tuple[str, str], ...]) -> Any:
        given = dict(pairs)
        if len(given) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated = next(key for key in keys if keys.count(key) > 1)
            raise click.BadParameter(f'the label "{repeated}" is given twice; give each label once')
        return given

    return option(
        "--label",
        "labels",
        type=label,
        metavar="KEY=VALUE",
        multiple=True,
        callback=labels,
        help=f"{meaning} (repeatable)",
    )
