"""Options that choose matches: which ones, and where in the match log to start."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import click

from server.cli.arguments.label_option import label_option
from server.cli.arguments.message_parsers import instant
from server.cli.arguments.options import option
from server.cli.arguments.value_parsers import automation_id
from signalbox.v1 import match_stream_pb2 as pb

if TYPE_CHECKING:
    from server.cli.arguments.options import F

_FILTER_OPTIONS = (
    option("--event", "event_names", metavar="NAME", multiple=True, help="Only matches of this event. (repeatable)"),
    option(
        "--automation",
        "automation_ids",
        type=automation_id,
        metavar="ID",
        multiple=True,
        help="Only matches of this automation. (repeatable)",
    ),
    label_option("Only matches of automations with this label."),
)


def filter_options(command: F) -> F:
    """Add `--event`, `--automation` and `--label` to a command."""
    return reduce(lambda decorated, decorate: decorate(decorated), reversed(_FILTER_OPTIONS), command)


def start_point(text: str) -> pb.StartPoint:
    """Parse `earliest`, `latest`, the position of the first match, or a time. Raise click.BadParameter."""
    if text in ("earliest", "latest"):
        return pb.StartPoint(log_end=pb.LogEnd.Value(f"LOG_END_{text.upper()}"))
    if text.isascii() and text.isdecimal():
        if not 1 <= int(text) < 2**63:
            raise click.BadParameter(f"{text} is not a position: positions start at 1")
        return pb.StartPoint(after_position=int(text) - 1)
    try:
        return pb.StartPoint(time=instant(text))
    except click.BadParameter:
        message = f'"{text}" is neither earliest, latest, a position, nor a time such as 2026-06-01T12:00:00Z'
        raise click.BadParameter(message) from None
