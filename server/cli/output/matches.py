"""Views of matches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.cli.arguments.enums import MATCH_KIND
from server.cli.output.json_text import to_json
from server.cli.output.tables import moment, to_plain

if TYPE_CHECKING:
    from signalbox.v1 import match_pb2


def match_cells(match: match_pb2.Match) -> tuple[str, ...]:
    """Return the cells of one match: position, id, time, kind, automation, event, contact and properties."""
    return (
        str(match.position),
        match.id,
        moment(match.matched_at),
        MATCH_KIND.name(match.kind).replace("_", "-"),
        match.automation_name,
        match.event.name,
        f"{match.contact_id} (deleted)" if match.contact_deleted else match.event.email or match.contact_id,
        to_json(to_plain(match.event)["properties"]),
    )
