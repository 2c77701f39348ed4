"""The steps and connections of an OpenSend automation, and the rules for both.

The first step is the trigger, which names the event. The others are for an engine: they are validated here and stored
as they are, except that blanks around the name of an awaited event are removed.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from uuid_utils import uuid7

from server.bridge.dialects.opensend.names import check_event_name
from server.bridge.dialects.opensend.validation import BodyReader, mismatch, rule_broken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Step = dict[str, Any]
"""One step: `id`, `key`, `type`, `config` and `position`."""

TRIGGER: Final = "trigger"
WAIT: Final = "wait_for_event"
MAX_WAIT_SECONDS: Final = 2_592_000
MAX_DELAY_SECONDS: Final = 30 * 86_400

_KEY = re.compile("[A-Za-z0-9_:-]{1,64}")
_LEFT = re.compile(r"(?:event|contact)\.[^\s.]+(?:\.[^\s.]+)*|steps\.[A-Za-z0-9_:-]{1,64}\.output(?:\.[^\s.]+)*")
_DURATION = re.compile(r"\s*(?P<count>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[a-zA-Z]+)\s*")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_UNITS: Final = {
    "s": ("s", "sec", "secs", "second", "seconds"),
    "m": ("m", "min", "mins", "minute", "minutes"),
    "h": ("h", "hr", "hrs", "hour", "hours"),
    "d": ("d", "day", "days"),
    "w": ("w", "week", "weeks"),
}
_SECONDS_OF: Final = {word: _SECONDS[unit] for unit, words in _UNITS.items() for word in words}
_OPERATORS: Final = (
    "equals",
    "not_equals",
    "greater_than",
    "greater_than_or_equal",
    "less_than",
    "less_than_or_equal",
    "contains",
    "exists",
)
_BRANCHES: Final = ("condition_met", "condition_not_met")
_NAMES: Final = ("event_name", "eventName")


def read_steps(body: BodyReader) -> list[Step] | None:
    """Return the steps of a body in the order of their positions, None if it has none. Raise InvalidBody."""
    given = body.items("steps")
    body.check()
    if given is None:
        return None
    steps = [_step(item, index, body) for index, item in enumerate(given)]
    body.check()
    return sorted((step for step in steps if step is not None), key=lambda step: step["position"])


def read_connections(body: BodyReader) -> list[dict[str, Any]] | None:
    """Return the connections of a body, None if it has none. Raise InvalidBody and RuleBroken."""
    given = body.items("connections")
    body.check()
    if given is None:
        return None
    for connection in given:
        if not isinstance(connection, dict):
            body.add("connections", mismatch("object", connection))
    body.check()
    for connection in given:
        if not all(isinstance(connection.get(end), str) and connection[end] for end in ("from", "to")):
            raise rule_broken("connection_edge_invalid", "A connection needs from and to, the keys of two steps")
    return given


def check_steps(steps: Sequence[Step]) -> None:
    """Raise RuleBroken or InvalidName for steps that break a rule."""
    if not steps:
        raise rule_broken("automation_steps_required", "An automation needs at least one step")
    for step in steps:
        if not _KEY.fullmatch(step["key"]):
            message = f'step key "{step["key"]}" must be 1 to 64 letters, digits, "_", ":" and "-"'
            raise rule_broken("step_key_invalid", message)
    if repeated := [key for key, count in Counter(step["key"] for step in steps).items() if count > 1]:
        raise rule_broken("duplicate_step_key", f'step key "{repeated[0]}" is used more than once')
    if steps[0]["type"] != TRIGGER:
        raise rule_broken("trigger_must_be_first", "The first step must be the trigger")
    if any(step["type"] == TRIGGER for step in steps[1:]):
        raise rule_broken("duplicate_trigger", "An automation has exactly one trigger")
    for step in steps[1:]:
        if check := _CONFIGS.get(step["type"]):
            check(step["config"], f"step {step['key']}")


def check_connections(connections: Sequence[Mapping[str, Any]], steps: Sequence[Step]) -> None:
    """Raise RuleBroken for connections that break a rule."""
    types = {step["key"]: step["type"] for step in steps}
    branches: set[tuple[str, str]] = set()
    for connection in connections:
        start, end, kind = connection["from"], connection["to"], connection.get("type", "default")
        if kind not in ("default", *_BRANCHES):
            message = f"connection type must be one of: default, {', '.join(_BRANCHES)}"
            raise rule_broken("connection_type_invalid", message)
        for key in (start, end):
            if key not in types:
                raise rule_broken("connection_unknown_step", f'connection names the step "{key}", which does not exist')
        if start == end:
            raise rule_broken("connection_self_loop", f'step "{start}" must not be connected to itself')
        if kind in _BRANCHES and types[start] != "condition":
            message = f'step "{start}" is not a condition and has no branch {kind}'
            raise rule_broken("connection_branch_from_non_condition", message)
        if kind in _BRANCHES and (start, kind) in branches:
            raise rule_broken("connection_branch_duplicate", f'step "{start}" has the branch {kind} twice')
        branches.add((start, kind))


def trigger_event(steps: Sequence[Step], stated: str | None) -> str:
    """Return the event that the trigger step or `trigger_event_name` names. Raise RuleBroken and InvalidName."""
    named = _event_name(steps[0]["config"])
    if stated and named and stated != named:
        message = f'trigger_event_name "{stated}" is not the "{named}" of the trigger step'
        raise rule_broken("trigger_event_name_mismatch", message)
    name = stated or named
    if not name.strip():
        raise rule_broken("trigger_event_name_required", "trigger_event_name is required")
    check_event_name(name, "trigger_event_name", "trigger_event_name")
    return name


def step_after_wait(attributes: Mapping[str, Any], key: str) -> str | None:
    """Return the key of the step after a `wait_for_event` step: where its connection leads, or the next by position.

    None if the automation ends there. The key of any other step is returned unchanged. The attributes may have been set
    over gRPC, which does not validate them.
    """
    steps = [(step.get("key"), step.get("type")) for step in _objects(attributes, "steps")]
    if (key, WAIT) not in steps:
        return key
    connected = [edge.get("to") for edge in _objects(attributes, "connections") if edge.get("from") == key]
    following = [name for name, _ in steps[steps.index((key, WAIT)) + 1 :]]
    return next((name for name in (*connected, *following) if isinstance(name, str)), None)


def _objects(attributes: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    stored = attributes.get(name)
    return [item for item in stored if isinstance(item, dict)] if isinstance(stored, list) else []


def _step(given: Any, index: int, body: BodyReader) -> Step | None:
    """Return one step, or add its violations to those of the body and return None."""
    if not isinstance(given, dict):
        body.add("steps", mismatch("object", given))
        return None
    position = given.get("position", index)
    invalid = [name for name in ("key", "type") if not isinstance(given.get(name), str)]
    for name in invalid:
        body.add("steps", f"steps[{index}].{name}: {_received('string', given, name)}")
    if not isinstance(given.get("config", {}), dict):
        body.add("steps", f"steps[{index}].config: {_received('object', given, 'config')}")
    if type(position) is not int or position < 0:
        body.add("steps", f"steps[{index}].position must be a whole number from 0")
    if not invalid and given["type"] not in TYPES:
        body.add("steps", f"steps[{index}].type must be one of: {', '.join(TYPES)}")
    if body.fields:
        return None
    step_id, config = given.get("id"), given.get("config", {})
    return {
        "id": step_id if isinstance(step_id, str) and step_id else str(uuid7()),
        "key": given["key"],
        "type": given["type"],
        "config": _trimmed(config) if given["type"] == WAIT else config,
        "position": position,
    }


def _received(expected: str, given: Mapping[str, Any], name: str) -> str:
    return (
        mismatch(expected, given[name]) if name in given else f"Invalid input: expected {expected}, received undefined"
    )


def _event_name(config: Mapping[str, Any]) -> str:
    name = next((config[name] for name in _NAMES if name in config), "")
    return name if isinstance(name, str) else ""


def _trimmed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a wait step without blanks around the name of the event."""
    return {
        name: value.strip() if name in _NAMES and isinstance(value, str) else value for name, value in config.items()
    }


