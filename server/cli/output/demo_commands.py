"""The commands that `serve --dev` prints, to be pasted into a shell."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from server.demo import EMAIL, EVENT, PROPERTIES, SECRET, SECRETS, rest_calls
from server.settings import DEFAULT_GRPC

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.app import Server


def demo_commands(program: str, buf: str, server: Server) -> str:
    """Return commands that send one event over gRPC and through each dialect; `program` and `buf` are command lines."""
    default = server.grpc_address == DEFAULT_GRPC
    options = f"--key {SECRET}" if default else f"--key {SECRET} --server {server.grpc_address}"
    body = f'{{"event":{{"name":"{EVENT}","email":"{EMAIL}","properties":{PROPERTIES}}}}}'
    calls = rest_calls(server.demo_contact or "ID")
    titles = [dialect.title for dialect, _ in calls]
    requests = "\n\n".join(_curl(server, call.path, SECRETS[dialect.name], call.body) for dialect, call in calls)
    return f"""
Send an event, and read it back:

  {program} event send {EVENT} --email {EMAIL} --properties '{PROPERTIES}' {options}
  {program} event list {options}

The same without Signalbox's own client, over gRPC and in the words of {", ".join(titles[:-1])} and {titles[-1]}:

  {buf} curl --protocol grpc --http2-prior-knowledge -H 'authorization: Bearer {SECRET}' \\
    -d '{body}' \\
    http://{server.grpc_address}/signalbox.v1.EventIngest/SendEvent

{requests}
"""


def _curl(server: Server, path: str, secret: str, body: Mapping[str, Any]) -> str:
    return (
        f"  curl http://{server.http_address}{path} -H 'Authorization: Bearer {secret}' \\\n"
        f"    -H 'Content-Type: application/json' -d '{json.dumps(body, separators=(',', ':'))}'"
    )
