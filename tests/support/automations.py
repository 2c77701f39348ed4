"""What the tests of automations and runs do again and again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.duration_pb2 import Duration

from signalbox.v1 import automations_pb2 as pb
from signalbox.v1 import match_pb2
from tests.support.messages import MATCHES, ORDER, event

if TYPE_CHECKING:
    from signalbox.v1 import event_ingest_pb2
    from tests.support.service import Client
    from tests.support.stores import Store

STARTED, RESUMED, TIMED_OUT = match_pb2.Match.KIND_STARTED, match_pb2.Match.KIND_RESUMED, match_pb2.Match.KIND_TIMED_OUT


class LoggedMatch(NamedTuple):
    """A row of the match log."""

    project_pk: int
    position: int
    id: str
    kind: str
    automation_key: int
    run_number: int
    run_id: str
    event_position: int
    event_name: str
    contact_key: int
    matched_at: int


async def match_log(store: Store, client: Client | None = None) -> list[LoggedMatch]:
    """Read the match log of a client's project, without one that of the test's own project.

    It must be gapless, and its times must not fall.
    """
    rows = [LoggedMatch(*row) for row in await store.rows("automation_match")]
    if client is None:
        log = sorted(match for match in rows if match.project_pk != store.neighbour)
    else:
        (project_pk,) = (row[0] for row in await store.rows("project") if row[1] == client.project)
        log = sorted(match for match in rows if match.project_pk == project_pk)
    assert [each.position for each in log] == list(range(1, len(log) + 1))
    assert [each.matched_at for each in log] == sorted(each.matched_at for each in log)
    return log


async def automate(client: Client, event_name: str = ORDER, *, active: bool = True, **fields: Any) -> pb.Automation:
    """Create an automation, active unless it says otherwise."""
    state = pb.AUTOMATION_STATE_ACTIVE if active else pb.AUTOMATION_STATE_DRAFT
    wanted = pb.Automation(**{"name": "Welcome", "event_name": event_name, "state": state, **fields})
    return (await client.automations.CreateAutomation(pb.CreateAutomationRequest(automation=wanted))).automation


async def change(client: Client, automation: pb.Automation, **changes: Any) -> pb.Automation:
    """Update an automation."""
    request = pb.UpdateAutomationRequest(id=automation.id, **changes)
    return (await client.automations.UpdateAutomation(request)).automation


async def activate(client: Client, automation: pb.Automation, etag: str = "") -> pb.Automation:
    """Activate an automation."""
    request = pb.ActivateAutomationRequest(id=automation.id, etag=etag)
    return (await client.automations.ActivateAutomation(request)).automation


async def pause(client: Client, automation: pb.Automation, etag: str = "") -> pb.Automation:
    """Pause an automation."""
    return (await client.automations.PauseAutomation(pb.PauseAutomationRequest(id=automation.id, etag=etag))).automation


async def delete(client: Client, automation: pb.Automation, etag: str = "") -> pb.DeleteAutomationResponse:
    """Delete an automation."""
    return await client.automations.DeleteAutomation(pb.DeleteAutomationRequest(id=automation.id, etag=etag))


async def matches_of(client: Client, sent: event_ingest_pb2.EventInput | None = None) -> list[match_pb2.Match]:
    """Send an event, and return what it set off."""
    return list((await client.send(sent or event(), MATCHES)).matches)


async def started(client: Client, sent: event_ingest_pb2.EventInput | None = None) -> pb.Run:
    """Send an event that starts one run, and return the run."""
    (match,) = await matches_of(client, sent)
    assert match.kind == STARTED
    return await get_run(client, match.run_id)


async def get_run(client: Client, run_id: str) -> pb.Run:
    """Read a run."""
    return (await client.automations.GetRun(pb.GetRunRequest(id=run_id))).run


async def list_runs(client: Client, **filters: Any) -> list[pb.Run]:
    """List runs, one page."""
    return list((await client.automations.ListRuns(pb.ListRunsRequest(**filters))).runs)


async def await_event(
    client: Client, run: pb.Run, event_name: str = "paid", *, seconds: float | None = None, **stated: Any
) -> pb.Run:
    """Park a run."""
    request = pb.AwaitEventRequest(run_id=run.id, event_name=event_name, **stated)
    if seconds is not None:
        request.timeout.CopyFrom(Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1_000_000_000)))
    return (await client.automations.AwaitEvent(request)).run


async def complete(client: Client, run: pb.Run, **stated: Any) -> pb.Run:
    """End a run."""
    return (await client.automations.CompleteRun(pb.CompleteRunRequest(run_id=run.id, **stated))).run


async def cancel(client: Client, run: pb.Run, **stated: Any) -> pb.Run:
    """Cancel a run."""
    return (await client.automations.CancelRun(pb.CancelRunRequest(run_id=run.id, **stated))).run


async def no_longer_waiting(client: Client, run: pb.Run) -> pb.Run:
    """Wait until a run waits no more."""
    async with asyncio.timeout(10):
        while (current := await get_run(client, run.id)).status == pb.RUN_STATUS_WAITING:  # noqa: ASYNC110 - a row does not tell
            await asyncio.sleep(0.05)
    return current
