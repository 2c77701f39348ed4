"""The commands `match`."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing
from typing import TYPE_CHECKING

import click
import grpc

from server.cli.arguments.inputs import instant, label
from server.cli.arguments.options import option
from server.cli.client.errors import Failure, ServerAway
from server.cli.client.refusals import failure_of
from server.cli.client.session import client_command
from server.cli.commands.consume import consume
from server.cli.output.matches import match_cells
from server.cli.output.tables import print_json_line, printable, to_plain
from signalbox.v1 import match_stream_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from server.cli.client.session import Session
    from signalbox.v1 import match_pb2

RETRY_SECONDS = 0.2
SILENCE_SECONDS = 30.0
"""A server that says so long nothing, not even a heartbeat, has gone."""

MAX_MATCHES = 100


@click.group()
def match() -> None:
    """Look at what events set off, and consume it."""


match.add_command(consume)


def start_point(text: str) -> pb.StartPoint:
    """Read an end of the log, the position of a match to begin with, or a time. Raises click.BadParameter."""
    if text in ("earliest", "latest"):
        return pb.StartPoint(log_end=pb.LogEnd.Value(f"LOG_END_{text.upper()}"))
    if text.isascii() and text.isdecimal():
        if not 1 <= int(text) < 2**63:
            raise click.BadParameter(f"{text} is no position; they begin with 1")
        return pb.StartPoint(after_position=int(text) - 1)
    try:
        return pb.StartPoint(time=instant(text))
    except click.BadParameter:
        message = f'"{text}" is neither earliest, latest, a position, nor a time such as 2026-06-01T12:00:00Z'
        raise click.BadParameter(message) from None


@match.command()
@option(
    "--from",
    "start",
    type=start_point,
    metavar="PLACE",
    help="Begin at `earliest`, `latest`, the match of a position, or a time in RFC 3339; latest by default.",
)
@option("--cursor", metavar="CURSOR", help="Begin behind an earlier answer, in place of --from.")
@option("--automation", "automation_ids", metavar="ID", multiple=True, help="Only of this automation. Again for each.")
@option(
    "--label",
    "labels",
    type=label,
    metavar="KEY=VALUE",
    multiple=True,
    help="Only of automations with this label. Again for each.",
)
@option("--event", "event_names", metavar="NAME", multiple=True, help="Only of events of this name. Again for each.")
@option("--limit", type=click.IntRange(min=1), metavar="N", help="End after so many matches.")
@client_command
async def watch(
    session: Session,
    /,
    start: pb.StartPoint | None,
    cursor: str | None,
    automation_ids: Sequence[str],
    labels: Sequence[tuple[str, str]],
    event_names: Sequence[str],
    limit: int | None,
) -> None:
    """Print matches as they are recorded, until Ctrl-C.

    With --json the last match of each answer comes with the cursor from which to resume.
    """
    if start is not None and cursor is not None:
        raise click.UsageError("Give --from or --cursor, not both.")
    request = pb.WatchMatchesRequest(
        start=start if cursor is None else pb.StartPoint(cursor=cursor),
        filter=pb.MatchFilter(automation_ids=automation_ids, labels=dict(labels), event_names=event_names),
    )
    async for answer in follow(session, request, limit):
        *others, last = answer.matches
        for each in others:
            _print(session, each, "")
        _print(session, last, answer.cursor)


async def follow(
    session: Session, request: pb.WatchMatchesRequest, limit: int | None
) -> AsyncIterator[pb.WatchMatchesResponse]:
    """Give answers with matches, up to so many matches in all.

    A server that goes away is waited for, with a notice on stderr; one that was never there is a ServerAway.
    """
    left = math.inf if limit is None else limit
    away = known = False
    while left:
        request.max_matches = int(min(left, MAX_MATCHES))
        try:
            async with aclosing(_answers(session, request)) as answers:
                async for answer in answers:
                    if away:
                        click.echo(f"{session.connection.server} is back", err=True)
                    away, known = False, True
                    if answer.matches:
                        yield answer
                    request.start.CopyFrom(pb.StartPoint(cursor=answer.cursor))
                    left -= len(answer.matches)
                    if left < request.max_matches:
                        break
        except Failure as failure:
            gone = isinstance(failure, ServerAway)
            if not known or not (gone or failure.reason == "WATCHER_TOO_SLOW"):
                raise
            if gone and not away:
                click.echo(f"{session.connection.server} has gone; waiting for it", err=True)
            away = gone
            await asyncio.sleep(RETRY_SECONDS)


async def _answers(session: Session, request: pb.WatchMatchesRequest) -> AsyncGenerator[pb.WatchMatchesResponse, None]:
    call = session.matches.WatchMatches(request, metadata=await session.metadata())
    try:
        while True:
            async with asyncio.timeout(SILENCE_SECONDS):
                answer = await call.read()
            if not isinstance(answer, pb.WatchMatchesResponse):
                return
            yield answer
    except TimeoutError:
        raise ServerAway(f"{session.connection.server} has not answered for {SILENCE_SECONDS:g} s") from None
    except grpc.aio.AioRpcError as error:
        raise failure_of(error, session.connection) from error
    finally:
        call.cancel()


def _print(session: Session, each: match_pb2.Match, cursor: str) -> None:
    if session.json:
        print_json_line({"match": to_plain(each), "cursor": cursor})
        return
    click.echo(printable("  ".join(match_cells(each))))
