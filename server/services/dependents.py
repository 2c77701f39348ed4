"""Dependents of a definition: the conditions of automations and of waiting runs."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from automation.automation_store import automations_by_key, live_automations
from automation.automations import AutomationState
from automation.conditions.checking import check
from automation.conditions.condition import properties_read
from automation.conditions.errors import ConditionInvalid
from automation.conditions.parsing import parse
from automation.errors import ConditionsBroken
from automation.run_store import awaited_conditions
from registry.definitions.schema import same_schema
from registry.errors import Violation
from registry.paths import property_path
from server.ingest.catalog import definitions_only
from server.sharing.work_thread import SLICE_SECONDS
from server.storage.projects.heads import automations_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from automation.automations import Automation
    from automation.conditions.condition import Condition
    from automation.matching import LiveAutomations
    from registry.definitions.event_definitions import EventDefinition
    from registry.definitions.schema import Schema
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


class SchemaErrors:
    """The errors of conditions under a new schema that they do not have under the old one.

    Checking thousands of conditions takes a second, so it is done in slices, before the transaction that needs the
    errors.
    """

    def __init__(self, before: Schema, after: Schema, compiled: Mapping[str, Condition]) -> None:
        self.before = before
        self.after = after
        self._compiled = compiled
        self._texts = iter([*compiled])
        self._found: dict[str, list[tuple[str, str]]] = {}

    def proceed(self) -> bool:
        """Check compiled conditions for a short time. Return whether all are checked."""
        ends_at = perf_counter() + SLICE_SECONDS
        for text in self._texts:
            self.of(text)
            if perf_counter() > ends_at:
                return False
        return True

    def of(self, text: str) -> Sequence[tuple[str, str]]:
        """Return the reason and message of each error that the new schema causes in a condition, given as text."""
        found = self._found.get(text)
        if found is None:
            known = self._errors(text, self.before)
            found = [(key[2], message) for key, message in self._errors(text, self.after).items() if key not in known]
            self._found[text] = found
        return found

    def _errors(self, text: str, schema: Schema) -> dict[tuple[int, int, str], str]:
        """Return the errors of a condition, by place and reason."""
        condition = self._compiled.get(text)
        try:
            check(condition.expression if condition is not None else parse(text), schema)
        except ConditionInvalid as error:
            return {(each.line, each.column, each.reason): str(each) for each in error.errors}
        return {}


def check_conditions(
    connection: Connection,
    project_pk: int,
    before: EventDefinition,
    after: EventDefinition,
    known: LiveAutomations,
    ahead: SchemaErrors | None = None,
) -> None:
    """Raise ConditionsBroken if a new schema breaks conditions that are in use, more than the old one did.

    `known` are the automations that the caller has in memory, and `ahead` the errors that it has found in their
    conditions before the transaction. Both are used only if they are up to date in the transaction.
    """
    if same_schema(before.schema, after.schema):
        return
    errors = ahead
    if errors is None or (errors.before, errors.after) != (before.schema, after.schema):
        errors = SchemaErrors(before.schema, after.schema, known.conditions)
    violations: list[Violation] = []
    broken: dict[str, str] = {}
    for automation, what, condition in _in_use(connection, project_pk, after, known):
        path = property_path("automations", automation.id)
        for reason, message in errors.of(condition):
            violations.append(Violation(path, reason, f'{what} of "{automation.name}": {message}'))
            broken[automation.id] = automation.name
    if broken:
        raise ConditionsBroken(violations, list(broken.values()), list(broken))


def _in_use(
    connection: Connection, project_pk: int, definition: EventDefinition, known: LiveAutomations
) -> Iterator[tuple[Automation, str, str]]:
    """Yield the conditions on events of a definition: their automation, where they are used, and their text."""
    snapshot = definitions_only(connection, project_pk)
    same = automations_version(connection, project_pk) == known.version
    for automation in known.by_key.values() if same else live_automations(connection, project_pk):
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
