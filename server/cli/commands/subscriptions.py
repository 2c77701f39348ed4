"""The commands `subscription`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.enums import DELIVERY_ORDER, PARKING_CAUSE, enum_option
from server.cli.arguments.inputs import duration, instant, label
from server.cli.arguments.options import etag_option, limit_option, option
from server.cli.client.pagination import listed
from server.cli.client.session import client_command
from server.cli.commands.matches import start_point
from server.cli.output.tables import moment, print_fields, print_json, print_table, to_plain
from signalbox.v1 import match_stream_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

    from server.cli.arguments.options import F
    from server.cli.client.session import Session

_PLACE = "`earliest`, `latest`, the match of a position, or a time in RFC 3339"

_deadline_option = option("--ack-deadline", type=duration, metavar="TIME", help="Time to settle a delivery, as 30s.")
_delay_option = option("--first-delay", type=duration, metavar="TIME", help="Delay after the first attempt, as 1s.")
_longest_option = option("--longest-delay", type=duration, metavar="TIME", help="The longest delay, as 10m.")
_dry_run_option = option("--dry-run", is_flag=True, help="Count, and change nothing.")


def selection_options(command: F) -> F:
    """Say which parked matches are meant."""
    for decorate in (
        option("--all", "all", is_flag=True, help="Every parked match; without filters."),
        option("--before", "parked_until", type=instant, metavar="RFC3339", help="Only those parked before."),
        option("--automation", "automation_id", metavar="ID", default="", help="Only matches of this automation."),
        option("--match", "match_ids", metavar="ID", multiple=True, help="Only this match. Again for each."),
    ):
        command = decorate(command)
    return command


@click.group()
def subscription() -> None:
    """Keep subscriptions, which deliver matches until they are acknowledged."""


@subscription.command()
@click.argument("name")
@option("--event", "event_names", metavar="NAME", multiple=True, help="Only of events of this name. Again for each.")
@option("--automation", "automation_ids", metavar="ID", multiple=True, help="Only of this automation. Again for each.")
@option("--label", "labels", type=label, metavar="KEY=VALUE", multiple=True, help="Only with this label.")
@enum_option("--order", DELIVERY_ORDER, default="position", help="By position, or for each contact one by one.")
@_deadline_option
@option("--max-attempts", type=click.IntRange(min=1), metavar="N", help="How often a match is delivered; 10 times.")
@_delay_option
@_longest_option
@option("--from", "start", type=start_point, metavar="PLACE", help=f"Begin at {_PLACE}; latest by default.")
@client_command
async def create(
    session: Session,
    /,
    event_names: Sequence[str],
    automation_ids: Sequence[str],
    labels: Iterable[tuple[str, str]],
    first_delay: Duration | None,
    longest_delay: Duration | None,
    start: pb.StartPoint | None,
    **stated: Any,
) -> None:
    """Create a subscription."""
    wanted = pb.Subscription(
        filter=pb.MatchFilter(event_names=event_names, automation_ids=automation_ids, labels=dict(labels)),
        backoff=pb.Backoff(initial_delay=first_delay, max_delay=longest_delay),
        **stated,
    )
    request = pb.CreateSubscriptionRequest(subscription=wanted, start=start)
    _show(session, (await session.call(session.matches.CreateSubscription, request)).subscription)


@subscription.command("list")
@limit_option("subscriptions")
@client_command
async def list_(session: Session, limit: int) -> None:
    """List subscriptions, newest first."""
    found = await listed(
        partial(session.call, session.matches.ListSubscriptions),
        pb.ListSubscriptionsRequest(),
        lambda answer: answer.subscriptions,
        limit,
    )
    if session.json:
        print_json([to_plain(each) for each in found])
        return
    print_table(
        ("ID", "FLOOR", "HEAD", "LEASED", "RETRYING", "PARKED", "CONSUMERS", "NAME"),
        [
            (
                each.id,
                str(each.stats.floor_position),
                str(each.stats.head_position),
                str(each.stats.outstanding_count),
                str(each.stats.retrying_count),
                str(each.stats.parked_count),
                str(each.stats.consumer_count),
                each.name,
            )
            for each in found
        ],
    )


@subscription.command()
@click.argument("subscription")
@client_command
async def show(session: Session, subscription: str) -> None:
    """Show one subscription, with its consumers."""
    request = pb.GetSubscriptionRequest(subscription=subscription)
    answer = await session.call(session.matches.GetSubscription, request)
    if session.json:
        print_json(to_plain(answer))
        return
    print_fields(_fields(answer.subscription))
    if answer.consumers:
        print_table(
            ("LEASED", "AT MOST", "CONNECTED", "CONSUMER"),
            [
                (
                    str(each.outstanding_count),
                    str(each.max_outstanding) if each.connected else "",
                    moment(each.connected_at),
                    each.consumer_id,
                )
                for each in answer.consumers
            ],
        )


@subscription.command()
@click.argument("subscription")
@option("--name", metavar="NAME", help="New name.")
@_deadline_option
@option("--max-attempts", type=click.IntRange(min=1), metavar="N", help="How often a match is delivered.")
@_delay_option
@_longest_option
@etag_option
@client_command
async def update(
    session: Session, /, first_delay: Duration | None, longest_delay: Duration | None, **changes: Any
) -> None:
    """Change a subscription; what is not named stays as it is, but the two delays change together."""
    backoff = None
    if first_delay is not None or longest_delay is not None:
        backoff = pb.Backoff(initial_delay=first_delay, max_delay=longest_delay)
    request = pb.UpdateSubscriptionRequest(backoff=backoff, **changes)
    _show(session, (await session.call(session.matches.UpdateSubscription, request)).subscription)


@subscription.command()
@click.argument("subscription")
@option("--force", is_flag=True, help="Even while consumers are connected.")
@etag_option
@client_command
async def delete(session: Session, /, **stated: Any) -> None:
    """Delete a subscription and what it remembers; the match log stays."""
    request = pb.DeleteSubscriptionRequest(**stated)
    _show(session, (await session.call(session.matches.DeleteSubscription, request)).subscription)


@subscription.command()
@click.argument("subscription")
@click.argument("place", type=start_point)
@etag_option
@client_command
async def seek(session: Session, subscription: str, place: pb.StartPoint, etag: str) -> None:
    """Have a subscription go on at a PLACE: earliest, latest, the match of a position, or a time."""
    request = pb.SeekSubscriptionRequest(subscription=subscription, start=place, etag=etag)
    _show(session, (await session.call(session.matches.SeekSubscription, request)).subscription)


@subscription.command()
@click.argument("subscription")
@option("--automation", "automation_id", metavar="ID", default="", help="Only matches of this automation.")
@option("--before", "parked_until", type=instant, metavar="RFC3339", help="Only those parked before.")
@limit_option("matches")
@client_command
async def parked(
    session: Session, /, subscription: str, automation_id: str, parked_until: Timestamp | None, limit: int
) -> None:
    """List the matches that a subscription has put aside, those parked last first."""
    found = await listed(
        partial(session.call, session.matches.ListParkedMatches),
        pb.ListParkedMatchesRequest(subscription=subscription, automation_id=automation_id, parked_until=parked_until),
        lambda answer: answer.parked_matches,
        limit,
    )
    if session.json:
        print_json([to_plain(each) for each in found])
        return
    print_table(
        ("POSITION", "MATCH", "PARKED", "CAUSE", "ATTEMPTS", "AUTOMATION", "LAST FAILURE"),
        [
            (
                str(each.match.position),
                each.match.id,
                moment(each.parked_at),
                PARKING_CAUSE.name(each.cause).replace("_", "-"),
                str(each.attempt_count),
                each.match.automation_name,
                each.last_failure,
            )
            for each in found
        ],
    )


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
    answer = await session.call(session.matches.ReplayParkedMatches, request)
    _show_count(session, answer, "would be replayed" if dry_run else "replayed")


@subscription.command()
@click.argument("subscription")
@selection_options
@_dry_run_option
@client_command
async def discard(session: Session, /, subscription: str, dry_run: bool, **selection: Any) -> None:
    """Give up parked matches for good; they stay in the match log."""
    request = pb.DiscardParkedMatchesRequest(
        subscription=subscription, selection=pb.ParkedSelection(**selection), dry_run=dry_run
    )
    answer = await session.call(session.matches.DiscardParkedMatches, request)
    _show_count(session, answer, "would be discarded" if dry_run else "discarded")


def _show_count(
    session: Session, answer: pb.ReplayParkedMatchesResponse | pb.DiscardParkedMatchesResponse, what: str
) -> None:
    if session.json:
        print_json(to_plain(answer))
    else:
        click.echo(f"{answer.match_count:,} {what}")


def _show(session: Session, each: pb.Subscription) -> None:
    if session.json:
        print_json(to_plain(each))
    else:
        print_fields(_fields(each))


def _fields(each: pb.Subscription) -> tuple[tuple[str, str], ...]:
    stats = each.stats
    first, longest = each.backoff.initial_delay, each.backoff.max_delay
    return (
        ("name", each.name),
        ("id", each.id),
        ("events", " ".join(each.filter.event_names)),
        ("automations", " ".join(each.filter.automation_ids)),
        ("labels", " ".join(f"{key}={value}" for key, value in sorted(each.filter.labels.items()))),
        ("order", DELIVERY_ORDER.name(each.order)),
        ("ack deadline", each.ack_deadline.ToJsonString()),
        ("attempts", str(each.max_attempts)),
        ("backoff", f"{first.ToJsonString()} times {each.backoff.multiplier:g} up to {longest.ToJsonString()}"),
        ("floor", f"{stats.floor_position} of {stats.head_position}, read to {stats.read_position}"),
        ("leased", str(stats.outstanding_count)),
        ("retrying", str(stats.retrying_count)),
        ("parked", str(stats.parked_count)),
        ("oldest", stats.oldest_unacked_age.ToJsonString() if stats.HasField("oldest_unacked_age") else ""),
        ("consumers", str(stats.consumer_count)),
        ("created", moment(each.created_at)),
        ("updated", moment(each.updated_at)),
        ("etag", each.etag),
    )
