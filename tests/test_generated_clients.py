"""Clients that a public generator makes of the OpenAPI documents: they need nothing else to send an event."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.bridge import calling, http_client
from tests.support.messages import ADA, ORDER

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.service import Service

# How events are stored is the matter of other tests.
pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


async def generate(service: Service, page: str, folder: Path, name: str) -> None:
    """Make a client of a document of the server, as a package in a folder; a warning of the generator is an error."""
    async with http_client(service) as http:
        document = (await http.get(page)).json()
    (folder / "document.json").write_text(json.dumps(document))
    (folder / "settings.yaml").write_text("post_hooks: []")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "openapi_python_client", "generate", "--path", "document.json", "--meta", "none"),
        *("--config", "settings.yaml", "--output-path", name, "--fail-on-warning"),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-4_000:]


async def send(service: Service, secret: str, name: str, call: str, request: tuple[str, dict[str, Any]]) -> Any:
    """Send an event with a generated client, and return the response."""
    kind, values = request
    client = import_module(f"{name}.client").AuthenticatedClient(f"http://{service.http_address}", token=secret)
    body = getattr(import_module(f"{name}.models"), kind).from_dict(values)
    async with client:
        return await import_module(f"{name}.api.{call}").asyncio_detailed(client=client, body=body)


async def test_a_client_of_the_whole_document_sends_an_event(
    lasting_service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await lasting_service.shop()
    await generate(lasting_service, "/openapi.json", tmp_path, "whole_client")
    monkeypatch.syspath_prepend(tmp_path)
    request = {"event": {"name": ORDER, "email": ADA, "properties": {"order_total": 5}}}
    call = "event_ingest.event_ingest_send_event"
    kind = "SignalboxV1SendEventRequest"
    response = await send(lasting_service, shop.secret, "whole_client", call, (kind, request))
    assert response.status_code == 200
    assert response.parsed.receipt.event.position == "1"
    refused = await send(lasting_service, "sb_none", "whole_client", call, (kind, request))
    assert (refused.status_code, refused.parsed.code) == (401, "unauthenticated")


async def test_a_client_of_a_dialect_sends_an_event(
    lasting_service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await lasting_service.shop()
    await generate(lasting_service, "/openapi/resend.json", tmp_path, "resend_client")
    monkeypatch.syspath_prepend(tmp_path)
    request = {"event": ORDER, "email": ADA, "payload": {"order_total": 5}}
    async with calling(lasting_service, shop, "resend") as caller:
        call = "resend.resend_post_send_event_2"
        response = await send(lasting_service, caller.secret, "resend_client", call, ("ResendSendEventBody", request))
    assert response.status_code == 202
    assert response.parsed.event == ORDER
