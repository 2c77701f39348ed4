"""The RPCs in the OpenAPI document: what is sent and returned is as described there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from server.connect.openapi import rpc_paths
from tests.support.bridge import http_client
from tests.support.connect import METHODS, connecting, path_of
from tests.support.messages import ADA, ORDER

if TYPE_CHECKING:
    from tests.support.service import Client, Service

pytestmark = pytest.mark.lasting

CALLS: list[tuple[str, dict[str, Any]]] = [
    (
        "SendEvent",
        {"event": {"name": ORDER, "email": ADA, "properties": {"order_total": "5"}}, "view": "RESULT_VIEW_MATCHES"},
    ),
    ("SendEvents", {"events": [{"name": ORDER, "email": ADA}, {"name": ORDER}], "mode": "BATCH_MODE_INDEPENDENT"}),
    ("ListEvents", {"pageSize": 5, "afterPosition": "0"}),
    ("ListEventDefinitions", {}),
    ("GetDescriptorSet", {}),
    ("UpsertContact", {"email": ADA, "properties": {"plan": "pro"}}),
    ("CreateAutomation", {"automation": {"name": "a", "eventName": ORDER, "labels": {"team": "crm"}}}),
    ("CreateSubscription", {"subscription": {"name": "mailer", "ackDeadline": "30s", "backoff": {"multiplier": 2}}}),
    ("ListSubscriptions", {}),
    ("GetEvent", {"id": "none"}),
    ("SendEvent", {}),
]


def test_every_rpc_with_one_response_is_described() -> None:
    paths, schemas = rpc_paths()
    unary = {path_of(method) for method in METHODS.values() if not (method.client_streaming or method.server_streaming)}
    assert paths.keys() == unary
    for method in METHODS.values():
        for kind in (method.input_type, method.output_type):
            if path_of(method) in unary:
                assert schemas[kind.full_name]["properties"].keys() == {field.json_name for field in kind.fields}


async def test_requests_and_responses_are_as_described(service: Service, shop: Client) -> None:
    async with http_client(service) as http, connecting(service, shop) as caller:
        document = (await http.get("/openapi.json")).json()
        assert document["servers"][0]["url"] == "/"
        for method, request in CALLS:
            operation = document["paths"][path_of(METHODS[method])]["post"]
            check(document, operation["requestBody"], request)
            response = await caller.post(method, request)
            check(document, operation["responses"][str(response.status_code)], response.json())


def check(document: dict[str, Any], described: dict[str, Any], value: Any) -> None:
    schema = described["content"]["application/json"]["schema"]
    jsonschema_rs.validate({**schema, "components": document["components"]}, value)
