"""The SQL that writes runs: from one status to the next.

Every function takes an open connection and neither begins nor ends a transaction. Writers read before they write, so
the caller lets only one transaction at a time write the runs of a project. Times are microseconds UTC.

The status of a run changes as follows; a run that has ended never changes again:

    from                      to                             by
    -                         QUEUED                         new_run_values: a match started it
    QUEUED                    RUNNING                        mark_running: its newest match was delivered
    QUEUED, RUNNING, WAITING  WAITING                        set_run_waiting: an engine awaits an event
    WAITING                   QUEUED                         resume_runs: the event came, or the wait timed out
    QUEUED, RUNNING, WAITING  COMPLETED, FAILED or SKIPPED   finish_run: an engine reports the outcome
    QUEUED, RUNNING, WAITING  CANCELLED                      cancel_run, cancel_runs, cancel_runs_of_contacts
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import and_, bindparam, case, update

from automation.bulk import among, chunks, execute_many, packed, spans
from automation.errors import RunFinished, RunMovedOn, RunWithoutContact
from automation.match_log import matches_at
from automation.prepared_statements import Prepared
from automation.runs import OPEN, Run, RunStatus, Wait
from automation.tables import hidden_from_planner, run
from registry.etags import check_etag
from registry.log_ids import position_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Update

    from automation.matches import Match

_run = run.c
_run_project = hidden_from_planner(_run.project_key)


def resume_runs(connection: Connection, project_pk: int, positions: Mapping[int, int], now: int) -> None:
    """Set waiting runs to queued, each with its newest match; `positions` has those of the matches by run number."""
    if positions:
        rows = [{"of": number, "at": position} for number, position in positions.items()]
        connection.execute(_RESUME, [{**row, "project": project_pk, "now": now} for row in rows])


def mark_running(connection: Connection, project_pk: int, matches: Iterable[Match]) -> None:
    """Set queued runs to running whose newest matches were delivered."""
    pairs = sorted((match.run_number, match.position) for match in matches)
    if connection.dialect.name != "sqlite":
        # Row by row and in one order: steps of several subscriptions may change the same runs.
        execute_many(connection, _MARK_RUNNING, [{"project": project_pk, "of": of, "at": at} for of, at in pairs])
    elif found := spans(pairs):
        for span in found:
            _MARK_SPAN_RUNNING.run(connection, project=project_pk, **span._asdict())
    elif pairs:
        # The newest match of a run is no other run's, so the two lists are as good as pairs.
        numbers, positions = zip(*pairs, strict=True)
        _MARK_ALL_RUNNING.run(
            connection, project=project_pk, numbers=packed(connection, numbers), positions=packed(connection, positions)
        )


def set_run_waiting(
    connection: Connection, project_pk: int, current: Run, wait: Wait, attributes: Mapping[str, Any] | None, now: int
) -> Run:
    """Set an open run to waiting; attributes that are None stay. Raise RunFinished and RunWithoutContact."""
    if current.status not in OPEN:
        raise RunFinished(current.id, current.status)
    if not current.contact_key:
        raise RunWithoutContact(current.id)
    kept = current.attributes if attributes is None else attributes
    return _write(connection, project_pk, current, now, status=RunStatus.WAITING, wait=wait, attributes=kept)


def finish_run(
    connection: Connection,
    project_pk: int,
    current: Run,
    status: RunStatus,
    reason: str,
    head: int,
    now: int,
    attributes: Mapping[str, Any] | None = None,
) -> Run:
    """Finish an open run; a run that was finished with the same status stays as it is.

    `head` is the position of the newest event. Attributes that are None stay. Raise RunFinished.
    """
    if current.status is status:
        return current
    if current.status not in OPEN:
        raise RunFinished(current.id, current.status)
    at = max(now, current.updated_at)
    ended = {"status": status, "reason": reason, "wait": None, "finished_at": at, "finished_position": head}
    kept = current.attributes if attributes is None else attributes
    return _write(connection, project_pk, current, now, attributes=kept, **ended)


def cancel_run(
    connection: Connection, project_pk: int, current: Run, reason: str, etag: str, head: int, now: int
) -> Run:
    """Cancel an open run; a cancelled one stays as it is. Raise EtagMismatch and RunFinished."""
    check_etag(etag, current.etag)
    return finish_run(connection, project_pk, current, RunStatus.CANCELLED, reason, head, now)


def cancel_runs(connection: Connection, project_pk: int, automation_key: int, reason: str, head: int, now: int) -> int:
    """Cancel the open runs of an automation. Return their number."""
    return _cancel(connection, project_pk, _run.automation_key == automation_key, reason, head, now)


def cancel_runs_of_contacts(
    connection: Connection, project_pk: int, contact_keys: Sequence[int], reason: str, head: int, now: int
) -> int:
    """Cancel the open runs of contacts; `head` is the position of the newest event. Return their number."""
    return sum(
        _cancel(connection, project_pk, _run.contact_key.in_(chunk), reason, head, now)
        for chunk in chunks(contact_keys)
    )


def _cancel(
    connection: Connection, project_pk: int, narrowed: ColumnElement[bool], reason: str, head: int, now: int
) -> int:
    open_runs = and_(_run_project == project_pk, narrowed, _run.status.in_([*OPEN]))
    at = case((_run.updated_at > now, _run.updated_at), else_=now)
    ended = {
        "status": RunStatus.CANCELLED,
        "reason": reason,
        "updated_at": at,
        "finished_at": at,
        "finished_position": head,
        "version": _run.version + 1,
        **_wait_columns(None),
    }
    return connection.execute(update(run).where(open_runs).values(ended)).rowcount


def check_newest(connection: Connection, project_pk: int, current: Run, match_id: str) -> None:
    """Raise RunMovedOn unless the id is empty or that of the run's newest match."""
    if not match_id:
        return
    newest = matches_at(connection, project_pk, [current.match_position]).get(current.match_position)
    # The id of a deleted match still contains its position.
    if (position_of(match_id) != current.match_position) if newest is None else (match_id != newest.id):
        raise RunMovedOn(current.id, newest.id if newest else "")


