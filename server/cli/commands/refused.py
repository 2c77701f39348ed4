"""The commands `refused`."""

from __future__ import annotations

from collections import Counter
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.confirmation import check_terminal, confirm
from server.cli.arguments.options import limit_option, option
from server.cli.arguments.window_options import since_option, until_option
from server.cli.client.pagination import list_all
from server.cli.client.session import client_command
from server.cli.errors import Failure
from server.cli.output.events import show_violations
from server.cli.output.json_text import to_json
from server.cli.output.quantities import quantity
from server.cli.output.tables import moment, print_fields, print_json, print_table, to_plain
from server.cli.output.views import show_list
from signalbox.v1 import refusals_pb2 as pb

if TYPE_CHECKING:
    from server.cli.arguments.options import F
    from server.cli.client.session import Session

_FILTERS = (
    option("--event", "name", metavar="NAME", help="Only events of this name."),
    option("--reason", metavar="REASON", help="Only events with this reason of an error or violation."),
    option("--path", metavar="PATH", help="Only events with a violation here, such as properties.lines[].price."),
    option("--door", metavar="NAME", help="Only events sent to this API: grpc, connect or a dialect."),
    since_option,
    until_option,
)


def filter_options(command: F) -> F:
    """Add the options of a filter to a command."""
    return reduce(lambda decorated, decorate: decorate(decorated), reversed(_FILTERS), command)


@click.group()
def refused() -> None:
    """Inspect refused events and send them again.

    Refused events are kept if the project says so: signalbox project update NAME --refused-events quarantine
    """


@refused.command("list")
@filter_options
@limit_option("events")
@client_command
async def list_(session: Session, /, limit: int, **filters: Any) -> None:
    """List refused events, newest first."""
    events = await list_all(
        partial(session.call, session.quarantine.ListRefusedEvents),
        pb.ListRefusedEventsRequest(filter=_filter(filters)),
        lambda response: response.refused_events,
        limit,
    )
    show_list(events, ("ID", "RECEIVED", "NAME", "CONTACT", "DOOR", "REASON", "PATHS"), _row, as_json=session.json)


@refused.command()
@click.argument("refused_id", metavar="ID")
@client_command
async def show(session: Session, refused_id: str) -> None:
    """Show one refused event with every violation."""
    request = pb.GetRefusedEventRequest(id=refused_id)
    found = (await session.call(session.quarantine.GetRefusedEvent, request)).refused_event
    if session.json:
        print_json(to_plain(found))
        return
    print_fields(_fields(found))
    show_violations(found.error.violations)


@refused.command()
@filter_options
@client_command
async def count(session: Session, /, **filters: Any) -> None:
    """Count refused events by name, reason and path."""
    request = pb.CountRefusedEventsRequest(filter=_filter(filters))
    groups: Counter[tuple[str, str, str]] = Counter()
    total = 0
    while True:
        response = await session.call(session.quarantine.CountRefusedEvents, request)
        total += response.event_count
        for group in response.groups:
            groups[group.name, group.reason, group.path] += group.event_count
        request.continue_after = response.continue_after
        if not response.continue_after:
            break
    if session.json:
        named = ("name", "reason", "path", "event_count")
        listed = [dict(zip(named, (*group, count), strict=True)) for group, count in groups.most_common()]
        print_json({"event_count": total, "kept_event_count": response.kept_event_count, "groups": listed})
        return
    print_table(("EVENTS", "NAME", "REASON", "PATH"), [(f"{count:,}", *group) for group, count in groups.most_common()])
    click.echo(
        f"{quantity(total, 'event')}; the quarantine has {response.kept_event_count:,} of {response.max_event_count:,}"
    )


@refused.command()
@click.argument("ids", nargs=-1)
@filter_options
@option("--all", "everything", is_flag=True, help="All refused events.")
@option("--dry-run", is_flag=True, help="Only report what would become of the events.")
@client_command
async def reingest(session: Session, /, ids: tuple[str, ...], everything: bool, dry_run: bool, **filters: Any) -> None:
    """Send refused events again: those with these IDs, those that pass the options, or all.

    They keep their idempotency key and their time. Those that are recorded leave the quarantine.
    """
    request = pb.ReingestRefusedEventsRequest(validate_only=dry_run, **_selection(ids, filters, everything=everything))
    done = pb.ReingestRefusedEventsResponse()
    try:
        await _reingest(session, request, done)
    except Failure:
        if done != pb.ReingestRefusedEventsResponse():
            _show_reingested(session, done, "")
        raise
    _show_reingested(session, done, "would be " if dry_run else "")


