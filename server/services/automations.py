"""The automations of a project."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from uuid_utils import uuid7

from automation import automation_store as store
from automation.automation_store import AutomationFilter
from automation.automations import AutomationState
from automation.conditions.checking import check
from automation.conditions.errors import ConditionInvalid
from automation.conditions.parsing import parse
from automation.run_store import newest_runs, run_counts
from automation.run_transitions import cancel_runs
from registry.sql.page_sizes import UNBOUNDED
from registry.times.timestamps import now_micros
from server.ingest.catalog import definitions_only
from server.storage.projects.heads import advance_automations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from automation.automations import Automation, AutomationChanges, NewAutomation
    from automation.runs import Run
    from server.audit.audited_changes import AuditRecorder
    from server.ingest.catalog import Catalog
    from server.paging import Page, PageRequest
    from server.sharing.work_thread import WorkThread
    from server.storage.database import Database

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AutomationWithCounts:
    """An automation, the number of its runs, and how many of these are completed."""

    automation: Automation
    runs: int
    completed: int


class Automations:
    """Manages automations. A change applies to the events recorded after it."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._database = database
        self._catalog = catalog

    async def create(self, project_pk: int, new: NewAutomation, *, validate_only: bool = False) -> Automation:
        """Create an automation; with `validate_only` it is only checked, and has no id.

        Raise InvalidAutomation, TooManyAutomations, InvalidName and ConditionInvalid.
        """
        automation_id = "" if validate_only else str(uuid7())
        await parse_ahead(self._catalog.thread, project_pk, new.condition)

        def create(connection: Connection, head: int, record: AuditRecorder) -> Automation:
            check_condition(connection, project_pk, new.event_name, new.condition)
            created = store.create_automation(connection, project_pk, automation_id, new, head, now_micros())
            record(connection, project_pk, None, created)
            return created

        return await self._change(project_pk, "CreateAutomation", create, dry_run=validate_only)

    async def get(self, project_pk: int, automation_id: str) -> Automation:
        """Read an automation. Raise AutomationNotFound."""
        return await self._database.read(lambda connection: store.get_automation(connection, project_pk, automation_id))

    async def list(
        self, project_pk: int, automation_filter: AutomationFilter, request: PageRequest
    ) -> Page[Automation]:
        """List automations, newest first."""
        limit, filters = request.limit(), ("automations", project_pk, automation_filter)
        (before,) = request.cursor(filters, str) or ("",)
        found, more = await self._database.read(
            lambda connection: store.list_automations(connection, project_pk, automation_filter, limit, before)
        )
        return request.page(found, filters, lambda automation: (automation.id,), more=more)

    async def list_numbered(self, project_pk: int, page: int, limit: int) -> tuple[Sequence[AutomationWithCounts], int]:
        """List automations with their numbers of runs, newest first, by page number from 1, and the total."""

        def work(connection: Connection) -> tuple[list[AutomationWithCounts], int]:
            total = store.count_automations(connection, project_pk)
            skip = (page - 1) * limit
            if skip >= total:
                return [], total
            found, _ = store.list_automations(
                connection, project_pk, AutomationFilter(), limit, skip=skip, room=UNBOUNDED
            )
            return _counted(connection, found), total

        return await self._database.read(work)

    async def list_after(
        self, project_pk: int, automation_filter: AutomationFilter, limit: int, after_id: str
    ) -> tuple[Sequence[tuple[Automation, Run | None]], bool]:
        """List automations with their newest runs, newest first, after an id, and whether there are more."""

        def work(connection: Connection) -> tuple[list[tuple[Automation, Run | None]], bool]:
            found, more = store.list_automations(connection, project_pk, automation_filter, limit, after_id)
            newest = newest_runs(connection, project_pk, [each.key for each in found])
            return [(each, newest.get(each.key)) for each in found], more

        return await self._database.read(work)

    async def get_with_counts(self, project_pk: int, automation_id: str) -> AutomationWithCounts:
        """Read an automation with its numbers of runs. Raise AutomationNotFound."""

        def work(connection: Connection) -> AutomationWithCounts:
            return _counted(connection, [store.get_automation(connection, project_pk, automation_id)])[0]

        return await self._database.read(work)

    async def update(
        self,
        project_pk: int,
        automation_id: str,
        changes: AutomationChanges,
        etag: str,
        *,
        validate_only: bool = False,
    ) -> Automation:
        """Change an automation.

        Raise AutomationNotFound, EtagMismatch, InvalidAutomation, InvalidName and ConditionInvalid.
        """
        condition = changes.condition
        if condition is None:
            condition = (await self.get(project_pk, automation_id)).condition
        await parse_ahead(self._catalog.thread, project_pk, condition)

        def update(connection: Connection, head: int, record: AuditRecorder) -> Automation:
            current = store.get_automation(connection, project_pk, automation_id)
            changed = changes.apply(current, now_micros())
            activated = changed.state is AutomationState.ACTIVE and changed.state is not current.state
            if activated or (changed.event_name, changed.condition) != (current.event_name, current.condition):
                check_condition(connection, project_pk, changed.event_name, changed.condition)
            updated = store.update_automation(connection, current, changed, etag, head)
            record(connection, project_pk, current, updated)
            return updated

        return await self._change(project_pk, "UpdateAutomation", update, dry_run=validate_only)

    async def activate(self, project_pk: int, automation_id: str, etag: str) -> Automation:
        """Activate an automation: it matches the events recorded from now on.

        Raise AutomationNotFound, EtagMismatch and ConditionInvalid.
        """
        condition = (await self.get(project_pk, automation_id)).condition
        await parse_ahead(self._catalog.thread, project_pk, condition)

        def activate(connection: Connection, head: int, record: AuditRecorder) -> Automation:
            current = store.get_automation(connection, project_pk, automation_id)
            if current.state is not AutomationState.ACTIVE:
                check_condition(connection, project_pk, current.event_name, current.condition)
            activated = store.activate(connection, current, etag, head, now_micros())
            record(connection, project_pk, current, activated)
            return activated

        return await self._change(project_pk, "ActivateAutomation", activate)

    async def pause(self, project_pk: int, automation_id: str, etag: str) -> Automation:
        """Pause an automation: it starts no more runs.

        Raise AutomationNotFound, AutomationNotActive and EtagMismatch.
        """

        def pause(connection: Connection, head: int, record: AuditRecorder) -> Automation:
            current = store.get_automation(connection, project_pk, automation_id)
            paused = store.pause(connection, current, etag, head, now_micros())
            record(connection, project_pk, current, paused)
            return paused

        return await self._change(project_pk, "PauseAutomation", pause)

    async def delete(self, project_pk: int, automation_id: str, etag: str) -> tuple[Automation, int]:
        """Delete an automation that is not active. Return it as it was, and how many open runs were cancelled.

        Raise AutomationNotFound, AutomationActive and EtagMismatch.
        """

        def delete(connection: Connection, head: int, record: AuditRecorder) -> tuple[Automation, int]:
            now = now_micros()
            current = store.get_automation(connection, project_pk, automation_id)
            store.delete_automation(connection, current, etag, now)
            record(connection, project_pk, current, None)
            reason = "The automation was deleted"
            return current, cancel_runs(connection, project_pk, current.key, reason, head, now)

        return await self._change(project_pk, "DeleteAutomation", delete)

    async def _change(
        self,
        project_pk: int,
        action: str,
        work: Callable[[Connection, int, AuditRecorder], T],
        *,
        dry_run: bool = False,
    ) -> T:
        """Change the automations of a project; `work` gets the position after which the change applies."""
        return await self._catalog.change(
            project_pk,
            action,
            lambda connection, record: work(connection, advance_automations(connection, project_pk), record),
            dry_run=dry_run,
        )


def _counted(connection: Connection, automations: Sequence[Automation]) -> list[AutomationWithCounts]:
    counts = run_counts(connection, [each.key for each in automations])
    return [AutomationWithCounts(each, *counts.get(each.key, (0, 0))) for each in automations]


async def parse_ahead(thread: WorkThread, project_pk: int, condition: str) -> None:
    """Parse a condition before the transaction in which it is checked, where all writers would wait for it.

    The result is cached. A condition of many patterns takes a second. Its errors are raised where it is checked.
    """

    def attempt() -> None:
        with suppress(ConditionInvalid):
            parse(condition)

    if condition:
        await thread.run(project_pk, attempt)


def check_condition(connection: Connection, project_pk: int, event_name: str, condition: str) -> None:
    """Raise ConditionInvalid unless the condition can be evaluated on events of the name, as they are defined now."""
    if not condition:
        return
    definition = definitions_only(connection, project_pk).definition(event_name)
    check(parse(condition), definition.schema if definition else None)
