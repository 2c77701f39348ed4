"""What `serve --dev` puts into a database, to try Signalbox with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automation.automations import AutomationState, NewAutomation
from registry.schema import Compatibility, Property, PropertyType, Schema
from server.auth.access import Caller
from server.errors import ContactNotFound, ProjectNotFound
from server.model import Dialect, Rules, Scope
from server.paging import PageRequest
from server.services.contacts import ContactName
from server.settings import DEFAULT_GRPC

if TYPE_CHECKING:
    from server.app import Server
    from server.services.automations import Automations
    from server.services.contacts import Contacts
    from server.services.definitions import Definitions
    from server.services.projects import Projects

PROJECT = "demo"
EVENT = "order_completed"
EMAIL = "ada@example.com"
CONDITION = "properties.is_first_purchase"
SECRETS = {
    Dialect.NATIVE: "sb_demo_key_for_ada",
    Dialect.AUTOSEND: "AS_demo_key_for_ada",
    Dialect.OPENSEND: "os_demo_key_for_ada",
    Dialect.EMAILSENDX: "esx_live_demo_key_for_ada",
    Dialect.ARSEL: "be_demo_key_for_ada",
}
"""They work on servers started with --dev, nowhere else."""
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
    """Make the demo project with keys, a definition, a contact and an automation, in an empty database.

    Returns the id of the contact, empty where the database holds something else.
    """
    known = await projects.list(PageRequest(1))
    if not known.items:
        project = await projects.create(PROJECT, Rules())
        for dialect, secret in SECRETS.items():
            await projects.create_key(project.id, dialect, (), "demo", secret, demo=True)
        caller = Caller(project.key, project.id, frozenset({Scope.ALL}))
        await definitions.create(caller, EVENT, "An order was paid for", _SCHEMA, Compatibility.NONE)
        await contacts.upsert(project.key, EMAIL, {"first_name": "Ada"})
        welcome = NewAutomation("welcome", EVENT, CONDITION, AutomationState.ACTIVE)
        await automations.create(project.key, welcome)
    try:
        return (await contacts.get((await projects.get(PROJECT)).key, ContactName(email=EMAIL))).id
    except (ProjectNotFound, ContactNotFound):
        return ""


def commands(program: str, buf: str, server: Server) -> str:
    """Give commands to paste that show one event going in by each door; `program` and `buf` are how to call them."""
    default = server.grpc_address == DEFAULT_GRPC
    options = f"--key {SECRET}" if default else f"--key {SECRET} --server {server.grpc_address}"
    body = f'{{"event":{{"name":"{EVENT}","email":"{EMAIL}","properties":{PROPERTIES}}}}}'
    autosend = f'{{"eventName":"{EVENT}","email":"{EMAIL}","eventProperties":{PROPERTIES}}}'
    opensend = f'{{"event":"user.signed_up","email":"{EMAIL}","payload":{{"plan":"pro"}}}}'
    emailsendx = '{"name":"Purchase_Completed","data":{"orderId":"ord_abc123","amount":99.00}}'
    arsel = f'{{"event":"{EVENT}","email":"{EMAIL}","data":{PROPERTIES}}}'
    contact = server.demo_contact or "ID"

    def curl(path: str, dialect: Dialect, sent: str) -> str:
        return (
            f"  curl http://{server.http_address}{path} -H 'Authorization: Bearer {SECRETS[dialect]}' \\\n"
            f"    -H 'Content-Type: application/json' -d '{sent}'"
        )

    return f"""
Send an event, and read it back:

  {program} event send {EVENT} --email {EMAIL} --properties '{PROPERTIES}' {options}
  {program} event list {options}

The same without Signalbox's own client, over gRPC and in the words of AutoSend, OpenSend, EmailSendX and Arsel:

  {buf} curl --protocol grpc --http2-prior-knowledge -H 'authorization: Bearer {SECRET}' \\
    -d '{body}' \\
    http://{server.grpc_address}/signalbox.v1.EventIngest/SendEvent

{curl("/v1/events/send", Dialect.AUTOSEND, autosend)}

{curl("/events/send", Dialect.OPENSEND, opensend)}

{curl(f"/api/v1/contacts/{contact}/events", Dialect.EMAILSENDX, emailsendx)}

{curl("/v1/events/send", Dialect.ARSEL, arsel)}
"""
