"""Options for windows of time: `--since` and `--until` in every command, of receipt unless they say otherwise."""

from __future__ import annotations

from server.cli.arguments.message_parsers import instant
from server.cli.arguments.options import option

since_option = option(
    "--since", "received_from", type=instant, metavar="RFC3339", help="Only events received at or after this time."
)
until_option = option(
    "--until", "received_until", type=instant, metavar="RFC3339", help="Only events received before this time."
)
occurred_since_option = option(
    "--occurred-since",
    "occurred_from",
    type=instant,
    metavar="RFC3339",
    help="Only events that occurred at or after this time.",
)
occurred_until_option = option(
    "--occurred-until",
    "occurred_until",
    type=instant,
    metavar="RFC3339",
    help="Only events that occurred before this time.",
)
parked_until_option = option(
    "--until", "parked_until", type=instant, metavar="RFC3339", help="Only matches parked before this time."
)
