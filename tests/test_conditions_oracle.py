"""The same expressions over the same data come to the same in Google's C++ CEL.

`SIGNALBOX_ORACLE_EXAMPLES=200000 pytest tests/test_conditions_oracle.py` runs longer. What the strategies leave out,
and why, stands in docs/conditions.md.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from cel_expr_python import cel
from google.protobuf.timestamp_pb2 import Timestamp as TimestampMessage
from hypothesis import given, reject, settings

from automation.conditions.compiling import compile_node, new_frame
from automation.conditions.errors import ConditionInvalid
from automation.conditions.parsing import parse
from automation.conditions.subject import Subject
from automation.conditions.values import Duration, Failure, Int, Timestamp
from tests.support.conditions import conditions, contacts, payloads

EXAMPLES = int(os.environ.get("SIGNALBOX_ORACLE_EXAMPLES", "200"))
ENVIRONMENT = cel.NewEnv(variables=dict.fromkeys(("properties", "event", "contact"), cel.Type.DYN))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OCCURRED, RECEIVED = 1_780_315_200_123_456, 1_780_315_201_000_000


def as_cel(value: Any) -> Any:
    """Return a payload with its numbers as doubles, as CEL sees them."""
    if isinstance(value, dict):
        return {name: as_cel(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [as_cel(inner) for inner in value]
    return float(value) if type(value) is int else value


def moment(micros: int) -> TimestampMessage:
    made = TimestampMessage()
    made.FromMicroseconds(micros)
    return made


def oracle(text: str, payload: dict[str, Any], contact: dict[str, Any] | None) -> tuple[str, str]:
    event = {"name": "abc", "id": "e1", "revision": 3}
    times = {"occurred_at": moment(OCCURRED), "received_at": moment(RECEIVED)}
    about = {} if contact is None else {"id": "c1", "email": "ada@example.com", "properties": as_cel(contact)}
    data = {"properties": as_cel(payload), "event": {**event, **times}, "contact": about}
    value = ENVIRONMENT.compile(text, disable_check=True).eval(data=data)
    name = value.type().name()
    if name == "ERROR":
        return "ERROR", ""
    return name.partition("<")[0], comparable(value.plain_value())


def ours(text: str, payload: dict[str, Any], contact: dict[str, Any] | None) -> tuple[str, str]:
    about = {} if contact is None else {"contact_id": "c1", "email": "ada@example.com", "contact_properties": contact}
    subject = Subject(payload, "abc", "e1", 3, OCCURRED, RECEIVED, **about)  # type: ignore[arg-type]  # a dict of kinds
    try:
        root = parse(text).root
    except ConditionInvalid as refused:
        # `contact.id.x` is rejected when it is saved, also if an evaluation would not reach it.
        if {each.reason for each in refused.errors} != {"TYPE_MISMATCH"}:
            raise
        reject()
    value = compile_node(root)(subject, new_frame(root))
    if isinstance(value, Failure):
        return "ERROR", ""
    kinds = {bool: "BOOL", Int: "INT", int: "DOUBLE", float: "DOUBLE", str: "STRING", list: "LIST", dict: "MAP"}
    kinds |= {Timestamp: "TIMESTAMP", Duration: "DURATION", type(None): "NULL"}
    return kinds[type(value)], comparable(value)


def comparable(value: Any) -> str:  # noqa: PLR0911 - a line for each kind
    """Return a value with numbers as doubles, times in microseconds, and NaN as text, so that it equals itself."""
    match value:
        case Timestamp(nanos=nanos) | Duration(nanos=nanos):
            return str(nanos // 1000)
        case datetime():
            return str((value - EPOCH) // timedelta(microseconds=1))
        case timedelta():
            return str(value // timedelta(microseconds=1))
        case bool() | None:
            return repr(value)
        case int() | float():
            return repr(float(value))
        case list():
            return f"[{', '.join(map(comparable, value))}]"
        case dict():
            return "{" + ", ".join(f"{name!r}: {comparable(value[name])}" for name in sorted(value)) + "}"
        case _:
            return repr(value)


@settings(max_examples=EXAMPLES)
@given(conditions(), payloads, contacts)
def test_generated_expressions_agree(text: str, payload: dict[str, Any], contact: dict[str, Any] | None) -> None:
    assert ours(text, payload, contact) == oracle(text, payload, contact)
