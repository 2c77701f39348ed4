"""Databases of clusters that fail over, and the health of a server on them."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Any

from grpc_health.v1 import health_pb2

from tests.support.postgres import USER

if TYPE_CHECKING:
    from tests.support.postgres import Cluster
    from tests.support.service import Service

_numbers = count(1)


async def created(cluster: Cluster) -> str:
    """Create a database, and return its name."""
    name = f"failover_{next(_numbers)}"
    await asyncio.to_thread(cluster.execute, f"CREATE DATABASE {name}")
    return name


def url_of(*clusters: Cluster, database: str) -> str:
    return f"postgresql://{USER}@{','.join(each.address for each in clusters)}/{database}"


async def states_of(node: Service) -> tuple[str, bool]:
    """Return the readiness of a server over HTTP, and whether its health over gRPC is SERVING."""
    page = (await node.http.get("/readyz")).json()["status"]
    answer = await health(node, "signalbox.v1.EventIngest")
    assert await health(node, "")
    return page, answer


async def health(node: Service, name: str) -> bool:
    call: Any = node.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    answer = await call(health_pb2.HealthCheckRequest(service=name))
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
