from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from grpc import StatusCode

from registry.definitions.event_definitions import NewDefinition
from registry.definitions.schema import Property, PropertyType, Schema
from registry.errors import DefinitionAlreadyExists, DefinitionNotFound
from registry.storage import definition_store
from signalbox.v1 import event_definitions_pb2 as pb
from tests.support.messages import ORDER, ORDER_SCHEMA, event, schema
from tests.support.refusals import refusal, verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sqlalchemy import Connection

    from registry.definitions.event_definitions import EventDefinition
    from server.storage.database import Database
    from tests.support.service import Client, Service

pytestmark = [pytest.mark.lasting, pytest.mark.usefixtures("neighbour")]
# Invalid requests are refused before any database is asked.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

NOT_FOUND = (StatusCode.NOT_FOUND, "DEFINITION_NOT_FOUND")
TOTAL_ONLY = schema(order_total="number")


def get(client: Client, name_or_id: str) -> Awaitable[pb.GetEventDefinitionResponse]:
    return client.definitions.GetEventDefinition(pb.GetEventDefinitionRequest(event_definition=name_or_id))


def undelete(client: Client, definition_id: str, etag: str = "") -> Awaitable[pb.UndeleteEventDefinitionResponse]:
    return client.definitions.UndeleteEventDefinition(pb.UndeleteEventDefinitionRequest(id=definition_id, etag=etag))


def update(client: Client, request: pb.UpdateEventDefinitionRequest) -> Awaitable[pb.UpdateEventDefinitionResponse]:
    return client.definitions.UpdateEventDefinition(request)


async def names(client: Client, **filters: object) -> list[str]:
    request = pb.ListEventDefinitionsRequest(**filters)  # type: ignore[arg-type]  # filters are fields by name
    answer = await client.definitions.ListEventDefinitions(request)
    return [each.name for each in answer.event_definitions]


async def revisions(client: Client, name_or_id: str = ORDER) -> list[pb.Revision]:
    answer = await client.definitions.ListRevisions(pb.ListRevisionsRequest(event_definition=name_or_id))
    return list(answer.revisions)


async def test_a_definition_is_read_back_by_name_and_by_id(service: Service) -> None:
    client = await service.project()
    made = await client.define(description="An order was paid for")
    assert (made.name, made.description, made.revision) == (ORDER, "An order was paid for", 1)
    assert made.compatibility == pb.COMPATIBILITY_NONE
    assert [each.name for each in made.schema.properties] == ["order_total", "currency", "is_first_purchase"]
    assert made.schema.coercion == pb.COERCION_MODE_LENIENT
    assert made.created_at == made.updated_at
    assert not made.HasField("deleted_at")
    assert (await get(client, ORDER)).event_definition == made
    assert (await get(client, made.id)).event_definition == made


async def test_every_part_of_a_schema_survives(service: Service) -> None:
    client = await service.project()
    sent = pb.Schema(
        properties=[
            pb.Property(
                name="currency",
                type=pb.PROPERTY_TYPE_STRING,
                required=True,
                description="ISO 4217",
                suggested_values=["EUR", "USD"],
            ),
            pb.Property(
                name="lines",
                type=pb.PROPERTY_TYPE_ARRAY,
                item_type=pb.PROPERTY_TYPE_OBJECT,
                properties=[pb.Property(name="sku", type=pb.PROPERTY_TYPE_STRING)],
            ),
        ],
        unknown_properties=pb.UNKNOWN_PROPERTIES_DROP,
        coercion=pb.COERCION_MODE_STRICT,
    )
    await client.define(schema=sent)
    assert (await get(client, ORDER)).event_definition.schema == sent


async def test_a_name_is_taken_while_its_definition_lives(shop: Client) -> None:
    assert await verdict(shop.define()) == (StatusCode.ALREADY_EXISTS, "DEFINITION_ALREADY_EXISTS")


async def test_of_two_concurrent_definitions_of_one_name_one_is_refused(service: Service) -> None:
    client = await service.project()
    outcomes = await asyncio.gather(client.define(), client.define(), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AioRpcError", "EventDefinition"]


@on_sqlite
@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 256, "signalbox:internal"])
async def test_a_bad_name_is_refused_at_its_field(shop: Client, name: str) -> None:
    refused = await refusal(shop.define(name))
    assert (refused.code, refused.violations) == (StatusCode.INVALID_ARGUMENT, (("name", "INVALID_NAME"),))


