"""The calls that four of the systems show on their own pages, unchanged but for host, key and address.

One of the pages hides its example's e-mail address; Ada has it here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from signalbox.v1 import automations_pb2 as pb
from signalbox.v1 import projects_pb2
from tests.support import curl
from tests.support.bridge import ID, MILLIS, SECONDS
from tests.support.messages import ADA

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.service import Client, Service

AUTOSEND_CREATE = """
curl --request POST \\
  --url https://api.autosend.com/v1/events \\
  --header 'Authorization: Bearer AS_your-project-api-key' \\
  --header 'Content-Type: application/json' \\
  --data '{
  "eventName": "order_completed",
  "description": "Fired when a customer completes a checkout",
  "properties": [
    { "propertyName": "order_total", "type": "number", "description": "Total order value in USD" },
    { "propertyName": "currency", "type": "string", "suggestedValues": ["USD", "EUR", "GBP"] },
    { "propertyName": "is_first_purchase", "type": "boolean" }
  ]
}'
"""
AUTOSEND_SEND = """
curl --request POST \\
  --url https://api.autosend.com/v1/events/send \\
  --header 'Authorization: Bearer AS_your-project-api-key' \\
  --header 'Content-Type: application/json' \\
  --data '{
  "eventName": "order_completed",
  "email": "ada@example.com",
  "eventProperties": {
    "order_total": 129.99,
    "currency": "USD",
    "is_first_purchase": true
  }
}'
"""
OPENSEND_SEND = """
curl -X POST https://opensend.namuh.co/events/send \\
  -H 'Authorization: Bearer os_YOUR_API_KEY_32' \\
  -H 'Content-Type: application/json' \\
  -d '{ "event": "user.signed_up", "email": "ada@example.com", "payload": { "plan": "pro" } }'
"""
EMAILSENDX_CONTACT = """
curl -X POST https://emailsendx.com/api/v1/contacts \\
  -H 'Authorization: Bearer esx_live_0123456789' \\
  -H 'Content-Type: application/json' \\
  -d '{ "email": "ada@example.com", "firstName": "Ada",
        "metadata": { "plan": "pro", "customerId": "cus_1" } }'
"""
EMAILSENDX_FIRE = """
curl -X POST https://emailsendx.com/api/v1/contacts/CONTACT/events \\
  -H 'Authorization: Bearer esx_live_0123456789' \\
  -H 'Content-Type: application/json' \\
  -d '{
  "name": "purchase_completed",
  "data": {
    "orderId": "ord_abc123",
    "amount": 99.00,
    "currency": "USD",
    "items": ["Pro Plan - Annual"],
    "coupon": "LAUNCH20"
  }
}'
"""
ARSEL_SEND = """
curl -X POST "https://api.arsel.sa/v1/events/send" \\
-H "Authorization: Bearer be_your_api_key_1" \\
-H "Content-Type: application/json" \\
-d '{
"event": "order.completed",
"email": "john.doe@example.com",
"data": { "order_id": "A-1023", "total": 149.99 }
}'
"""
HOSTS = (
    "https://api.autosend.com",
    "https://opensend.namuh.co",
    "https://emailsendx.com",
    "https://api.arsel.sa",
)
KEYS = {
    projects_pb2.DIALECT_AUTOSEND: "AS_your-project-api-key",
    projects_pb2.DIALECT_OPENSEND: "os_YOUR_API_KEY_32",
    projects_pb2.DIALECT_EMAILSENDX: "esx_live_0123456789",
    projects_pb2.DIALECT_ARSEL: "be_your_api_key_1",
}


# The pages show calls and responses, which the tables of the dialects try over both databases.
pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


class Caller:
    """Runs documented commands against the bridge."""

    def __init__(self, address: str, client: Client) -> None:
        self._address = address
        self.client = client

    async def __call__(self, command: str) -> tuple[int, Any]:
        for host in HOSTS:
            command = command.replace(host, f"http://{self._address}")
        response = await curl.run(command)
        return response.status_code, response.json()


@pytest_asyncio.fixture
async def documented(service: Service) -> AsyncIterator[Caller]:
    client = await service.project()
    for dialect, secret in KEYS.items():
        request = projects_pb2.CreateApiKeyRequest(project=client.project, dialect=dialect, secret=secret)
        await service.admin.projects.CreateApiKey(request)
    yield Caller(service.http_address, client)


async def test_autosend_defines_an_event_and_sends_it(documented: Caller) -> None:
    assert await documented(AUTOSEND_CREATE) == (
        201,
        {
            "success": True,
            "data": {
                "id": ID,
                "eventName": "order_completed",
                "description": "Fired when a customer completes a checkout",
                "properties": [
                    {
                        "propertyName": "order_total",
                        "type": "number",
                        "description": "Total order value in USD",
                        "suggestedValues": [],
                    },
                    {"propertyName": "currency", "type": "string", "suggestedValues": ["USD", "EUR", "GBP"]},
                    {"propertyName": "is_first_purchase", "type": "boolean", "suggestedValues": []},
                ],
                "createdAt": MILLIS,
                "updatedAt": MILLIS,
            },
        },
    )
    await documented.client.upsert(ADA)
    assert await documented(AUTOSEND_SEND) == (
        201,
        {
            "success": True,
            "data": {
                "id": ID,
                "eventName": "order_completed",
                "contactId": ID,
                "properties": {"order_total": 129.99, "currency": "USD", "is_first_purchase": True},
                "createdAt": MILLIS,
            },
        },
    )


async def test_opensend_sends_an_event(documented: Caller) -> None:
    assert await documented(OPENSEND_SEND) == (
        202,
        {
            "object": "event_delivery",
            "delivery": {
                "object": "event_delivery",
                "id": ID,
                "event": "user.signed_up",
                "contact_id": ID,
                "email": "ada@example.com",
                "payload": {"plan": "pro"},
                "received_at": MILLIS,
            },
            "resumed_runs": [],
            "automation_runs": [],
        },
    )


async def test_emailsendx_fires_an_event_for_a_contact(documented: Caller) -> None:
    _, contact = await documented(EMAILSENDX_CONTACT)
    contact_id = contact["data"]["id"]
    for number in range(2):
        automation = pb.Automation(name=f"a{number}", event_name="purchase_completed", state=pb.AUTOMATION_STATE_ACTIVE)
        await documented.client.automations.CreateAutomation(pb.CreateAutomationRequest(automation=automation))
    fired = {"contactId": contact_id, "eventName": "purchase_completed", "matchingAutomations": 2, "firedAt": SECONDS}
    assert await documented(EMAILSENDX_FIRE.replace("CONTACT", contact_id)) == (200, {"data": fired})
    unknown = EMAILSENDX_FIRE.replace("CONTACT", contact_id).replace("purchase_completed", "trial_started")
    nothing = fired | {"eventName": "trial_started", "matchingAutomations": 0}
    assert await documented(unknown) == (200, {"data": nothing})


async def test_arsel_accepts_an_event(documented: Caller) -> None:
    missing = 'No event named "order.completed" is defined in this organization.'
    assert await documented(ARSEL_SEND) == (404, {"status_code": 404, "name": "not_found", "message": missing})
    await documented(
        """curl -X POST https://api.arsel.sa/v1/events -H "Authorization: Bearer be_your_api_key_1" -d '
        {"name": "order.completed", "schema": {"fields": [
            {"name": "order_id", "type": "string", "required": true},
            {"name": "total", "type": "number", "required": true}]}}'"""
    )
    assert await documented(ARSEL_SEND) == (202, {"id": ID, "status": "accepted"})
