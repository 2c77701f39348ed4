"""Definitions proposed from events that were refused or recorded."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from registry.definitions.schema import Compatibility, Schema
from registry.errors import DefinitionNotFound
from registry.inference.inference import Check, Inference
from registry.names import check_event_name
from registry.sql.unreadable_rows import UNREADABLE, UNREADABLE_ROWS
from registry.storage.definition_store import get_definition
from server.errors import InvalidArgument, NothingToInferFrom
from server.storage.events.history import name_range, recorded_payloads
from server.storage.events.reading import EventFilter
from server.storage.quarantine.search import refused_payloads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import Connection

    from registry.definitions.event_definitions import EventDefinition
    from registry.inference.inference import Finding
    from server.auth.caller import Caller
    from server.sharing.loop_time import LoopTime
    from server.storage.database import Database
    from server.storage.events.history import RecordedPayload

DEFAULT_SAMPLE: Final = 1_000
MAX_SAMPLE: Final = 10_000
PAGE_EVENTS: Final = 500
SAMPLE_CHARACTERS: Final = 4_000_000
"""The sample ends with the page that exceeds this many characters of payload."""


class InferenceSource(StrEnum):
    """The events to infer a definition from."""

    QUARANTINED = "quarantined"
    UNDEFINED = "undefined"
    RECORDED = "recorded"


@dataclass(frozen=True, slots=True)
class Inferred:
    """A proposed definition: what the sample shows, path by path, and how many payloads it does not accept."""

    name: str
    description: str
    schema: Schema
    compatibility: Compatibility
    event_retention: int | None
    findings: tuple[Finding, ...]
    sample: int
    quarantined: int
    truncated: bool
    conflicts: int


class Inferences:
    """Proposes definitions. Changes nothing."""

    def __init__(self, database: Database, loop_time: LoopTime) -> None:
        self._database = database
        self._loop_time = loop_time

    async def infer(self, caller: Caller, name: str, source: InferenceSource | None, size: int) -> Inferred:
        """Propose a definition of a name from at most `size` events; without a source, quarantined and undefined ones.

        Raise InvalidName, InvalidArgument and NothingToInferFrom.
        """
        check_event_name(name)
        if size < 0:
            message = f"sample_size is {size}; it must not be negative"
            raise InvalidArgument.at("sample_size", "OUT_OF_RANGE", message)
        sample = _Sample(self._database, caller.project_pk, name, min(size or DEFAULT_SAMPLE, MAX_SAMPLE))
        if source in {None, InferenceSource.QUARANTINED}:
            await sample.add_quarantined()
        quarantined = len(sample.payloads)
        if source is not InferenceSource.QUARANTINED:
            await sample.add_recorded(undefined=source is not InferenceSource.RECORDED)
        if not sample.payloads:
            raise NothingToInferFrom(name)
        known = await self._database.read(lambda connection: _known(connection, caller.project_id, name))
        inference = Inference(known.schema if known else Schema())
        async for payload in self._in_slices(caller.project_pk, sample.payloads):
            inference.take(payload)
        schema = inference.propose()
        check = Check(schema)
        async for payload in self._in_slices(caller.project_pk, sample.payloads):
            check.take(payload)
        return Inferred(
            name=name,
            description=known.description if known else "",
            schema=schema,
            compatibility=known.compatibility if known else Compatibility.NONE,
            event_retention=known.event_retention if known else None,
            findings=inference.findings(check.by_path),
            sample=len(sample.payloads),
            quarantined=quarantined,
            truncated=sample.truncated,
            conflicts=check.payloads,
        )

    async def _in_slices(self, project_pk: int, payloads: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        async with self._loop_time.slices(project_pk) as slices:
            for payload in payloads:
                yield payload
                if slices.used_up():
                    await slices.pause()


class _Sample:
    """The payloads of the newest events of a name, within the limits of a sample."""

    def __init__(self, database: Database, project_pk: int, name: str, size: int) -> None:
        self._database = database
        self._project_pk = project_pk
        self._name = name
        self._room = size
        self._characters = SAMPLE_CHARACTERS
        self.payloads: list[dict[str, Any]] = []
        self.truncated = False

    async def add_quarantined(self) -> None:
        """Add events in quarantine, newest first."""
        before = ""
        while True:
            limit = min(PAGE_EVENTS, self._room)
            found, size, before = await self._database.read(
                lambda connection, before=before, limit=limit: refused_payloads(  # type: ignore[misc]
                    connection, self._project_pk, self._name, before, limit
                )
            )
            self._add(found, size)
            if not before or self._full():
                self.truncated = self.truncated or bool(before)
                return

    async def add_recorded(self, *, undefined: bool) -> None:
        """Add recorded events, of the newest ones; only those without a definition if `undefined`."""
        if self._full():
            self.truncated = True
            return
        newest = MAX_SAMPLE if undefined else self._room
        within = await self._database.read(
            lambda connection: name_range(connection, self._project_pk, EventFilter(self._name), newest)
        )
        self.truncated = self.truncated or within.count == newest
        after = within.low - 1
        while not self._full():
            chunk: list[RecordedPayload] = await self._database.read(
                lambda connection, after=after: recorded_payloads(  # type: ignore[misc]
                    connection, self._project_pk, within, after, PAGE_EVENTS
                )
            )
            if not chunk:
                return
            after = chunk[-1].position
            chosen = [recorded for recorded in chunk if not (undefined and recorded.revision)]
            self.truncated = self.truncated or len(chosen) > self._room
            chosen = chosen[: self._room]
            self._add(_sent(chosen), sum(len(recorded.properties) for recorded in chosen))
        self.truncated = True

    def _add(self, payloads: list[dict[str, Any]], characters: int) -> None:
        self.payloads += payloads
        self._room -= len(payloads)
        self._characters -= characters

    def _full(self) -> bool:
        return self._room <= 0 or self._characters <= 0


def _sent(chunk: list[RecordedPayload]) -> list[dict[str, Any]]:
    """Return payloads as they were sent; those that cannot be read are left out."""
    payloads = []
    for recorded in chunk:
        try:
            payloads.append(recorded.sent())
        except UNREADABLE as error:
            UNREADABLE_ROWS.report("event", recorded.id, error)
    return payloads


def _known(connection: Connection, project_id: str, name: str) -> EventDefinition | None:
    """Return the definition of a name, if there is one."""
    try:
        return get_definition(connection, project_id, name)
    except DefinitionNotFound:
        return None
