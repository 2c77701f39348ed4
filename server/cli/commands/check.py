"""The command `check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from server.cli.arguments.options import option
from server.cli.client.session import client_command
from server.cli.output.tables import print_fields, print_json
from server.rpc.contract import SERVICE_NAMES

if TYPE_CHECKING:
    from server.cli.client.session import Session


@click.command()
@option("--live", is_flag=True, help="Only check whether the process is serving, not whether it can store events.")
@client_command
async def check(session: Session, live: bool) -> None:
    """Check the health of a server. Exits with 1 unless all services are SERVING. Needs no key."""
    stub: Any = HealthStub(session.channel)

    async def state(service: str) -> str:
        answer = await session.bare_call(stub.Check, health_pb2.HealthCheckRequest(service=service))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    server = await state("")
    states = {service: await state(service) for service in SERVICE_NAMES if not live}
    if session.json:
        print_json({"server": session.connection.server, "status": server, "services": states})
    else:
        print_fields(((session.connection.server, server), *states.items()))
    if {server, *states.values()} != {"SERVING"}:
        raise click.exceptions.Exit(1)
