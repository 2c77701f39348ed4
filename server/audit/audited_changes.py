"""Changes that the audit log records: each in the transaction that makes it, or not at all.

Everything that operators may change is changed by `AuditedChanges.write`: definitions, automations, subscriptions,
keys, projects, contacts and settings. The work calls its `AuditRecorder` with the resource before and after. An entry
is written if the two differ, by what callers see of them; a change that is refused, rolled back or without effect
leaves none.

What events, runs and deliveries change is not recorded: the logs of events and matches have that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from uuid_utils import uuid7

from registry.times.timestamps import now_micros
from server.current_call import context as call_context
from server.model import AuditEntry
from server.storage.audit_entries import content_after, insert_entry, replace_content_after
from server.storage.projects.projects import project_ids
from server.storage.transactions import applied

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Connection

    from server.current_call.context import CallContext
    from server.storage.database import Database

T = TypeVar("T")

MAX_CONTENT_BYTES: Final = 32 * 1024
"""The most bytes of a resource in an entry, as JSON. The largest fields of a larger one are left out, and named."""


@dataclass(frozen=True, slots=True)
class AuditedResource:
    """A resource as an entry has it: `content` is its JSON, and `omitted` names the fields that are left out of it."""

    resource_type: str
    resource_id: str
    content: str
    omitted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditedValues:
    """A resource or an effect that has no message of its own; `values` are plain JSON values, without secrets."""

    resource_type: str
    resource_id: str
    values: Mapping[str, Any] = field(hash=False)


class AuditRecorder:
    """Records the changes of one transaction as those of one call."""

    def __init__(self, call: CallContext, action: str, describe: Callable[[Any], AuditedResource] | None) -> None:
        self._call = call
        self._action = action
        self._describe = describe

    def __call__(self, connection: Connection, project_pk: int, before: Any, after: Any) -> None:
        """Write an entry about a resource of a project, 0 for none; None where the resource does not exist.

        Without a difference nothing is written.
        """
        if self._describe is None:
            return
        old, new = self._described(before), self._described(after)
        if old != new:
            self._insert(connection, project_pk, str(uuid7()), old, new)

    def add(self, connection: Connection, project_pk: int, entry_id: str, effect: AuditedValues, counted: str) -> None:
        """Write an entry about an effect, or add its number to that of the entry, if there is one of this id.

        So a call with several transactions has one entry, to which each of them adds its share. `counted` names
        the number.
        """
        if self._describe is None:
            return
        content = content_after(connection, entry_id)
        if not content:
            self._insert(connection, project_pk, entry_id, None, self._described(effect))
            return
        values = msgspec.json.decode(content)
        values[counted] += effect.values[counted]
        replace_content_after(connection, entry_id, msgspec.json.encode(values).decode())

    def _insert(
        self,
        connection: Connection,
        project_pk: int,
        entry_id: str,
        old: AuditedResource | None,
        new: AuditedResource | None,
    ) -> None:
        resource = new or old
        assert resource is not None
        entry = AuditEntry(
            id=entry_id,
            occurred_at=now_micros(),
            project_id=project_ids(connection, [project_pk])[project_pk] if project_pk else "",
            key_id=self._call.key_id,
            api=self._call.api,
            request_id=self._call.stored_id,
            action=self._action,
            resource_type=resource.resource_type,
            resource_id=resource.resource_id,
            before=old.content if old else "",
            after=new.content if new else "",
            omitted=(*_named("before", old), *_named("after", new)),
        )
        insert_entry(connection, entry)

    def _described(self, value: Any) -> AuditedResource | None:
        if value is None:
            return None
        if isinstance(value, AuditedValues):
            return AuditedResource(value.resource_type, value.resource_id, msgspec.json.encode(value.values).decode())
        assert self._describe is not None
        return self._describe(value)


class AuditedChanges:
    """Makes changes that are recorded. Without `describe`, which describes resources, nothing is recorded."""

    def __init__(self, database: Database, describe: Callable[[Any], AuditedResource] | None = None) -> None:
        self._database = database
        self._describe = describe

    async def write(
        self,
        action: str,
        work: Callable[[Connection, AuditRecorder], T],
        apply: Callable[[T], object] | None = None,
    ) -> T:
        """Run work in one transaction, as the change of the current call. `action` is the name of an RPC.

        Once it is committed, `apply` is called with the result: for what the change obliges this server to do, such as
        to invalidate a cache. This is done before the result is returned, and even if the caller is cancelled.

        Raise StorageError, and what the work raises.
        """
        recorder = self.recorder(action)

        def in_transaction(connection: Connection) -> T:
            return work(connection, recorder)

        write = self._database.write(in_transaction)
        return await write if apply is None else await applied(write, apply)

    def recorder(self, action: str) -> AuditRecorder:
        """Return a recorder of the effects of the current call. `action` is the name of an RPC."""
        return AuditRecorder(call_context.current(), action, self._describe)


def _named(side: str, described: AuditedResource | None) -> tuple[str, ...]:
    return tuple(f"{side}.{name}" for name in described.omitted) if described else ()
