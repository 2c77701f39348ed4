"""Tests and explanations as messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from uuid_utils import uuid7

from automation.conditions.tracing import MAX_SHOWN, Shown
from registry.values.json_values import CONTACT_BUDGET, MAX_DEPTH
from server.paging import MAX_RESPONSE_BYTES
from server.rpc.messages.enums import REASON_KIND, VERDICT
from server.rpc.messages.events import write_coercion, write_event, write_violation
from server.rpc.messages.response_size import write_details, write_page
from server.rpc.messages.structs import depth_of, read_struct, write_value
from server.services.emails import normalize_email
from server.services.explanations import ExplainedContact
from signalbox.v1 import automations_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Value

    from automation.conditions.errors import ConditionProblem
    from automation.conditions.tracing import Clause
    from server.services.explanations import ConditionTest, EventExplanation
    from server.services.match_reasons import BlockingReason, Explanation
    from signalbox.v1 import contacts_pb2

_ROOM: int = MAX_DEPTH - 2
"""Levels of a value that fit into a clause: a message is at most 100 levels deep."""


def read_contact(message: contacts_pb2.Contact) -> ExplainedContact:
    """Read a contact whose properties conditions read. Raise InvalidArgument."""
    email = normalize_email(message.email) if message.email else ""
    properties = read_struct(message.properties, "contact.properties", CONTACT_BUDGET)
    return ExplainedContact(message.id or str(uuid7()), email, properties)


def write_condition_test(tested: ConditionTest) -> pb.TestConditionResponse:
    """Write the result of a condition."""
    message = pb.TestConditionResponse(
        verdict=VERDICT.write(tested.verdict),
        errors=map(_write_error, tested.errors),
        violations=map(write_violation, tested.violations),
    )
    message.omitted_clause_count = write_details(tested.trace, _write_clause, message.trace)
    unwritten = write_details(tested.coercions, write_coercion, message.coercions)
    message.omitted_coercion_count = tested.omitted_coercions + unwritten
    return message


def write_event_explanation(explained: EventExplanation) -> pb.ExplainEventResponse:
    """Write a page of explanations."""
    message = pb.ExplainEventResponse(violations=map(write_violation, explained.violations))
    if explained.event is not None:
        write_event(explained.event, message.event)
    if explained.page is not None:
        room = MAX_RESPONSE_BYTES - message.ByteSize()
        message.next_page_token = write_page(explained.page, _write_explanation, message.explanations, room)
    return message


def _write_explanation(each: Explanation) -> pb.AutomationExplanation:
    into = pb.AutomationExplanation()
    into.automation_id = each.automation.id
    into.automation_name = each.automation.name
    into.event_name = each.event_name
    into.matched = each.matched
    into.condition = each.condition
    into.verdict = VERDICT.write(each.verdict)
    into.omitted_clause_count = write_details(each.trace, _write_clause, into.trace)
    into.outside_reasons.extend(map(_write_reason, each.reasons))
    if each.match is not None:
        into.match_id = each.match.id
        into.run_id = each.match.run_id
    return into


def _write_clause(clause: Clause, into: pb.Clause) -> None:
    into.depth = clause.depth
    into.expression = clause.expression
    into.line = clause.line
    into.column = clause.column
    into.verdict = VERDICT.write(clause.verdict)
    into.operator = clause.operator
    into.path = clause.path
    into.message = clause.message
    into.masked = clause.masked
    if clause.actual is not None:
        into.actual_truncated = _write_shown(clause.actual, into.actual)
    if clause.operand is not None:
        into.operand_truncated = _write_shown(clause.operand, into.operand)


def _write_shown(shown: Shown, into: Value) -> bool:
    """Write a value, as text where it is nested too deeply for a message. Return whether it was cut."""
    if depth_of(shown.value) < _ROOM:
        write_value(shown.value, into)
        return shown.truncated
    write_value(msgspec.json.encode(shown.value).decode()[:MAX_SHOWN], into)
    return True


def _write_error(error: ConditionProblem) -> pb.ConditionError:
    return pb.ConditionError(line=error.line, column=error.column, reason=error.reason, message=error.message)


def _write_reason(reason: BlockingReason) -> pb.OutsideReason:
    return pb.OutsideReason(kind=REASON_KIND.write(reason.kind), message=reason.message, run_id=reason.run_id)
