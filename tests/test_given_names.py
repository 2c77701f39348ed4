"""Names that people give and others read: they contain no characters that reorder the text around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from grpc import StatusCode

from signalbox.v1 import match_stream_pb2, projects_pb2
from tests.support.automations import automate, change
from tests.support.consumers import subscribe
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from tests.support.service import Client, Service
    from tests.support.stores import Store

pytestmark = pytest.mark.lasting

REORDERED = "pay\u202etxt.exe"
JOINED = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f469\u200d\U0001f4bb"
"""A Persian word and an emoji, both of which need a joiner."""


async def give(service: Service, shop: Client, kind: str, name: str) -> str:
    """Give a new resource a name. Return its ID."""
    if kind == "project":
        created = projects_pb2.CreateProjectRequest(project=projects_pb2.Project(name=name))
        return (await service.admin.projects.CreateProject(created)).project.id
    if kind == "api_key":
        key = projects_pb2.CreateApiKeyRequest(project=shop.project, dialect=projects_pb2.DIALECT_NATIVE, name=name)
        return (await service.admin.projects.CreateApiKey(key)).api_key.id
    if kind == "automation":
        return (await automate(shop, name=name)).id
    return (await subscribe(shop, name)).id


async def rename(service: Service, shop: Client, kind: str, resource_id: str, name: str) -> str:
    """Rename a resource. Return the name that it has then."""
    if kind == "project":
        request = projects_pb2.UpdateProjectRequest(project=resource_id, name=name)
        return (await service.admin.projects.UpdateProject(request)).project.name
    if kind == "automation":
        automation = await automate(shop)
        automation.id = resource_id
        return (await change(shop, automation, name=name, labels={"of": "old"})).name
    changes = match_stream_pb2.UpdateSubscriptionRequest(subscription=resource_id, name=name, max_attempts=7)
    return (await shop.matches.UpdateSubscription(changes)).subscription.name


@pytest.mark.parametrize("kind", ["api_key", "automation", "project", "subscription"])
@pytest.mark.parametrize("character", ["\u202a", "\u202e", "\u2066", "\u2069"])
async def test_a_name_with_characters_that_reorder_text_is_refused(service: Service, kind: str, character: str) -> None:
    shop = await service.shop()
    found = await refusal(give(service, shop, kind, f"a{character}b"))
    assert found.code is StatusCode.INVALID_ARGUMENT
    assert f"character 2 is U+{ord(character):04X}" in found.message


@pytest.mark.parametrize("kind", ["api_key", "automation", "project", "subscription"])
async def test_a_name_may_have_the_joiners_of_a_script(service: Service, kind: str) -> None:
    shop = await service.shop()
    assert await give(service, shop, kind, f"{JOINED} {shop.project}")


@pytest.mark.parametrize("kind", ["automation", "project", "subscription"])
async def test_a_resource_keeps_the_name_that_it_had_before_the_rule(
    service: Service, served_store: Store, kind: str
) -> None:
    shop = await service.shop()
    old = f"{REORDERED} {shop.project}"
    resource_id = await give(service, shop, kind, f"sound {shop.project}")
    assert (await refusal(rename(service, shop, kind, resource_id, old))).code is StatusCode.INVALID_ARGUMENT
    await served_store.execute(f"UPDATE {kind} SET name = '{old}' WHERE id = '{resource_id}'")  # noqa: S608
    assert await rename(service, shop, kind, resource_id, old) == old
    assert await rename(service, shop, kind, resource_id, f"renamed {shop.project}") == f"renamed {shop.project}"
