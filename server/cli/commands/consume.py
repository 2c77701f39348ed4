"""The command `match consume`."""

from __future__ import annotations

import asyncio
import math
import signal
from typing import TYPE_CHECKING, Any

import click
import grpc

from server.cli.arguments.options import option
from server.cli.client.errors import ServerAway
from server.cli.client.refusals import failure_of
from server.cli.client.session import client_command
from server.cli.output.matches import match_cells
from server.cli.output.tables import print_json_line, printable, to_plain
from signalbox.v1 import match_stream_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.cli.client.session import Session

RETRY_SECONDS = 0.2
SILENCE_SECONDS = 30.0
"""A server that says so long nothing, not even a heartbeat, has gone."""

WINDOW = 100
MAX_WINDOW = 10_000


@click.command()
@click.argument("subscription")
@option("--consumer", "consumer_id", metavar="ID", default="", help="Id of the consumer; the server makes one.")
@option("--ack/--no-ack", default=True, help="Whether to acknowledge what was printed; without it comes again.")
@option("--limit", type=click.IntRange(min=1), metavar="N", help="End after so many deliveries.")
@client_command
async def consume(session: Session, /, subscription: str, consumer_id: str, ack: bool, limit: int | None) -> None:
    """Print what a subscription delivers, until Ctrl-C.

    A server that goes away is waited for.
    """
    consuming = _Consuming(session, subscription, consumer_id, acks=ack, limit=limit)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, consuming.interrupt)
    try:
        await consuming.run()
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    if consuming.interrupted:
        raise KeyboardInterrupt


class _Consuming:
    """Consumes over one connection after another; what was printed is acknowledged also over a later one."""

    def __init__(self, session: Session, subscription: str, consumer_id: str, *, acks: bool, limit: int | None) -> None:
        self.interrupted = False
        self._session = session
        self._opening = pb.OpenConsumer(subscription=subscription, consumer_id=consumer_id)
        self._acks = acks
        self._left = math.inf if limit is None else limit
        self._unconfirmed: list[str] = []
        self._requests: asyncio.Queue[pb.ConsumeMatchesRequest | None] = asyncio.Queue()
        self._known = self._away = False
        self._budget = 0.0

    async def run(self) -> None:
        """Consume until the limit or an interrupt. Raises Failure; ServerAway for a server that was never there."""
        while (self._left and not self.interrupted) or (self._unconfirmed and self._known):
            try:
                await self._connect()
            except ServerAway:
                if not self._known or self.interrupted:
                    raise
                if not self._away:
                    click.echo(f"{self._session.connection.server} has gone; waiting for it", err=True)
                self._away = True
                await asyncio.sleep(RETRY_SECONDS)

    def interrupt(self) -> None:
        """End in good order; the next Ctrl-C ends at once."""
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        self.interrupted = True
        self._stop()

    async def _connect(self) -> None:
        """Consume over one connection, until the server closes it."""
        most = WINDOW if self._acks else MAX_WINDOW
        window = int(min(max(self._left, 1), most))
        self._budget = self._left - window
        self._opening.max_outstanding = window
        del self._opening.held_delivery_ids[:]
        self._opening.held_delivery_ids.extend(self._unconfirmed)
        self._requests = asyncio.Queue()
        self._say(open=self._opening)
        if self._unconfirmed:
            self._say(ack=pb.AckDeliveries(delivery_ids=self._unconfirmed))
        if self.interrupted or not self._left:
            self._stop()
        metadata = await self._session.metadata()
        call = self._session.matches.ConsumeMatches(_outgoing(self._requests), metadata=metadata)
        try:
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    message = await call.read()
                if not isinstance(message, pb.ConsumeMatchesResponse):
                    break
                self._hear(message)
            if await call.code() is not grpc.StatusCode.OK:
                raise await _error(call)
        except TimeoutError:
            server = self._session.connection.server
            raise ServerAway(f"{server} has not answered for {SILENCE_SECONDS:g} s") from None
        except grpc.aio.AioRpcError as error:
            raise failure_of(error, self._session.connection) from error
        finally:
            call.cancel()

    def _hear(self, message: pb.ConsumeMatchesResponse) -> None:
        match message.WhichOneof("message"):
            case "opened":
                if self._away:
                    click.echo(f"{self._session.connection.server} is back", err=True)
                self._known, self._away = True, False
                self._opening.consumer_id = message.opened.consumer_id
            case "deliveries":
                self._print(message.deliveries)
            case "results":
                confirmed = {each.delivery_id for each in message.results.results}
                self._unconfirmed = [each for each in self._unconfirmed if each not in confirmed]

    def _print(self, batch: pb.DeliveryBatch) -> None:
        for each in batch.deliveries:
            if self._session.json:
                print_json_line(to_plain(each))
            else:
                click.echo(printable("  ".join((f"{each.attempt}/{each.max_attempts}", *match_cells(each.match)))))
        self._left -= len(batch.deliveries)
        ids = [each.delivery_id for each in batch.deliveries]
        # Each acknowledgement makes room for a delivery: beyond the limit there must be none.
        if len(ids) > self._budget if self._acks else not self._left:
            self._stop()
        self._budget -= len(ids)
        if self._acks:
            self._unconfirmed += ids
            self._say(ack=pb.AckDeliveries(delivery_ids=ids))

    def _stop(self) -> None:
        """Ask for no more; without acknowledgements close at once, so that the leases end."""
        if self._acks:
            self._say(stop=pb.StopDeliveries())
        else:
            self._requests.put_nowait(None)

    def _say(self, **message: Any) -> None:
        self._requests.put_nowait(pb.ConsumeMatchesRequest(**message))


async def _outgoing(
    requests: asyncio.Queue[pb.ConsumeMatchesRequest | None],
) -> AsyncIterator[pb.ConsumeMatchesRequest]:
    while (request := await requests.get()) is not None:
        yield request


async def _error(call: Any) -> grpc.aio.AioRpcError:
    """Make the error of a call that a read does not raise."""
    return grpc.aio.AioRpcError(
        await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )
