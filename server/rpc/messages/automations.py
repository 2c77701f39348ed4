"""Automations and runs between their messages and the values that the service works with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from automation.automations import AutomationChanges, NewAutomation
from registry.values.json_values import AUTOMATION_BUDGET, RUN_BUDGET
from server.rpc.messages.enums import AUTOMATION_STATE, ENTRY_RULE, RUN_STATUS
from server.rpc.messages.structs import read_struct, write_struct
from server.rpc.messages.times import timestamp
from server.services.runs import EngineUpdate
from signalbox.v1 import automations_pb2 as pb

if TYPE_CHECKING:
    from automation.automations import Automation
    from automation.runs import Wait
    from server.services.runs import RunView


def read_new_automation(message: pb.Automation) -> NewAutomation:
    """Read an automation that is to be created. Raise InvalidArgument."""
    return NewAutomation(
        name=message.name,
        event_name=message.event_name,
        condition=message.condition,
        state=AUTOMATION_STATE.read(message.state, "state"),
        entry_rule=ENTRY_RULE.read(message.entry_rule, "entry_rule"),
        labels=dict(message.labels),
        attributes=read_struct(message.attributes, "attributes", AUTOMATION_BUDGET),
    )


def read_changes(request: pb.UpdateAutomationRequest) -> AutomationChanges:
    """Read an update. Raise InvalidArgument."""
    attributes = None
    if request.HasField("attributes"):
        attributes = read_struct(request.attributes, "attributes", AUTOMATION_BUDGET)
    return AutomationChanges(
        name=request.name if request.HasField("name") else None,
        event_name=request.event_name if request.HasField("event_name") else None,
        condition=request.condition if request.HasField("condition") else None,
        entry_rule=ENTRY_RULE.read_optional(request.entry_rule, "entry_rule"),
        labels=dict(request.labels),
        attributes=attributes,
    )


def read_engine_update(request: pb.AwaitEventRequest | pb.CompleteRunRequest) -> EngineUpdate:
    """Read the additions of an engine to its request. Raise InvalidArgument."""
    attributes: dict[str, Any] | None = None
    if request.HasField("attributes"):
        attributes = read_struct(request.attributes, "attributes", RUN_BUDGET)
    return EngineUpdate(request.match_id, attributes)


def write_automation(automation: Automation) -> pb.Automation:
    """Write an automation."""
    message = pb.Automation(
        id=automation.id,
        name=automation.name,
        event_name=automation.event_name,
        condition=automation.condition,
        state=AUTOMATION_STATE.write(automation.state),
        entry_rule=ENTRY_RULE.write(automation.entry_rule),
        labels=automation.labels,
        activated_position=automation.activated_position,
        created_at=timestamp(automation.created_at),
        updated_at=timestamp(automation.updated_at),
        etag=automation.etag,
        unreadable_reason=automation.unreadable,
    )
    message.attributes.SetInParent()
    write_struct(automation.attributes, message.attributes)
    return message


def write_run(view: RunView) -> pb.Run:
    """Write a run."""
    run = view.run
    message = pb.Run(
        id=run.id,
        automation_id=view.automation_id,
        contact_id=view.contact_id,
        event_id=view.event_id,
        status=RUN_STATUS.write(run.status),
        match_id=view.match_id,
        wait=None if run.wait is None else _write_wait(run.wait),
        reason=run.reason,
        created_at=timestamp(run.created_at),
        updated_at=timestamp(run.updated_at),
        finished_at=timestamp(run.finished_at) if run.finished_at else None,
        etag=run.etag,
        unreadable_reason=run.unreadable,
    )
    message.attributes.SetInParent()
    write_struct(run.attributes, message.attributes)
    return message


def _write_wait(wait: Wait) -> pb.RunWait:
    return pb.RunWait(
        event_name=wait.event_name,
        condition=wait.condition,
        from_position=wait.from_position,
        timeout_at=timestamp(wait.timeout_at) if wait.timeout_at else None,
    )
