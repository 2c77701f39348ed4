"""The service EventDefinitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET

from registry.definitions.event_definitions import NewDefinition
from registry.definitions.schema import check_schema
from registry.storage.definition_store import DefinitionChanges
from server.errors import InvalidArgument
from server.paging import PageRequest
from server.rpc.messages.backtests import read_scope, write_backtest
from server.rpc.messages.definitions import (
    read_candidate,
    read_schema,
    write_definition,
    write_dependent,
    write_revision,
    write_validation,
    write_verdict,
)
from server.rpc.messages.descriptors import write_types
from server.rpc.messages.enums import COMPATIBILITY
from server.rpc.messages.inferences import INFERENCE_SOURCE, write_inferred
from server.rpc.messages.response_size import write_page
from server.rpc.messages.retention import read_definition_retention
from server.rpc.messages.structs import write_struct
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from registry.definitions.schema import Schema
    from server.auth.caller import Caller
    from server.rpc.transport import Send
    from server.services.backtests import Backtests
    from server.services.definitions import Definitions
    from server.services.generated_types import GeneratedTypes
    from server.services.inferences import Inferences


ANSWER_SECONDS = 30.0
"""How long a backtest waits for its client to read a response."""


class EventDefinitionsServicer:
    """Manages definitions."""

    def __init__(
        self, definitions: Definitions, backtests: Backtests, types: GeneratedTypes, inferences: Inferences
    ) -> None:
        self._inferences = inferences
        self._definitions = definitions
        self._backtests = backtests
        self._types = types

    async def CreateEventDefinition(
        self, request: pb.CreateEventDefinitionRequest, caller: Caller
    ) -> pb.CreateEventDefinitionResponse:
        asked = request.event_definition
        new = NewDefinition(
            name=asked.name,
            schema=read_schema(asked.schema),
            compatibility=COMPATIBILITY.read(asked.compatibility, "compatibility"),
            description=asked.description,
            event_retention=read_definition_retention(asked),
        )
        definition = await self._definitions.create(caller, new, validate_only=request.validate_only)
        return pb.CreateEventDefinitionResponse(event_definition=write_definition(definition))

    async def GetEventDefinition(
        self, request: pb.GetEventDefinitionRequest, caller: Caller
    ) -> pb.GetEventDefinitionResponse:
        definition = await self._definitions.get(caller, request.event_definition)
        return pb.GetEventDefinitionResponse(event_definition=write_definition(definition))

    async def ListEventDefinitions(
        self, request: pb.ListEventDefinitionsRequest, caller: Caller
    ) -> pb.ListEventDefinitionsResponse:
        page = await self._definitions.list(
            caller,
            PageRequest(request.page_size, request.page_token),
            request.search,
            show_deleted=request.show_deleted,
        )
        response = pb.ListEventDefinitionsResponse()
        response.next_page_token = write_page(page, write_definition, response.event_definitions)
        return response

    async def UpdateEventDefinition(
        self, request: pb.UpdateEventDefinitionRequest, caller: Caller
    ) -> pb.UpdateEventDefinitionResponse:
        definition = await self._definitions.update(
            caller,
            request.event_definition,
            _read_changes(request),
            request.etag,
            validate_only=request.validate_only,
            force=request.force,
        )
        return pb.UpdateEventDefinitionResponse(event_definition=write_definition(definition))

    async def DeleteEventDefinition(
        self, request: pb.DeleteEventDefinitionRequest, caller: Caller
    ) -> pb.DeleteEventDefinitionResponse:
        definition = await self._definitions.delete(caller, request.event_definition, request.etag)
        return pb.DeleteEventDefinitionResponse(event_definition=write_definition(definition))

    async def UndeleteEventDefinition(
        self, request: pb.UndeleteEventDefinitionRequest, caller: Caller
    ) -> pb.UndeleteEventDefinitionResponse:
        definition = await self._definitions.undelete(caller, request.id, request.etag)
        return pb.UndeleteEventDefinitionResponse(event_definition=write_definition(definition))

    async def ListRevisions(self, request: pb.ListRevisionsRequest, caller: Caller) -> pb.ListRevisionsResponse:
        page = await self._definitions.revisions(
            caller, request.event_definition, PageRequest(request.page_size, request.page_token)
        )
        response = pb.ListRevisionsResponse()
        response.next_page_token = write_page(page, write_revision, response.revisions)
        return response

    async def GetRevision(self, request: pb.GetRevisionRequest, caller: Caller) -> pb.GetRevisionResponse:
        revision = await self._definitions.revision(caller, request.event_definition, request.number)
        return pb.GetRevisionResponse(revision=write_revision(revision))

    async def RollbackRevision(
        self, request: pb.RollbackRevisionRequest, caller: Caller
    ) -> pb.RollbackRevisionResponse:
        definition = await self._definitions.rollback(
            caller,
            request.event_definition,
            request.number,
            request.etag,
            validate_only=request.validate_only,
            force=request.force,
        )
        return pb.RollbackRevisionResponse(event_definition=write_definition(definition))

    async def CheckCompatibility(
        self, request: pb.CheckCompatibilityRequest, caller: Caller
    ) -> pb.CheckCompatibilityResponse:
        rule = COMPATIBILITY.read_optional(request.compatibility, "compatibility")
        verdict = await self._definitions.check(caller, request.event_definition, read_candidate(request), rule)
        return write_verdict(verdict)

    async def ValidateEvent(self, request: pb.ValidateEventRequest, caller: Caller) -> pb.ValidateEventResponse:
        return write_validation(await _validating_schema(self._definitions, request, caller), request.properties)

    async def ListDependents(self, request: pb.ListDependentsRequest, caller: Caller) -> pb.ListDependentsResponse:
        page = await self._definitions.dependents(
            caller, request.event_definition, PageRequest(request.page_size, request.page_token)
        )
        response = pb.ListDependentsResponse()
        response.next_page_token = write_page(page, write_dependent, response.dependents)
        return response

    async def BacktestSchema(self, request: pb.BacktestSchemaRequest, caller: Caller, send: Send) -> None:
        candidate, scope = read_candidate(request), read_scope(request)
        async for found in self._backtests.run(caller, request.event_definition, candidate, scope):
            await send(await write_backtest(found), ANSWER_SECONDS)

    async def InferEventDefinition(
        self, request: pb.InferEventDefinitionRequest, caller: Caller
    ) -> pb.InferEventDefinitionResponse:
        source = INFERENCE_SOURCE.read_optional(request.source, "source")
        return write_inferred(await self._inferences.infer(caller, request.name, source, request.sample_size))

    async def GetDescriptorSet(
        self, request: pb.GetDescriptorSetRequest, caller: Caller
    ) -> pb.GetDescriptorSetResponse:
        page = await self._types.latest(caller, request.event_definitions, request.page_token)
        return await write_types(page)

    async def GetJsonSchema(self, request: pb.GetJsonSchemaRequest, caller: Caller) -> pb.GetJsonSchemaResponse:
        response = pb.GetJsonSchemaResponse()
        found = await self._types.json_schema(caller, request.event_definition, request.revision)
        write_struct(found, response.json_schema)
        return response


def _read_changes(request: pb.UpdateEventDefinitionRequest) -> DefinitionChanges:
    compatibility = COMPATIBILITY.read_optional(request.compatibility, "compatibility")
    return DefinitionChanges(
        description=request.description if request.HasField("description") else UNSET,
        schema=read_schema(request.schema) if request.HasField("schema") else UNSET,
        compatibility=compatibility or UNSET,
        event_retention=read_definition_retention(request) if request.HasField("event_retention") else UNSET,
    )


async def _validating_schema(definitions: Definitions, request: pb.ValidateEventRequest, caller: Caller) -> Schema:
    source = request.WhichOneof("judge")
    if source is None:
        raise InvalidArgument.at("event_definition", "INVALID_ARGUMENT", "Set either event_definition or schema")
    if source == "event_definition":
        if request.revision < 0:
            raise InvalidArgument.at(
                "revision", "OUT_OF_RANGE", f"revision is {request.revision}; it must not be negative"
            )
        return await definitions.schema(caller, request.event_definition, request.revision)
    if request.revision:
        raise InvalidArgument.at(
            "revision", "INVALID_ARGUMENT", "revision is not allowed with schema; it is a revision of event_definition"
        )
    schema = read_schema(request.schema)
    check_schema(schema)
    return schema
