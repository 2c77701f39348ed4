from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from grpc import StatusCode

from server.errors import ProjectNotFound
from server.model import Dialect, Rules
from server.services.api_keys import ApiKeys
from server.storage.projects.projects import get_project, insert_project
from signalbox.v1 import contacts_pb2, event_definitions_pb2, event_ingest_pb2
from signalbox.v1 import projects_pb2 as pb
from tests.support.messages import ORDER, event, orders
from tests.support.refusals import read_refusal, refusal, verdict
from tests.support.service import ADMIN_KEY, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from sqlalchemy import Connection

    from server.storage.database import Database
    from tests.support.service import Client
    from tests.support.stores import Store

pytestmark = pytest.mark.lasting
# Invalid requests are refused before any database is asked.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

PROJECT_NOT_FOUND = (StatusCode.NOT_FOUND, "PROJECT_NOT_FOUND")

_numbers = count(1)


@pytest_asyncio.fixture
async def service(service: Service) -> AsyncIterator[Service]:
    """Rename the projects of a test afterwards: most tests have a project named shop, on one server."""
    yield service
    newest = await service.admin.projects.ListProjects(pb.ListProjectsRequest(page_size=5))
    for project in newest.projects:
        if project.name.startswith("former "):
            break
        await update(service, project.id, name=f"former {next(_numbers)}")


def create(service: Service, name: str, **rules: Any) -> Awaitable[pb.CreateProjectResponse]:
    request = pb.CreateProjectRequest(project=pb.Project(name=name, **rules))
    return service.admin.projects.CreateProject(request)


def update(service: Service, project: str, **changes: Any) -> Awaitable[pb.UpdateProjectResponse]:
    return service.admin.projects.UpdateProject(pb.UpdateProjectRequest(project=project, **changes))


async def read(service: Service, project: str) -> pb.Project:
    return (await service.admin.projects.GetProject(pb.GetProjectRequest(project=project))).project


def create_key(service: Service, project: str, **fields: Any) -> Awaitable[pb.CreateApiKeyResponse]:
    return service.admin.projects.CreateApiKey(pb.CreateApiKeyRequest(project=project, **fields))


async def keys(service: Service, project: str) -> list[pb.ApiKey]:
    return list((await service.admin.projects.ListApiKeys(pb.ListApiKeysRequest(project=project))).api_keys)


async def revoke(service: Service, key_id: str) -> pb.ApiKey:
    return (await service.admin.projects.RevokeApiKey(pb.RevokeApiKeyRequest(id=key_id))).api_key


def contacts(client: Client) -> Awaitable[contacts_pb2.ListContactsResponse]:
    return client.contacts.ListContacts(contacts_pb2.ListContactsRequest())


async def test_a_project_is_read_back_by_id_and_name_with_its_defaults(service: Service) -> None:
    made = (await create(service, "shop")).project
    assert (made.name, made.head_position) == ("shop", 0)
    assert made.undefined_events == pb.UNDEFINED_EVENTS_REJECT
    assert made.unknown_contacts == pb.UNKNOWN_CONTACTS_REJECT
    assert made.name_case == pb.NAME_CASE_SENSITIVE
    assert await read(service, made.id) == made
    assert await read(service, "shop") == made


async def test_the_head_position_is_that_of_the_newest_event(service: Service) -> None:
    client = await service.shop()
    for _ in range(3):
        await client.send()
    assert (await read(service, client.project)).head_position == 3


async def test_a_project_name_is_unique(service: Service) -> None:
    await create(service, "shop")
    other = (await create(service, "other")).project
    exists = (StatusCode.ALREADY_EXISTS, "PROJECT_ALREADY_EXISTS")
    assert await verdict(create(service, "shop")) == exists
    assert await verdict(update(service, other.id, name="shop")) == exists


async def test_of_concurrent_creations_of_one_project_all_but_one_are_refused(service: Service) -> None:
    outcomes = await asyncio.gather(*(create(service, "shop") for _ in range(4)), return_exceptions=True)
    codes = [outcome.code() for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert codes == [StatusCode.ALREADY_EXISTS] * 3


@on_sqlite
@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 256])
async def test_a_bad_project_name_is_refused(service: Service, name: str) -> None:
    refused = await refusal(create(service, name))
    assert (refused.code, refused.violations[0][0]) == (StatusCode.INVALID_ARGUMENT, "name")


