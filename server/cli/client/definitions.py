"""Reading definitions from a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from server.cli.client.session import Session


async def get_definition(session: Session, name_or_id: str) -> pb.EventDefinition:
    """Return one definition."""
    request = pb.GetEventDefinitionRequest(event_definition=name_or_id)
    return (await session.call(session.definitions.GetEventDefinition, request)).event_definition
