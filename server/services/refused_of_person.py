"""The refused events about a person, found a part of the quarantine at a time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from server.storage.erasures.steps import READ_EVENTS
from server.storage.quarantine.search import refused_naming

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.storage.database import Database
    from server.storage.quarantine.search import RefusedOfPerson


async def refused_of_person(
    database: Database, project_pk: int, contact_id: str, email: str
) -> AsyncIterator[RefusedOfPerson]:
    """Yield the refused events that name a person, or have the address anywhere in what was sent, escaped or not."""
    after, more = "", True
    while more:
        found, after = await database.read(
            partial(
                refused_naming,
                project_pk=project_pk,
                contact_id=contact_id,
                email=email,
                after=after,
                examined=READ_EVENTS,
            )
        )
        yield found
        more = after != ""
