"""The public clients of Connect call the server: `buf curl`, `connectrpc` for Python, and `@connectrpc` for Node."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.message_factory import GetMessageClass

from signalbox.v1 import event_ingest_pb2, match_stream_pb2
from tests.support.automations import automate
from tests.support.connect import METHODS
from tests.support.messages import event, struct

if TYPE_CHECKING:
    from tests.support.service import Client, Service

# Clients differ in how they call, not in what is stored.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
pytestmark = [pytest.mark.lasting, pytest.mark.checkout, on_sqlite]

ROOT = Path(__file__).parent.parent
BUF = Path(sys.executable).parent / "buf"
SCRIPT = Path(__file__).parent / "clients" / "connect.mjs"
NODE_CLIENT = os.environ.get("SIGNALBOX_NODE_CLIENTS", "")
"""The folder in which `npm install` was run, with the packages that `clients/connect.mjs` names."""

ORDERED = {"event": {"name": "order_completed", "email": "ada@example.com", "properties": {"order_total": 129.99}}}


async def run(*command: str, **environment: str) -> tuple[int | None, str, str]:
    """Run a command, and return its exit code, what it printed and its complaints."""
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT
    )
    printed, complaints = await process.communicate()
    return process.returncode, printed.decode(), complaints.decode()


async def buf_curl(service: Service, client: Client, method: str, body: Any) -> tuple[int | None, str, str]:
    url = f"http://{service.http_address}/signalbox.v1.{method}"
    key = f"Authorization: Bearer {client.secret}"
    return await run(str(BUF), "curl", "--schema", "protos", "--header", key, "--data", json.dumps(body), url)


async def test_buf_curl_calls_by_the_contract_without_a_flag_of_the_protocol(service: Service, shop: Client) -> None:
    code, printed, complaints = await buf_curl(service, shop, "EventIngest/SendEvent", ORDERED)
    assert (code, complaints) == (0, "")
    assert json.loads(printed)["receipt"]["event"]["position"] == "1"
    code, _, complaints = await buf_curl(service, shop, "EventIngest/GetEvent", {"id": "none"})
    error = json.loads(complaints)
    assert (error["code"], error["details"][0]["debug"]["reason"]) == ("not_found", "EVENT_NOT_FOUND")
    assert code != 0


async def test_buf_curl_reads_a_stream(service: Service, shop: Client) -> None:
    await shop.send()
    request = {"eventDefinition": "order_completed", "schema": {}}
    code, printed, complaints = await buf_curl(service, shop, "EventDefinitions/BacktestSchema", request)
    assert (code, complaints) == (0, "")
    assert '"eventCount": "1"' in printed


def info(name: str) -> Any:
    from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType

    method = METHODS[name]
    return MethodInfo(
        name=name,
        service_name=method.containing_service.full_name,
        input=GetMessageClass(method.input_type),
        output=GetMessageClass(method.output_type),
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.SERVER_STREAM if method.server_streaming else StreamType.UNARY,
    )


@pytest.mark.parametrize("codec", ["google_protobuf_binary_codec", "google_protobuf_json_codec"])
async def test_the_client_for_python_calls_and_watches(service: Service, shop: Client, codec: str) -> None:
    # Every worker imports this module, and one or two of them run this test.
    from connectrpc import compat
    from connectrpc.client import ConnectClient
    from connectrpc.code import Code
    from connectrpc.errors import ConnectError

    await automate(shop)
    headers = {"authorization": f"Bearer {shop.secret}"}
    async with ConnectClient(f"http://{service.http_address}", codec=getattr(compat, codec)()) as client:

        async def send(total: Any) -> Any:
            request = event_ingest_pb2.SendEventRequest(event=event(properties=struct({"order_total": total})))
            return await client.execute_unary(request=request, method=info("SendEvent"), headers=headers)

        receipt = (await send("129.99")).receipt
        assert dict(receipt.event.properties) == {"order_total": 129.99}
        with pytest.raises(ConnectError) as refused:
            await send("much")
        assert refused.value.code is Code.INVALID_ARGUMENT
        assert [detail.type_name for detail in refused.value.details] == [
            "google.rpc.ErrorInfo",
            "google.rpc.BadRequest",
        ]
        watch = match_stream_pb2.WatchMatchesRequest()
        watch.start.after_position = 0
        responses = client.execute_server_stream(request=watch, method=info("WatchMatches"), headers=headers)
        found = [await anext(responses)]
        while not found[-1].matches:
            found.append(await anext(responses))
        assert found[-1].matches[0].event.id == receipt.event.id
        late = match_stream_pb2.WatchMatchesRequest()
        with pytest.raises(ConnectError) as ended:
            async for _ in client.execute_server_stream(
                request=late, method=info("WatchMatches"), headers=headers, timeout_ms=300
            ):
                pass
        assert ended.value.code is Code.DEADLINE_EXCEEDED


async def test_the_client_for_node_calls_and_watches(service: Service, shop: Client, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None or not NODE_CLIENT:
        pytest.skip("node is not installed, or SIGNALBOX_NODE_CLIENTS does not name a folder with its Connect client")
    await automate(shop)
    nothing = match_stream_pb2.MatchFilter(event_names=["nothing_of_the_kind"])
    subscription = match_stream_pb2.Subscription(name="mailer", filter=nothing)
    await shop.matches.CreateSubscription(match_stream_pb2.CreateSubscriptionRequest(subscription=subscription))
    contract = str(tmp_path / "signalbox.binpb")
    assert await run(str(BUF), "build", "protos", "-o", contract) == (0, "", "")
    url = f"http://{service.http_address}"
    arguments = (node, str(SCRIPT), NODE_CLIENT, contract)
    code, printed, complaints = await run(*arguments, SIGNALBOX_URL=url, SIGNALBOX_KEY=shop.secret)
    assert complaints == ""
    assert (code, printed) == (0, "ok\n")
