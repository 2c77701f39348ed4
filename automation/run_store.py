"""Reading and writing the match log and the runs: their SQL.

Every function takes an open connection and neither begins nor ends a transaction. Writers look before they write, so
the caller lets only one transaction at a time write the runs of a project. Times are microseconds UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import and_, bindparam, select, update

from automation.errors import RunFinished, RunMovedOn, RunNotFound, RunWithoutContact
from automation.runs import OPEN, Match, MatchKind, Run, RunStatus, Wait
from automation.tables import automation_match, run
from registry.etags import check_etag
from registry.log_ids import position_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy import Connection, Row

# SQLite binds at most 32,766 values in a statement.
_IN_LIST: Final = 10_000

_match = automation_match.c
_run = run.c


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list; what is None or empty narrows nothing."""

    statuses: Collection[RunStatus] = ()
    automation_key: int | None = None
    contact_key: int | None = None


@dataclass(frozen=True, slots=True)
class DueWait:
    """A wait whose time ran out."""

    project_key: int
    run: Run


def read_matches(connection: Connection, project_key: int, after: int, limit: int) -> list[Match]:
    """Read the match log onwards from behind a position."""
    query = select(automation_match).where(_match.project_key == project_key, _match.position > after)
    return [_to_match(row) for row in connection.execute(query.order_by(_match.position).limit(limit))]


def matches_at(connection: Connection, project_key: int, positions: Sequence[int]) -> dict[int, Match]:
    """Read the matches at positions."""
    found: dict[int, Match] = {}
    for chunk in _chunks(positions):
        query = select(automation_match).where(_match.project_key == project_key, _match.position.in_(chunk))
        found.update((row.position, _to_match(row)) for row in connection.execute(query))
    return found


def matches_of_event(connection: Connection, project_key: int, event_position: int) -> list[Match]:
    """Read what one event set off, in the order of positions."""
    query = select(automation_match).where(
        _match.project_key == project_key,
        _match.event_position == event_position,
        _match.kind != MatchKind.TIMED_OUT,
    )
    return [_to_match(row) for row in connection.execute(query.order_by(_match.position))]


def get_run(connection: Connection, project_key: int, run_id: str) -> Run:
    """Read one run. Raises RunNotFound."""
    number = position_of(run_id)
    row = connection.execute(
        select(run).where(_run.project_key == project_key, _run.number == number, _run.id == run_id)
    ).one_or_none()
    if row is None:
        raise RunNotFound(run_id)
    return _to_run(row)


def list_runs(
    connection: Connection, project_key: int, wanted: RunFilter, limit: int, before: int | None = None
) -> list[Run]:
    """List runs, newest first, from behind a number."""
    query = select(run).where(_run.project_key == project_key).order_by(_run.number.desc()).limit(limit)
    if wanted.statuses:
        query = query.where(_run.status.in_(list(wanted.statuses)))
    if wanted.automation_key is not None:
        query = query.where(_run.automation_key == wanted.automation_key)
    if wanted.contact_key is not None:
        query = query.where(_run.contact_key == wanted.contact_key)
    if before is not None:
        query = query.where(_run.number < before)
    return [_to_run(row) for row in connection.execute(query)]


def waiting_runs(connection: Connection, project_key: int, contact_keys: Sequence[int]) -> list[Run]:
    """Read the waiting runs of contacts, oldest first."""
    found: list[Run] = []
    for chunk in _chunks(contact_keys):
        query = select(run).where(
            _run.project_key == project_key, _run.status == RunStatus.WAITING, _run.contact_key.in_(chunk)
        )
        found += map(_to_run, connection.execute(query))
    return sorted(found, key=lambda each: each.number)


def entered(
    connection: Connection, project_key: int, automation_keys: Sequence[int], contact_keys: Sequence[int]
) -> dict[tuple[int, int], bool]:
    """Find which contacts entered which automations: by both keys, whether a run of theirs is still open."""
    found: dict[tuple[int, int], bool] = {}
    for chunk in _chunks(contact_keys):
        query = select(_run.automation_key, _run.contact_key, _run.status).distinct()
        query = query.where(
            _run.project_key == project_key,
            _run.automation_key.in_(automation_keys),
            _run.contact_key.in_(chunk),
        )
        for row in connection.execute(query):
            pair = row.automation_key, row.contact_key
            found[pair] = found.get(pair, False) or row.status in OPEN
    return found


def due_waits(connection: Connection, now: int, limit: int) -> list[DueWait]:
    """Read waits of all projects whose time ran out, the longest overdue first."""
    query = select(run).where(_run.status == RunStatus.WAITING, _run.timeout_at > 0, _run.timeout_at <= now)
    rows = connection.execute(query.order_by(_run.timeout_at).limit(limit))
    return [DueWait(row.project_key, _to_run(row)) for row in rows]


def resume_runs(connection: Connection, project_key: int, positions: Mapping[int, int], now: int) -> None:
    """Queue waiting runs again, each with its newest match: positions of matches by the runs' numbers."""
    if positions:
        rows = [{"of": number, "at": position} for number, position in positions.items()]
        connection.execute(_RESUME, [{**row, "project": project_key, "now": now} for row in rows])


def mark_running(connection: Connection, project_key: int, matches: Iterable[Match]) -> None:
    """Note that the newest matches of queued runs were delivered."""
    rows = [{"project": project_key, "of": each.run_number, "at": each.position} for each in matches]
    if rows:
        connection.execute(_MARK_RUNNING, rows)


