"""`event send --from`: send many events over one stream, and report each rejected line."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

import click
import grpc

from server.cli.client.call_failures import failure_of
from server.cli.client.event_lines import Line, batches, read_event
from server.cli.errors import Failure, ServerAway
from server.cli.output.progress import Progress, progress
from server.cli.output.quantities import quantity
from server.cli.output.tables import print_json_line, to_plain
from signalbox.v1 import event_ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.cli.client.session import Session

BATCH_EVENTS = 500
WINDOW = 16
"""Batches in flight; more than the server works on at a time."""


@dataclass(slots=True)
class _Batch:
    """A batch in flight: the numbers of its lines, and its size in bytes of the file."""

    lines: list[int]
    size: int


@dataclass(slots=True)
class _Tally:
    """Counts of accepted and rejected lines so far."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    started: float = field(default_factory=time.monotonic)

    def summary(self) -> str:
        """Return the counts as one line."""
        seconds = time.monotonic() - self.started
        again = f" ({self.duplicates:,} of them duplicates)" if self.duplicates else ""
        sent = self.accepted + self.rejected
        accepted = f"{self.accepted:,} accepted{again}"
        return f"sent {quantity(sent, 'event')} in {seconds:.1f} s: {accepted}, {self.rejected:,} rejected"


async def send_file(session: Session, file: IO[bytes], default_name: str) -> None:
    """Send the events of a file. A rejected line does not stop the others.

    Exit with 1 if any line was rejected. Raise Failure if the stream breaks.
    """
    call = session.ingest.StreamEvents(metadata=await session.metadata())
    with progress(file) as shown:
        sender = _Sender(session, call, shown)
        try:
            await call.wait_for_connection()
            await sender.run(file, default_name)
        except grpc.aio.AioRpcError as error:
            raise sender.stream_failure(failure_of(error, session.connection)) from error
        finally:
            call.cancel()
    click.echo(sender.tally.summary(), err=session.json)
    if sender.tally.rejected:
        raise click.exceptions.Exit(1)


class _Sender:
    """Writes batches and reads their responses, with at most WINDOW batches in flight."""

    def __init__(
        self,
        session: Session,
        call: grpc.aio.StreamStreamCall[pb.StreamEventsRequest, pb.StreamEventsResponse],
        shown: Progress,
    ) -> None:
        self.tally = _Tally()
        self._session = session
        self._call = call
        self._shown = shown
        self._window = asyncio.Semaphore(WINDOW)
        self._sequence = 0
        self._in_flight: dict[int, _Batch] = {}
        self._view = pb.RESULT_VIEW_COERCED if session.json else pb.RESULT_VIEW_RECEIPT

    async def run(self, file: IO[bytes], default_name: str) -> None:
        """Send all lines and read all responses."""
        writing = asyncio.create_task(self._write(file, default_name))
        try:
            while (response := await self._read()) is not None:
                self._receive(response)
            await writing
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    def stream_failure(self, failure: Failure) -> Failure:
        """Return the failure of a broken stream, with the lines whose outcome is unknown."""
        if not isinstance(failure, ServerAway) and not self.tally.accepted:
            return failure
        details = [*failure.details, self.tally.summary()]
        if self._in_flight:
            first, last = next(iter(self._in_flight.values())), next(reversed(self._in_flight.values()))
            details.append(f"lines {first.lines[0]:,} to {last.lines[-1]:,} were sent but not answered")
        return Failure(failure.message, details, failure.reason)

    async def _write(self, file: IO[bytes], default_name: str) -> None:
        try:
            async for lines in batches(file, BATCH_EVENTS):
                await self._send(lines, default_name)
        finally:
            await self._call.done_writing()

    async def _send(self, lines: Sequence[Line], default_name: str) -> None:
        """Send the valid lines as one batch, once the window has room."""
        events = {number: event for number, line in lines if (event := self._event(number, line, default_name))}
        size = sum(len(line) + 1 for _, line in lines)
        if not events:
            self._shown.advance(size)
            return
        await self._window.acquire()
        self._sequence += 1
        self._in_flight[self._sequence] = _Batch(list(events), size)
        await self._call.write(
            pb.StreamEventsRequest(
                sequence=self._sequence, events=events.values(), mode=pb.BATCH_MODE_INDEPENDENT, view=self._view
            )
        )

    def _event(self, number: int, line: bytes, default_name: str) -> pb.EventInput | None:
        try:
            return read_event(line, default_name)
        except ValueError as error:
            self._reject([number], pb.EventError(code=3, reason="MALFORMED_LINE", message=str(error)))
            return None

    async def _read(self) -> pb.StreamEventsResponse | None:
        """Return the next response, None at the end. Raise Failure if one is due and --timeout has passed."""
        reading = asyncio.ensure_future(self._call.read())
        while not (await asyncio.wait({reading}, timeout=self._session.connection.timeout))[0]:
            if self._in_flight:
                reading.cancel()
                seconds = self._session.connection.timeout
                raise self.stream_failure(
                    ServerAway(f"{self._session.connection.server} did not answer within {seconds:g} s")
                )
        response = reading.result()
        return response if isinstance(response, pb.StreamEventsResponse) else None

    def _receive(self, response: pb.StreamEventsResponse) -> None:
        batch = self._in_flight.pop(response.sequence)
        self._window.release()
        if response.HasField("error"):
            self._reject(batch.lines, response.error)
        for number, result in zip(batch.lines, response.results, strict=False):
            if result.HasField("error"):
                self._reject([number], result.error)
            else:
                self._accept(number, result)
        self._shown.advance(batch.size)

    def _accept(self, number: int, result: pb.EventResult) -> None:
        self.tally.accepted += 1
        self.tally.duplicates += result.receipt.duplicate
        self._print(number, result)

    def _reject(self, lines: list[int], error: pb.EventError) -> None:
        self.tally.rejected += len(lines)
        place = f"line {lines[0]:,}" if len(lines) == 1 else f"lines {lines[0]:,} to {lines[-1]:,}"
        self._shown.note(f"{place}: {_reasons(error)}")
        for number in lines:
            self._print(number, pb.EventResult(error=error))

    def _print(self, number: int, result: pb.EventResult) -> None:
        if self._session.json:
            print_json_line({"line": number, **to_plain(result)})


def _reasons(error: pb.EventError) -> str:
    shown = (
        one.message if one.message.startswith(one.path) else f"{one.path}: {one.message}" for one in error.violations
    )
    return "; ".join(shown) or error.message
