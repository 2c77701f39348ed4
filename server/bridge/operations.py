"""Operations that the handlers of several dialects share: finding definitions, paging lists, reading contact fields.

Contacts. A dialect names a few fields of a contact and has a place for all others. They are stored side by side as
properties, under one name whatever the dialect calls it: `first_name`, `last_name`, `user_id`, `unsubscribed`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from registry.definitions.schema import MAX_PROPERTIES, Schema, UnknownProperties, check_schema
from registry.errors import DefinitionNotFound, InvalidSchema, Violation
from registry.names import check_event_name
from registry.personal.marks import count_properties, is_kept_personal, keep_personal, needs_marks
from registry.storage.definition_store import MAX_LIVE_DEFINITIONS
from registry.values.json_values import CONTACT_BUDGET
from server.bridge.fields import is_uuid
from server.bridge.payloads import storable_json
from server.paging import PageRequest
from server.services.contacts import ContactRef

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from registry.definitions.event_definitions import EventDefinition, NewDefinition
    from registry.storage.definition_store import DefinitionChanges
    from server.auth.caller import Caller
    from server.bridge.messages import Request
    from server.ingest.ingest import Ingest
    from server.model import Contact
    from server.services.automations import Automations
    from server.services.contacts import Contacts
    from server.services.definitions import Definitions
    from server.services.runs import Runs
    from server.storage.health import StorageHealth


@dataclass(frozen=True, slots=True)
class Services:
    """The objects that requests call; the gRPC servicers call the same ones."""

    health: StorageHealth
    ingest: Ingest
    definitions: Definitions
    contacts: Contacts
    automations: Automations
    runs: Runs


# Definitions


async def all_definitions(services: Services, caller: Caller, search: str = "") -> Sequence[EventDefinition]:
    """Return all live definitions, newest first; a project has at most MAX_LIVE_DEFINITIONS."""
    definitions: list[EventDefinition] = []
    request = PageRequest(MAX_LIVE_DEFINITIONS)
    while True:
        page = await services.definitions.list(caller, request, search)
        definitions += page.items
        if not page.next_token:
            return definitions
        request = replace(request, token=page.next_token)


async def find_definition(services: Services, caller: Caller, identifier: str) -> EventDefinition:
    """Return the live definition with an id or exact name. Raise DefinitionNotFound."""
    definition = await services.definitions.get(caller, identifier)
    if definition.deleted_at is not None:
        raise DefinitionNotFound(identifier)
    return definition


async def definition_by_name(services: Services, caller: Caller, name: str) -> EventDefinition:
    """Return the live definition with a name. Raise DefinitionNotFound."""
    definition = await find_definition(services, caller, name)
    if definition.name != name:
        raise DefinitionNotFound(name)
    return definition


async def definition_by_id(services: Services, caller: Caller, definition_id: str) -> EventDefinition:
    """Return the live definition with an id. Raise DefinitionNotFound."""
    definition = await find_definition(services, caller, definition_id)
    if definition.id != definition_id:
        raise DefinitionNotFound(definition_id)
    return definition


async def create_definition(services: Services, request: Request, new: NewDefinition) -> EventDefinition:
    """Create a definition. What was personal under its name stays so: no dialect can say what is."""
    check_event_name(new.name)
    kept = await _keep_personal(services, request.caller, new.name, new.schema, None)
    return await services.definitions.create(request.caller, replace(new, schema=kept))


async def update_definition(
    services: Services, request: Request, current: EventDefinition, changes: DefinitionChanges
) -> EventDefinition:
    """Update a definition that was read before. What is personal stays so: no dialect can say what is."""
    if isinstance(changes.schema, Schema):
        kept = await _keep_personal(services, request.caller, current.name, changes.schema, current.schema)
        changes = replace(changes, schema=kept)
    return await services.definitions.update(request.caller, current.id, changes, current.etag)


async def _keep_personal(services: Services, caller: Caller, name: str, new: Schema, known: Schema | None) -> Schema:
    """Return a schema with what is personal by the known one and by earlier revisions. Raise InvalidSchema."""
    check_schema(new)
    earlier = await services.definitions.earlier_marks(caller, name) if needs_marks(new, known) else {}
    kept = keep_personal(new, known, earlier)
    hidden = count_properties(kept) - count_properties(new)
    room = MAX_PROPERTIES - hidden
    if count_properties(new) > room:
        message = (
            f"A schema may have at most {MAX_PROPERTIES} properties, including nested ones and the personal "
            f"ones that are not shown here ({hidden}): at most {max(room, 0)} others"
        )
        raise InvalidSchema((Violation("schema", "TOO_MANY_PROPERTIES", message),))
    return kept


def accepts_everything(schema: Schema) -> bool:
    """Return whether a schema accepts every payload; it may still say which properties are personal."""
    keeps = schema.unknown_properties is UnknownProperties.KEEP
    return keeps and all(is_kept_personal(declared) for declared in schema.properties)


# Lists


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Identified)


def page_by_id(items: Sequence[T], limit: int, after_id: str = "", before_id: str = "") -> tuple[Sequence[T], bool]:
    """Return up to `limit` items after one id or before another, and whether there are more in that direction.

    `items` are in descending order of their ids. An id that no item has marks the place where it would stand.
    """
    if before_id:
        newer = [item for item in items if item.id > before_id]
        return newer[-limit:], len(newer) > limit
    older = [item for item in items if item.id < after_id] if after_id else items
    return older[:limit], len(older) > limit


# Contacts


def contact_ref(identifier: str) -> ContactRef:
    """Return a reference to a contact from its id or address; anything but a UUID is an address."""
    identifier = identifier.strip().lower()
    return ContactRef(identifier) if is_uuid(identifier) else ContactRef(email=identifier)


def contact_properties(named: Mapping[str, Any], others: dict[str, Any], received: int, root: str) -> dict[str, Any]:
    """Return the properties that a body of `received` bytes sets; a named field that is None is not set.

    `root` is the body's field that holds `others`. Raise InvalidArgument if they are too many or too deep.
    """
    held = storable_json(others, received, root, CONTACT_BUDGET)
    return {**held, **{name: value for name, value in named.items() if value is not None}}


def named_texts(contact: Contact, names: Collection[str]) -> dict[str, str | None]:
    """Return named fields of a contact; None for a field that is absent or not a string."""
    values = {name: contact.properties.get(name) for name in names}
    return {name: value if isinstance(value, str) else None for name, value in values.items()}


def other_properties(contact: Contact, names: Collection[str]) -> dict[str, Any]:
    """Return the properties of a contact except the named fields."""
    return {name: value for name, value in contact.properties.items() if name not in names}