@on_sqlite
async def test_an_unknown_definition_is_not_found(service: Service) -> None:
    assert await verdict(read(service, "nothing")) == PROJECT_NOT_FOUND
    assert await verdict(update(service, "nothing", name="other")) == PROJECT_NOT_FOUND
    assert await verdict(create_key(service, "nothing")) == PROJECT_NOT_FOUND
    assert await verdict(keys(service, "nothing")) == PROJECT_NOT_FOUND
    assert await verdict(revoke(service, "nothing")) == (StatusCode.NOT_FOUND, "API_KEY_NOT_FOUND")


async def test_an_update_leaves_other_fields_unchanged(service: Service) -> None:
    made = (await create(service, "shop", name_case=pb.NAME_CASE_INSENSITIVE)).project
    renamed = (await update(service, "shop", name="store")).project
    assert (renamed.name, renamed.name_case) == ("store", pb.NAME_CASE_INSENSITIVE)
    ruled = (await update(service, "store", undefined_events=pb.UNDEFINED_EVENTS_ACCEPT)).project
    assert (ruled.name, ruled.undefined_events) == ("store", pb.UNDEFINED_EVENTS_ACCEPT)
    assert (ruled.name_case, ruled.id) == (pb.NAME_CASE_INSENSITIVE, made.id)


async def test_an_outdated_etag_is_refused_with_the_current_one(service: Service) -> None:
    stale = (await create(service, "shop")).project.etag
    current = (await update(service, "shop", name="store", etag=stale)).project.etag
    refused = await refusal(update(service, "store", name="late", etag=stale))
    assert (refused.code, refused.reason, refused.metadata) == (
        StatusCode.ABORTED,
        "ETAG_MISMATCH",
        {"etag": current},
    )


@pytest.mark.usefixtures("store")
async def test_projects_are_listed_newest_first_page_by_page(service: Service) -> None:
    for number in range(5):
        await create(service, f"p{number}")
    pages, token = [], ""
    while True:
        answer = await service.admin.projects.ListProjects(pb.ListProjectsRequest(page_size=2, page_token=token))
        pages.append([each.name for each in answer.projects])
        token = answer.next_page_token
        if not token:
            break
    assert pages == [["p4", "p3"], ["p2", "p1"], ["p0"]]


@on_sqlite
async def test_a_secret_is_256_random_bits_with_the_prefix_of_its_dialect(service: Service) -> None:
    await create(service, "shop")
    for dialect, prefix in (
        (pb.DIALECT_UNSPECIFIED, "sb_"),
        (pb.DIALECT_NATIVE, "sb_"),
        (pb.DIALECT_AUTOSEND, "AS_"),
        (pb.DIALECT_OPENSEND, "os_"),
        (pb.DIALECT_EMAILSENDX, "esx_live_"),
        (pb.DIALECT_ARSEL, "be_"),
        (pb.DIALECT_RESEND, "re_"),
    ):
        answer = await create_key(service, "shop", dialect=dialect)
        assert answer.secret.startswith(prefix)
        assert len(answer.secret.removeprefix(prefix)) == 43
        assert answer.api_key.hint == f"{prefix}…{answer.secret[-4:]}"
    assert len({key.hint for key in await keys(service, "shop")}) == 7


async def test_a_secret_is_nowhere_in_the_database(service: Service, store: Store) -> None:
    await create(service, "shop")
    shown = (await create_key(service, "shop")).secret
    taken = (await create_key(service, "shop", secret="an-existing-secret-of-old")).secret
    await contacts(service.client(shown))
    stored = await store.contents()
    assert b"shop" in stored
    for secret in (shown, taken, ADMIN_KEY):
        assert secret.encode() not in stored


async def test_an_existing_secret_is_taken_over(service: Service) -> None:
    await create(service, "shop")
    answer = await create_key(service, "shop", secret="AS_from_another_service", dialect=pb.DIALECT_AUTOSEND)
    assert (answer.secret, answer.api_key.hint) == ("AS_from_another_service", "AS_…vice")
    await contacts(service.client("AS_from_another_service"))
    for longest_and_shortest in ("!" + "x" * 253 + "~", "!" + "x" * 14 + "~"):
        assert (await create_key(service, "shop", secret=longest_and_shortest)).secret == longest_and_shortest


async def test_a_secret_belongs_to_one_key(service: Service) -> None:
    await create(service, "shop")
    await create(service, "other")
    await create_key(service, "shop", secret="an-existing-secret")
    in_use = (StatusCode.ALREADY_EXISTS, "SECRET_IN_USE")
    assert await verdict(create_key(service, "shop", secret="an-existing-secret")) == in_use
    assert await verdict(create_key(service, "other", secret="an-existing-secret")) == in_use


