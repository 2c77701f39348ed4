"""Consuming a subscription over one connection after another."""

from __future__ import annotations

import asyncio
import math
import signal
from typing import TYPE_CHECKING, Any

import grpc

from server.cli.client.availability import Availability
from server.cli.client.call_failures import failure_of
from server.cli.client.watching import RETRY_SECONDS, SILENCE_SECONDS
from server.cli.errors import ServerAway
from signalbox.v1 import match_stream_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.cli.client.session import Session

WINDOW = 100
MAX_WINDOW = 10_000


class Consuming:
    """Consumes a subscription over one connection after another.

    A delivery is passed to `show`, then acknowledged. An acknowledgement that was not confirmed before a connection
    ended is sent again over the next one.
    """

    def __init__(
        self,
        session: Session,
        subscription: str,
        consumer_id: str,
        *,
        acks: bool,
        limit: int | None,
        show: Callable[[pb.Delivery], None],
    ) -> None:
        self.interrupted = False
        self._session = session
        self._opening = pb.OpenConsumer(subscription=subscription, consumer_id=consumer_id)
        self._acks = acks
        self._show = show
        self._left = math.inf if limit is None else limit
        self._unconfirmed: list[str] = []
        self._requests: asyncio.Queue[pb.ConsumeMatchesRequest | None] = asyncio.Queue()
        self._availability = Availability(session.connection.server)
        self._connected = False
        self._budget = 0.0

    async def run(self) -> None:
        """Consume until the limit or an interrupt. Raise Failure; ServerAway if the server was never reached."""
        while (self._left and not self.interrupted) or (self._unconfirmed and self._connected):
            try:
                await self._connect()
            except ServerAway:
                if not self._connected or self.interrupted:
                    raise
                self._availability.lost()
                await asyncio.sleep(RETRY_SECONDS)

    def interrupt(self) -> None:
        """Stop, and wait for outstanding confirmations; the next Ctrl-C ends the command at once."""
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        self.interrupted = True
        self._stop()

    async def _connect(self) -> None:
        """Consume over one connection until the server closes it."""
        longest = WINDOW if self._acks else MAX_WINDOW
        window = int(min(max(self._left, 1), longest))
        self._budget = self._left - window
        self._opening.max_outstanding = window
        del self._opening.held_delivery_ids[:]
        self._opening.held_delivery_ids.extend(self._unconfirmed)
        self._requests = asyncio.Queue()
        self._request(open=self._opening)
        if self._unconfirmed:
            self._request(ack=pb.AckDeliveries(delivery_ids=self._unconfirmed))
        if self.interrupted or not self._left:
            self._stop()
        metadata = await self._session.metadata()
        call = self._session.matches.ConsumeMatches(metadata=metadata)
        writing = asyncio.create_task(_write(call, self._requests))
        try:
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    message = await call.read()
                if not isinstance(message, pb.ConsumeMatchesResponse):
                    break
                self._receive(message)
            if await call.code() is not grpc.StatusCode.OK:
                raise await _error(call)
        except TimeoutError:
            server = self._session.connection.server
            raise ServerAway(f"{server} has been silent for {SILENCE_SECONDS:g} s") from None
        except grpc.aio.AioRpcError as error:
            raise failure_of(error, self._session.connection) from error
        finally:
            call.cancel()
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    def _receive(self, message: pb.ConsumeMatchesResponse) -> None:
        match message.WhichOneof("message"):
            case "opened":
                self._availability.found()
                self._connected = True
                self._opening.consumer_id = message.opened.consumer_id
            case "deliveries":
                self._show_batch(message.deliveries)
            case "results":
                confirmed = {result.delivery_id for result in message.results.results}
                self._unconfirmed = [id_ for id_ in self._unconfirmed if id_ not in confirmed]

    def _show_batch(self, batch: pb.DeliveryBatch) -> None:
        for delivery in batch.deliveries:
            self._show(delivery)
        self._left -= len(batch.deliveries)
        ids = [delivery.delivery_id for delivery in batch.deliveries]
        # Each acknowledgement allows one more delivery; there must be none beyond the limit.
        if len(ids) > self._budget if self._acks else not self._left:
            self._stop()
        self._budget -= len(ids)
        if self._acks:
            self._unconfirmed += ids
            self._request(ack=pb.AckDeliveries(delivery_ids=ids))

    def _stop(self) -> None:
        """Request no more deliveries; without acknowledgements close the stream, so that the leases end."""
        if self._acks:
            self._request(stop=pb.StopDeliveries())
        else:
            self._requests.put_nowait(None)

    def _request(self, **message: Any) -> None:
        self._requests.put_nowait(pb.ConsumeMatchesRequest(**message))


async def _write(call: Any, requests: asyncio.Queue[pb.ConsumeMatchesRequest | None]) -> None:
    """Send requests until None, which closes the sending side of the stream."""
    while (request := await requests.get()) is not None:
        await call.write(request)
    await call.done_writing()


async def _error(call: Any) -> grpc.aio.AioRpcError:
    """Return the error of a call, which `read` does not raise."""
    return grpc.aio.AioRpcError(
        await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )
