"""The demo project of `serve --dev`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from automation.automations import AutomationState, NewAutomation
from registry.definitions.event_definitions import NewDefinition
from registry.definitions.schema import Property, PropertyType, Schema
from server.auth.caller import Caller
from server.errors import ContactNotFound, ProjectNotFound, SecretInUse
from server.model import Dialect, Rules, Scope
from server.paging import MAX_SIZE, PageRequest
from server.services.api_keys import NATIVE_PREFIX, NewApiKey
from server.services.contacts import ContactRef

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.services.api_keys import ApiKeys
    from server.services.automations import Automations
    from server.services.contacts import Contacts
    from server.services.definitions import Definitions
    from server.services.projects import Projects

PROJECT = "demo"
EVENT = "order_completed"
EMAIL = "ada@example.com"
CONDITION = "properties.is_first_purchase"
SECRET = f"{NATIVE_PREFIX}demo_key_for_ada"
PROPERTIES = '{"order_total":"129.99","currency":"USD","is_first_purchase":"true"}'

_SCHEMA = Schema(
    properties=(
        Property("order_total", PropertyType.NUMBER),
        Property("currency", PropertyType.STRING),
        Property("is_first_purchase", PropertyType.BOOLEAN),
    )
)


@dataclass(frozen=True, slots=True)
class Demo:
    """An event to send in the demo project, and a key for each dialect. `contact_id` is empty if there is none."""

    contact_id: str
    secrets: Mapping[Dialect, str]
    event: str = EVENT
    email: str = EMAIL
    properties: str = PROPERTIES


def demo_secrets(key_prefixes: Mapping[Dialect, str]) -> dict[Dialect, str]:
    """Return the keys of the demo project by dialect; servers accept them with --dev only."""
    return {dialect: prefix + SECRET.removeprefix(NATIVE_PREFIX) for dialect, prefix in key_prefixes.items()}


async def make_demo(
    projects: Projects, keys: ApiKeys, definitions: Definitions, contacts: Contacts, automations: Automations
) -> Demo:
    """Create the demo project with keys, a definition, a contact and an automation, if there is no project yet.

    A demo project of an earlier version gets the keys of newer dialects.
    """
    secrets = demo_secrets(keys.prefixes)
    existing = await projects.list(PageRequest(1))
    if not existing.items:
        project = await projects.create(PROJECT, Rules())
        await _create_keys(keys, project.id, secrets)
        caller = Caller(project.pk, project.id, frozenset({Scope.ALL}))
        await definitions.create(caller, NewDefinition(EVENT, _SCHEMA, description="An order was paid for"))
        await contacts.upsert(project.pk, EMAIL, {"first_name": "Ada"})
        welcome = NewAutomation("welcome", EVENT, CONDITION, AutomationState.ACTIVE)
        await automations.create(project.pk, welcome)
    try:
        project = await projects.get(PROJECT)
        contact = await contacts.get(project.pk, ContactRef(email=EMAIL))
    except (ProjectNotFound, ContactNotFound):
        return Demo("", secrets)
    existing_keys = await keys.list(project.id, PageRequest(MAX_SIZE))
    if any(key.demo for key in existing_keys.items):
        await _create_keys(keys, project.id, secrets)
    return Demo(contact.id, secrets)


async def _create_keys(keys: ApiKeys, project_id: str, secrets: Mapping[Dialect, str]) -> None:
    """Create the demo keys that do not exist yet."""
    for dialect, secret in secrets.items():
        with suppress(SecretInUse):
            await keys.create(project_id, NewApiKey(dialect, description="demo", secret=secret, demo=True))