@on_sqlite
@pytest.mark.parametrize(
    "secret",
    ["x" * 15, "with a blank in it", "x" * 256, "schlüssel-aus-unicode", "tab\tinside-of-it", "\x7f" + "x" * 20],
)
async def test_a_secret_that_no_header_carries_safely_is_refused(service: Service, secret: str) -> None:
    await create(service, "shop")
    refused = await refusal(create_key(service, "shop", secret=secret))
    assert (refused.code, refused.violations[0][0]) == (StatusCode.INVALID_ARGUMENT, "secret")
    assert secret not in refused.message


async def test_a_key_has_every_scope_unless_it_names_some(service: Service) -> None:
    await create(service, "shop")
    assert (await create_key(service, "shop")).api_key.scopes == ["*"]
    named = ["events:write", "contacts:read", "events:write"]
    assert (await create_key(service, "shop", scopes=named)).api_key.scopes == ["contacts:read", "events:write"]
    for unknown in ("events:delete", "admin", ""):
        refused = await refusal(create_key(service, "shop", scopes=[unknown]))
        assert (refused.code, refused.violations[0][0]) == (StatusCode.INVALID_ARGUMENT, "scopes")


@on_sqlite
async def test_a_key_description_has_at_most_255_characters(service: Service) -> None:
    await create(service, "shop")
    assert (await create_key(service, "shop", description="x" * 255)).api_key.description == "x" * 255
    refused = await refusal(create_key(service, "shop", description="x" * 256))
    assert (refused.code, refused.violations[0][0]) == (StatusCode.INVALID_ARGUMENT, "description")


async def test_a_revoked_key_ends_at_once_and_for_good(service: Service) -> None:
    await create(service, "shop")
    answer = await create_key(service, "shop")
    client = service.client(answer.secret)
    await contacts(client)
    revoked = await revoke(service, answer.api_key.id)
    assert revoked.HasField("revoked_at")
    assert await verdict(contacts(client)) == (StatusCode.UNAUTHENTICATED, "API_KEY_INVALID")
    assert await revoke(service, answer.api_key.id) == revoked
    assert await keys(service, "shop") == [revoked]


async def test_revoking_a_key_leaves_the_others(service: Service) -> None:
    client = await service.shop()
    doomed = await create_key(service, client.project)
    await contacts(service.client(doomed.secret))
    await revoke(service, doomed.api_key.id)
    await client.send()