def await_event(connection: Connection, project_key: int, current: Run, wait: Wait, now: int) -> Run:
    """Park an open run. Raises RunFinished and RunWithoutContact."""
    if current.status not in OPEN:
        raise RunFinished(current.id, current.status)
    if not current.contact_key:
        raise RunWithoutContact(current.id)
    return _write(connection, project_key, current, now, status=RunStatus.WAITING, wait=wait)


def finish_run(connection: Connection, project_key: int, current: Run, status: RunStatus, reason: str, now: int) -> Run:
    """End an open run; one that ended so before stays as it is. Raises RunFinished."""
    if current.status is status:
        return current
    if current.status not in OPEN:
        raise RunFinished(current.id, current.status)
    return _write(connection, project_key, current, now, status=status, reason=reason, wait=None, finished_at=now)


def cancel_run(connection: Connection, project_key: int, current: Run, reason: str, etag: str, now: int) -> Run:
    """Cancel an open run; a cancelled one stays as it is. Raises EtagMismatch and RunFinished."""
    check_etag(etag, current.etag)
    return finish_run(connection, project_key, current, RunStatus.CANCELLED, reason, now)


def cancel_runs(connection: Connection, project_key: int, automation_key: int, reason: str, now: int) -> int:
    """Cancel the open runs of an automation. Returns how many there were."""
    wanted = and_(_run.project_key == project_key, _run.automation_key == automation_key, _run.status.in_([*OPEN]))
    ended = {
        "status": RunStatus.CANCELLED,
        "reason": reason,
        "updated_at": now,
        "finished_at": now,
        "version": _run.version + 1,
        **_wait_columns(None),
    }
    return connection.execute(update(run).where(wanted).values(ended)).rowcount


def keep_attributes(
    connection: Connection, project_key: int, current: Run, attributes: Mapping[str, Any], now: int
) -> Run:
    """Replace what the engine keeps with the run."""
    return _write(connection, project_key, current, now, attributes=attributes)


def check_newest(connection: Connection, project_key: int, current: Run, match_id: str) -> None:
    """Raise RunMovedOn unless the id is empty or that of the run's newest match."""
    newest = matches_at(connection, project_key, [current.match_position])[current.match_position]
    if match_id and match_id != newest.id:
        raise RunMovedOn(current.id, newest.id)


def match_values(project_key: int, match: Match) -> tuple[Any, ...]:
    """Give the columns of a match, in their order."""
    return (
        project_key,
        match.position,
        match.id,
        match.kind,
        match.automation_key,
        match.run_number,
        match.run_id,
        match.event_position,
        match.event_name,
        match.contact_key,
        match.matched_at,
    )


def new_run_values(project_key: int, match: Match) -> tuple[Any, ...]:
    """Give the columns, in their order, of the run that a match starts."""
    return (
        project_key,
        match.run_number,
        match.run_id,
        match.automation_key,
        match.contact_key,
        match.event_position,
        RunStatus.QUEUED,
        match.position,
        "",
        "",
        0,
        0,
        "",
        "{}",
        1,
        match.matched_at,
        match.matched_at,
        0,
    )


_RESUME = (
    update(run)
    .where(_run.project_key == bindparam("project"), _run.number == bindparam("of"))
    .values(
        status=RunStatus.QUEUED,
        match_position=bindparam("at"),
        wait_event="",
        wait_condition="",
        wait_from=0,
        timeout_at=0,
        version=_run.version + 1,
        updated_at=bindparam("now"),
    )
)
_MARK_RUNNING = (
    update(run)
    .where(
        _run.project_key == bindparam("project"),
        _run.number == bindparam("of"),
        _run.match_position == bindparam("at"),
        _run.status == RunStatus.QUEUED,
    )
    .values(status=RunStatus.RUNNING)
)


def _write(connection: Connection, project_key: int, current: Run, now: int, **changes: Any) -> Run:
    changed = replace(current, version=current.version + 1, updated_at=now, **changes)
    columns = {
        "status": changed.status,
        "reason": changed.reason,
        "attributes": msgspec.json.encode(changed.attributes).decode(),
        "version": changed.version,
        "updated_at": now,
        "finished_at": changed.finished_at,
        **_wait_columns(changed.wait),
    }
    own = and_(_run.project_key == project_key, _run.number == current.number)
    connection.execute(update(run).where(own).values(columns))
    return changed


def _wait_columns(wait: Wait | None) -> dict[str, Any]:
    return {
        "wait_event": wait.event_name if wait else "",
        "wait_condition": wait.condition if wait else "",
        "wait_from": wait.from_position if wait else 0,
        "timeout_at": wait.timeout_at if wait else 0,
    }


def _chunks(items: Sequence[int]) -> Iterable[Sequence[int]]:
    return (items[start : start + _IN_LIST] for start in range(0, len(items), _IN_LIST))


def _to_match(row: Row[Any]) -> Match:
    return Match(
        row.position,
        row.id,
        MatchKind(row.kind),
        row.automation_key,
        row.run_number,
        row.run_id,
        row.event_position,
        row.event_name,
        row.contact_key,
        row.matched_at,
    )


def _to_run(row: Row[Any]) -> Run:
    status = RunStatus(row.status)
    waiting = status is RunStatus.WAITING
    return Run(
        number=row.number,
        id=row.id,
        automation_key=row.automation_key,
        contact_key=row.contact_key,
        event_position=row.event_position,
        status=status,
        match_position=row.match_position,
        wait=Wait(row.wait_event, row.wait_condition, row.wait_from, row.timeout_at) if waiting else None,
        reason=row.reason,
        attributes=msgspec.json.decode(row.attributes),
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
        finished_at=row.finished_at,
    )
