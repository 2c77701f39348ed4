"""The changes that files of definitions would make on a server, checked by the server."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from grpc import StatusCode

from registry.errors import TooManyDefinitions
from registry.paths import ROOT, property_path
from server.cli.arguments.enums import COERCION_MODE, COMPATIBILITY, UNKNOWN_PROPERTIES
from server.cli.arguments.message_parsers import property_text
from server.cli.client.pagination import list_all
from server.cli.errors import Failure
from server.cli.output.tables import own_retention
from server.rpc.messages.definitions import write_schema
from server.status import CODES
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from server.cli.client.session import Session
    from server.cli.definitions.documents import DefinitionDocument

_ABOUT_THE_DEFINITION: Final = {
    StatusCode.INVALID_ARGUMENT,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.ALREADY_EXISTS,
    StatusCode.NOT_FOUND,
    StatusCode.ABORTED,
    StatusCode.UNIMPLEMENTED,
}
"""Codes about one definition; with any other code, the next definition would fail as well."""


class Action(StrEnum):
    """The change to a definition."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"


class Verdict(StrEnum):
    """Whether the server would accept a change."""

    OK = "ok"
    INCOMPATIBLE = "incompatible"
    INVALID = "invalid"


class Difference(NamedTuple):
    """A changed `field` of the property at `path`, or of the definition if the path is empty.

    `before` is None for an added field, `after` for a removed one.
    """

    path: str
    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Step:
    """The change to one definition of the files; `current` is None if it is created."""

    document: DefinitionDocument
    current: pb.EventDefinition | None
    action: Action
    differences: tuple[Difference, ...] = ()
    refusal: Failure | None = None

    @property
    def verdict(self) -> Verdict:
        """Whether the server would accept the change."""
        if self.refusal is None:
            return Verdict.OK
        return Verdict.INCOMPATIBLE if self.refusal.reason == "INCOMPATIBLE_SCHEMA" else Verdict.INVALID

    async def send(self, session: Session, *, validate_only: bool = False) -> pb.EventDefinition:
        """Send the change. Raise Failure if it is rejected, or if the definition changed after the plan was made."""
        definition = message_of(self.document)
        if self.current is None:
            create = pb.CreateEventDefinitionRequest(event_definition=definition, validate_only=validate_only)
            return (await session.call(session.definitions.CreateEventDefinition, create)).event_definition
        update = pb.UpdateEventDefinitionRequest(
            event_definition=self.current.id,
            description=definition.description,
            schema=definition.schema,
            compatibility=definition.compatibility,
            event_retention=definition.event_retention,
            etag=self.current.etag,
            validate_only=validate_only,
        )
        return (await session.call(session.definitions.UpdateEventDefinition, update)).event_definition


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps in the order of the files, and the names of the definitions that are in no file."""

    steps: tuple[Step, ...]
    not_in_files: tuple[str, ...]

    @property
    def changes(self) -> list[Step]:
        """The steps that change something."""
        return [step for step in self.steps if step.action is not Action.UNCHANGED]

    def counts(self) -> dict[str, int]:
        """Count the steps; one that is refused counts as such alone."""
        accepted = [step.action for step in self.steps if step.verdict is Verdict.OK]
        verdicts = [step.verdict for step in self.steps]
        return {
            "create": accepted.count(Action.CREATE),
            "update": accepted.count(Action.UPDATE),
            "incompatible": verdicts.count(Verdict.INCOMPATIBLE),
            "invalid": verdicts.count(Verdict.INVALID),
            "unchanged": accepted.count(Action.UNCHANGED),
        }

    @property
    def exit_code(self) -> int:
        """0 where nothing is refused, 2 where changes are incompatible and nothing else is wrong, else 1."""
        counts = self.counts()
        return 1 if counts["invalid"] else 2 if counts["incompatible"] else 0


def message_of(document: DefinitionDocument) -> pb.EventDefinition:
    """Return the definition of a document as a message."""
    return pb.EventDefinition(
        name=document.name,
        description=document.description,
        schema=write_schema(document.schema),
        compatibility=COMPATIBILITY.numbers[document.compatibility],
        event_retention=document.event_retention,
    )


async def make_plan(session: Session, documents: Sequence[DefinitionDocument]) -> Plan:
    """Compare the documents with the definitions on the server, which checks every change. Raise Failure."""
    definitions = await list_all(
        partial(session.call, session.definitions.ListEventDefinitions),
        pb.ListEventDefinitionsRequest(),
        lambda response: response.event_definitions,
    )
    live = {definition.name: definition for definition in definitions}
    steps, size = [], len(live)
    for document in documents:
        current = live.pop(document.name, None)
        size += current is None
        steps.append(await _step(session, document, current, size))
    return Plan(tuple(steps), tuple(sorted(live)))


def differences(definition: pb.EventDefinition, current: pb.EventDefinition | None) -> Iterator[Difference]:
    """Yield all differences; the order of properties is not one."""
    facts = _facts(definition)
    had = {} if current is None else _facts(current)
    for key in facts | had:
        before, after = had.get(key), facts.get(key)
        if before != after:
            yield Difference(*key, before, after)


async def _step(session: Session, document: DefinitionDocument, current: pb.EventDefinition | None, size: int) -> Step:
    differing = tuple(differences(message_of(document), current))
    if current is not None and not differing:
        return Step(document, current, Action.UNCHANGED)
    action = Action.CREATE if current is None else Action.UPDATE
    step = Step(document, current, action, differing)
    try:
        _check_room(current, size)
        await step.send(session, validate_only=True)
    except Failure as refusal:
        if CODES.get(refusal.reason) not in _ABOUT_THE_DEFINITION:
            raise
        return Step(document, current, action, differing, refusal)
    return step


def _check_room(current: pb.EventDefinition | None, size: int) -> None:
    """Raise Failure if the plan exceeds the limit of definitions; the server checks each step alone."""
    from registry.storage.definition_store import MAX_LIVE_DEFINITIONS  # SQLAlchemy is slow to import

    if current is None and size > MAX_LIVE_DEFINITIONS:
        error = TooManyDefinitions(MAX_LIVE_DEFINITIONS)
        raise Failure(error.message, reason=error.reason)


def _facts(definition: pb.EventDefinition) -> dict[tuple[str, str], Any]:
    """Return the non-empty fields of a definition by path and name."""
    schema = definition.schema
    facts = {
        ("", "description"): definition.description,
        ("", "compatibility"): COMPATIBILITY.name(definition.compatibility),
        ("", "unknown_properties"): UNKNOWN_PROPERTIES.name(schema.unknown_properties),
        ("", "coercion"): COERCION_MODE.name(schema.coercion),
        ("", "event_retention"): own_retention(definition.event_retention),
        **dict(_property_facts(schema.properties, ROOT)),
    }
    return {key: fact for key, fact in facts.items() if fact}


def _property_facts(properties: Iterable[pb.Property], parent: str) -> Iterator[tuple[tuple[str, str], Any]]:
    for property_ in properties:
        path = property_path(parent, property_.name)
        yield (path, "type"), property_text(property_)
        yield (path, "personal"), property_.personal
        yield (path, "description"), property_.description
        yield (path, "suggested_values"), list(property_.suggested_values)
        yield from _property_facts(property_.properties, f"{path}[]" if property_.item_type else path)