async def test_the_admin_key_is_the_secret_of_no_other_key(service: Service) -> None:
    await create(service, "shop")
    again = create_key(service, "shop", secret=ADMIN_KEY, scopes=["events:read"])
    assert await verdict(again) == (StatusCode.ALREADY_EXISTS, "SECRET_IN_USE")


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[2J", " ", "x" * 256])
async def test_the_name_of_a_key_is_one_line_as_other_names_are(service: Service, name: str) -> None:
    await create(service, "shop")
    refused = await refusal(create_key(service, "shop", name=name))
    assert (refused.code, refused.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


async def test_a_revoked_secret_is_not_given_out_again(service: Service) -> None:
    await create(service, "shop")
    answer = await create_key(service, "shop", secret="a-secret-to-revoke")
    await revoke(service, answer.api_key.id)
    again = create_key(service, "shop", secret="a-secret-to-revoke")
    assert await verdict(again) == (StatusCode.ALREADY_EXISTS, "SECRET_IN_USE")


async def test_keys_are_listed_newest_first_page_by_page(service: Service) -> None:
    await create(service, "shop")
    await create(service, "other")
    await create_key(service, "other")
    made = [(await create_key(service, "shop", description=str(number))).api_key for number in range(3)]
    first = await service.admin.projects.ListApiKeys(pb.ListApiKeysRequest(project="shop", page_size=2))
    rest = await service.admin.projects.ListApiKeys(
        pb.ListApiKeysRequest(project="shop", page_size=2, page_token=first.next_page_token)
    )
    assert [*first.api_keys, *rest.api_keys] == made[::-1]
    assert rest.next_page_token == ""


async def test_rules_hold_from_the_next_event_on(service: Service) -> None:
    client = await service.shop()
    assert await verdict(client.send(event(name="never_defined"))) == (StatusCode.NOT_FOUND, "DEFINITION_NOT_FOUND")
    await update(service, client.project, undefined_events=pb.UNDEFINED_EVENTS_ACCEPT)
    assert (await client.send(event(name="never_defined"))).event.revision == 0
    await update(service, client.project, undefined_events=pb.UNDEFINED_EVENTS_REJECT)
    assert await verdict(client.send(event(name="never_defined"))) == (StatusCode.NOT_FOUND, "DEFINITION_NOT_FOUND")


async def test_a_stream_ends_when_its_key_is_revoked(service: Service) -> None:
    shop = await service.shop()
    request = pb.CreateApiKeyRequest(project=shop.project, scopes=["events:write"])
    answer = await service.admin.projects.CreateApiKey(request)
    call: Any = service.client(answer.secret).ingest.StreamEvents()
    batch = event_ingest_pb2.StreamEventsRequest(sequence=1, events=orders(1))
    await call.write(batch)
    assert (await call.read()).results[0].HasField("receipt")
    await revoke(service, answer.api_key.id)
    # Nothing is sent meanwhile: a client that writes while its call ends reports an error of its own.
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert read_refusal(caught.value).reason == "API_KEY_INVALID"
    assert await shop.positions() == [1]


async def test_a_key_is_revoked_though_its_revoker_hangs_up(service: Service) -> None:
    shop = await service.shop()
    request = pb.CreateApiKeyRequest(project=shop.project)
    answer = await service.admin.projects.CreateApiKey(request)
    doomed = service.client(answer.secret)
    await doomed.send()
    call = service.admin.projects.RevokeApiKey(pb.RevokeApiKeyRequest(id=answer.api_key.id))
    await asyncio.sleep(0.001)
    call.cancel()
    # Whichever came first, the server's caches and the database say the same.
    await asyncio.sleep(0.2)
    (key,) = [each for each in await keys(service, shop.project) if each.id == answer.api_key.id]
    if key.HasField("revoked_at"):
        assert (await refusal(doomed.send())).reason == "API_KEY_INVALID"
    else:
        await doomed.send()


async def test_a_project_is_read_by_its_id_or_name_alone(database: Database) -> None:
    def work(connection: Connection) -> None:
        for number in range(1, 3):
            made = insert_project(connection, f"id{number}", f"name{number}", Rules(), number)
            assert get_project(connection, made.id) == get_project(connection, made.name) == made
            assert (made.id, made.name, made.created_at) == (f"id{number}", f"name{number}", number)
            for unknown in ("id", "name", "id3", "ID1", ""):
                with pytest.raises(ProjectNotFound):
                    get_project(connection, unknown)
        # An id comes before a name.
        named = insert_project(connection, "id3", "id1", Rules(), 3)
        assert get_project(connection, "id1").name == "name1"
        assert get_project(connection, named.id) == named

    await database.write(work)


@pytest.mark.parametrize(
    ("secret", "hint"),
    [
        ("sb_" + "x" * 12 + "1234", "sb_…1234"),
        ("sb_" + "x" * 11 + "1234", "sb_…"),
        ("ar_" + "x" * 12 + "1234", "ar_…1234"),
        ("x" * 12 + "1234", "…1234"),
        ("other_" + "x" * 10, "…xxxx"),
    ],
)
def test_a_hint_shows_the_end_of_a_secret_that_keeps_enough_of_it(secret: str, hint: str) -> None:
    nothing: Any = None
    keys = ApiKeys(nothing, nothing, nothing, nothing, {Dialect.ARSEL: "ar_"})
    assert keys._hint(secret) == hint


async def test_a_shop_made_in_one_transaction_is_as_its_requests_make_it(service: Service) -> None:
    made, requested = await service.shop(), await Service(service.address, service.channel).shop()
    assert await described(service, made) == await described(service, requested)


async def described(service: Service, shop: Client) -> list[Any]:
    """Return everything in a project, without what no two projects share."""
    [key] = await keys(service, shop.project)
    definition = await shop.definitions.GetEventDefinition(
        event_definitions_pb2.GetEventDefinitionRequest(event_definition=ORDER)
    )
    [contact] = (await contacts(shop)).contacts
    found: list[Any] = [await read(service, shop.project), key, definition.event_definition, contact]
    for message in found:
        assert message.HasField("created_at")
        for name in ("id", "name", "etag", "project_id", "hint", "created_at", "updated_at"):
            if name in message.DESCRIPTOR.fields_by_name:
                message.ClearField(name)
    return found
