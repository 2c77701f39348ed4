"""Senders through every API, which journal each event before its call, and its result."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import httpx

from signalbox.v1 import event_ingest_pb2 as pb
from tests.support.history import Accepted, SeenEvent, seen
from tests.support.messages import ALL_OR_NOTHING, INDEPENDENT, MATCHES, ORDER, event
from tests.support.recorders import World, raise_if_cancelled, raise_unless_away, reason_of
from tests.support.service import http_client
from tests.torture.journal import Intent, Journal, Receipt
from tests.torture.scenario import EMAILS, PAID, draw_properties, spoil

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

UNKNOWN_OUTCOME = frozenset(
    {
        "SERVER_STOPPING",
        "UNAVAILABLE",
        "CANCELLED",
        "DEADLINE_EXCEEDED",
        "STORAGE_UNAVAILABLE",
        "STORAGE_BUSY",
        "STORAGE_READ_ONLY",
        "STORAGE_FULL",
        "STORAGE_LATE",
        "QUEUE_FULL",
        "PROJECT_BUSY",
        "AUTOMATIONS_CHANGING",
        "TOO_MANY_CALLS",
        "TOO_MANY_STREAMS",
        "TOO_MANY_KEY_LOOKUPS",
        "REQUEST_TOO_SLOW",
    }
)
"""Why a send may fail without the event being at fault; nobody knows then whether it was stored."""

CALL_SECONDS = 20.0
MAX_LAG = 1_000
"""Nothing is sent while a subscription has this many matches left to deliver, so that the final drain is bounded."""

PACE = 0.05
"""The longest rest in seconds of a sender after each send."""

STREAMED = 6
KEYED = 0.6
"""The share of the sends that carry idempotency keys, and are repeated until they are answered."""


@dataclass
class TortureWorld(World):
    """Where senders find their servers, and what they write down."""

    journal: Journal = field(default_factory=Journal)
    bridges: list[str] = field(default_factory=list)
    secrets: Mapping[str, str] = field(default_factory=dict)
    contacts: Mapping[str, str] = field(default_factory=dict)
    pace: float = PACE

    async def bridge(self) -> str:
        """Wait for a server and return the address of its bridge."""
        while not self.bridges:  # noqa: ASYNC110 - a server comes when it comes
            await asyncio.sleep(0.01)
        return self.random.choice(self.bridges)

    async def rested(self) -> bool:
        """Wait until something may be sent; False once nothing more is to be."""
        await self.pause(self.pace)
        while not self.calm and max(self.lag.values(), default=0) > MAX_LAG:
            await self.pause(0.1)
        return not self.calm

    def intend(self, api: str, count: int = 1, *, batch: int | None = None, spoiled: float = 0.05) -> list[Intent]:
        """Draw events and write down that they are about to be sent."""
        keyed = self.random.random() < KEYED
        intents = [self._draw(api, batch, spoiled, keyed=keyed) for _ in range(count)]
        self.journal.intend(intents)
        return intents

    def _draw(self, api: str, batch: int | None, spoiled: float, *, keyed: bool) -> Intent:
        number = self.journal.next_number()
        name, email = self.random.choice((ORDER, PAID)), self.random.choice(EMAILS)
        properties, expected = draw_properties(self.random, name, number)
        valid = name == PAID or self.random.random() >= spoiled
        if not valid:
            properties = spoil(self.random, properties)
        key = f"key-{number}" if keyed else ""
        return Intent(number, api, name, email, properties, expected, key, batch, valid)


def as_input(intent: Intent) -> pb.EventInput:
    """Write an event as gRPC has it."""
    return event(intent.properties, name=intent.name, email=intent.email, key=intent.key)


def is_settled(world: TortureWorld, intents: Sequence[Intent], reason: str) -> bool:
    """Note why a send failed; return whether it is over, or to be sent again."""
    known = reason not in UNKNOWN_OUTCOME
    for intent in intents:
        if known:
            world.journal.refuse(intent.number, reason)
        else:
            world.journal.fail(intent.number, reason)
    return known or not all(intent.key for intent in intents)


def reason_for(error: grpc.aio.AioRpcError) -> str:
    """Return why a call failed; grpcio's client has a code of its own for a connection that broke while it sent."""
    return "UNAVAILABLE" if error.details() == "Internal error from Core" else reason_of(error)


