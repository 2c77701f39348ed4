"""Calls of RPCs, with their responses, as examples for the OpenAPI document. Each one follows from those before it."""

from __future__ import annotations

from typing import Any, Final

EXAMPLES: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "CreateEventDefinition": (
        {
            "eventDefinition": {
                "name": "order_completed",
                "description": "An order was paid for",
                "schema": {
                    "properties": [
                        {"name": "order_total", "type": "PROPERTY_TYPE_NUMBER", "required": True},
                        {"name": "currency", "type": "PROPERTY_TYPE_STRING"},
                    ]
                },
            }
        },
        {
            "eventDefinition": {
                "id": "01a221f2-3e08-74f4-8325-49b9a3429552",
                "name": "order_completed",
                "description": "An order was paid for",
                "schema": {
                    "properties": [
                        {"name": "order_total", "type": "PROPERTY_TYPE_NUMBER", "required": True},
                        {"name": "currency", "type": "PROPERTY_TYPE_STRING"},
                    ],
                    "unknownProperties": "UNKNOWN_PROPERTIES_REJECT",
                    "coercion": "COERCION_MODE_LENIENT",
                },
                "compatibility": "COMPATIBILITY_NONE",
                "revision": 1,
                "etag": "1",
                "createdAt": "2026-11-28T11:37:33.448261Z",
                "updatedAt": "2026-11-28T11:37:33.448261Z",
            }
        },
    ),
    "UpsertContact": (
        {"email": "ada@example.com", "properties": {"first_name": "Ada"}},
        {
            "contact": {
                "id": "01a221f2-3e14-757c-b158-52c56f03479a",
                "email": "ada@example.com",
                "properties": {"first_name": "Ada"},
                "createdAt": "2026-11-28T11:37:33.458462Z",
                "updatedAt": "2026-11-28T11:37:33.458462Z",
                "etag": "1",
            },
            "created": True,
        },
    ),
    "CreateAutomation": (
        {
            "automation": {
                "name": "welcome",
                "eventName": "order_completed",
                "condition": "properties.order_total > 100",
                "state": "AUTOMATION_STATE_ACTIVE",
            }
        },
        {
            "automation": {
                "id": "01a221f2-3e1b-7183-b32a-a55cafe2e0ef",
                "name": "welcome",
                "eventName": "order_completed",
                "condition": "properties.order_total > 100",
                "state": "AUTOMATION_STATE_ACTIVE",
                "entryRule": "ENTRY_RULE_EVERY_TIME",
                "activatedPosition": "0",
                "attributes": {},
                "createdAt": "2026-11-28T11:37:33.567302Z",
                "updatedAt": "2026-11-28T11:37:33.567302Z",
                "etag": "1",
            }
        },
    ),
    "CreateSubscription": (
        {"subscription": {"name": "mailer"}},
        {
            "subscription": {
                "id": "01a221f2-3e8e-7413-96a6-8522070ed390",
                "name": "mailer",
                "filter": {},
                "order": "DELIVERY_ORDER_POSITION",
                "ackDeadline": "30s",
                "maxAttempts": 10,
                "backoff": {"initialDelay": "1s", "maxDelay": "600s", "multiplier": 2.0},
                "stats": {},
                "createdAt": "2026-11-28T11:37:33.582567Z",
                "updatedAt": "2026-11-28T11:37:33.582567Z",
                "etag": "1",
            }
        },
    ),
    "SendEvent": (
        {
            "event": {
                "name": "order_completed",
                "email": "ada@example.com",
                "properties": {"order_total": 129.99, "currency": "USD"},
                "idempotencyKey": "order-1042",
            }
        },
        {
            "receipt": {
                "event": {
                    "id": "01a221f2-3eb0-7000-8000-00043198d7e3",
                    "position": "1",
                    "name": "order_completed",
                    "definitionId": "01a221f2-3e08-74f4-8325-49b9a3429552",
                    "revision": 1,
                    "contactId": "01a221f2-3e14-757c-b158-52c56f03479a",
                    "email": "ada@example.com",
                    "properties": {"currency": "USD", "order_total": 129.99},
                    "occurredAt": "2026-11-28T11:37:33.616393Z",
                    "receivedAt": "2026-11-28T11:37:33.616393Z",
                },
                "matchCount": 1,
            }
        },
    ),
    "SendEvents": (
        {
            "events": [
                {
                    "name": "order_completed",
                    "email": "ada@example.com",
                    "properties": {"order_total": 129.99, "currency": "USD"},
                },
                {"name": "order_completed", "email": "ada@example.com", "properties": {"currency": "EUR"}},
            ],
            "mode": "BATCH_MODE_INDEPENDENT",
        },
        {
            "results": [
                {
                    "receipt": {
                        "event": {
                            "id": "01a221f2-3ebc-7000-8000-000a8af1d209",
                            "position": "2",
                            "revision": 1,
                            "contactId": "01a221f2-3e14-757c-b158-52c56f03479a",
                            "receivedAt": "2026-11-28T11:37:33.628663Z",
                        },
                        "matchCount": 1,
                    }
                },
                {
                    "error": {
                        "code": 3,
                        "reason": "PAYLOAD_REJECTED",
                        "message": 'Property "order_total" is required',
                        "violations": [
                            {
                                "path": "properties.order_total",
                                "reason": "REQUIRED_PROPERTY_MISSING",
                                "message": 'Property "order_total" is required',
                            }
                        ],
                    }
                },
            ]
        },
    ),
    "ListEvents": (
        {"pageSize": 1},
        {
            "events": [
                {
                    "id": "01a221f2-3ebc-7000-8000-000a8af1d209",
                    "position": "2",
                    "name": "order_completed",
                    "definitionId": "01a221f2-3e08-74f4-8325-49b9a3429552",
                    "revision": 1,
                    "contactId": "01a221f2-3e14-757c-b158-52c56f03479a",
                    "email": "ada@example.com",
                    "properties": {"currency": "USD", "order_total": 129.99},
                    "occurredAt": "2026-11-28T11:37:33.628663Z",
                    "receivedAt": "2026-11-28T11:37:33.628663Z",
                }
            ],
            "nextPageToken": "jewMIUnpVQ_hyLhRfFbryFsyLCIwMWEyMjFmMi0zZWJjLTcwMDAtODAwMC0wMDBhOGFmMWQyMDkiXQ==",
        },
    ),
    "GetContact": (
        {"email": "ada@example.com"},
        {
            "contact": {
                "id": "01a221f2-3e14-757c-b158-52c56f03479a",
                "email": "ada@example.com",
                "properties": {"first_name": "Ada"},
                "createdAt": "2026-11-28T11:37:33.458462Z",
                "updatedAt": "2026-11-28T11:37:33.458462Z",
                "etag": "1",
            }
        },
    ),
    "PullMatches": (
        {"subscription": "mailer", "maxMatches": 1},
        {
            "deliveries": [
                {
                    "deliveryId": "1-1-070ed390",
                    "attempt": 1,
                    "maxAttempts": 10,
                    "match": {
                        "id": "01a221f2-3eb0-7000-8000-000486416e08",
                        "position": "1",
                        "kind": "KIND_STARTED",
                        "automationId": "01a221f2-3e1b-7183-b32a-a55cafe2e0ef",
                        "automationName": "welcome",
                        "runId": "01a221f2-3eb0-7000-8000-00062a93ed19",
                        "contactId": "01a221f2-3e14-757c-b158-52c56f03479a",
                        "event": {
                            "id": "01a221f2-3eb0-7000-8000-00043198d7e3",
                            "position": "1",
                            "name": "order_completed",
                            "definitionId": "01a221f2-3e08-74f4-8325-49b9a3429552",
                            "revision": 1,
                            "contactId": "01a221f2-3e14-757c-b158-52c56f03479a",
                            "email": "ada@example.com",
                            "properties": {"currency": "USD", "order_total": 129.99},
                            "occurredAt": "2026-11-28T11:37:33.616393Z",
                            "receivedAt": "2026-11-28T11:37:33.616393Z",
                        },
                        "matchedAt": "2026-11-28T11:37:33.616393Z",
                    },
                    "leaseDuration": "29.977723s",
                    "leaseExpiresAt": "2026-11-28T11:38:03.664201Z",
                }
            ]
        },
    ),
    "ListRuns": (
        {"pageSize": 1},
        {
            "runs": [
                {
                    "id": "01a221f2-3ebc-7000-8000-0009426b5600",
                    "automationId": "01a221f2-3e1b-7183-b32a-a55cafe2e0ef",
                    "contactId": "01a221f2-3e14-757c-b158-52c56f03479a",
                    "eventId": "01a221f2-3ebc-7000-8000-000a8af1d209",
                    "status": "RUN_STATUS_QUEUED",
                    "matchId": "01a221f2-3ebc-7000-8000-000b7868a435",
                    "attributes": {},
                    "createdAt": "2026-11-28T11:37:33.628663Z",
                    "updatedAt": "2026-11-28T11:37:33.628663Z",
                    "etag": "1",
                }
            ],
            "nextPageToken": "NBmMmst4Q1arbxZf_Wc5OFsyXQ==",
        },
    ),
}
"""Requests and responses by the name of the RPC."""
