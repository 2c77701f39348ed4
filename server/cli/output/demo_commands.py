"""The commands that `serve --dev` prints, to be pasted into a shell."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from server.model import Dialect
from server.settings import DEFAULT_GRPC

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.app import Server


def demo_commands(program: str, buf: str, server: Server) -> str:
    """Return commands that send one event over gRPC and through each dialect; `program` and `buf` are command lines."""
    demo = server.demo
    if demo is None:
        return ""
    secret = demo.secrets[Dialect.NATIVE]
    default = server.grpc_address == DEFAULT_GRPC
    options = f"--key {secret}" if default else f"--key {secret} --server {server.grpc_address}"
    body = f'{{"event":{{"name":"{demo.event}","email":"{demo.email}","properties":{demo.properties}}}}}'
    titles = [request.title for request in server.demo_requests]
    requests = "\n\n".join(_curl(server, each.path, each.secret, each.body) for each in server.demo_requests)
    return f"""
Send an event, and read it back:

  {program} event send {demo.event} --email {demo.email} --properties '{demo.properties}' {options}
  {program} event list {options}

The same without Signalbox's own client, over gRPC and in the words of {", ".join(titles[:-1])} and {titles[-1]}:

  {buf} curl --protocol grpc --http2-prior-knowledge -H 'authorization: Bearer {secret}' \\
    -d '{body}' \\
    http://{server.grpc_address}/signalbox.v1.EventIngest/SendEvent

{requests}
"""


def _curl(server: Server, path: str, secret: str, body: Mapping[str, Any]) -> str:
    return (
        f"  curl http://{server.http_address}{path} -H 'Authorization: Bearer {secret}' \\\n"
        f"    -H 'Content-Type: application/json' -d '{json.dumps(body, separators=(',', ':'))}'"
    )
