"""The methods of MatchStream that keep and read subscriptions."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from automation.subscriptions.values import ParkedSelection
from registry.errors import Violation
from server.api.messages.subscriptions import (
    read_changes,
    read_consumer_id,
    read_new_subscription,
    read_selection,
    read_settles,
    write_consumer,
    write_deliveries,
    write_parked,
    write_result,
    write_subscription,
)
from server.api.messages.times import read_duration, read_timestamp
from server.api.messages.watches import read_max_matches, read_start
from server.api.response_size import write_page
from server.api.servicers.consume import ConsumerStream, read_open
from server.errors import InvalidArgument
from server.paging import PageRequest
from signalbox.v1 import match_stream_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.api.servicers.consume import Shutdown
    from server.auth.access import Caller
    from server.delivery.subscriptions import Subscriptions

_SECOND = 1_000_000


class SubscriptionMethods:
    """Keeps subscriptions and delivers their matches."""

    def __init__(self, *, subscriptions: Subscriptions, shutdown: Shutdown) -> None:
        self._subscriptions = subscriptions
        self._shutdown = shutdown

    async def CreateSubscription(
        self, request: pb.CreateSubscriptionRequest, caller: Caller
    ) -> pb.CreateSubscriptionResponse:
        described = await self._subscriptions.create(
            caller.project_pk, read_new_subscription(request.subscription), read_start(request.start)
        )
        return pb.CreateSubscriptionResponse(subscription=write_subscription(described))

    async def GetSubscription(self, request: pb.GetSubscriptionRequest, caller: Caller) -> pb.GetSubscriptionResponse:
        described, consumers = await self._subscriptions.get(caller.project_pk, request.subscription)
        return pb.GetSubscriptionResponse(
            subscription=write_subscription(described), consumers=map(write_consumer, consumers)
        )

    async def ListSubscriptions(
        self, request: pb.ListSubscriptionsRequest, caller: Caller
    ) -> pb.ListSubscriptionsResponse:
        page = await self._subscriptions.list(caller.project_pk, PageRequest(request.page_size, request.page_token))
        response = pb.ListSubscriptionsResponse()
        response.next_page_token = write_page(page, write_subscription, response.subscriptions)
        return response

    async def UpdateSubscription(
        self, request: pb.UpdateSubscriptionRequest, caller: Caller
    ) -> pb.UpdateSubscriptionResponse:
        described = await self._subscriptions.update(
            caller.project_pk, request.subscription, read_changes(request), request.etag
        )
        return pb.UpdateSubscriptionResponse(subscription=write_subscription(described))

    async def DeleteSubscription(
        self, request: pb.DeleteSubscriptionRequest, caller: Caller
    ) -> pb.DeleteSubscriptionResponse:
        described = await self._subscriptions.delete(
            caller.project_pk, request.subscription, request.etag, force=request.force
        )
        return pb.DeleteSubscriptionResponse(subscription=write_subscription(described))

    async def SeekSubscription(
        self, request: pb.SeekSubscriptionRequest, caller: Caller
    ) -> pb.SeekSubscriptionResponse:
        if request.start.WhichOneof("place") is None:
            message = "start is missing; it must set the place at which the subscription continues"
            raise InvalidArgument(message, violations=[Violation("start", "REQUIRED", message)])
        described = await self._subscriptions.seek(
            caller.project_pk, request.subscription, read_start(request.start), request.etag
        )
        return pb.SeekSubscriptionResponse(subscription=write_subscription(described))

    async def ConsumeMatches(
        self, requests: AsyncIterator[pb.ConsumeMatchesRequest], caller: Caller
    ) -> AsyncIterator[pb.ConsumeMatchesResponse]:
        opening = await read_open(requests, self._shutdown)
        stream = ConsumerStream(self._subscriptions, self._shutdown, opening)
        async with aclosing(stream.answers(requests, caller.project_pk)) as responses:
            async for response in responses:
                yield response

    async def PullMatches(self, request: pb.PullMatchesRequest, caller: Caller) -> pb.PullMatchesResponse:
        wait = read_duration(request, "wait") or 0
        if not 0 <= wait <= 60 * _SECOND:
            message = f"wait is {wait / _SECOND:g} s; it must be 0 to 60 seconds"
            raise InvalidArgument(message, violations=[Violation("wait", "OUT_OF_RANGE", message)])
        deliveries, max_attempts = await self._subscriptions.pull(
            caller.project_pk,
            request.subscription,
            read_consumer_id(request.consumer_id),
            read_max_matches(request.max_matches),
            wait / _SECOND,
        )
        response = pb.PullMatchesResponse()
        unreadable = write_deliveries(deliveries, max_attempts, response)
        await self._subscriptions.park_pulled(caller.project_pk, request.subscription, unreadable)
        return response

    async def AcknowledgeMatches(
        self, request: pb.AcknowledgeMatchesRequest, caller: Caller
    ) -> pb.AcknowledgeMatchesResponse:
        results = await self._subscriptions.settle(caller.project_pk, request.subscription, read_settles(request))
        response = pb.AcknowledgeMatchesResponse()
        for each in results:
            write_result(each, response.results.add())
        return response

    async def ListParkedMatches(
        self, request: pb.ListParkedMatchesRequest, caller: Caller
    ) -> pb.ListParkedMatchesResponse:
        until = read_timestamp(request, "parked_until")
        page = await self._subscriptions.list_parked(
            caller.project_pk,
            request.subscription,
            ParkedSelection((), request.automation_id, until, not request.automation_id and until is None),
            PageRequest(request.page_size, request.page_token),
        )
        response = pb.ListParkedMatchesResponse()
        response.next_page_token = write_page(page, write_parked, response.parked_matches)
        return response

    async def ReplayParkedMatches(
        self, request: pb.ReplayParkedMatchesRequest, caller: Caller
    ) -> pb.ReplayParkedMatchesResponse:
        count = await self._subscriptions.replay_parked(
            caller.project_pk, request.subscription, read_selection(request.selection), dry_run=request.dry_run
        )
        return pb.ReplayParkedMatchesResponse(match_count=count)

    async def DiscardParkedMatches(
        self, request: pb.DiscardParkedMatchesRequest, caller: Caller
    ) -> pb.DiscardParkedMatchesResponse:
        count = await self._subscriptions.discard_parked(
            caller.project_pk, request.subscription, read_selection(request.selection), dry_run=request.dry_run
        )
        return pb.DiscardParkedMatchesResponse(match_count=count)
