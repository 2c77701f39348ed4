"""What `serve --dev` puts into a database, to try Signalbox with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automation.automations import AutomationState, NewAutomation
from registry.schema import Compatibility, Property, PropertyType, Schema
from server.access import Caller
from server.model import Dialect, Rules, Scope
from server.paging import PageRequest
from server.settings import DEFAULT_GRPC

if TYPE_CHECKING:
    from server.automations import Automations
    from server.contacts import Contacts
    from server.definitions import Definitions
    from server.projects import Projects

PROJECT = "demo"
EVENT = "order_completed"
EMAIL = "ada@example.com"
CONDITION = "properties.is_first_purchase"
SECRET = "sb_demo_key_for_ada"  # noqa: S105 - works on servers started with --dev, nowhere else
PROPERTIES = '{"order_total":"129.99","currency":"USD","is_first_purchase":"true"}'

_SCHEMA = Schema(
    properties=(
        Property("order_total", PropertyType.NUMBER),
        Property("currency", PropertyType.STRING),
        Property("is_first_purchase", PropertyType.BOOLEAN),
    )
)


async def make_demo(projects: Projects, definitions: Definitions, contacts: Contacts, automations: Automations) -> None:
    """Make the demo project with a key, a definition, a contact and an automation, in an empty database."""
    known = await projects.list(PageRequest(1))
    if not known.items:
        project = await projects.create(PROJECT, Rules())
        await projects.create_key(project.id, Dialect.NATIVE, (), "demo", SECRET, demo=True)
        caller = Caller(project.key, project.id, frozenset({Scope.ALL}))
        await definitions.create(caller, EVENT, "An order was paid for", _SCHEMA, Compatibility.NONE)
        await contacts.upsert(project.key, EMAIL, {"first_name": "Ada"})
        welcome = NewAutomation("welcome", EVENT, CONDITION, AutomationState.ACTIVE)
        await automations.create(project.key, welcome)


def commands(program: str, buf: str, grpc_address: str) -> str:
    """Give commands to paste that show one event going in and coming back; `program` and `buf` are how to call them."""
    options = f"--key {SECRET}" if grpc_address == DEFAULT_GRPC else f"--key {SECRET} --server {grpc_address}"
    body = f'{{"event":{{"name":"{EVENT}","email":"{EMAIL}","properties":{PROPERTIES}}}}}'
    return f"""
Send an event, and read it back:

  {program} event send {EVENT} --email {EMAIL} --properties '{PROPERTIES}' {options}
  {program} event list {options}

The same without Signalbox's own client:

  {buf} curl --protocol grpc --http2-prior-knowledge -H 'authorization: Bearer {SECRET}' \\
    -d '{body}' \\
    http://{grpc_address}/signalbox.v1.EventIngest/SendEvent
"""
