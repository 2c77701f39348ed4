"""Single requests that must be refused: forged page tokens, ambiguous HTTP, and questions without a key."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Any, Final

import grpc
import httpx

from signalbox.v1 import (
    automations_pb2,
    contacts_pb2,
    event_definitions_pb2,
    event_ingest_pb2,
    match_stream_pb2,
    projects_pb2,
)
from tests.siege.report import Report
from tests.siege.stage import staged
from tests.support.automations import automate
from tests.support.consumers import subscribe
from tests.support.messages import ANYTHING, BOB, orders
from tests.support.raw_http import connection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.siege.stage import Plan, Stage

WIDE_NUMBERS: Final = (-1, 2**31, 2**32 + 1, 2**62, 2**63 - 1)


async def forged_tokens(plan: Plan) -> Report:
    """Forge page tokens of every list: each must be refused as such, and none may be an internal error."""
    report = Report("12", "page tokens of 8 lists forged: other numbers, other bytes, tokens of other lists")
    async with staged(plan) as stage:
        calls = await _lists(stage)
        tokens = {name: (await call(request)).next_page_token for name, (call, request) in calls.items()}
        assert all(tokens.values()), tokens
        for name, (call, request) in calls.items():
            others = [token for other, token in tokens.items() if other != name]
            for token in (*_forged(tokens[name]), *others):
                request.page_token = token
                report.answers[await _code(call, request)] += 1
        log = stage.server.log()
    if unwanted := set(report.answers) - {"INVALID_ARGUMENT"}:
        report.misses.append(f"forged tokens were answered {', '.join(sorted(unwanted))}")
    if "Traceback" in log:
        report.misses.append("a forged token left a traceback in the log")
    return report


async def _lists(stage: Stage) -> dict[str, tuple[Any, Any]]:
    """Return a call of each list, with more than one page."""
    client, admin = stage.service.client(stage.target.secrets[0]), stage.service.admin
    await client.define("other", ANYTHING)
    await client.upsert(BOB)
    for number in range(2):
        await automate(client, name=f"number {number}")
        await subscribe(client, f"number-{number}")
    await client.send_all(orders(2))
    project = stage.target.project
    return {
        "events": (client.ingest.ListEvents, event_ingest_pb2.ListEventsRequest(page_size=1)),
        "contacts": (client.contacts.ListContacts, contacts_pb2.ListContactsRequest(page_size=1)),
        "automations": (client.automations.ListAutomations, automations_pb2.ListAutomationsRequest(page_size=1)),
        "runs": (client.automations.ListRuns, automations_pb2.ListRunsRequest(page_size=1)),
        "definitions": (
            client.definitions.ListEventDefinitions,
            event_definitions_pb2.ListEventDefinitionsRequest(page_size=1),
        ),
        "subscriptions": (
            client.matches.ListSubscriptions,
            match_stream_pb2.ListSubscriptionsRequest(page_size=1),
        ),
        "projects": (admin.projects.ListProjects, projects_pb2.ListProjectsRequest(page_size=1)),
        "keys": (admin.projects.ListApiKeys, projects_pb2.ListApiKeysRequest(project=project, page_size=1)),
    }


def _forged(token: str) -> Iterator[str]:
    content = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    try:
        document = json.loads(content)
    except ValueError:
        document = []
    for place, value in enumerate(document):
        if isinstance(value, int):
            for number in WIDE_NUMBERS:
                yield _encoded(json.dumps([*document[:place], number, *document[place + 1 :]]).encode())
    for place in (0, len(content) // 2, len(content) - 1):
        yield _encoded(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    yield _encoded(content[:-1])
    yield "forged"


def _encoded(content: bytes) -> str:
    return urlsafe_b64encode(content).decode()


async def _code(call: Any, request: Any) -> str:
    try:
        await call(request)
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


async def ambiguous_http(plan: Plan) -> Report:
    """Send requests that two readers of HTTP may understand differently, whole and byte by byte."""
    report = Report("11", "a key in a trailer, two keys, no Host, HTTP/0.9; in one segment and byte by byte")
    async with staged(plan) as stage:
        for name, content, wanted in _ambiguous(stage.target.secrets[0]):
            for segments in ([content], [content[place : place + 1] for place in range(len(content))]):
                status = await _status(stage.target.http, segments)
                report.answers[f"{name}: {status}"] += 1
                if status not in wanted:
                    report.misses.append(f"{name} in {len(segments)} segments was answered {status}")
    return report


def _ambiguous(secret: str) -> Iterator[tuple[str, bytes, tuple[str, ...]]]:
    head = "POST /v1/events/send HTTP/1.1\r\nContent-Type: application/json\r\n"
    body = '{"event": "order_completed", "email": "ada@example.com", "data": {}}'
    chunk = f"{len(body):x}\r\n{body}\r\n0\r\n"
    key = f"Authorization: Bearer {secret}\r\n"
    trailer = f"{head}Host: siege\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{key}\r\n"
    twice = f"{head}Host: siege\r\n{key}Authorization: Bearer other\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    homeless = f"{head}{key}Content-Length: {len(body)}\r\n\r\n{body}"
    yield "a key in a trailer", trailer.encode(), ("400", "401")
    yield "two keys", twice.encode(), ("400", "401")
    yield "no Host", homeless.encode(), ("400",)
    yield "HTTP/0.9", b"GET /healthz\r\n\r\n", ("400", "505", "closed")


async def _status(address: str, segments: list[bytes]) -> str:
    async with connection(address) as raw:
        for segment in segments:
            await raw.send(segment)
            await asyncio.sleep(0)
        try:
            return str((await raw.answer()).status)
        except (EOFError, ConnectionError):
            return "closed"


async def pages_without_key(plan: Plan) -> Report:
    """Read /metrics without a key after both tenants were at work, and look at the headers of a customer's data."""
    report = Report("14", "/metrics read without a key, and the headers of /metrics and of a refused call")
    async with staged(plan) as stage, httpx.AsyncClient(base_url=f"http://{stage.target.http}") as http:
        await stage.service.client(stage.target.secrets[0]).send()
        project = await stage.service.admin.projects.GetProject(
            projects_pb2.GetProjectRequest(project=stage.target.project)
        )
        metrics = await http.get("/metrics")
        secret = stage.target.secrets[0]
        data = await http.post("/v1/events/send", headers={"authorization": f"Bearer {secret}"}, json={})
    names = (stage.target.project, project.project.name, "order_completed")
    if told := [name for name in names if name in metrics.text]:
        report.misses.append(f"/metrics names {', '.join(told)} without a key")
    report.facts.append(f"{len(metrics.text.splitlines())} lines")
    for what, response in (("/metrics", metrics), ("a call", data)):
        if response.headers.get("x-content-type-options") != "nosniff":
            report.misses.append(f"{what} is answered without X-Content-Type-Options: nosniff")
    if data.headers.get("cache-control") != "no-store":
        report.misses.append("a call is answered without Cache-Control: no-store")
    return report
