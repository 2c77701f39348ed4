"""Definitions as the dialects look for them: by name or by id alone, and all at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from registry.errors import DefinitionNotFound
from registry.store import MAX_LIVE_DEFINITIONS
from server.paging import PageRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.definitions import EventDefinition
    from server.auth.access import Caller
    from server.bridge.services import Services


async def all_definitions(services: Services, caller: Caller, search: str = "") -> Sequence[EventDefinition]:
    """List all live definitions, newest first; a project has MAX_LIVE_DEFINITIONS at most."""
    found: list[EventDefinition] = []
    request = PageRequest(MAX_LIVE_DEFINITIONS)
    while True:
        page = await services.definitions.list(caller, request, search)
        found += page.items
        if not page.next_token:
            return found
        request = replace(request, token=page.next_token)


async def definition_by_name(services: Services, caller: Caller, name: str) -> EventDefinition:
    """Read the live definition of a name. Raises DefinitionNotFound."""
    found = await services.definitions.get(caller, name)
    if found.name != name or found.deleted_at is not None:
        raise DefinitionNotFound(name)
    return found


async def definition_by_id(services: Services, caller: Caller, definition_id: str) -> EventDefinition:
    """Read the live definition of an id. Raises DefinitionNotFound."""
    found = await services.definitions.get(caller, definition_id)
    if found.id != definition_id or found.deleted_at is not None:
        raise DefinitionNotFound(definition_id)
    return found
