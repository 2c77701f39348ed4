"""The OpenAPI document, compared with the bridge by a tool that knows only the document."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from server.bridge.dialects import DIALECTS
from server.bridge.documented_errors import error_examples
from server.bridge.openapi import document
from signalbox.v1 import contacts_pb2
from tests.support.bridge import calling, http_client
from tests.support.connect import METHODS
from tests.support.examples import likened
from tests.support.messages import ADA
from tests.support.service import ADMIN_KEY
from tests.torture.nodes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from server.bridge.dialect import RestDialect
    from tests.support.service import Client, Service

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
)
# A document is made from the code, without a database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name.value)

EXAMPLES = int(os.environ.get("SIGNALBOX_OPENAPI_EXAMPLES", "2"))


# The tables of the dialects run on both databases; this test is about the document.
@pytest.mark.long
@on_sqlite
@pytest.mark.timeout(5 * (140 + 20 * EXAMPLES))
async def test_every_endpoint_responds_as_documented(lasting_service: Service, tmp_path: Path) -> None:
    """Try SIGNALBOX_OPENAPI_EXAMPLES requests for each endpoint, all in one process: it takes long to start."""
    client = await lasting_service.shop()
    address = f"http://{lasting_service.http_address}"
    keys = {f"{name}/": await new_key(lasting_service, client, name) for name in ONCE}
    keys |= {RPCS: client.secret, ADMIN_RPCS: ADMIN_KEY}
    settings = [with_key(path, key) for path, key in keys.items()]
    sizes = [f"generation.max-examples = {EXAMPLES}", *([] if EXAMPLES > 2 else [FEW])]
    (tmp_path / "schemathesis.toml").write_text("\n".join([*sizes, *settings]))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", "--url", address),
        *("--include-path-regex", f"^/({'|'.join((*ONCE.values(), RPCS, ADMIN_RPCS))})"),
        *("--checks", ",".join(CHECKS), "--phases", "coverage,fuzzing"),
        *("--generation-deterministic", "--no-color"),
        cwd=tmp_path,
        # Hypothesis keeps tables of characters there: to make them takes longer than most of these runs.
        # A proxy would be looked for among all variables at each request.
        env={"NO_PROXY": "127.0.0.1", "HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".hypothesis")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-8_000:]


ONCE = {dialect.name.value: dialect.name.value for dialect in DIALECTS}
"""The beginnings of the paths that are tried, by dialect. Both mounts of OpenSend have the same handlers."""

ONCE["opensend"] = "opensend/(events|automations|contacts|api/events$)"


_STREAMS = "|".join(name for name, method in METHODS.items() if method.server_streaming or method.client_streaming)

RPCS = rf"signalbox\.v1\.(?!Projects)\w+/(?!{_STREAMS})"
ADMIN_RPCS = r"signalbox\.v1\.Projects"
"""RPCs with one response: all are described alike, from their descriptors."""

_DIALECTS = "|".join(ONCE)
_EDGES = rf"^/(?!opensend/api/)({_DIALECTS}|signalbox\.v1\.EventIngest)/"
_EDGES_ALONE = rf"^/(?!opensend/api/)(({_DIALECTS})/[^{{]*(?<!contacts)$|signalbox\.v1\.EventIngest/)"
HOOKS = ROOT / "tests" / "support" / "schemathesis_hooks.py"
FEW = f"""
hooks = {json.dumps(str(HOOKS))}
phases.coverage.unexpected-methods = ["PUT", "TRACE"]

[[operations]]
include-path-regex = '{_EDGES_ALONE}'
phases.fuzzing.enabled = false

[[operations]]
exclude-path-regex = '{_EDGES}'
phases.coverage.enabled = false
generation.max-examples = 1
"""
"""Settings for a short run: all edges of the requests to dialects and one service, a valid example for the other RPCs.

Of the wrong types for a value, one is tried. Examples find resources by their ids, and new contacts; the rest of what
dialects respond is found at the edges. The second mount of OpenSend has the handlers of the first. All RPCs describe
and write their errors alike: what is wrong is tried at the edges of one service.
"""


async def new_key(service: Service, client: Client, dialect: str) -> str:
    async with calling(service, client, dialect) as caller:
        return caller.secret


def with_key(path: str, key: str) -> str:
    """Return a section of Schemathesis' settings: operations whose paths begin like this are called with a key."""
    return "\n".join(
        (
            "[[operations]]",
            f"include-path-regex = {json.dumps(f'^/{path}')}",
            f"headers = {{ Authorization = {json.dumps(f'Bearer {key}')} }}",
        )
    )


def test_the_document_has_every_endpoint_once() -> None:
    described = document(DIALECTS)["paths"]
    operations = [operation for path in described.values() for operation in path.values()]
    assert len(operations) == sum(len(dialect.routes) for dialect in DIALECTS)
    assert len({each["operationId"] for each in operations}) == len(operations)
    assert all(each["summary"] for each in operations)
    for path, of_path in described.items():
        for each in of_path.values():
            named = [parameter for parameter in each.get("parameters", ()) if parameter["in"] == "path"]
            assert [parameter["name"] for parameter in named] == re.findall(r"{(\w+)}", path)
            assert all(parameter["required"] and parameter["schema"]["minLength"] == 1 for parameter in named)