async def _reingest(
    session: Session, request: pb.ReingestRefusedEventsRequest, done: pb.ReingestRefusedEventsResponse
) -> None:
    """Send events again call by call, and add what became of them."""
    while True:
        response = await session.call(session.quarantine.ReingestRefusedEvents, request)
        done.recorded_count += response.recorded_count
        done.duplicate_count += response.duplicate_count
        done.refused_count += response.refused_count
        done.still_refused.extend(response.still_refused[: _SHOWN - len(done.still_refused)])
        request.continue_after = response.continue_after
        if not response.continue_after:
            return


def _show_reingested(session: Session, done: pb.ReingestRefusedEventsResponse, would: str) -> None:
    if session.json:
        print_json(to_plain(done))
        return
    click.echo(f"{done.recorded_count:,} {would}recorded")
    if done.duplicate_count:
        click.echo(f"{done.duplicate_count:,} {would}recognized as recorded already")
    if done.refused_count:
        click.echo(f"{done.refused_count:,} {would}still refused")
        rows = [(each.id, each.name, each.error.reason, each.error.message) for each in done.still_refused]
        print_table(("ID", "NAME", "REASON", "MESSAGE"), rows)


_SHOWN = 100


@refused.command()
@click.argument("ids", nargs=-1)
@filter_options
@option("--all", "everything", is_flag=True, help="All refused events.")
@option("--dry-run", is_flag=True, help="Only count the events.")
@option("--yes", is_flag=True, help="Do not ask for confirmation.")
@client_command
async def discard(
    session: Session, /, ids: tuple[str, ...], everything: bool, dry_run: bool, yes: bool, **filters: Any
) -> None:
    """Delete refused events for good: those with these IDs, those that pass the options, or all."""
    selection = _selection(ids, filters, everything=everything)
    if not (dry_run or yes):
        check_terminal("deletes refused events for good")
    if dry_run or not yes:
        found = await _discard(session, pb.DiscardRefusedEventsRequest(validate_only=True, **selection))
        if dry_run:
            _show_count(session, found, "would be discarded")
            return
        confirm(f"deletes {quantity(found, 'refused event')} for good")
    _show_count(session, await _discard(session, pb.DiscardRefusedEventsRequest(**selection)), "discarded")


async def _discard(session: Session, request: pb.DiscardRefusedEventsRequest) -> int:
    count = 0
    while True:
        response = await session.call(session.quarantine.DiscardRefusedEvents, request)
        count += response.event_count
        request.continue_after = response.continue_after
        if not response.continue_after:
            return count


def _show_count(session: Session, count: int, done: str) -> None:
    if session.json:
        print_json({"event_count": count})
    else:
        click.echo(f"{count:,} {done}")


def _filter(filters: dict[str, Any]) -> pb.RefusedEventFilter:
    return pb.RefusedEventFilter(**{name: value for name, value in filters.items() if value is not None})


def _selection(ids: tuple[str, ...], filters: dict[str, Any], *, everything: bool) -> dict[str, Any]:
    """Return the fields that select events. Raise UsageError unless exactly one way to select them is used."""
    given = any(value is not None for value in filters.values())
    if bool(ids) + given + everything != 1:
        raise click.UsageError("Give IDs, options that select events, or --all.")
    if ids:
        return {"ids": pb.RefusedEventIds(ids=ids)}
    return {"filter": _filter(filters)}


def _row(found: pb.RefusedEvent) -> tuple[str, ...]:
    paths = dict.fromkeys(violation.path for violation in found.error.violations)
    contact = found.email or found.contact_id
    return found.id, moment(found.received_at), found.name, contact, found.door, found.error.reason, " ".join(paths)


def _fields(found: pb.RefusedEvent) -> tuple[tuple[str, str], ...]:
    return (
        ("id", found.id),
        ("name", found.name),
        ("contact", found.email or found.contact_id),
        ("occurred", moment(found.occurred_at)),
        ("received", moment(found.received_at)),
        ("door", found.door),
        ("key", found.key_id),
        ("request id", found.request_id),
        ("idempotency key", found.idempotency_key),
        ("properties", to_json(to_plain(found)["properties"]) if found.HasField("properties") else ""),
        ("request", found.request.decode(errors="replace")),
        ("reason", found.error.reason),
        ("message", found.error.message),
        *((("unreadable", found.unreadable_reason),) if found.unreadable_reason else ()),
    )
