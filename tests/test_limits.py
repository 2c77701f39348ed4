"""The page of limits, compared with the constants and settings that it is about."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from automation import automation_store, matcher
from automation.conditions import closures, parsing
from automation.subscriptions import backlog, push, push_url
from automation.subscriptions import store as subscription_store
from automation.subscriptions import values as subscription_values
from registry import names
from registry.coercion import report
from registry.definitions import schema
from registry.sql import bounded_pages
from registry.storage import definition_store
from registry.values import json_values
from server import paging
from server.api import health_and_reflection
from server.api import server as grpc_server
from server.audit import audited_changes
from server.auth import access, lookup
from server.background import freed_memory, statistics
from server.bridge import app as bridge_app
from server.bridge.dialects import DIALECTS
from server.cli.commands.projects import update as project_update
from server.cli.commands.serve import serve
from server.connect import request as connect_request
from server.current_call import call_log
from server.current_call import context as call_context
from server.delivery import consumer, consumer_session, dispatchers, recent_matches, wake_ups
from server.delivery.push import budget as push_budget
from server.delivery.push import client as push_client
from server.delivery.push import connector as push_connector
from server.delivery.push import http_client as push_http_client
from server.delivery.push import outcomes as push_outcomes
from server.delivery.push import resolver as push_resolver
from server.http import body, handshakes
from server.http import connection as http_connection
from server.http import connections as http_connections
from server.http import head as http_head
from server.http import server as http_server
from server.ingest import commit_queue, deferred_batches, draft, pre_evaluation, quarantine
from server.metrics import series
from server.rpc import call_limits, json_reading, receive_limits
from server.rpc.messages import deliveries, retention, watches
from server.rpc.servicers import event_ingest, match_stream
from server.services import api_keys, emails, runs
from server.services import quarantine as quarantine_service
from server.settings import Settings
from server.sharing import interpreter_lock, rounds, small_work
from server.storage import connection_turns, health
from server.storage.sqlite import readers as sqlite_readers

pytestmark = [pytest.mark.checkout, pytest.mark.late_commits]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "limits.md"
SECOND = 1_000_000


class Row(NamedTuple):
    """A row of the page, without formatting."""

    limit: str
    default: str
    setting: str
    crossed: str


def rows() -> list[Row]:
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in PAGE.read_text().splitlines()
        if line.startswith("|")
    ]
    return [Row(*row) for row in cells if row[0] != "limit" and not row[0].startswith("---")]


def size(count: int) -> str:
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count % factor == 0:
            return f"{count // factor} {unit}"
    return f"{count:,} bytes"


def number(count: float, unit: str = "") -> str:
    return f"{count:,.10g} {unit}".strip() if count % 1 else f"{int(count):,} {unit}".strip()


def seconds(count: float) -> str:
    return number(count, "s")


SETTINGS = Settings()
EVENT, CONTACT, RUN = json_values.EVENT_BUDGET, json_values.CONTACT_BUDGET, json_values.RUN_BUDGET

LIMITS = {
    "Events that a project may send per second, on average, to one server": "any number",
    "Events that it may send at once, after a pause": "those of one second",
    "Events that a project may record per day (UTC), on all servers": "any number",
    "gRPC: connections, in handshakes or after": number(grpc_server.MAX_CONNECTIONS),
    "gRPC: calls of one connection": number(grpc_server.MAX_CONNECTION_STREAMS),
    "HTTP: the first message of a TLS handshake, and the rest of it": seconds(handshakes.HANDSHAKE_SECONDS),
    "gRPC: a handshake": seconds(grpc_server.HANDSHAKE_SECONDS),
    "gRPC: a silent client, until it is asked whether it is there": seconds(grpc_server.KEEPALIVE_SECONDS),
    f"gRPC: pings that come within {grpc_server.PING_SECONDS} s of the one before": number(
        grpc_server.MAX_PING_STRIKES
    ),
    "gRPC: a connection without a call": seconds(grpc_server.IDLE_SECONDS),
    "HTTP: connections, at most half of the file descriptors": number(http_connections.MAX_CONNECTIONS),
    "HTTP: connections of one address": "half of them",
    "HTTP: an answer that the client does not read": seconds(http_connection.WRITE_SECONDS),
    "Keys not seen before that are looked up at once": number(access.MAX_LOOKUPS),
    "Grace period of a rotated secret": number(api_keys.MAX_GRACE / SECOND / 86_400, "days"),
    "A resource in an entry of the audit log": size(audited_changes.MAX_CONTENT_BYTES),
    "Refused events that a project keeps": number(SETTINGS.quarantine_events),
    "Bytes of refused events that a project keeps": size(SETTINGS.quarantine_bytes),
    "Age of a refused event": number(SETTINGS.quarantine_retention_seconds / 86_400, "days"),
    "A refused event that is kept": size(quarantine.MAX_KEPT_BYTES),
    "Refused events that one call sends again or discards": number(quarantine_service.CALL_EVENTS),
    "Time in which a call sends refused events again": seconds(quarantine_service.REINGEST_SECONDS),
    "Time that its first events wait for the project's rate": seconds(quarantine_service.FIRST_WAIT_SECONDS),
    "Time for which events are kept, if not for ever": (
        f"{seconds(retention.MIN_RETENTION / SECOND)} to {number(retention.MAX_RETENTION / SECOND / 86_400, 'days')}"
    ),
    "gRPC: a message": size(call_limits.MAX_MESSAGE_BYTES),
    "RPC: time for the message of a call to arrive": seconds(call_limits.ARRIVAL_SECONDS),
    "RPC: time for the first message of a stream to arrive": seconds(call_limits.FIRST_MESSAGE_SECONDS),
    "RPC: calls in progress, up to their responses, shared by projects": number(call_limits.MAX_CALLS),
    "RPC: calls that wait to be in progress, shared by projects": (
        f"{number(call_limits.MAX_WAITING_CALLS)}, for {seconds(call_limits.WAITING_SECONDS)}"
    ),
    "RPC: open streams, shared by projects": number(call_limits.MAX_STREAMS),
    "gRPC: watches of health": number(health_and_reflection.MAX_WATCHES),
    "gRPC: streams of reflection": number(health_and_reflection.MAX_REFLECTIONS),
    "gRPC: a message for health or reflection": size(health_and_reflection.MAX_BYTES),
    "gRPC: time for a message for health to arrive": seconds(health_and_reflection.MESSAGE_SECONDS),
    "RPC: large messages that arrive, shared by projects": (
        f"{call_limits._LEAST_ARRIVING} to {call_limits._MOST_ARRIVING}, by the memory"
    ),
    "RPC: large messages in work, shared by projects": (
        f"{size(call_limits._LEAST_WORKING)} to {size(call_limits._MOST_WORKING)}, by the memory"
    ),
    "RPC: large messages of streams that wait for that, shared by projects": (
        f"1/{call_limits._WAITING_PART} of the memory, at least {size(call_limits._LEAST_WAITING)}"
    ),
    "RPC: messages of one method and project that arrive at a time, if they are large": (
        f"as many as fit into {size(receive_limits.WINDOW_BYTES)}, "
        f"{receive_limits.LEAST_AT_A_TIME} to {receive_limits.MOST_AT_A_TIME}"
    ),
    "HTTP: a Connect request in Protocol Buffers, as sent and as inflated": size(call_limits.MAX_MESSAGE_BYTES),
    "HTTP: a Connect request in JSON, as sent and as inflated": size(SETTINGS.http_body_bytes),
    "HTTP: messages within each other in a Connect request in JSON; an object in properties counts as two": (
        number(json_reading.MAX_DEPTH)
    ),
    "HTTP: digits of `Connect-Timeout-Ms`": number(connect_request.MAX_TIMEOUT_DIGITS),
    "HTTP: a head": size(http_head.MAX_HEAD),
    "HTTP: a target or a header": size(http_head.MAX_LINE),
    "HTTP: headers": number(http_head.MAX_HEADERS),
    "HTTP: time for the head to arrive": seconds(http_connection.HEAD_SECONDS),
    "HTTP: unfinished heads and first messages of TLS handshakes, of all connections": size(http_connections.MAX_HEADS),
    f"REST: bodies beyond {size(body.SMALL_BODY)} that are received or handled": size(body.ALL_BODIES),
    "REST: such bodies of one project": size(body.BODIES_OF_PROJECT),
    "REST: GET requests that are served at once": number(bridge_app.READS),
    "REST: such requests of one project": number(bridge_app.READS_OF_PROJECT),
    "REST: a body, as sent and as decoded": size(SETTINGS.http_body_bytes),
    "REST: time for the body to arrive": seconds(body.BODY_SECONDS),
    "HTTP: an idle connection": seconds(http_server.KEEP_ALIVE_SECONDS),
    "Events of one SendEvents or StreamEvents message": number(event_ingest.MAX_BATCH),
    "Messages of one StreamEvents on their way to the log": number(event_ingest.STREAM_WINDOW),
    "Messages of one ConsumeMatches on their way": number(consumer_session.REQUEST_WINDOW),
    "A page of a list": number(paging.MAX_SIZE),
    "A page of a list whose size is not stated": number(paging.DEFAULT_SIZE),
    "Rows that a page of a long list examines through an index": number(bounded_pages.EXAMINED_ROWS),
    "Rows that it examines in the order in which they are stored": number(bounded_pages.EXAMINED_LOG_ROWS),
    "Subscriptions that are served in one commit of events": number(dispatchers.PIGGYBACK_STEPS),
    "Subscriptions that are served in one commit of their own, projects in turn": number(dispatchers.GROUP_STEPS),
    "Watchers that are woken at once": number(wake_ups.PORTION),
    "Recent matches of a project in memory": (
        f"{number(recent_matches.RECENT_CHARACTERS, 'characters')}, for {seconds(recent_matches.RECENT_SECONDS)}"
    ),
    "A response": f"{paging.MAX_RESPONSE_BYTES:,} bytes",
    "Name of an event": number(names.MAX_NAME_LENGTH, "characters"),
    "Name of a property": number(names.MAX_NAME_LENGTH, "characters"),
    "Email address": number(emails.MAX_LENGTH, "characters"),
    "Request ID": number(call_context.MAX_REQUEST_ID, "visible ASCII characters"),
    "Idempotency key": number(draft.MAX_IDEMPOTENCY_KEY, "characters"),
    "Properties of an event": size(EVENT.size),
    "Values of an event": number(EVENT.values),
    "Depth of an event": number(EVENT.depth, "levels"),
    "Properties of a contact": size(CONTACT.size),
    "Values of a contact": number(CONTACT.values),
    "Violations reported of one event": number(report.MAX_VIOLATIONS),
    "Coercions recorded of an event": (
        f"{number(report.MAX_COERCIONS)}, with {number(report.MAX_COERCION_CHARACTERS, 'characters')} of paths"
    ),
    "Live definitions of a project": number(definition_store.MAX_LIVE_DEFINITIONS),
    "Revisions of a definition": number(definition_store.MAX_REVISIONS),
    "Properties of a schema, nested ones included": number(schema.MAX_PROPERTIES),
    "Depth of a schema": number(schema.MAX_DEPTH, "levels"),
    "A schema as JSON": size(schema.MAX_BYTES),
    "Description of a definition": number(schema.MAX_DESCRIPTION_LENGTH, "characters"),
    "Description of a property": number(schema.MAX_DESCRIPTION_LENGTH, "characters"),
    "Suggested values of a property": number(schema.MAX_SUGGESTED_VALUES),
    "A suggested value": number(schema.MAX_SUGGESTED_VALUE_LENGTH, "characters"),
    "A condition": number(parsing.MAX_LENGTH, "characters"),
    "Depth of a condition, and names of a path in it": number(parsing.MAX_DEPTH, "levels"),
    "Elements of a list in a condition": number(parsing.MAX_ELEMENTS),
    "Steps of one evaluation": number(closures.MAX_COST),
    "Steps of an evaluation with what is known only while the event is stored": number(closures.LATE_COST),
    "Steps of all evaluations of an event": number(matcher.EVENT_COST),
    "Matches of an event": number(matcher.EVENT_MATCHES),
    "Steps of all evaluations of a batch": number(pre_evaluation.BATCH_COST),
    "Matches of a batch that is all or nothing": number(pre_evaluation.BATCH_MATCHES),
    "Automations of a project": number(automation_store.MAX_AUTOMATIONS),
    "Labels of an automation": number(automation_store.MAX_LABELS),
    "Key of a label": number(automation_store.MAX_LABEL_KEY, "characters"),
    "Value of a label": number(automation_store.MAX_LABEL_VALUE, "characters"),
    "Attributes of a run": size(RUN.size),
    "Values of the attributes of a run": number(RUN.values),
    "A wait for an event": number(runs.MAX_TIMEOUT / SECOND / 86_400, "days"),
    "Deliveries under lease of one consumer": number(consumer.DEFAULT_OUTSTANDING),
    "Attempts to deliver a match": number(subscription_values.DEFAULT_MAX_ATTEMPTS),
    "A lease": seconds(subscription_values.DEFAULT_ACK_DEADLINE / SECOND),
    "Delivery IDs of one acknowledgement, nack or extension": number(deliveries.MAX_SETTLED),
    "Delivery IDs of one AcknowledgeMatches": number(deliveries.MAX_ACKNOWLEDGED),
    "Nacks of one AcknowledgeMatches": number(deliveries.MAX_NACKS),
    "Event names of a filter, and automations": number(subscription_store.MAX_FILTER_NAMES),
    "Labels of a filter": number(subscription_store.MAX_FILTER_LABELS),
    "Matches of one response of a watch": number(watches.MAX_MATCHES),
    "Time for a watcher to read a response": (
        f"{number(match_stream.SLOW_HEARTBEATS, 'heartbeat intervals')}, at most {seconds(match_stream.SLOW_SECONDS)}"
    ),
    "ID of a consumer": number(deliveries.MAX_CONSUMER_ID, "characters"),
    "Wait of PullMatches": seconds(match_stream.MAX_WAIT_SECONDS),
    "Requests in progress of one subscription": number(push.DEFAULT_IN_FLIGHT),
    "Requests in progress of all subscriptions, shared by projects": number(push_budget.ALL_IN_FLIGHT),
    "A body that counts as one request; a larger one counts as several": size(push_budget.PART_BYTES),
    "Time for a connection and its response": seconds(push.DEFAULT_TIMEOUT / SECOND),
    "A rest that a receiver asks for by `Retry-After`": seconds(push_outcomes.MAX_RETRY_AFTER),
    "A response, with interim responses before it": size(push_connector.RESPONSE_BYTES),
    "Body of a response that is read": (
        f"{size(push_http_client.BODY_BYTES)}, for {seconds(push_http_client.BODY_SECONDS)}"
    ),
    "An idle connection to a receiver": seconds(push_http_client.IDLE_SECONDS),
    "Hosts that are resolved at a time, shared by projects": number(push_resolver.RESOLVING_THREADS),
    "Time to resolve a host when its URL is set": seconds(push_client.RESOLVE_SECONDS),
    "URL of a receiver": number(push_url.MAX_URL, "characters"),
    "Secrets of a subscription, and bytes of one": (
        f"{push.MAX_SECRETS}, of {push.MIN_SECRET_BYTES} to {push.MAX_SECRET_BYTES} bytes"
    ),
    "Further headers of a request": number(push.MAX_HEADERS),
    "Name of a further header": number(push.MAX_HEADER_NAME, "characters"),
    "Value of a further header": number(push.MAX_HEADER_VALUE, "characters"),
    "Attempts that GetSubscription shows": number(push.KEPT_ATTEMPTS),
    "Queued events of a project, fewer while several projects fill the queue": number(SETTINGS.queue_events),
    "Bytes of the requests of queued events, which take a quarter of the memory": (
        f"1/{commit_queue.QUEUE_MEMORY_SHARE * commit_queue.HELD_PER_BYTE} of the memory, "
        f"at least {size(commit_queue.MIN_QUEUE_BYTES)}"
    ),
    "Attempts to match a batch while the automations change": number(deferred_batches.MAX_ROUNDS),
    "Large work while another project's small work is in progress": (
        f"waits no longer than it has worked, {number(1_000 * small_work.CREDIT_SECONDS, 'ms')} at a time"
    ),
    "Large work while the database thread works": (
        f"waits {number(1_000 * interpreter_lock.WAIT_SECONDS, 'ms')} at a time, no longer than it has worked"
    ),
    "Calls that begin, and single events that are answered, in one round of the event loop while another project has "
    "small work": f"{number(rounds.PORTION)} in all, or one of each project",
    "A busy event loop while a transaction of SQLite is awaited": (
        f"stops for {number(1_000 * interpreter_lock.PAUSE_SECONDS, 'ms')} at a time, while the transaction computes"
    ),
    "Free memory that the process keeps, beyond its size at the start": size(freed_memory.WORTHWHILE_BYTES),
    "A commit, until sends are refused at once": seconds(health.LATE_SECONDS),
    "Time to look up the key of a call": seconds(lookup.LATE_SECONDS),
    "A wait for the project's turn at the database": seconds(connection_turns.TURN_SECONDS),
    "Lines a minute of calls that fail because the database does": number(60 // call_log.OUTAGE_SECONDS),
    "Lines of failed calls a second, and of changes": number(call_log.LINES_A_SECOND),
    "Series of a metric by subscription": number(series.MAX_SERIES),
    "Rows of a subscription that are counted for a metric": number(backlog.COUNTED),
    "Time for what the metrics ask of the database": seconds(statistics.READ_SECONDS),
    "Spans that wait to be exported": number(2_048),  # of OpenTelemetry's specification
    "Time for one read of an SQLite database": seconds(sqlite_readers.READ_SECONDS),
}


def rate_limits() -> dict[str, str]:
    found: dict[str, str] = {}
    for dialect in DIALECTS:
        limit = dialect.rate_limit
        reads = "" if limit.reads is None else f" and {limit.reads}"
        found[dialect.name.value] = f"{limit.requests}{reads} in {seconds(limit.seconds)}"
    return found


def test_every_figure_of_the_page_is_that_of_its_constant() -> None:
    page = {row.limit: row.default for row in rows() if not row.limit.startswith("Requests of a")}
    assert page == LIMITS


def test_every_rate_of_the_page_is_that_of_its_dialect() -> None:
    page = {
        named[1].lower(): row.default for row in rows() if (named := re.match(r"Requests of an? (\w+) key", row.limit))
    }
    assert page == rate_limits()


def test_no_limit_is_listed_twice() -> None:
    limits = [row.limit for row in rows()]
    assert len(limits) == len(set(limits))


def test_every_option_of_the_page_is_one_of_serve_or_of_a_project() -> None:
    options = {name for parameter in (*serve.params, *project_update.params) for name in parameter.opts}
    named = {option for row in rows() for option in re.findall(r"--[a-z-]+", row.setting)}
    assert named
    assert named <= options


@pytest.mark.parametrize(
    "name", sorted({name for row in rows() for name in re.findall(r"`([A-Z_]{4,})`", row.crossed)})
)
def test_every_reason_of_the_page_is_one_that_the_code_gives(name: str) -> None:
    source = PAGE.parents[1]
    texts = (
        path.read_text() for folder in ("registry", "automation", "server") for path in (source / folder).rglob("*.py")
    )
    assert any(f'"{name}"' in text for text in texts)


def test_the_larger_values_of_settings_are_those_that_are_accepted() -> None:
    page = {row.limit: row.setting for row in rows()}
    largest = {
        "Deliveries under lease of one consumer": f"`max_outstanding`, to {number(consumer.MAX_OUTSTANDING)}",
        "Attempts to deliver a match": f"`max_attempts`, to {number(subscription_store.MAX_ATTEMPTS)}",
    }
    assert {limit: page[limit] for limit in largest} == largest