def new_run_values(project_pk: int, match: Match) -> tuple[Any, ...]:
    """Return the values, in the order of the columns, of the run that a match starts."""
    return (
        project_pk,
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


def _mark_running(number: ColumnElement[bool], match_position: ColumnElement[bool]) -> Update:
    """Return the statement that marks the queued runs running which have these numbers and positions."""
    own, queued = _run.project_key == bindparam("project"), _run.status == RunStatus.QUEUED
    return update(run).where(own, number, match_position, queued).values(status=RunStatus.RUNNING)


_MARK_RUNNING = _mark_running(_run.number == bindparam("of"), _run.match_position == bindparam("at"))

_MARK_ALL_RUNNING = Prepared(
    _mark_running(among(_run.number, "numbers", "sqlite"), among(_run.match_position, "positions", "sqlite"))
)

_MARK_SPAN_RUNNING = Prepared(
    _mark_running(
        _run.number.between(bindparam("first"), bindparam("last")),
        _run.match_position == _run.number + bindparam("offset"),
    )
)


def _write(connection: Connection, project_pk: int, current: Run, now: int, **changes: Any) -> Run:
    # The clock may step back; the times of a run must not.
    changed = replace(current, version=current.version + 1, updated_at=max(now, current.updated_at), **changes)
    columns = {
        "status": changed.status,
        "reason": changed.reason,
        "attributes": msgspec.json.encode(changed.attributes).decode(),
        "version": changed.version,
        "updated_at": changed.updated_at,
        "finished_at": changed.finished_at,
        "finished_position": changed.finished_position,
        **_wait_columns(changed.wait),
    }
    if current.unreadable:
        # Unreadable attributes stay as they are, unless they are replaced.
        if changed.attributes == current.attributes:
            del columns["attributes"]
        else:
            changed = replace(changed, unreadable="")
    own = and_(_run.project_key == project_pk, _run.number == current.number)
    connection.execute(update(run).where(own).values(columns))
    return changed


def _wait_columns(wait: Wait | None) -> dict[str, Any]:
    return {
        "wait_event": wait.event_name if wait else "",
        "wait_condition": wait.condition if wait else "",
        "wait_from": wait.from_position if wait else 0,
        "timeout_at": wait.timeout_at if wait else 0,
    }
