"""The command `check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from server.cli.output import print_fields, print_json
from server.cli.session import client_command
from signalbox.v1 import (
    automations_pb2,
    contacts_pb2,
    event_definitions_pb2,
    event_ingest_pb2,
    match_stream_pb2,
    projects_pb2,
)

if TYPE_CHECKING:
    from server.cli.session import Session

_SERVICES = [
    service.full_name
    for module in (
        event_definitions_pb2,
        event_ingest_pb2,
        contacts_pb2,
        automations_pb2,
        match_stream_pb2,
        projects_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
]


@click.command()
@client_command
async def check(session: Session) -> None:
    """Ask a server how its services are. Exit code 1 unless all are SERVING; takes no key."""
    stub: Any = HealthStub(session.channel)

    async def state(service: str) -> str:
        answer = await session.bare_call(stub.Check, health_pb2.HealthCheckRequest(service=service))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    server = await state("")
    states = {service: await state(service) for service in _SERVICES}
    if session.json:
        print_json({"server": session.connection.server, "status": server, "services": states})
    else:
        print_fields(((session.connection.server, server), *states.items()))
    if {server, *states.values()} != {"SERVING"}:
        raise click.exceptions.Exit(1)