CREATED = {
    *(("autosend", f"/v1/{path}") for path in ("events/send", "events", "contacts")),
    *(("opensend", f"{mount}/{path}") for mount in ("", "/api") for path in ("events", "automations", "contacts")),
    *(("arsel", f"/v1/{path}") for path in ("events", "contacts")),
    *(("resend", f"/{path}") for path in ("events", "contacts")),
}
ACCEPTED = {
    ("opensend", "/events/send"),
    ("opensend", "/api/events/send"),
    ("arsel", "/v1/events/send"),
    ("resend", "/events/send"),
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name.value)
def test_a_success_has_the_documented_status(dialect: RestDialect) -> None:
    for route in dialect.routes:
        at = (dialect.name.value, route.path)
        expected = {200}
        if route.method == "POST":
            expected = {201} if at in CREATED else {202} if at in ACCEPTED else {200}
        if at == ("emailsendx", "/api/v1/contacts") and route.method == "POST":
            expected = {200, 201}
        assert set(route.responses) == expected, (route.method, route.path)


@on_sqlite
@each_dialect
async def test_a_dialect_has_a_document_with_the_paths_of_its_clients(
    lasting_service: Service, dialect: RestDialect
) -> None:
    async with http_client(lasting_service) as http:
        whole = (await http.get("/openapi.json")).json()
        own = (await http.get(f"/openapi/{dialect.name}.json")).json()
        mount = f"/{dialect.name}"
        assert f"`/openapi/{dialect.name}.json`" in whole["info"]["description"]
    assert [server["url"] for server in own["servers"]] == ["/", mount]
    assert own["paths"].keys() == {route.path for route in dialect.routes}
    mounted = {path.removeprefix(mount): each for path, each in whole["paths"].items() if path.startswith(f"{mount}/")}
    assert own["paths"] == mounted
    validate(own)


@on_sqlite
async def test_the_whole_document_is_valid(lasting_service: Service) -> None:
    async with http_client(lasting_service) as http:
        validate((await http.get("/openapi.json")).json())


def validate(document: dict[str, Any]) -> None:
    """Raise an error if a document does not follow OpenAPI 3.1."""
    # Every worker imports this module, and one or two of them validate.
    from openapi_spec_validator import OpenAPIV31SpecValidator

    OpenAPIV31SpecValidator(document).validate()


@each_dialect
def test_the_examples_of_errors_have_the_shape_of_the_dialect(dialect: RestDialect) -> None:
    for route in dialect.routes:
        examples = error_examples(dialect, route)
        assert {401, 429} <= examples.keys()
        assert all(400 <= status < 500 for status in examples)
        for bodies in examples.values():
            for body in bodies.values():
                msgspec.convert(body, dialect.error_type)


@each_dialect
async def test_the_example_of_a_send_is_what_the_server_returns(lasting_service: Service, dialect: RestDialect) -> None:
    shop = await lasting_service.shop()
    async with calling(lasting_service, shop, dialect.name.value) as caller:
        document = (await caller.http.get(f"/openapi/{dialect.name}.json")).json()
        [(path, operation)] = idempotent(document)[:1]
        parameters = {each["name"]: each.get("example") for each in operation["parameters"] if each["in"] == "path"}
        if "id" in parameters:
            parameters["id"] = await contact_id(shop)
        request = operation["requestBody"]["content"]["application/json"]["example"]
        [(status, expected)] = [(int(key), each) for key, each in operation["responses"].items() if key.startswith("2")]
        call, sent = f"POST {path.format(**parameters)}", {"idempotency-key": "order-1042"}
        response = await caller.call(call, request, sent)
        again = await caller.call(call, request, sent)
        other = await caller.call(call, {**request, "email": "x@example.com", "name": "other"}, sent)
    assert (response.status_code, again.json()) == (status, response.json())
    assert likened(response.json()) == likened(expected["content"]["application/json"]["example"])
    assert other.status_code == 409


def idempotent(document: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the operations of a document that take an idempotency key, by path."""
    return [
        (path, operation)
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if any(parameter["name"] == "Idempotency-Key" for parameter in operation["parameters"])
    ]


async def contact_id(shop: Client) -> str:
    return (await shop.contacts.GetContact(contacts_pb2.GetContactRequest(email=ADA))).contact.id


@each_dialect
def test_the_idempotency_key_is_described_where_it_is_read(dialect: RestDialect) -> None:
    for route in dialect.routes:
        # Those that send an event read it by `read_event`, which reads the key, too.
        source = inspect.getsource(route.handler)
        read = "idempotency_key" in source or "read_event" in source
        assert read is ("IDEMPOTENCY_KEY_REUSED" in route.errors), route.path