def acknowledge(world: TortureWorld, intent: Intent, receipt: pb.EventReceipt) -> None:
    """Note the answer to one event over gRPC."""
    stored = receipt.event
    matched = tuple(match.automation_name for match in receipt.matches)
    world.journal.acknowledge(Receipt(intent.number, stored.id, stored.position, receipt.match_count, matched))
    accepted = SeenEvent(stored.position, stored.id, stored.name)
    world.history.note(Accepted(accepted, tuple(map(seen, receipt.matches))))


class GrpcSender:
    """Sends single events, or batches of both modes."""

    def __init__(self, world: TortureWorld, size: int) -> None:
        self._world, self._size = world, size

    async def run(self) -> None:
        while await self._world.rested():
            if self._size == 1:
                await self._insist(self._world.intend("SendEvent"), INDEPENDENT)
            else:
                mode = self._world.random.choice((ALL_OR_NOTHING, INDEPENDENT))
                batch = self._world.journal.next_batch() if mode == ALL_OR_NOTHING else None
                await self._insist(
                    self._world.intend("SendEvents", self._size, batch=batch, spoiled=0.4 / self._size), mode
                )

    async def _insist(self, intents: list[Intent], mode: pb.BatchMode.ValueType) -> None:
        while intents:
            try:
                await self._send(intents, mode)
            except grpc.aio.AioRpcError as error:
                if is_settled(self._world, intents, reason_for(error)):
                    return
            except asyncio.CancelledError:
                raise_if_cancelled()
                if is_settled(self._world, intents, "CANCELLED"):
                    return
            else:
                return
            await self._world.pause(0.1)

    async def _send(self, intents: Sequence[Intent], mode: pb.BatchMode.ValueType) -> None:
        ingest = (await self._world.client()).ingest
        if len(intents) == 1:
            request = pb.SendEventRequest(event=as_input(intents[0]), view=MATCHES)
            acknowledge(self._world, intents[0], (await ingest.SendEvent(request, timeout=CALL_SECONDS)).receipt)
            return
        batch = pb.SendEventsRequest(events=map(as_input, intents), mode=mode, view=MATCHES)
        answer = await ingest.SendEvents(batch, timeout=CALL_SECONDS)
        note_results(self._world, intents, answer.results)


def note_results(world: TortureWorld, intents: Sequence[Intent], results: Sequence[pb.EventResult]) -> None:
    """Note the result of each event of a batch."""
    for intent, result in zip(intents, results, strict=True):
        if result.HasField("receipt"):
            acknowledge(world, intent, result.receipt)
        elif result.error.reason in UNKNOWN_OUTCOME:
            world.journal.fail(intent.number, result.error.reason)
        else:
            world.journal.refuse(intent.number, result.error.reason)


