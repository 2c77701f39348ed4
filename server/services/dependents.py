"""Dependents of a definition: the conditions of automations and of waiting runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from automation.automation_store import automations_by_key, live_automations
from automation.automations import AutomationState
from automation.conditions.checking import check
from automation.conditions.condition import properties_read
from automation.conditions.parsing import parse
from automation.errors import ConditionInvalid, ConditionsBroken
from automation.run_store import awaited_conditions
from registry.errors import Violation
from registry.paths import property_path
from registry.schema import same_schema
from server.ingest.catalog import definitions_only

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Connection

    from automation.automations import Automation
    from automation.conditions.condition import Condition
    from registry.definitions import EventDefinition
    from registry.schema import Schema
    from server.ingest.catalog import CatalogSnapshot


@dataclass(frozen=True, slots=True)
class ReadingAutomation:
    """An automation that matches the events of a definition, and the properties that its condition reads."""

    automation: Automation
    paths: tuple[str, ...]


def reading_automations(
    connection: Connection, project_pk: int, definition: EventDefinition, limit: int, after: str = ""
) -> list[ReadingAutomation]:
    """List the automations whose events a definition validates, oldest first, after an id."""
    snapshot = definitions_only(connection, project_pk)
    found = [
        automation
        for automation in live_automations(connection, project_pk)
        if automation.id > after and _validated_by(snapshot, automation.event_name) == definition.id
    ]
    return [
        ReadingAutomation(automation, tuple(sorted(properties_read(parse(automation.condition).root))))
        for automation in found[:limit]
    ]


def check_conditions(
    connection: Connection,
    project_pk: int,
    before: EventDefinition,
    after: EventDefinition,
    compiled: Mapping[str, Condition],
) -> None:
    """Raise ConditionsBroken if a new schema breaks conditions that are in use, more than the old one did.

    `compiled` are conditions by their texts: parsing thousands of them here would hold up all writers.
    """
    if same_schema(before.schema, after.schema):
        return
    violations: list[Violation] = []
    broken: dict[str, str] = {}
    for automation, what, condition in _in_use(connection, project_pk, after):
        known = _errors(condition, before.schema, compiled)
        path = property_path("automations", automation.id)
        for key, message in _errors(condition, after.schema, compiled).items():
            if key not in known:
                violations.append(Violation(path, key[2], f'{what} of "{automation.name}": {message}'))
                broken[automation.id] = automation.name
    if broken:
        raise ConditionsBroken(violations, list(broken.values()), list(broken))


def _in_use(
    connection: Connection, project_pk: int, definition: EventDefinition
) -> Iterator[tuple[Automation, str, str]]:
    """Yield the conditions on events of a definition: their automation, where they are used, and their text."""
    snapshot = definitions_only(connection, project_pk)
    for automation in live_automations(connection, project_pk):
        used = automation.state is AutomationState.ACTIVE and automation.condition != ""
        if used and _validated_by(snapshot, automation.event_name) == definition.id:
            yield automation, "Condition", automation.condition
    awaited = [
        (key, condition)
        for key, event_name, condition in awaited_conditions(connection, project_pk)
        if _validated_by(snapshot, event_name) == definition.id
    ]
    automations = automations_by_key(connection, {key for key, _ in awaited})
    for key, condition in awaited:
        yield automations[key], "Condition that a run waits for", condition


def _validated_by(snapshot: CatalogSnapshot, event_name: str) -> str:
    definition = snapshot.definition(event_name)
    return definition.id if definition else ""


def _errors(text: str, schema: Schema, compiled: Mapping[str, Condition]) -> dict[tuple[int, int, str], str]:
    """Return the errors of a condition, by place and reason."""
    condition = compiled.get(text)
    try:
        check(condition.expression if condition is not None else parse(text), schema)
    except ConditionInvalid as error:
        return {(each.line, each.column, each.reason): str(each) for each in error.errors}
    return {}