def _check_delay(config: Mapping[str, Any], label: str) -> None:
    match = _DURATION.fullmatch(text) if isinstance(text := config.get("duration"), str) else None
    unit = _SECONDS_OF.get(match["unit"].lower()) if match else None
    if match is None or unit is None or float(match["count"]) <= 0:
        raise rule_broken("delay_duration_invalid", f'{label}: duration must be a time such as "2 hours" or "1.5 d"')
    if float(match["count"]) * unit > MAX_DELAY_SECONDS:
        raise rule_broken("delay_duration_too_long", f"{label}: duration must be at most 30 days")


def _check_condition(config: Mapping[str, Any], label: str) -> None:
    predicate = config.get("predicate", config)
    if not isinstance(predicate, dict) or not predicate:
        raise rule_broken("condition_predicate_required", f"{label}: a condition needs left, operator and right")
    left, operator = predicate.get("left"), predicate.get("operator")
    if not isinstance(left, str) or not _LEFT.fullmatch(left):
        message = f"{label}: left must be event.*, contact.* or steps.<key>.output"
        raise rule_broken("condition_left_invalid", message)
    if operator not in _OPERATORS:
        raise rule_broken("condition_operator_invalid", f"{label}: operator must be one of: {', '.join(_OPERATORS)}")
    scalar = isinstance(predicate.get("right"), str | int | float | bool | None)
    if not scalar or ("right" not in predicate and operator != "exists"):
        raise rule_broken("condition_right_invalid", f"{label}: right must be a text, a number, a boolean or null")


def _check_wait(config: Mapping[str, Any], label: str) -> None:
    check_event_name(_event_name(config), "steps", f"{label}: event_name")
    seconds = config.get("timeout_seconds")
    if seconds is not None and (type(seconds) is not int or not 1 <= seconds <= MAX_WAIT_SECONDS):
        message = f"{label}: timeout_seconds must be a whole number from 1 to {MAX_WAIT_SECONDS}"
        raise rule_broken("wait_for_event_timeout_invalid", message)


def _check_email(config: Mapping[str, Any], label: str) -> None:
    if not _text(config, "template_id", "templateId"):
        raise rule_broken("send_email_template_id_required", f"{label}: template_id is required")


def _check_update(config: Mapping[str, Any], label: str) -> None:
    if not config:
        raise rule_broken("contact_update_config_required", f"{label}: the config names no field to update")


def _check_delete(config: Mapping[str, Any], label: str) -> None:
    if config:
        raise rule_broken("contact_delete_config_invalid", f"{label}: contact_delete takes no config")


def _check_segment(config: Mapping[str, Any], label: str) -> None:
    if not _text(config, "segment_id", "segmentId"):
        raise rule_broken("add_to_segment_segment_id_required", f"{label}: segment_id is required")


def _text(config: Mapping[str, Any], *names: str) -> str:
    return next((value for name in names if isinstance(value := config.get(name), str) and value.strip()), "")


_CONFIGS: Final[Mapping[str, Callable[[Mapping[str, Any], str], None]]] = {
    "delay": _check_delay,
    "send_email": _check_email,
    "condition": _check_condition,
    WAIT: _check_wait,
    "contact_update": _check_update,
    "contact_delete": _check_delete,
    "add_to_segment": _check_segment,
}
TYPES: Final = (TRIGGER, "end", *_CONFIGS)
