"""What the handlers of the dialects call: the same objects that stand behind the gRPC servicers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.ingest.ingest import Ingest
    from server.services.automations import Automations
    from server.services.contacts import Contacts
    from server.services.definitions import Definitions
    from server.services.runs import Runs


@dataclass(frozen=True, slots=True)
class Services:
    """The plain objects behind the endpoints."""

    ingest: Ingest
    definitions: Definitions
    contacts: Contacts
    automations: Automations
    runs: Runs
