"""What events are judged by, in memory: the rules, compiled definitions and automations of each project.

A state is immutable and numbered by the project's catalogue version. The commit compares that number with the
database's, so an event is never recorded by the word of a stale state, whichever server changed the catalogue. What did
not change from one state to the next is compiled once.

A version has random bits beside its count: no two histories of a database share one. Versions are compared for
equality, so a state whose changes were lost in a failover or a restore is noticed like any other stale state.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

from automation.automation_store import live_automations
from automation.matching import LiveAutomations
from registry.coercion import compile_schema
from registry.store import active_definitions
from server.storage.projects import automations_version, catalog_version, catalog_versions, project_by_pk

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from registry.coercion import Coercer
    from registry.definitions import EventDefinition
    from server.model import Project, Rules
    from server.storage.database import Database


class LiveDefinition:
    """A definition that takes events; its schema is compiled when the first one comes."""

    def __init__(self, definition: EventDefinition) -> None:
        self.id = definition.id
        self.name = definition.name
        self.revision = definition.revision
        self.schema = definition.schema

    @cached_property
    def coerce(self) -> Coercer:
        """The compiled schema."""
        return compile_schema(self.schema)


class ProjectState:
    """One state of a project's catalogue."""

    def __init__(
        self, project: Project, version: int, definitions: list[EventDefinition], automations: LiveAutomations
    ) -> None:
        self.key = project.key
        self.id = project.id
        self.rules: Rules = project.rules
        self.version = version
        self.automations = automations
        self._definitions = {definition.name: LiveDefinition(definition) for definition in definitions}
        # Of names that differ in case only, the oldest answers to the others.
        self._folded: dict[str, LiveDefinition] = {}
        for name, definition in self._definitions.items():
            self._folded.setdefault(name.casefold(), definition)

    def definition(self, name: str, rules: Rules | None = None) -> LiveDefinition | None:
        """Find the definition that an event of this name is judged by; without rules by those of the project."""
        found = self._definitions.get(name)
        if found is None and (rules or self.rules).ignore_case:
            found = self._folded.get(name.casefold())
        return found


def load_state(connection: Connection, project_pk: int, before: ProjectState | None = None) -> ProjectState:
    """Read the state that this transaction sees, the automations only if they changed since the state before."""
    project = project_by_pk(connection, project_pk)
    version = catalog_version(connection, project_pk)
    automations = before.automations if before is not None else None
    current = automations_version(connection, project_pk)
    if automations is None or automations.version != current:
        automations = LiveAutomations(current, live_automations(connection, project_pk), before=automations)
    return ProjectState(project, version, active_definitions(connection, project.id), automations)


class Catalog:
    """The states of the projects that are in use."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._states: dict[int, ProjectState] = {}
        self._before: dict[int, ProjectState] = {}
        self._loading: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.forgotten = 0

    def known(self, project_pk: int) -> ProjectState | None:
        """Give the state of a project if it is at hand."""
        return self._states.get(project_pk)

    async def state(self, project_pk: int) -> ProjectState:
        """Give the state of a project, reading it if need be."""
        state = self._states.get(project_pk)
        if state is not None:
            return state
        async with self._loading[project_pk]:
            return self._states.get(project_pk) or await self._load(project_pk)

    async def _load(self, project_pk: int) -> ProjectState:
        forgotten = self.forgotten
        before = self._before.get(project_pk)
        state = await self._database.read(lambda connection: load_state(connection, project_pk, before), brief=True)
        # Kept even if it is outdated already: what it has compiled serves the next one.
        self._before[project_pk] = state
        if before is None or state.automations is not before.automations:
            # Thousands of conditions take seconds: here only those wait for them who send to this project.
            await asyncio.to_thread(state.automations.compile)
        self.learn(state, forgotten)
        return state

    async def current(self, state: ProjectState) -> ProjectState:
        """Give the state that holds now, after another one spoke against an event."""
        version = await self._database.read(lambda connection: catalog_version(connection, state.key), brief=True)
        if version != state.version:
            self.forget(state.key)
        return await self.state(state.key)

    def learn(self, state: ProjectState, forgotten: int) -> None:
        """Take a state that was read while `forgotten` had this value; one that may be outdated is not kept."""
        if forgotten == self.forgotten:
            self._states[state.key] = self._before[state.key] = state

    def forget(self, project_pk: int) -> None:
        """Have the state read again at its next use, because the catalogue was changed."""
        self.forgotten += 1
        self._states.pop(project_pk, None)

    async def refresh(self) -> dict[int, int]:
        """Forget the states whose versions are no longer current. Return the current versions by project key.

        The cached states are compared, not the versions of the last refresh: a state may have been read in between, and
        lost in a failover since.
        """
        versions = await self._database.read(catalog_versions, brief=True)
        for key in [key for key, state in self._states.items() if state.version != versions.get(key)]:
            self.forget(key)
        for key in self._before.keys() - versions.keys():
            del self._before[key]
        return versions
