"""The callers of a server, and what they manage: projects, contacts, definitions, automations and runs."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from server.app.lifecycle import close_in_time
from server.audit.audited_changes import AuditedChanges
from server.audit.settings_changes import record_settings
from server.auth import admin_key
from server.auth.access import Access
from server.background.key_use import KeyUse
from server.bridge.dialects import KEY_PREFIXES
from server.delivery.recent_matches import RecentMatches
from server.ingest.catalog import Catalog
from server.rpc.messages.audited_resources import describe
from server.services.api_keys import ApiKeys
from server.services.automations import Automations
from server.services.contacts import Contacts
from server.services.definitions import Definitions
from server.services.demo import make_demo
from server.services.projects import Projects
from server.services.runs import Runs
from server.storage.server_secrets import PAGE_TOKENS, read_or_make_secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.app.storage import Storage
    from server.metrics import Metrics
    from server.services.demo import Demo
    from server.settings import Settings
    from server.storage.database import Database


@dataclass(frozen=True, slots=True)
class Management:
    """The callers, the services through which they make changes, and the catalog.

    `recent` are the matches in memory. They are dropped when the catalog or a contact changes.
    """

    access: Access
    changes: AuditedChanges
    catalog: Catalog
    recent: RecentMatches
    projects: Projects
    keys: ApiKeys
    contacts: Contacts
    definitions: Definitions
    automations: Automations
    runs: Runs
    demo: Demo | None


@asynccontextmanager
async def managing(settings: Settings, storage: Storage, metrics: Metrics) -> AsyncIterator[Management]:
    """Authenticate callers, store which keys are used, and change what they manage. Raise ValueError and OSError."""
    database = storage.database
    async with AsyncExitStack() as stack:
        access = await _access(settings, database)
        stack.push_async_callback(access.close)
        use = KeyUse(database, access)
        use.start()
        stack.push_async_callback(close_in_time, use.close, settings.grace_seconds)

        changes = AuditedChanges(database, describe)
        await record_settings(changes, settings)
        recent = RecentMatches()
        catalog = Catalog(database, recent.forget, changes)
        projects = Projects(database, catalog, access)
        keys = ApiKeys(database, projects, catalog, access, KEY_PREFIXES)
        contacts = Contacts(database, recent.forget, changes)
        definitions, automations = Definitions(database, catalog), Automations(database, catalog)
        runs = Runs(database, catalog.thread, metrics.count_runs)
        demo = await make_demo(projects, keys, definitions, contacts, automations) if settings.demo else None
        yield Management(
            access=access,
            changes=changes,
            catalog=catalog,
            recent=recent,
            projects=projects,
            keys=keys,
            contacts=contacts,
            definitions=definitions,
            automations=automations,
            runs=runs,
            demo=demo,
        )


async def _access(settings: Settings, database: Database) -> Access:
    given, file = settings.admin_key, admin_key.file_of(settings.database)
    secret = admin_key.check_strength(given) if given else admin_key.read_or_make(file)
    page_secret = await database.write(partial(read_or_make_secret, name=PAGE_TOKENS))
    return Access(database, secret, page_secret, demo=settings.demo)
