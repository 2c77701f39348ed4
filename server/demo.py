"""The demo project of `serve --dev`."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from automation.automations import AutomationState, NewAutomation
from registry.definitions import NewDefinition
from registry.schema import Property, PropertyType, Schema
from server.auth.caller import Caller
from server.bridge.dialect import DemoEvent
from server.bridge.dialects import DIALECTS
from server.errors import ContactNotFound, ProjectNotFound, SecretInUse
from server.model import Dialect, Rules, Scope
from server.paging import MAX_SIZE, PageRequest
from server.services.contacts import ContactRef
from server.services.projects import NATIVE_PREFIX

if TYPE_CHECKING:
    from server.bridge.dialect import DemoCall, RestDialect
    from server.services.automations import Automations
    from server.services.contacts import Contacts
    from server.services.definitions import Definitions
    from server.services.projects import Projects

PROJECT = "demo"
EVENT = "order_completed"
EMAIL = "ada@example.com"
CONDITION = "properties.is_first_purchase"
SECRETS = {
    Dialect.NATIVE: f"{NATIVE_PREFIX}demo_key_for_ada",
    **{dialect.name: f"{dialect.key_prefixes[0]}demo_key_for_ada" for dialect in DIALECTS},
}
"""Keys of the demo project by dialect; servers accept them with --dev only."""
SECRET = SECRETS[Dialect.NATIVE]
PROPERTIES = '{"order_total":"129.99","currency":"USD","is_first_purchase":"true"}'

_SCHEMA = Schema(
    properties=(
        Property("order_total", PropertyType.NUMBER),
        Property("currency", PropertyType.STRING),
        Property("is_first_purchase", PropertyType.BOOLEAN),
    )
)


async def make_demo(projects: Projects, definitions: Definitions, contacts: Contacts, automations: Automations) -> str:
    """Create the demo project with keys, a definition, a contact and an automation, if there is no project yet.

    A demo project of an earlier version gets the keys of newer dialects. Return the id of the demo's contact, empty
    if there is no demo project.
    """
    existing = await projects.list(PageRequest(1))
    if not existing.items:
        project = await projects.create(PROJECT, Rules())
        await _create_keys(projects, project.id)
        caller = Caller(project.pk, project.id, frozenset({Scope.ALL}))
        await definitions.create(caller, NewDefinition(EVENT, _SCHEMA, description="An order was paid for"))
        await contacts.upsert(project.pk, EMAIL, {"first_name": "Ada"})
        welcome = NewAutomation("welcome", EVENT, CONDITION, AutomationState.ACTIVE)
        await automations.create(project.pk, welcome)
    try:
        project = await projects.get(PROJECT)
        contact = await contacts.get(project.pk, ContactRef(email=EMAIL))
    except (ProjectNotFound, ContactNotFound):
        return ""
    keys = (await projects.keys(project.id, PageRequest(MAX_SIZE))).items
    if any(key.demo for key in keys):
        await _create_keys(projects, project.id)
    return contact.id


async def _create_keys(projects: Projects, project_id: str) -> None:
    """Create the demo keys that do not exist yet."""
    for dialect, secret in SECRETS.items():
        with suppress(SecretInUse):
            await projects.create_key(project_id, dialect, (), "demo", secret, demo=True)


def rest_calls(contact_id: str) -> list[tuple[RestDialect, DemoCall]]:
    """Return a call that sends the demo's event for each REST dialect."""
    event = DemoEvent(EVENT, EMAIL, contact_id, json.loads(PROPERTIES))
    return [(dialect, dialect.demo_call(event)) for dialect in DIALECTS]
