"""The OpenAPI document, compared with the bridge by a tool that knows only the document."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from typing import TYPE_CHECKING

import pytest

from server.bridge.dialects import DIALECTS
from server.bridge.openapi import document
from tests.support.bridge import calling
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
EXAMPLES = int(os.environ.get("SIGNALBOX_OPENAPI_EXAMPLES", "2"))


# The tables of the dialects run on both databases; this test is about the document.
@pytest.mark.long
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.timeout(5 * (140 + 20 * EXAMPLES))
async def test_every_endpoint_responds_as_documented(lasting_service: Service, tmp_path: Path) -> None:
    """Try SIGNALBOX_OPENAPI_EXAMPLES requests for each endpoint, all in one process: it takes long to start."""
    client = await lasting_service.shop()
    address = f"http://{lasting_service.http_address}"
    keys = {name: await new_key(lasting_service, client, name) for name in ONCE}
    (tmp_path / "schemathesis.toml").write_text("\n".join(with_key(name, key) for name, key in keys.items()))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", "--url", address),
        *("--include-path-regex", f"^/({'|'.join(ONCE.values())})"),
        *("--checks", ",".join(CHECKS), "--max-examples", str(EXAMPLES), "--phases", "coverage,fuzzing"),
        *("--generation-deterministic", "--no-color"),
        cwd=tmp_path,
        # Hypothesis keeps tables of characters there: to make them takes longer than most of these runs.
        env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".hypothesis")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-8_000:]


ONCE = {dialect.name.value: dialect.name.value for dialect in DIALECTS}
"""The beginnings of the paths that are tried, by dialect. Both mounts of OpenSend have the same handlers."""

ONCE["opensend"] = "opensend/(events|automations|contacts|api/events$)"


async def new_key(service: Service, client: Client, dialect: str) -> str:
    async with calling(service, client, dialect) as caller:
        return caller.secret


def with_key(dialect: str, key: str) -> str:
    """Return a section of Schemathesis' settings: the operations of a dialect are called with a key for it."""
    return "\n".join(
        (
            "[[operations]]",
            f"include-path-regex = {json.dumps(f'^/{dialect}/')}",
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