@on_sqlite
async def test_a_description_has_at_most_2000_characters(shop: Client) -> None:
    await shop.define("long", description="x" * 2_000)
    refused = await refusal(shop.define("longer", description="x" * 2_001))
    assert refused.code is StatusCode.INVALID_ARGUMENT
    assert refused.violations == (("description", "INVALID_DESCRIPTION"),)


@on_sqlite
async def test_an_invalid_schema_is_refused_with_the_path_of_each_violation(shop: Client) -> None:
    wrong = pb.Schema(properties=[pb.Property(type=pb.PROPERTY_TYPE_STRING), pb.Property(name="a")])
    refused = await refusal(shop.define("other", wrong))
    assert (refused.code, refused.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_SCHEMA")
    assert ("schema.properties[1].type", "INVALID_ENUM_VALUE") in refused.violations


async def test_a_schema_may_be_left_out(shop: Client) -> None:
    request = pb.CreateEventDefinitionRequest(event_definition=pb.EventDefinition(name="signed_up"))
    made = (await shop.definitions.CreateEventDefinition(request)).event_definition
    assert (made.revision, len(made.schema.properties)) == (1, 0)
    assert (await shop.send(event(name="signed_up"))).event.revision == 1


async def test_an_unknown_definition_is_not_found(shop: Client) -> None:
    assert await verdict(get(shop, "nothing")) == NOT_FOUND
    assert await verdict(shop.redefine(TOTAL_ONLY, "nothing")) == NOT_FOUND
    assert await verdict(shop.undefine("nothing")) == NOT_FOUND
    assert await verdict(undelete(shop, "nothing")) == NOT_FOUND
    assert await verdict(revisions(shop, "nothing")) == NOT_FOUND


async def test_another_projects_definition_is_not_found(service: Service) -> None:
    theirs, mine = await service.shop(), await service.project()
    made = (await get(theirs, ORDER)).event_definition
    for name in (ORDER, made.id):
        assert await verdict(get(mine, name)) == NOT_FOUND
        assert await verdict(mine.redefine(TOTAL_ONLY, name)) == NOT_FOUND
        assert await verdict(mine.undefine(name)) == NOT_FOUND
        assert await verdict(undelete(mine, name)) == NOT_FOUND
        assert await verdict(revisions(mine, name)) == NOT_FOUND
    assert await names(mine) == []
    await mine.define()
    assert (await get(theirs, ORDER)).event_definition == made


async def test_definitions_are_listed_newest_first_page_by_page(service: Service) -> None:
    client = await service.project()
    for number in range(5):
        await client.define(f"event_{number}")
    pages, token = [], ""
    while True:
        answer = await client.definitions.ListEventDefinitions(
            pb.ListEventDefinitionsRequest(page_size=2, page_token=token)
        )
        pages.append([each.name for each in answer.event_definitions])
        token = answer.next_page_token
        if not token:
            break
    assert pages == [["event_4", "event_3"], ["event_2", "event_1"], ["event_0"]]


async def test_a_search_finds_parts_of_names_in_any_case(service: Service) -> None:
    client = await service.project()
    for name in ("Order_Completed", "order_refunded", "100%_done"):
        await client.define(name)
    assert await names(client, search="ORDER") == ["order_refunded", "Order_Completed"]
    assert await names(client, search="%_") == ["100%_done"]
    assert await names(client, search="nothing") == []


async def test_a_search_overlooks_the_case_of_ascii_letters(service: Service) -> None:
    client = await service.project()
    await client.define("commande_passée")
    assert await names(client, search="COMMANDE_PASSéE") == ["commande_passée"]


async def test_a_page_token_serves_no_other_filters(service: Service) -> None:
    client = await service.project()
    await client.define("first")
    await client.define("second")
    answer = await client.definitions.ListEventDefinitions(pb.ListEventDefinitionsRequest(page_size=1))
    other = pb.ListEventDefinitionsRequest(page_size=1, page_token=answer.next_page_token, search="first")
    invalid = (StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
    assert await verdict(client.definitions.ListEventDefinitions(other)) == invalid


async def test_a_schema_that_differs_makes_a_revision_and_an_equal_one_does_not(shop: Client) -> None:
    same = pb.Schema(properties=reversed(ORDER_SCHEMA.properties))
    before = (await get(shop, ORDER)).event_definition
    assert await shop.redefine(same) == before
    changed = await shop.redefine(TOTAL_ONLY)
    assert (changed.revision, changed.id) == (2, before.id)
    assert changed.etag != before.etag
    assert [each.name for each in changed.schema.properties] == ["order_total"]


async def test_an_update_leaves_other_fields_unchanged(shop: Client) -> None:
    before = (await get(shop, ORDER)).event_definition
    request = pb.UpdateEventDefinitionRequest(event_definition=ORDER, description="Paid")
    after = (await update(shop, request)).event_definition
    assert (after.description, after.schema, after.revision) == ("Paid", before.schema, 1)


async def test_a_description_can_be_emptied(service: Service) -> None:
    client = await service.project()
    await client.define(description="Paid")
    request = pb.UpdateEventDefinitionRequest(event_definition=ORDER, description="")
    assert (await update(client, request)).event_definition.description == ""


async def test_an_outdated_etag_is_refused_with_the_current_one(shop: Client) -> None:
    stale = (await get(shop, ORDER)).event_definition.etag
    current = (await shop.redefine(TOTAL_ONLY)).etag
    request = pb.UpdateEventDefinitionRequest(event_definition=ORDER, description="late", etag=stale)
    refused = await refusal(update(shop, request))
    assert (refused.code, refused.reason, refused.metadata) == (
        StatusCode.ABORTED,
        "ETAG_MISMATCH",
        {"etag": current},
    )
    delete = pb.DeleteEventDefinitionRequest(event_definition=ORDER, etag=stale)
    assert await verdict(shop.definitions.DeleteEventDefinition(delete)) == (StatusCode.ABORTED, "ETAG_MISMATCH")
    request.etag = current
    assert (await update(shop, request)).event_definition.description == "late"


async def test_of_two_updates_with_one_etag_one_is_made(shop: Client) -> None:
    etag = (await get(shop, ORDER)).event_definition.etag
    requests = [
        pb.UpdateEventDefinitionRequest(event_definition=ORDER, description=str(number), etag=etag)
        for number in range(5)
    ]
    outcomes = await asyncio.gather(*(update(shop, request) for request in requests), return_exceptions=True)
    made = [outcome for outcome in outcomes if isinstance(outcome, pb.UpdateEventDefinitionResponse)]
    assert len(made) == 1
    assert (await get(shop, ORDER)).event_definition == made[0].event_definition


async def test_a_deleted_definition_is_reached_by_its_id_alone(shop: Client) -> None:
    deleted = await shop.undefine()
    assert deleted.HasField("deleted_at")
    assert await verdict(get(shop, ORDER)) == NOT_FOUND
    assert (await get(shop, deleted.id)).event_definition == deleted
    assert await names(shop) == []
    assert await names(shop, show_deleted=True) == [ORDER]
    deleted_code = (StatusCode.FAILED_PRECONDITION, "DEFINITION_DELETED")
    refused = await refusal(shop.redefine(TOTAL_ONLY, deleted.id))
    assert (refused.code, refused.reason) == deleted_code
    assert refused.violations == (("event_definition", "DEFINITION_DELETED"),)
    assert await verdict(shop.undefine(deleted.id)) == deleted_code


async def test_an_undeleted_definition_comes_back_with_its_revisions(shop: Client) -> None:
    await shop.redefine(TOTAL_ONLY)
    deleted = await shop.undefine()
    restored = (await undelete(shop, deleted.id, deleted.etag)).event_definition
    assert not restored.HasField("deleted_at")
    assert restored.revision == 2
    assert [each.number for each in await revisions(shop)] == [2, 1]
    assert await verdict(undelete(shop, deleted.id)) == (StatusCode.FAILED_PRECONDITION, "DEFINITION_NOT_DELETED")


async def test_the_name_of_a_deleted_definition_is_free(shop: Client) -> None:
    deleted = await shop.undefine()
    successor = await shop.define(schema=TOTAL_ONLY)
    assert (successor.revision, successor.id == deleted.id) == (1, False)
    assert (await get(shop, ORDER)).event_definition == successor
    assert await verdict(undelete(shop, deleted.id)) == (StatusCode.ALREADY_EXISTS, "DEFINITION_ALREADY_EXISTS")
    await shop.undefine()
    assert (await undelete(shop, deleted.id)).event_definition.id == deleted.id


async def test_a_project_has_at_most_a_hundred_live_definitions(service: Service) -> None:
    client = await service.project()
    await asyncio.gather(*(client.define(f"event_{number}") for number in range(99)))
    first = await client.undefine("event_0")
    await client.define("event_99")
    last = await client.define("event_100")
    full = (StatusCode.FAILED_PRECONDITION, "TOO_MANY_DEFINITIONS")
    refused = await refusal(client.define("one_too_many"))
    assert (refused.code, refused.reason) == full
    assert refused.violations == (("event_definition", "TOO_MANY_DEFINITIONS"),)
    assert await verdict(undelete(client, first.id)) == full
    await client.undefine(last.id)
    await client.define("one_more")


async def test_a_change_that_is_only_validated_is_not_made(shop: Client) -> None:
    before = (await get(shop, ORDER)).event_definition
    candidate = pb.EventDefinition(name="signed_up")
    create = pb.CreateEventDefinitionRequest(event_definition=candidate, validate_only=True)
    assert (await shop.definitions.CreateEventDefinition(create)).event_definition.revision == 1
    change = pb.UpdateEventDefinitionRequest(event_definition=ORDER, schema=TOTAL_ONLY, validate_only=True)
    assert (await update(shop, change)).event_definition.revision == 2
    assert await names(shop) == [ORDER]
    assert (await get(shop, ORDER)).event_definition == before
    assert len(await revisions(shop)) == 1
    assert (await shop.send(event({"currency": "USD"}))).event.revision == 1


async def test_a_change_that_is_only_validated_is_refused_like_any_other(shop: Client) -> None:
    candidate = pb.EventDefinition(name=ORDER)
    create = pb.CreateEventDefinitionRequest(event_definition=candidate, validate_only=True)
    assert await verdict(shop.definitions.CreateEventDefinition(create)) == (
        StatusCode.ALREADY_EXISTS,
        "DEFINITION_ALREADY_EXISTS",
    )


async def test_revisions_are_listed_newest_first_and_never_change(shop: Client) -> None:
    schemas = [ORDER_SCHEMA, TOTAL_ONLY, schema(total="number"), ORDER_SCHEMA]
    for changed in schemas[1:]:
        await shop.redefine(changed)
    listed = await revisions(shop)
    assert [each.number for each in listed] == [4, 3, 2, 1]
    sent_names = [[one.name for one in sent.properties] for sent in schemas]
    assert [[one.name for one in each.schema.properties] for each in reversed(listed)] == sent_names
    for each in listed:
        request = pb.GetRevisionRequest(event_definition=ORDER, number=each.number)
        assert (await shop.definitions.GetRevision(request)).revision == each
    request = pb.GetRevisionRequest(event_definition=ORDER, number=5)
    assert await verdict(shop.definitions.GetRevision(request)) == (StatusCode.NOT_FOUND, "REVISION_NOT_FOUND")


async def test_revisions_are_paged(shop: Client) -> None:
    await shop.redefine(TOTAL_ONLY)
    await shop.redefine(ORDER_SCHEMA)
    first = await shop.definitions.ListRevisions(pb.ListRevisionsRequest(event_definition=ORDER, page_size=2))
    rest = await shop.definitions.ListRevisions(
        pb.ListRevisionsRequest(event_definition=ORDER, page_size=2, page_token=first.next_page_token)
    )
    assert [each.number for each in (*first.revisions, *rest.revisions)] == [3, 2, 1]
    assert rest.next_page_token == ""


def created(connection: Connection, project: str, definition_id: str, name: str = ORDER) -> EventDefinition:
    schema = Schema((Property("order_total", PropertyType.NUMBER),))
    return definition_store.create_definition(connection, project, definition_id, NewDefinition(name, schema), 1)


async def test_the_store_returns_the_definitions_that_it_created(database: Database) -> None:
    made = await database.write(lambda connection: created(connection, "p", "id-1"))
    assert await database.read(lambda connection: definition_store.get_definition(connection, "p", ORDER)) == made
    assert await database.read(lambda connection: definition_store.active_definitions(connection, "p")) == [made]
    with pytest.raises(DefinitionNotFound):
        await database.read(lambda connection: definition_store.get_definition(connection, "other", "id-1"))


async def test_an_id_is_tried_before_a_name(database: Database) -> None:
    def work(connection: Connection) -> EventDefinition:
        made = created(connection, "p", "id-1")
        created(connection, "p", "id-2", name="id-1")
        assert definition_store.get_definition(connection, "p", "id-1") == made
        return made

    await database.write(work)


async def test_a_refused_transaction_is_rolled_back_completely(database: Database) -> None:
    def work(connection: Connection) -> None:
        created(connection, "p", "id-1", name="first")
        created(connection, "p", "id-2", name="first")

    with pytest.raises(DefinitionAlreadyExists):
        await database.write(work)
    assert await database.read(lambda connection: definition_store.active_definitions(connection, "p")) == []
