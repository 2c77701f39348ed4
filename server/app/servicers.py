"""The servicers of the contract, which gRPC and Connect share."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from server.bridge.dialects import DIALECTS
from server.bridge.sending import reread_request
from server.rpc.messages.refused_events import reread_event
from server.rpc.messages.typed_properties import TypedReaders
from server.rpc.servicers.audit_log import AuditLogServicer
from server.rpc.servicers.automations import AutomationsServicer
from server.rpc.servicers.contacts import ContactsServicer
from server.rpc.servicers.event_definitions import EventDefinitionsServicer
from server.rpc.servicers.event_ingest import EventIngestServicer
from server.rpc.servicers.match_stream import MatchStreamServicer
from server.rpc.servicers.projects import ProjectsServicer
from server.rpc.servicers.quarantine import QuarantineServicer
from server.services.audit_log import AuditLog
from server.services.backtests import Backtests
from server.services.contact_exports import ContactExports
from server.services.events import Events
from server.services.explanations import Explanations
from server.services.generated_types import GeneratedTypes
from server.services.inferences import Inferences
from server.services.quarantine import EventApi, Quarantine

if TYPE_CHECKING:
    from server.app.delivery import Delivery
    from server.app.ingestion import Ingestion
    from server.app.management import Management
    from server.app.storage import Storage
    from server.process.shutdown import Shutdown
    from server.services.erasures import Erasures
    from server.sharing.loop_time import LoopTime


def make_servicers(
    storage: Storage,
    management: Management,
    ingestion: Ingestion,
    delivery: Delivery,
    erasures: Erasures,
    shutdown: Shutdown,
    loop_time: LoopTime,
) -> dict[str, object]:
    """Return the servicers by the names of their services."""
    database, stopping = storage.database, shutdown.stopping
    catalog, contacts, definitions = management.catalog, management.contacts, management.definitions
    ingest = ingestion.ingest
    types = GeneratedTypes(database, catalog)
    typed = TypedReaders(types)
    explanations = Explanations(database, catalog)
    backtests, inferences = Backtests(database, stopping), Inferences(database, loop_time)
    quarantine = Quarantine(database, ingest, _event_apis(typed), ingestion.quarantine_limits, management.changes)
    catalog.on_forget.append(lambda _, project_pk: quarantine.forget(project_pk))
    return {
        "AuditLog": AuditLogServicer(AuditLog(database)),
        "Automations": AutomationsServicer(management.automations, explanations, management.runs, typed),
        "Contacts": ContactsServicer(contacts, erasures, ContactExports(database), stopping),
        "EventDefinitions": EventDefinitionsServicer(definitions, backtests, types, inferences),
        "EventIngest": EventIngestServicer(ingest, Events(database), typed, stopping, loop_time),
        "MatchStream": MatchStreamServicer(delivery.matches, delivery.subscriptions, delivery.deliveries, shutdown),
        "Projects": ProjectsServicer(management.projects, management.keys),
        "Quarantine": QuarantineServicer(quarantine),
    }


def _event_apis(typed: TypedReaders) -> dict[str, EventApi]:
    """Return the APIs that events are sent to: the rules of each, and how its requests are read again."""
    native = EventApi(None, partial(reread_event, typed))
    dialects = {dialect.name.value: EventApi(dialect.rules, partial(reread_request, dialect)) for dialect in DIALECTS}
    return {"": native, "grpc": native, "connect": native, **dialects}
