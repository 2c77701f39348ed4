"""Searching by a text, in every list that offers it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from google.protobuf.message_factory import GetMessageClass

from signalbox.v1 import projects_pb2
from tests.support.bridge import http_client
from tests.support.contract import METHODS

if TYPE_CHECKING:
    from tests.support.service import Client, Service

pytestmark = pytest.mark.lasting

SEARCHES = sorted(name for name, method in METHODS.items() if "search" in method.input_type.fields_by_name)
LONG = "x%_/" * 15_000


def test_lists_of_the_contract_can_be_searched() -> None:
    assert SEARCHES == ["Automations.ListAutomations", "Contacts.ListContacts", "EventDefinitions.ListEventDefinitions"]


@pytest.mark.parametrize("name", SEARCHES)
async def test_a_text_longer_than_any_name_is_found_nowhere(shop: Client, name: str) -> None:
    service, _, method = name.partition(".")
    stub = {"Automations": shop.automations, "Contacts": shop.contacts, "EventDefinitions": shop.definitions}[service]
    answer = await getattr(stub, method)(GetMessageClass(METHODS[name].input_type)(search=LONG))
    assert not answer.ListFields()


@pytest.mark.parametrize(
    ("dialect", "path"),
    [
        (projects_pb2.DIALECT_ARSEL, "/v1/events"),
        (projects_pb2.DIALECT_ARSEL, "/v1/contacts"),
        (projects_pb2.DIALECT_OPENSEND, "/automations"),
    ],
)
async def test_dialects_find_such_a_text_nowhere(
    service: Service, shop: Client, dialect: projects_pb2.Dialect.ValueType, path: str
) -> None:
    secret = await service.secret(shop.project, dialect)
    async with http_client(service) as http:
        answer = await http.get(path, params={"search": "x" * 16_000}, headers={"authorization": f"Bearer {secret}"})
    assert answer.status_code == 200, answer.text
