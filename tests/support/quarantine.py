"""Calls to the quarantine of a project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from signalbox.v1 import projects_pb2
from signalbox.v1 import refusals_pb2 as pb

if TYPE_CHECKING:
    from tests.support.service import Client, Service

KEEP = projects_pb2.REFUSED_EVENTS_QUARANTINE
DROP = projects_pb2.REFUSED_EVENTS_DROP
ALL = pb.RefusedEventFilter()


async def refused_events(client: Client, **filters: Any) -> list[pb.RefusedEvent]:
    """Return the refused events of a project, newest first."""
    request = pb.ListRefusedEventsRequest(filter=pb.RefusedEventFilter(**filters))
    return list((await client.quarantine.ListRefusedEvents(request)).refused_events)


async def only(client: Client) -> pb.RefusedEvent:
    """Return the only refused event of a project, as GetRefusedEvent does."""
    (found,) = await refused_events(client)
    return (await client.quarantine.GetRefusedEvent(pb.GetRefusedEventRequest(id=found.id))).refused_event


async def reingest(client: Client, *, dry_run: bool = False, **filters: Any) -> pb.ReingestRefusedEventsResponse:
    """Send all refused events again."""
    request = pb.ReingestRefusedEventsRequest(filter=pb.RefusedEventFilter(**filters), validate_only=dry_run)
    return await client.quarantine.ReingestRefusedEvents(request)


async def counts(client: Client, **filters: Any) -> dict[tuple[str, str, str], int]:
    """Return the counts of refused events by name, reason and path."""
    request = pb.CountRefusedEventsRequest(filter=pb.RefusedEventFilter(**filters))
    response = await client.quarantine.CountRefusedEvents(request)
    return {(group.name, group.reason, group.path): group.event_count for group in response.groups}


async def kept(client: Client) -> tuple[int, int]:
    """Return how many events are in quarantine, and their bytes."""
    response = await client.quarantine.CountRefusedEvents(pb.CountRefusedEventsRequest())
    return response.kept_event_count, response.kept_byte_count


async def set_rule(service: Service, client: Client, rule: projects_pb2.RefusedEvents.ValueType) -> None:
    """Change what happens to refused events of a project."""
    request = projects_pb2.UpdateProjectRequest(project=client.project, refused_events=rule)
    await service.admin.projects.UpdateProject(request)