class StreamSender:
    """Sends batches over a stream, several of them on their way at once."""

    def __init__(self, world: TortureWorld) -> None:
        self._world = world
        self._pending: dict[int, tuple[list[Intent], pb.BatchMode.ValueType]] = {}
        self._sequence = 0

    async def run(self) -> None:
        while self._pending or not self._world.calm:
            client = await self._world.client()
            reason = "UNAVAILABLE"
            unanswered: set[int] = set()
            try:
                async for answer in client.ingest.StreamEvents(self._requests(unanswered), timeout=CALL_SECONDS):
                    unanswered.discard(answer.sequence)
                    self._take(answer)
            except grpc.aio.AioRpcError as error:
                reason = reason_for(error)
                raise_unless_away(self._world, error)
            except asyncio.CancelledError:
                raise_if_cancelled()
            self._lose(reason)
            await self._world.pause(0.1)

    async def _requests(self, unanswered: set[int]) -> AsyncIterator[pb.StreamEventsRequest]:
        """Yield what was not answered on the stream before, then new batches; the stream is left after a while.

        Batches whose outcome the responses leave unknown are sent again on the next stream.
        """
        for sequence in sorted(self._pending):
            unanswered.add(sequence)
            yield self._request(sequence)
        for _ in range(100):
            if not await self._world.rested():
                break
            if len(self._pending) < STREAMED:
                unanswered.add(sequence := self._add())
                yield self._request(sequence)
        while unanswered:  # noqa: ASYNC110 - the answers come on the other side of the stream
            await asyncio.sleep(0.01)

    def _add(self) -> int:
        self._sequence += 1
        mode = self._world.random.choice((ALL_OR_NOTHING, INDEPENDENT))
        batch = self._world.journal.next_batch() if mode == ALL_OR_NOTHING else None
        self._pending[self._sequence] = self._world.intend("StreamEvents", 4, batch=batch), mode
        return self._sequence

    def _request(self, sequence: int) -> pb.StreamEventsRequest:
        intents, mode = self._pending[sequence]
        return pb.StreamEventsRequest(sequence=sequence, events=map(as_input, intents), mode=mode, view=MATCHES)

    def _take(self, answer: pb.StreamEventsResponse) -> None:
        intents, mode = self._pending.pop(answer.sequence)
        if not answer.HasField("error"):
            note_results(self._world, intents, answer.results)
        elif not is_settled(self._world, intents, answer.error.reason):
            self._sequence += 1
            self._pending[self._sequence] = intents, mode

    def _lose(self, reason: str) -> None:
        """Keep for the next stream only the events that may be sent again."""
        lost, self._pending = self._pending, {}
        for sequence, (intents, mode) in lost.items():
            if not is_settled(self._world, intents, reason):
                self._pending[sequence] = intents, mode


class RestSender:
    """Sends events as callers of one dialect do."""

    def __init__(self, world: TortureWorld, dialect: str) -> None:
        self._world, self._dialect = world, dialect

    async def run(self) -> None:
        async with http_client(timeout=CALL_SECONDS) as http:
            while await self._world.rested():
                (intent,) = self._world.intend(self._dialect)
                while not await self._send(http, intent):
                    await self._world.pause(0.1)

    async def _send(self, http: httpx.AsyncClient, intent: Intent) -> bool:
        """Send an event; return whether it is over."""
        path, body = self._request(intent)
        headers = {"authorization": f"Bearer {self._world.secrets[self._dialect]}"}
        if intent.key:
            headers["idempotency-key"] = intent.key
        try:
            url = f"http://{await self._world.bridge()}{path}"
            response = await http.post(url, json=body, headers=headers)
        except httpx.TransportError:
            return is_settled(self._world, [intent], "UNAVAILABLE")
        if response.is_success:
            self._world.journal.acknowledge(self._receipt(intent, response.json()))
            return True
        unknown = response.status_code in (429, 503)
        reason = "UNAVAILABLE" if unknown else f"HTTP {response.status_code}"
        return is_settled(self._world, [intent], reason)

    def _request(self, intent: Intent) -> tuple[str, dict[str, Any]]:
        name, email, properties = intent.name, intent.email, intent.properties
        match self._dialect:
            case "autosend":
                return "/v1/events/send", {"eventName": name, "email": email, "eventProperties": properties}
            case "opensend" | "resend":
                return "/events/send", {"event": name, "email": email, "payload": properties}
            case "emailsendx":
                contact = self._world.contacts[email]
                return f"/api/v1/contacts/{contact}/events", {"name": name, "data": properties}
            case _:
                return "/v1/events/send", {"event": name, "email": email, "data": properties}

    def _receipt(self, intent: Intent, answer: Any) -> Receipt:
        match self._dialect:
            case "autosend":
                return Receipt(intent.number, answer["data"]["id"])
            case "opensend":
                return Receipt(intent.number, answer["delivery"]["id"], match_count=len(answer["automation_runs"]))
            case "emailsendx":
                return Receipt(intent.number, "", match_count=answer["data"]["matchingAutomations"])
            case "resend":
                return Receipt(intent.number, "")
            case _:
                return Receipt(intent.number, answer["id"])
