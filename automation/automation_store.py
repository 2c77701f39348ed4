"""The SQL of automations.

Every function takes an open connection and neither begins nor ends a transaction. Writers read before they write, so
the caller lets only one transaction at a time write the automations of a project. It also holds the lock of the
project's head, so that a change applies exactly to the events after `head`, the position of the newest event. Times are
microseconds UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import func, insert, select, update

from automation.automations import Automation, AutomationState, AutomationVersion, EntryRule
from automation.bulk import DIALECTS, among, chunks, packed
from automation.errors import (
    AutomationActive,
    AutomationNotActive,
    AutomationNotFound,
    InvalidAutomation,
    TooManyAutomations,
)
from automation.prepared_statements import Prepared
from automation.tables import automation, automation_version
from automation.unused_keys import unused_key
from registry.errors import InvalidName, Violation
from registry.etags import check_etag
from registry.names import check_event_name, given_name_problem
from registry.paths import property_path
from registry.sql.name_search import name_contains
from registry.sql.page_sizes import PAGE_CHARACTERS, page_of
from registry.sql.text_columns import as_text, text_of
from registry.sql.unreadable_rows import UNREADABLE_ROWS, load_reported, load_word

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from enum import StrEnum

    from sqlalchemy import Connection, Row, Select

    from automation.automations import NewAutomation

MAX_AUTOMATIONS: Final = 10_000
"""The most live automations of a project: after a restart, compiling as many delays its first event by 5 s."""

MAX_LABELS: Final = 32
MAX_LABEL_KEY: Final = 63
MAX_LABEL_VALUE: Final = 255

_automation = automation.c
_JSON_COLUMNS = ("labels", "attributes")
_WORDS: Final[Mapping[str, type[AutomationState | EntryRule]]] = {"state": AutomationState, "entry_rule": EntryRule}
_CHECKED: Final = (*_JSON_COLUMNS, *_WORDS)
_BARE = select(*(column for column in as_text(automation) if column.name != "attributes"))
_BY_KEY = Prepared(*(_BARE.where(among(_automation.key, "keys", dialect)) for dialect in DIALECTS))


@dataclass(frozen=True, slots=True)
class AutomationFilter:
    """A filter of automations; empty fields match all. `search` is a part of the name, in any ASCII case."""

    event_name: str = ""
    state: AutomationState | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    search: str = ""


def create_automation(
    connection: Connection, project_pk: int, automation_id: str, new: NewAutomation, head: int, now: int
) -> Automation:
    """Create an automation. Raise InvalidAutomation, InvalidName and TooManyAutomations."""
    _check_automation(new)
    if count_automations(connection, project_pk) >= MAX_AUTOMATIONS:
        raise TooManyAutomations(MAX_AUTOMATIONS)
    created = Automation(
        key=0,
        project_pk=project_pk,
        id=automation_id,
        name=new.name,
        event_name=new.event_name,
        condition=new.condition,
        state=new.state,
        entry_rule=new.entry_rule,
        labels=new.labels,
        attributes=new.attributes,
        activated_position=head if new.state is AutomationState.ACTIVE else None,
        version=1,
        created_at=now,
        updated_at=now,
    )
    columns = _columns(created) | unused_key(connection, automation)
    result = connection.execute(insert(automation).values(columns).returning(_automation.key))
    created = replace(created, key=result.scalar_one())
    _insert_version(connection, created, head)
    return created


def get_automation(connection: Connection, project_pk: int, automation_id: str, *, deleted: bool = False) -> Automation:
    """Return one automation; with `deleted`, also a deleted one. Raise AutomationNotFound."""
    row = connection.execute(_all(project_pk).where(_automation.id == automation_id)).one_or_none()
    if row is not None and row.deleted_at is not None and not deleted:
        row = None
    if row is None:
        raise AutomationNotFound(automation_id)
    return _to_automation(row)


def list_automations(
    connection: Connection,
    project_pk: int,
    automation_filter: AutomationFilter,
    limit: int,
    before_id: str = "",
    skip: int = 0,
    room: int = PAGE_CHARACTERS,
) -> tuple[list[Automation], bool]:
    """Return a page of automations, newest first, and whether there are more.

    The page begins after `before_id` and has at most `room` characters.
    """
    query = _live(project_pk).order_by(_automation.id.desc())
    if automation_filter.event_name:
        query = query.where(_automation.event_name == automation_filter.event_name)
    if automation_filter.state is not None:
        query = query.where(_automation.state == automation_filter.state)
    if automation_filter.search:
        query = query.where(name_contains(_automation.name, automation_filter.search, ignore_case=True))
    if before_id:
        query = query.where(_automation.id < before_id)
    rows = connection.execute(query if automation_filter.labels else query.limit(limit + 1).offset(skip))
    labelled = (
        row for row in rows if not automation_filter.labels or has_labels(_to_automation(row), automation_filter.labels)
    )
    page, more = page_of(labelled, limit, lambda row: len(row.attributes), room)
    return [_to_automation(row) for row in page], more


def count_automations(connection: Connection, project_pk: int) -> int:
    """Return the number of automations that are not deleted."""
    query = select(func.count()).where(_automation.project_key == project_pk, _automation.deleted_at.is_(None))
    return connection.scalar(query) or 0


def active_automations(connection: Connection, project_pk: int, event_name: str) -> int:
    """Return the number of active automations of an event name."""
    query = select(func.count()).where(
        _automation.project_key == project_pk,
        _automation.event_name == event_name,
        _automation.state == AutomationState.ACTIVE,
        _automation.deleted_at.is_(None),
    )
    return connection.scalar(query) or 0


def live_automations(connection: Connection, project_pk: int) -> list[Automation]:
    """Return the automations that are not deleted, without attributes, oldest first."""
    query = _BARE.where(_automation.project_key == project_pk, _automation.deleted_at.is_(None))
    return [_to_automation(row) for row in connection.execute(query.order_by(_automation.key))]


def versions_by_key(connection: Connection, project_pk: int) -> dict[int, tuple[int, int]]:
    """Return version and time of the last change of each automation that is not deleted, by key, oldest first.

    The time distinguishes changes that were lost in a failover or a restore from later ones with the same version.
    """
    query = select(_automation.key, _automation.version, _automation.updated_at)
    query = query.where(_automation.project_key == project_pk, _automation.deleted_at.is_(None))
    return {key: (version, at) for key, version, at in connection.execute(query.order_by(_automation.key))}


def automations_by_key(connection: Connection, keys: Collection[int]) -> dict[int, Automation]:
    """Return automations, also deleted ones, without attributes, by their keys."""
    rows = _BY_KEY.rows(connection, keys=packed(connection, [*keys]))
    names = _BARE.selected_columns.keys()
    named = (dict(zip(names, row, strict=True)) for row in rows)
    return {values["key"]: _from_values(values) for values in named}


def automation_key(connection: Connection, project_pk: int, automation_id: str) -> int | None:
    """Return the key of an automation, also of a deleted one; None if the id is unknown."""
    query = select(_automation.key).where(_automation.project_key == project_pk, _automation.id == automation_id)
    return connection.scalar(query)


def automation_ids(connection: Connection, keys: Collection[int]) -> dict[int, str]:
    """Return the ids of automations, also of deleted ones, by their keys."""
    rows = connection.execute(select(_automation.key, text_of(_automation.id)).where(_automation.key.in_(keys)))
    return {row.key: row.id for row in rows}


def versions_at(connection: Connection, keys: list[int], position: int) -> dict[int, AutomationVersion]:
    """Return the rules by which automations were matched with the event at a position, by key.

    An automation that was created later has none.
    """
    query = select(*as_text(automation_version)).where(
        automation_version.c.automation_key.in_(keys), automation_version.c.since_position < position
    )
    versions: dict[int, AutomationVersion] = {}
    for row in connection.execute(query.order_by(automation_version.c.version)):
        versions[row.automation_key] = _to_version(row)
    return versions


def event_names_by_key(connection: Connection, project_pk: int) -> list[tuple[int, str]]:
    """Return the key of each automation, also of deleted ones, with each event name that it ever had; newest first."""
    versions = automation_version.c
    query = select(versions.automation_key, text_of(versions.event_name)).distinct()
    query = query.join_from(automation_version, automation, _automation.key == versions.automation_key)
    query = query.where(_automation.project_key == project_pk).order_by(versions.automation_key.desc())
    return [(row.automation_key, row.event_name) for row in connection.execute(query)]


def last_change(connection: Connection, keys: Collection[int]) -> int:
    """Return the position after which the newest change of these automations applies, deleted ones included."""
    newest = 0
    for chunk in chunks([*keys]):
        query = select(func.max(automation_version.c.since_position))
        newest = max(newest, connection.scalar(query.where(automation_version.c.automation_key.in_(chunk))) or 0)
    return newest


def update_automation(
    connection: Connection, current: Automation, changed: Automation, etag: str, head: int
) -> Automation:
    """Write a changed automation; if nothing differs, nothing is written.

    Raise EtagMismatch, InvalidAutomation and InvalidName.
    """
    check_etag(etag, current.etag)
    _check_automation(changed, current.name)
    if changed.state is AutomationState.ACTIVE and current.state is not AutomationState.ACTIVE:
        changed = replace(changed, activated_position=head)
    elif changed.state is AutomationState.DRAFT:
        changed = replace(changed, activated_position=None)
    if changed == replace(current, updated_at=changed.updated_at):
        return current
    return _write(connection, current, changed, head)


def activate(connection: Connection, current: Automation, etag: str, head: int, now: int) -> Automation:
    """Activate an automation for the events after the head. Raise EtagMismatch."""
    check_etag(etag, current.etag)
    if current.state is AutomationState.ACTIVE:
        return current
    changed = replace(current, state=AutomationState.ACTIVE, activated_position=head, updated_at=now)
    return _write(connection, current, changed, head)


def pause(connection: Connection, current: Automation, etag: str, head: int, now: int) -> Automation:
    """Pause an automation for the events after the head. Raise EtagMismatch and AutomationNotActive."""
    check_etag(etag, current.etag)
    if current.state is AutomationState.DRAFT:
        raise AutomationNotActive(current.id)
    if current.state is AutomationState.PAUSED:
        return current
    return _write(connection, current, replace(current, state=AutomationState.PAUSED, updated_at=now), head)


def delete_automation(connection: Connection, current: Automation, etag: str, now: int) -> None:
    """Delete an automation that is not active; its matches stay. Raise EtagMismatch and AutomationActive."""
    check_etag(etag, current.etag)
    if current.state is AutomationState.ACTIVE:
        raise AutomationActive(current.id)
    connection.execute(
        update(automation)
        .where(_automation.key == current.key)
        .values(deleted_at=now, updated_at=now, version=current.version + 1)
    )


def has_labels(automation: Automation, labels: Mapping[str, str]) -> bool:
    """Return whether an automation has all these labels with these values."""
    return all(automation.labels.get(key) == value for key, value in labels.items())


def _check_automation(checked: Automation | NewAutomation, name_before: str = "") -> None:
    """Raise InvalidAutomation or InvalidName for invalid fields; the condition is checked elsewhere."""
    if problem := given_name_problem(checked.name, name_before):
        raise InvalidName(f"The name of the automation {problem}")
    check_event_name(checked.event_name, "event_name")
    if violations := list(_label_violations(checked.labels)):
        raise InvalidAutomation(violations)


def _label_violations(labels: Mapping[str, str]) -> Iterator[Violation]:
    if len(labels) > MAX_LABELS:
        message = f"An automation may have at most {MAX_LABELS} labels; this one has {len(labels):,}"
        yield Violation("labels", "TOO_MANY_LABELS", message)
    for key, value in labels.items():
        if not 1 <= len(key) <= MAX_LABEL_KEY or not 1 <= len(value) <= MAX_LABEL_VALUE:
            message = f"The key of a label must have 1 to {MAX_LABEL_KEY} characters, its value 1 to {MAX_LABEL_VALUE}"
            yield Violation(property_path("labels", key[:MAX_LABEL_KEY]), "INVALID_LABEL", message)


def _write(connection: Connection, current: Automation, changed: Automation, head: int) -> Automation:
    changed = replace(changed, version=current.version + 1)
    # Unreadable columns stay as they are, unless they are replaced.
    kept = [name for name in _CHECKED if current.unreadable and getattr(changed, name) == getattr(current, name)]
    columns = {name: value for name, value in _columns(changed).items() if name not in kept}
    connection.execute(update(automation).where(_automation.key == current.key).values(columns))
    if current.unreadable and len(kept) < len(_CHECKED):
        changed = get_automation(connection, current.project_pk, current.id)
    if _rules(changed) != _rules(current):
        _insert_version(connection, changed, head)
    return changed


def _rules(automation: Automation) -> tuple[AutomationState, str, str, EntryRule]:
    return automation.state, automation.event_name, automation.condition, automation.entry_rule


def _all(project_pk: int) -> Select[Any]:
    return select(*as_text(automation)).where(_automation.project_key == project_pk)


def _live(project_pk: int) -> Select[Any]:
    return _all(project_pk).where(_automation.deleted_at.is_(None))


def _insert_version(connection: Connection, changed: Automation, head: int) -> None:
    connection.execute(
        insert(automation_version).values(
            automation_key=changed.key,
            version=changed.version,
            since_position=head,
            state=changed.state,
            event_name=changed.event_name,
            condition=changed.condition,
            entry_rule=changed.entry_rule,
        )
    )


def _columns(saved: Automation) -> dict[str, Any]:
    """Return every column but the key."""
    names = [column.name for column in automation.columns if column.name not in ("key", "project_key")]
    values = {"project_key": saved.project_pk} | {name: getattr(saved, name) for name in names}
    return values | {name: msgspec.json.encode(values[name], order="sorted").decode() for name in _JSON_COLUMNS}


def _to_automation(row: Row[Any]) -> Automation:
    return _from_values(row._asdict())


def _from_values(columns: Mapping[str, Any]) -> Automation:
    """Return the automation of a row, which is given by the names of its columns."""
    values = {"attributes": "{}", **columns}
    values["project_pk"] = values.pop("project_key")
    loaded: dict[str, tuple[Any, str]] = {
        name: load_reported("automation", values["id"], values[name]) for name in _JSON_COLUMNS
    }
    loaded |= {name: _word(words, values["id"], values[name]) for name, words in _WORDS.items()}
    values |= {name: value for name, (value, _) in loaded.items()}
    values["unreadable"] = "; ".join(f"{name}: {reason}" for name, (_, reason) in loaded.items() if reason)
    return Automation(**values)


def _word(words: type[AutomationState | EntryRule], automation_id: str, text: str) -> tuple[StrEnum, str]:
    """Return a stored word and no reason, or UNREADABLE and the reason why it cannot be read."""
    try:
        return words(text), ""
    except ValueError as error:
        return words.UNREADABLE, UNREADABLE_ROWS.report("automation", automation_id, error)


def _to_version(row: Row[Any]) -> AutomationVersion:
    version_id = f"{row.automation_key}/{row.version}"
    values = row._asdict()
    values |= {name: load_word(words, "automation_version", version_id, values[name]) for name, words in _WORDS.items()}
    return AutomationVersion(**values)
