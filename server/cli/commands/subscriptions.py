"""The commands `subscription`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.confirmation import confirmed
from server.cli.arguments.enums import DELIVERY_ORDER, PARKING_CAUSE, enum_option
from server.cli.arguments.match_options import filter_options, start_point
from server.cli.arguments.message_parsers import duration
from server.cli.arguments.options import etag_option, limit_option, option
from server.cli.arguments.push_options import push_change_options, push_options, take_push, take_push_changes
from server.cli.arguments.value_parsers import WholeNumber, automation_id
from server.cli.arguments.window_options import parked_until_option
from server.cli.client.pagination import list_all
from server.cli.client.session import client_command
from server.cli.errors import Failure
from server.cli.output.pushes import ATTEMPTS_HEADER, attempt_fields, attempt_row, push_fields
from server.cli.output.tables import moment, print_fields, print_json, print_table, to_plain
from server.cli.output.views import show_list, show_one
from signalbox.v1 import match_stream_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

    from server.cli.arguments.options import F
    from server.cli.client.session import Session

_START = "`earliest`, `latest`, the position of a match, or a time in RFC 3339"

_deadline_option = option(
    "--ack-deadline", type=duration, metavar="TIME", help="Time to acknowledge a delivery, such as 30s."
)
_delay_option = option(
    "--first-delay", type=duration, metavar="TIME", help="Delay after the first attempt, such as 1s."
)
_longest_option = option(
    "--longest-delay", type=duration, metavar="TIME", help="Longest delay between attempts, such as 10m."
)
_dry_run_option = option("--dry-run", is_flag=True, help="Only count the matches; change nothing.")


def selection_options(command: F) -> F:
    """Add the options that select parked matches."""
    for decorate in (
        option("--all", "all", is_flag=True, help="All parked matches; not with other filters."),
        parked_until_option,
        option(
            "--automation", "automation_id", type=automation_id, metavar="ID", help="Only matches of this automation."
        ),
        option("--match", "match_ids", metavar="ID", multiple=True, help="Only this match. (repeatable)"),
    ):
        command = decorate(command)
    return command


@click.group()
def subscription() -> None:
    """Manage subscriptions, which deliver matches until they are acknowledged."""


@subscription.command()
@click.argument("name")
@filter_options
@enum_option(
    "--order", DELIVERY_ORDER, default="position", help="By position, or one match at a time for each contact."
)
@_deadline_option
@option(
    "--max-attempts",
    type=WholeNumber(min=1, max=2**31 - 1),
    metavar="N",
    help="Delivery attempts before a match is parked; 10 by default.",
)
@_delay_option
@_longest_option
@option("--from", "start", type=start_point, metavar="START", help=f"Start at {_START}; latest by default.")
@push_options
@client_command
async def create(
    session: Session,
    /,
    event_names: Sequence[str],
    automation_ids: Sequence[str],
    labels: Mapping[str, str],
    first_delay: Duration | None,
    longest_delay: Duration | None,
    start: pb.StartPoint | None,
    **stated: Any,
) -> None:
    """Create a subscription. With --push the server pushes its matches; else consumers connect."""
    new = pb.Subscription(
        push=take_push(stated),
        filter=pb.MatchFilter(event_names=event_names, automation_ids=automation_ids, labels=labels),
        backoff=pb.Backoff(initial_delay=first_delay, max_delay=longest_delay),
        **stated,
    )
    request = pb.CreateSubscriptionRequest(subscription=new, start=start)
    _show(session, (await session.call(session.matches.CreateSubscription, request)).subscription)


@subscription.command("list")
@limit_option("subscriptions")
@client_command
async def list_(session: Session, limit: int) -> None:
    """List subscriptions, newest first."""
    subscriptions = await list_all(
        partial(session.call, session.matches.ListSubscriptions),
        pb.ListSubscriptionsRequest(),
        lambda response: response.subscriptions,
        limit,
    )
    header = ("ID", "ACK FLOOR", "HEAD", "LEASED", "RETRYING", "PARKED", "CONSUMERS", "NAME")
    show_list(subscriptions, header, _row, as_json=session.json)


@subscription.command()
@click.argument("subscription")
@client_command
async def show(session: Session, subscription: str) -> None:
    """Show one subscription, with its consumers and the last requests that pushed its matches."""
    request = pb.GetSubscriptionRequest(subscription=subscription)
    response = await session.call(session.matches.GetSubscription, request)
    if session.json:
        print_json(to_plain(response))
        return
    print_fields(_fields(response.subscription))
    if response.consumers:
        header = ("LEASED", "CAPACITY", "CONNECTED", "CONSUMER")
        print_table(header, [_consumer_row(consumer) for consumer in response.consumers])
    if response.push_attempts:
        print_table(ATTEMPTS_HEADER, map(attempt_row, response.push_attempts))


@subscription.command()
@click.argument("subscription")
@client_command
async def ping(session: Session, subscription: str) -> None:
    """Send a signed test request to the receiver of a subscription that pushes. Exit with 1 unless it answers 2xx."""
    request = pb.PingSubscriptionRequest(subscription=subscription)
    attempt = (await session.call(session.matches.PingSubscription, request)).attempt
    show_one(attempt, attempt_fields, as_json=session.json)
    if not attempt.acknowledged:
        raise Failure(f"the ping was not acknowledged: {attempt.failure}")


@subscription.command()
@click.argument("subscription")
@option("--name", metavar="NAME", help="New name.")
@_deadline_option
@option(
    "--max-attempts",
    type=WholeNumber(min=1, max=2**31 - 1),
    metavar="N",
    help="Delivery attempts before a match is parked.",
)
@_delay_option
@_longest_option
@push_change_options
@etag_option
@client_command
async def update(
    session: Session, /, first_delay: Duration | None, longest_delay: Duration | None, **changes: Any
) -> None:
    """Update a subscription. Options that are not given change nothing, but the two delays change together."""
    backoff = None
    if first_delay is not None or longest_delay is not None:
        backoff = pb.Backoff(initial_delay=first_delay, max_delay=longest_delay)
    request = pb.UpdateSubscriptionRequest(backoff=backoff, push=take_push_changes(changes), **changes)
    _show(session, (await session.call(session.matches.UpdateSubscription, request)).subscription)


@subscription.command()
@click.argument("subscription")
@option("--force", is_flag=True, help="Delete it even while consumers are connected.")
@confirmed("deletes the subscription {subscription} with its place in the log and its parked matches")
@etag_option
@client_command
async def delete(session: Session, /, **stated: Any) -> None:
    """Delete a subscription and its state. The match log is kept."""
    request = pb.DeleteSubscriptionRequest(**stated)
    _show(session, (await session.call(session.matches.DeleteSubscription, request)).subscription)


@subscription.command()
@click.argument("subscription")
@click.argument("start", type=start_point)
@etag_option
@client_command
async def seek(session: Session, subscription: str, start: pb.StartPoint, etag: str) -> None:
    """Move a subscription to START: earliest, latest, the position of a match, or a time."""
    request = pb.SeekSubscriptionRequest(subscription=subscription, start=start, etag=etag)
    _show(session, (await session.call(session.matches.SeekSubscription, request)).subscription)


@subscription.command()
@click.argument("subscription")
@option("--automation", "automation_id", type=automation_id, metavar="ID", help="Only matches of this automation.")
@parked_until_option
@limit_option("matches")
@client_command
async def parked(
    session: Session, /, subscription: str, automation_id: str | None, parked_until: Timestamp | None, limit: int
) -> None:
    """List the parked matches of a subscription, most recently parked first."""
    parked_matches = await list_all(
        partial(session.call, session.matches.ListParkedMatches),
        pb.ListParkedMatchesRequest(
            subscription=subscription, automation_id=automation_id or "", parked_until=parked_until
        ),
        lambda response: response.parked_matches,
        limit,
    )
    header = ("POSITION", "MATCH", "PARKED", "CAUSE", "ATTEMPTS", "AUTOMATION", "LAST FAILURE")
    show_list(parked_matches, header, _parked_row, as_json=session.json)


@subscription.command()
@click.argument("subscription")
@selection_options
@_dry_run_option
@client_command
async def replay(session: Session, /, subscription: str, dry_run: bool, **selection: Any) -> None:
    """Deliver parked matches again."""
    request = pb.ReplayParkedMatchesRequest(
        subscription=subscription, selection=pb.ParkedSelection(**selection), dry_run=dry_run
    )
    response = await session.call(session.matches.ReplayParkedMatches, request)
    _show_count(session, response, "would be replayed" if dry_run else "replayed")


@subscription.command()
@click.argument("subscription")
@selection_options
@_dry_run_option
@confirmed("discards parked matches of {subscription}, which are never delivered again")
@client_command
async def discard(session: Session, /, subscription: str, dry_run: bool, **selection: Any) -> None:
    """Discard parked matches: they are never delivered again, and stay in the match log."""
    request = pb.DiscardParkedMatchesRequest(
        subscription=subscription, selection=pb.ParkedSelection(**selection), dry_run=dry_run
    )
    response = await session.call(session.matches.DiscardParkedMatches, request)
    _show_count(session, response, "would be discarded" if dry_run else "discarded")


def _show_count(
    session: Session, response: pb.ReplayParkedMatchesResponse | pb.DiscardParkedMatchesResponse, done: str
) -> None:
    if session.json:
        print_json(to_plain(response))
    else:
        click.echo(f"{response.match_count:,} {done}")


def _show(session: Session, subscription: pb.Subscription) -> None:
    show_one(subscription, _fields, as_json=session.json)


def _row(subscription: pb.Subscription) -> tuple[str, ...]:
    stats = subscription.stats
    return (
        subscription.id,
        str(stats.floor_position),
        str(stats.head_position),
        str(stats.outstanding_count),
        str(stats.retrying_count),
        str(stats.parked_count),
        str(stats.consumer_count),
        subscription.name,
    )


def _consumer_row(consumer: pb.SubscriptionConsumer) -> tuple[str, ...]:
    return (
        str(consumer.outstanding_count),
        str(consumer.max_outstanding) if consumer.connected else "",
        moment(consumer.connected_at),
        consumer.consumer_id,
    )


def _parked_row(parked: pb.ParkedMatch) -> tuple[str, ...]:
    return (
        str(parked.match.position),
        parked.match.id,
        moment(parked.parked_at),
        PARKING_CAUSE.name(parked.cause).replace("_", "-"),
        str(parked.attempt_count),
        parked.match.automation_name,
        parked.last_failure,
    )


def _fields(subscription: pb.Subscription) -> tuple[tuple[str, str], ...]:
    stats, filters, backoff = subscription.stats, subscription.filter, subscription.backoff
    first, longest = backoff.initial_delay, backoff.max_delay
    return (
        ("name", subscription.name),
        ("id", subscription.id),
        ("events", " ".join(filters.event_names)),
        ("automations", " ".join(filters.automation_ids)),
        ("labels", " ".join(f"{key}={value}" for key, value in sorted(filters.labels.items()))),
        ("order", DELIVERY_ORDER.name(subscription.order)),
        ("ack deadline", subscription.ack_deadline.ToJsonString()),
        ("attempts", str(subscription.max_attempts)),
        ("backoff", f"{first.ToJsonString()} times {backoff.multiplier:g} up to {longest.ToJsonString()}"),
        ("ack floor", f"{stats.floor_position} of {stats.head_position}, read to {stats.read_position}"),
        ("leased", str(stats.outstanding_count)),
        ("retrying", str(stats.retrying_count)),
        ("parked", str(stats.parked_count)),
        ("oldest", stats.oldest_unacked_age.ToJsonString() if stats.HasField("oldest_unacked_age") else ""),
        ("consumers", str(stats.consumer_count)),
        *push_fields(subscription),
        ("created", moment(subscription.created_at)),
        ("updated", moment(subscription.updated_at)),
        ("etag", subscription.etag),
    )
