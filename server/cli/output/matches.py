"""Views of matches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.cli.arguments.enums import MATCH_KIND
from server.cli.output.tables import moment, to_json, to_plain

if TYPE_CHECKING:
    from signalbox.v1 import match_pb2


def match_cells(each: match_pb2.Match) -> tuple[str, ...]:
    """Return the cells of one match: position, id, time, kind, automation, event, contact and properties."""
    return (
        str(each.position),
        each.id,
        moment(each.matched_at),
        MATCH_KIND.name(each.kind).replace("_", "-"),
        each.automation_name,
        each.event.name,
        f"{each.contact_id} (deleted)" if each.contact_deleted else each.event.email or each.contact_id,
        to_json(to_plain(each.event)["properties"]),
    )
