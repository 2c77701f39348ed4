"""Traces: what a caller sends travels with the event and its matches; spans lead from the caller to the delivery."""

from __future__ import annotations

import asyncio
import gzip
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from server.cli.errors import Failure
from server.cli.startup_errors import clear_start_failures
from server.tracing import tracer
from server.tracing.context import valid_traceparent
from signalbox.v1 import projects_pb2
from signalbox.v1.event_ingest_pb2 import EventInput, SendEventRequest, SendEventsRequest
from signalbox.v1.event_ingest_pb2_grpc import EventIngestStub
from tests.support.automations import automate
from tests.support.bridge import http_client
from tests.support.consumers import Engine, pull, subscribe
from tests.support.messages import ADA, ORDER, event
from tests.support.receiver import LOOPBACK, push_to, receiving
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from signalbox.v1.event_pb2 import Event
    from tests.support.service import Client, Service

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SENT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (SENT, SENT),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        (f"00-{TRACE}-{SPAN}-ff", SENT),  # only one flag is known
        (f"cc-{TRACE}-{SPAN}-01-what-comes", SENT),
        (f"cc-{TRACE}-{SPAN}-01", SENT),
        (f"cc-{TRACE}-{SPAN}-01.what-comes", ""),
        (f"00-{TRACE}-{SPAN}-01-what-comes", ""),
        (f"ff-{TRACE}-{SPAN}-01", ""),
        (f"00-{TRACE.upper()}-{SPAN}-01", ""),
        (f"00-{'0' * 32}-{SPAN}-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (f"00-{TRACE}-{SPAN}", ""),
        (f"00-{TRACE}-{SPAN}-1", ""),
        (f" {SENT}", ""),
        (f"{SENT}\n", ""),
        (f"cc-{TRACE}-{SPAN}-01-" + "x" * 1_000, ""),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_a_traceparent_is_read_by_the_rules_of_the_standard(text: str, valid: str) -> None:
    assert valid_traceparent(text) == valid


# What travels


async def send(client: Client, traceparent: str, sent: EventInput | None = None) -> Event:
    metadata = [*client.metadata, ("traceparent", traceparent)]
    receipt = await EventIngestStub(client.channel).SendEvent(
        SendEventRequest(event=sent or event()), metadata=metadata
    )
    return await client.get(receipt.receipt.event.id)


@pytest.mark.lasting
async def test_the_trace_of_a_call_is_stored_with_its_events_and_delivered_with_their_matches(shop: Client) -> None:
    await automate(shop)
    await subscribe(shop)
    engine = await Engine.open(shop)
    assert (await send(shop, SENT)).traceparent == SENT
    (delivery,) = await engine.deliveries(1)
    assert (delivery.match.traceparent, delivery.match.event.traceparent) == (SENT, SENT)
    await engine.close()
    assert (await send(shop, "not a trace")).traceparent == ""
    metadata = [*shop.metadata, ("traceparent", SENT)]
    batch = SendEventsRequest(events=[event(), event()])
    await EventIngestStub(shop.channel).SendEvents(batch, metadata=metadata)
    await shop.send()
    assert [each.traceparent for each in await shop.log()] == [SENT, "", SENT, SENT, ""]
    pulled = [each.match.traceparent for each in await pull(shop) if each.match.event.position > 1]
    assert pulled == ["", SENT, SENT, ""]


@pytest.mark.lasting
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_the_header_of_a_request_is_read_over_connect_and_rest(shop: Client, service: Service) -> None:
    secret = await service.secret(shop.project, projects_pb2.DIALECT_ARSEL)
    body = {"event": {"name": ORDER, "email": ADA, "properties": {"order_total": 5}}}
    async with http_client(service) as http:
        for traceparent in (SENT, "nonsense"):
            headers = {"traceparent": traceparent, "authorization": f"Bearer {shop.secret}"}
            assert (await http.post("/signalbox.v1.EventIngest/SendEvent", json=body, headers=headers)).is_success
            headers["authorization"] = f"Bearer {secret}"
            rest = {"event": ORDER, "email": ADA, "data": {"order_total": 5}}
            assert (await http.post("/v1/events/send", json=rest, headers=headers)).is_success
    assert [each.traceparent for each in await shop.log()] == [SENT, SENT, "", ""]


# Spans


class Collector:
    """A collector of spans: it takes OTLP over HTTP, on a real socket."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Collector]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                assert head.startswith("post /v1/traces ")
                length = int(head.partition("content-length: ")[2].split()[0])
                body = await reader.readexactly(length)
                self._take(ExportTraceServiceRequest.FromString(gzip.decompress(body) if "gzip" in head else body))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    def _take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            self.services |= {each.value.string_value for each in resource.resource.attributes if "name" in each.key}
            for scope in resource.scope_spans:
                self.spans += scope.spans


@pytest_asyncio.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    async with Collector().running() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        yield collector


def parent(span: Span) -> str:
    return span.parent_span_id.hex()


def traceparent(span: Span) -> str:
    return f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"


async def test_spans_lead_from_the_caller_to_the_delivery_and_the_push(collector: Collector, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/signalbox.db"
    async with receiving() as receiver, serving(url, otel=True, push_networks=LOOPBACK) as service:
        shop = await service.shop()
        await automate(shop)
        await subscribe(shop, "engine")
        await push_to(shop, receiver.url, "hook")
        engine = await Engine.open(shop)
        sent = await send(shop, SENT)
        (delivery,) = await engine.deliveries(1)
        (pushed,) = await receiver.received(1)
        await engine.ack([delivery])
        await engine.close()
        unsampled = await send(shop, f"00-{'a' * 32}-{SPAN}-00")
    of_trace = {span.name: span for span in collector.spans if span.trace_id.hex() == TRACE}
    assert set(of_trace) == {"EventIngest/SendEvent", "ingest", "commit", "match", "deliver", "push"}
    ingest = of_trace["ingest"]
    parents = {name: parent(span) for name, span in of_trace.items()}
    assert parents == {
        "EventIngest/SendEvent": SPAN,
        "ingest": of_trace["EventIngest/SendEvent"].span_id.hex(),
        "commit": ingest.span_id.hex(),
        "match": of_trace["commit"].span_id.hex(),
        "deliver": ingest.span_id.hex(),
        "push": ingest.span_id.hex(),
    }
    assert sent.traceparent == delivery.match.traceparent == traceparent(ingest)
    assert pushed.headers["traceparent"] == traceparent(of_trace["push"])
    assert collector.services >= {"signalbox"}
    for span in of_trace.values():
        assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
    # A caller that is not sampled makes no spans, but its trace goes on.
    assert unsampled.traceparent.startswith(f"00-{'a' * 32}-")
    assert unsampled.traceparent.endswith("-00")
    assert "a" * 32 not in {span.trace_id.hex() for span in collector.spans}


async def test_a_collector_that_does_not_answer_holds_up_no_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    monkeypatch.setattr(tracer, "FLUSH_SECONDS", 0.2)
    async with serving(f"sqlite:///{tmp_path}/signalbox.db", otel=True) as service:
        shop = await service.shop()
        async with asyncio.timeout(20):
            for _ in range(50):
                await shop.send()


def test_without_the_extra_the_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ValueError, match=r"pip install 'signalbox-events\[otel\]'"):
        tracer.open_tracer()


def test_a_variable_that_cannot_be_used_is_named_and_not_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-5")
    expected = r"^--otel cannot use the variables OTEL_\*: max_queue_size must be"
    with pytest.raises(Failure, match=expected), clear_start_failures("sqlite:///x.db"):
        tracer.open_tracer()


async def test_a_tracer_without_spans_is_closed_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    await tracer.open_tracer().close()
    assert caplog.messages == []
