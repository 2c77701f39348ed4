"""The RPCs in the OpenAPI document: what is sent and returned is as described there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from server.connect.examples import EXAMPLES
from server.connect.openapi import rpc_paths
from tests.support.bridge import http_client
from tests.support.connect import METHODS, connecting, path_of
from tests.support.examples import likened
from tests.support.messages import ADA, ORDER

if TYPE_CHECKING:
    from tests.support.service import Client, Service

pytestmark = pytest.mark.lasting
# Requests and responses have the same form over both databases.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

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


def test_every_rpc_without_a_stream_of_requests_is_described() -> None:
    paths, schemas = rpc_paths()
    served = {path_of(method): method for method in METHODS.values() if not method.client_streaming}
    assert paths.keys() == {*served, "/v1/matches/watch"}
    for path, method in served.items():
        stream = "application/connect+json" if method.server_streaming else "application/json"
        assert list(paths[path]["post"]["requestBody"]["content"]) == [stream]
        assert list(paths[path]["post"]["responses"]["200"]["content"]) == [stream]
        for kind in (method.input_type, method.output_type):
            assert schemas[kind.full_name]["properties"].keys() == {field.json_name for field in kind.fields}


@on_sqlite
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


@on_sqlite
async def test_the_examples_are_what_the_server_returns(service: Service) -> None:
    """Each one follows from those before it, in a new project."""
    async with connecting(service, await service.project()) as caller:
        document = (await caller.http.get("/openapi.json")).json()
        for method, (request, expected) in EXAMPLES.items():
            operation = document["paths"][path_of(METHODS[method])]["post"]
            assert operation["requestBody"]["content"]["application/json"]["example"] == request
            assert operation["responses"]["200"]["content"]["application/json"]["example"] == expected
            check(document, operation["requestBody"], request)
            check(document, operation["responses"]["200"], expected)
            response = await caller.post(method, request)
            assert response.status_code == 200, (method, response.text)
            assert likened(response.json()) == likened(expected), method


@on_sqlite
async def test_the_parameters_of_watching_are_those_that_the_server_reads(service: Service, shop: Client) -> None:
    """An unknown parameter is refused by name, so that of these each may only be refused for its value."""
    async with connecting(service, shop) as caller:
        document = (await caller.http.get("/openapi.json")).json()
        described = document["paths"]["/v1/matches/watch"]["get"]["parameters"]
        assert {each["name"] for each in described} >= {"start.cursor", "filter.event_names", "Last-Event-ID"}
        for each in described:
            if each["in"] == "query":
                query = {each["name"]: "a", "none": "a"}
                response = await caller.http.get("/v1/matches/watch", params=query, headers=caller.headers)
                assert (response.status_code, response.json()["message"][:23]) == (400, "none is not a parameter"), each
        for name, value in {"start.log_end": "LOG_END_SOMEWHERE", "max_matches": "-1"}.items():
            response = await caller.http.get("/v1/matches/watch", params={name: value}, headers=caller.headers)
            assert response.status_code == 400
            check(document, document["paths"]["/v1/matches/watch"]["get"]["responses"]["400"], response.json())
