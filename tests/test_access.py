"""Every RPC against every kind of caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from grpc import StatusCode

from server.auth.caller import ADMIN, ANY
from server.bridge.dialects import KEY_PREFIXES
from server.model import Dialect, Scope
from server.services import demo
from server.services.api_keys import NATIVE_PREFIX
from server.services.demo import demo_secrets
from signalbox.v1 import event_ingest_pb2, projects_pb2
from tests.support.contract import METHODS, met
from tests.support.refusals import Refusal
from tests.support.service import ADMIN_KEY, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.service import Service

SECRETS = demo_secrets({Dialect.NATIVE: NATIVE_PREFIX, **KEY_PREFIXES})

# Keys of a demo are told apart without the database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

REQUIRED_SCOPE = {
    "AuditLog.ExportAuditEntries": "audit:read",
    "AuditLog.ListAuditEntries": "audit:read",
    "Automations.ActivateAutomation": "automations:write",
    "Automations.AwaitEvent": "automations:write",
    "Automations.CancelRun": "automations:write",
    "Automations.CompleteRun": "automations:write",
    "Automations.CreateAutomation": "automations:write",
    "Automations.DeleteAutomation": "automations:write",
    "Automations.ExplainEvent": "automations:read",
    "Automations.GetAutomation": "automations:read",
    "Automations.GetRun": "automations:read",
    "Automations.ListAutomations": "automations:read",
    "Automations.ListRuns": "automations:read",
    "Automations.PauseAutomation": "automations:write",
    "Automations.TestCondition": "automations:read",
    "Automations.UpdateAutomation": "automations:write",
    "Contacts.DeleteContact": "contacts:write",
    "Contacts.EraseContact": "contacts:write",
    "Contacts.ExportContact": "contacts:read",
    "Contacts.GetContact": "contacts:read",
    "Contacts.ListContacts": "contacts:read",
    "Contacts.UpsertContact": "contacts:write",
    "EventDefinitions.BacktestSchema": "events:read",
    "EventDefinitions.CheckCompatibility": "definitions:read",
    "EventDefinitions.CreateEventDefinition": "definitions:write",
    "EventDefinitions.DeleteEventDefinition": "definitions:write",
    "EventDefinitions.GetDescriptorSet": "definitions:read",
    "EventDefinitions.GetEventDefinition": "definitions:read",
    "EventDefinitions.GetJsonSchema": "definitions:read",
    "EventDefinitions.GetRevision": "definitions:read",
    "EventDefinitions.InferEventDefinition": "events:read",
    "EventDefinitions.ListDependents": "definitions:read",
    "EventDefinitions.ListEventDefinitions": "definitions:read",
    "EventDefinitions.ListRevisions": "definitions:read",
    "EventDefinitions.RollbackRevision": "definitions:write",
    "EventDefinitions.UndeleteEventDefinition": "definitions:write",
    "EventDefinitions.UpdateEventDefinition": "definitions:write",
    "EventDefinitions.ValidateEvent": "definitions:read",
    "EventIngest.GetEvent": "events:read",
    "EventIngest.ListEvents": "events:read",
    "EventIngest.SendEvent": "events:write",
    "EventIngest.SendEvents": "events:write",
    "EventIngest.StreamEvents": "events:write",
    "MatchStream.AcknowledgeMatches": "matches:read",
    "MatchStream.ConsumeMatches": "matches:read",
    "MatchStream.CreateSubscription": "automations:write",
    "MatchStream.DeleteSubscription": "automations:write",
    "MatchStream.DiscardParkedMatches": "automations:write",
    "MatchStream.GetSubscription": "matches:read",
    "MatchStream.ListParkedMatches": "matches:read",
    "MatchStream.ListSubscriptions": "matches:read",
    "MatchStream.PingSubscription": "automations:write",
    "MatchStream.PullMatches": "matches:read",
    "MatchStream.ReplayParkedMatches": "automations:write",
    "MatchStream.SeekSubscription": "automations:write",
    "MatchStream.UpdateSubscription": "automations:write",
    "MatchStream.WatchMatches": "matches:read",
    "Projects.CreateApiKey": "admin",
    "Projects.CreateProject": "admin",
    "Projects.DeleteProject": "admin",
    "Projects.GetProject": "admin",
    "Projects.ListApiKeys": "admin",
    "Projects.ListProjects": "admin",
    "Projects.RevokeApiKey": "admin",
    "Projects.RotateApiKey": "admin",
    "Projects.UpdateProject": "admin",
    "Projects.WhoAmI": "any",
    "Quarantine.CountRefusedEvents": "events:read",
    "Quarantine.DiscardRefusedEvents": "events:write",
    "Quarantine.GetRefusedEvent": "events:read",
    "Quarantine.ListRefusedEvents": "events:read",
    "Quarantine.ReingestRefusedEvents": "events:write",
}

LISTS = {
    Dialect.AUTOSEND: "/v1/events",
    Dialect.OPENSEND: "/events",
    Dialect.EMAILSENDX: "/api/v1/automations",
    Dialect.ARSEL: "/v1/events",
    Dialect.RESEND: "/events",
}
"""Paths that every key of a dialect may read over REST."""

NO_KEY = Refusal(StatusCode.UNAUTHENTICATED, "", "API_KEY_MISSING")
BAD_KEY = Refusal(StatusCode.UNAUTHENTICATED, "", "API_KEY_INVALID")
NO_SCOPE = Refusal(StatusCode.PERMISSION_DENIED, "", "SCOPE_MISSING")
NO_ADMIN = Refusal(StatusCode.PERMISSION_DENIED, "", "ADMIN_REQUIRED")
NO_PROJECT = Refusal(StatusCode.INVALID_ARGUMENT, "", "PROJECT_REQUIRED")
PASSES = None

GUARD = {(each.code, each.reason) for each in (NO_KEY, BAD_KEY, NO_SCOPE, NO_ADMIN, NO_PROJECT)}

# What a role meets at a method that wants a scope, and at one for the admin key alone.
ROLES: dict[str, tuple[Refusal | None, Refusal | None]] = {
    "no key": (NO_KEY, NO_KEY),
    "malformed header": (NO_KEY, NO_KEY),
    "other scheme": (NO_KEY, NO_KEY),
    "unknown key": (BAD_KEY, BAD_KEY),
    "revoked key": (BAD_KEY, BAD_KEY),
    "every other scope": (NO_SCOPE, NO_ADMIN),
    "the scope": (PASSES, NO_ADMIN),
    "*": (PASSES, NO_ADMIN),
    "admin without project": (NO_PROJECT, PASSES),
    "admin with project": (PASSES, PASSES),
}


class Callers:
    """What each role sends as metadata."""

    def __init__(self, service: Service, project: str, bearers: dict[str, str]) -> None:
        self.channel = service.channel
        self._project = project
        self._bearers = bearers

    def metadata(self, role: str, scope: str) -> list[tuple[str, str]]:
        if role in ("every other scope", "the scope"):
            role = f"{role} {scope}"
        sent = [("authorization", self._bearers[role])] if role in self._bearers else []
        return [*sent, ("signalbox-project", self._project)] if role == "admin with project" else sent


@pytest_asyncio.fixture(scope="module")
async def callers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Callers]:
    async with serving(f"sqlite:///{tmp_path_factory.mktemp('access')}/signalbox.db") as service:
        project = (await service.project()).project
        scopes = {scope.value for scope in Scope} - {"*"}
        bearers = {
            "malformed header": f"Bearer{ADMIN_KEY}",
            "other scheme": f"Basic {ADMIN_KEY}",
            "unknown key": "Bearer sb_nobody_ever_made_this_one",
            "revoked key": f"Bearer {await revoked_secret(service, project)}",
            "*": f"Bearer {(await service.key(project)).secret}",
            "admin without project": f"Bearer {ADMIN_KEY}",
            "admin with project": f"Bearer {ADMIN_KEY}",
            "every other scope admin": f"Bearer {(await service.key(project, *scopes)).secret}",
            "the scope admin": f"Bearer {(await service.key(project, *scopes)).secret}",
        }
        for scope in scopes:
            bearers[f"the scope {scope}"] = f"Bearer {(await service.key(project, scope)).secret}"
            bearers[f"every other scope {scope}"] = f"Bearer {(await service.key(project, *scopes - {scope})).secret}"
        yield Callers(service, project, bearers)


async def revoked_secret(service: Service, project: str) -> str:
    answer = await service.admin.projects.CreateApiKey(projects_pb2.CreateApiKeyRequest(project=project))
    await service.admin.projects.RevokeApiKey(projects_pb2.RevokeApiKeyRequest(id=answer.api_key.id))
    return answer.secret


def test_every_method_of_the_contract_has_a_row() -> None:
    assert sorted(METHODS) == sorted(REQUIRED_SCOPE)


def test_every_scope_guards_something() -> None:
    # What `personal:read` guards is in responses: see tests/test_personal.py.
    unguarded = {Scope.ALL.value, Scope.PERSONAL_READ.value}
    assert set(REQUIRED_SCOPE.values()) == {scope.value for scope in Scope} - unguarded | {ADMIN, ANY}


@pytest.mark.parametrize("method", REQUIRED_SCOPE)
async def test_a_caller_meets_what_its_role_deserves(callers: Callers, method: str) -> None:
    scope = REQUIRED_SCOPE[method]
    for role in ROLES:
        # Without a project, the admin key reads the audit log of all of them.
        if scope == ANY and role in ("every other scope", "the scope", "admin without project"):
            continue
        expected = ROLES[role][scope == "admin" or (scope == "audit:read" and role == "admin without project")]
        refused = await met(callers.channel, METHODS[method], callers.metadata(role, scope))
        if expected is not PASSES:
            assert refused is not None, role
            assert (refused.code, refused.reason) == (expected.code, expected.reason), role
        elif refused is not None:
            assert (refused.code, refused.reason) not in GUARD, role
            unexpected = (StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED, StatusCode.INTERNAL)
            assert refused.code not in unexpected, role


async def test_a_missing_scope_is_named(callers: Callers) -> None:
    metadata = callers.metadata("every other scope", "events:write")
    refused = await met(callers.channel, METHODS["EventIngest.SendEvent"], metadata)
    assert refused is not None
    assert refused.metadata == {"scope": "events:write"}


async def test_the_admin_key_names_a_project_by_id_or_name_that_exists(callers: Callers) -> None:
    metadata = [("authorization", f"Bearer {ADMIN_KEY}"), ("signalbox-project", "nothing")]
    refused = await met(callers.channel, METHODS["Contacts.ListContacts"], metadata)
    assert refused is not None
    assert (refused.code, refused.reason) == (StatusCode.NOT_FOUND, "PROJECT_NOT_FOUND")


async def test_a_key_is_refused_when_the_call_names_another_project(callers: Callers) -> None:
    metadata = [*callers.metadata("*", ""), ("signalbox-project", "nothing")]
    met_with = await met(callers.channel, METHODS["Contacts.ListContacts"], metadata)
    assert met_with is not None
    assert met_with.reason == "PROJECT_NOT_FOUND"


async def test_two_credentials_are_none(callers: Callers) -> None:
    metadata = [("authorization", "Bearer wrong"), ("authorization", f"Bearer {ADMIN_KEY}")]
    met_with = await met(callers.channel, METHODS["Projects.ListProjects"], metadata)
    assert met_with is not None
    assert met_with.reason == "API_KEY_INVALID"


async def test_the_scheme_is_read_in_any_case(callers: Callers) -> None:
    metadata = [("authorization", f"bearer {ADMIN_KEY}")]
    assert await met(callers.channel, METHODS["Projects.ListProjects"], metadata) is None


# The publicly known keys of the demo


@on_sqlite
async def test_the_keys_of_the_demo_work_on_a_server_for_the_demo_alone(database_url: str) -> None:
    """One database under a server with the demo, without it, and with it again."""
    for with_demo in (True, False, True):
        async with serving(database_url, demo=with_demo) as service:
            for dialect, secret in SECRETS.items():
                call = service.client(secret).ingest.ListEvents(event_ingest_pb2.ListEventsRequest())
                code = StatusCode.OK if with_demo else StatusCode.UNAUTHENTICATED
                assert await call.code() is code, dialect
                if dialect is not Dialect.NATIVE:
                    headers = {"authorization": f"Bearer {secret}"}
                    answer = await service.http.get(LISTS[dialect], headers=headers)
                    assert answer.status_code == (200 if with_demo else 403 if dialect is Dialect.RESEND else 401), (
                        dialect
                    )


@on_sqlite
async def test_a_demo_project_gets_the_keys_of_dialects_that_are_new(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier: dict[Dialect, str] = {
        dialect: secret for dialect, secret in SECRETS.items() if dialect is not Dialect.RESEND
    }
    with monkeypatch.context() as patch:
        create_keys = demo._create_keys
        patch.setattr(demo, "_create_keys", lambda projects, project, _: create_keys(projects, project, earlier))
        async with serving(database_url, demo=True) as service:
            assert await demo_dialects(service) == set(earlier)
    async with serving(database_url, demo=True) as service:
        assert await demo_dialects(service) == set(SECRETS)


@on_sqlite
async def test_a_project_named_like_the_demo_gets_no_demo_keys(database_url: str) -> None:
    async with serving(database_url) as service:
        project = projects_pb2.Project(name="demo")
        await service.admin.projects.CreateProject(projects_pb2.CreateProjectRequest(project=project))
        await (await service.key("demo")).upsert()
    async with serving(database_url, demo=True) as service:
        assert await demo_dialects(service) == {Dialect.NATIVE}


async def demo_dialects(service: Service) -> set[Dialect]:
    """Return the dialects of the keys of the project `demo`."""
    listed = await service.admin.projects.ListApiKeys(projects_pb2.ListApiKeysRequest(project="demo"))
    return {Dialect(projects_pb2.Dialect.Name(key.dialect).removeprefix("DIALECT_").lower()) for key in listed.api_keys}


@on_sqlite
async def test_other_keys_of_the_demo_project_work_everywhere(database_url: str) -> None:
    async with serving(database_url, demo=True) as service:
        project = await service.admin.projects.GetProject(projects_pb2.GetProjectRequest(project="demo"))
        secret = (await service.key(project.project.id)).secret
    async with serving(database_url) as service:
        assert (
            await service.client(secret).ingest.ListEvents(event_ingest_pb2.ListEventsRequest()).code() is StatusCode.OK
        )
