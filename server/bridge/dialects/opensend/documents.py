"""The automations of OpenSend as documents: steps, the connections between them, and the rules for both.

The first step is the trigger, which names the event. The others are for an engine: they are checked here and kept as
they came, but for blanks around the name of an awaited event.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from uuid_utils import uuid7

from server.bridge.dialects.opensend.bodies import Body, mistaken, rule_broken
from server.bridge.dialects.opensend.names import check_event_name

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


def read_steps(body: Body) -> list[Step] | None:
    """Read the steps of a body, in the order of their positions; None where it has none. Raises Refused."""
    given = body.items("steps")
    body.check()
    if given is None:
        return None
    steps = [_step(each, index, body) for index, each in enumerate(given)]
    body.check()
    return sorted((each for each in steps if each is not None), key=lambda each: each["position"])


def read_connections(body: Body) -> list[dict[str, Any]] | None:
    """Read the connections of a body; None where it has none. Raises Refused."""
    given = body.items("connections")
    body.check()
    if given is None:
        return None
    for each in given:
        if not isinstance(each, dict):
            body.add("connections", mistaken("object", each))
    body.check()
    for each in given:
        if not all(isinstance(each.get(end), str) and each[end] for end in ("from", "to")):
            raise rule_broken("connection_edge_invalid", "A connection needs from and to, the keys of two steps")
    return given


def check_steps(steps: Sequence[Step]) -> None:
    """Raise Refused for steps that break a rule."""
    if not steps:
        raise rule_broken("automation_steps_required", "An automation needs at least one step")
    for each in steps:
        if not _KEY.fullmatch(each["key"]):
            message = f'step key "{each["key"]}" must be 1 to 64 letters, digits, "_", ":" and "-"'
            raise rule_broken("step_key_invalid", message)
    if repeated := [key for key, count in Counter(each["key"] for each in steps).items() if count > 1]:
        raise rule_broken("duplicate_step_key", f'step key "{repeated[0]}" is used more than once')
    if steps[0]["type"] != TRIGGER:
        raise rule_broken("trigger_must_be_first", "The first step must be the trigger")
    if any(each["type"] == TRIGGER for each in steps[1:]):
        raise rule_broken("duplicate_trigger", "An automation has one trigger")
    for each in steps[1:]:
        if check := _CONFIGS.get(each["type"]):
            check(each["config"], f"step {each['key']}")


def check_connections(connections: Sequence[Mapping[str, Any]], steps: Sequence[Step]) -> None:
    """Raise Refused for connections that break a rule."""
    types = {each["key"]: each["type"] for each in steps}
    branches: set[tuple[str, str]] = set()
    for each in connections:
        start, end, kind = each["from"], each["to"], each.get("type", "default")
        if kind not in ("default", *_BRANCHES):
            message = f"connection type must be one of: default, {', '.join(_BRANCHES)}"
            raise rule_broken("connection_type_invalid", message)
        for key in (start, end):
            if key not in types:
                raise rule_broken("connection_unknown_step", f'connection names the step "{key}", which is not there')
        if start == end:
            raise rule_broken("connection_self_loop", f'step "{start}" must not be connected with itself')
        if kind in _BRANCHES and types[start] != "condition":
            message = f'step "{start}" is no condition and has no branch {kind}'
            raise rule_broken("connection_branch_from_non_condition", message)
        if kind in _BRANCHES and (start, kind) in branches:
            raise rule_broken("connection_branch_duplicate", f'step "{start}" has the branch {kind} twice')
        branches.add((start, kind))


def trigger_event(steps: Sequence[Step], stated: str | None) -> str:
    """Give the name of the event that the trigger names, or that is stated beside the steps. Raises Refused."""
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

    None where the automation ends there. The key of any other step is returned as it is. The attributes may have come
    over gRPC, where nobody checks that they are a document.
    """
    steps = [(step.get("key"), step.get("type")) for step in _objects(attributes, "steps")]
    if (key, WAIT) not in steps:
        return key
    connected = [each.get("to") for each in _objects(attributes, "connections") if each.get("from") == key]
    following = [name for name, _ in steps[steps.index((key, WAIT)) + 1 :]]
    return next((name for name in (*connected, *following) if isinstance(name, str)), None)


def _objects(attributes: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    kept = attributes.get(name)
    return [each for each in kept if isinstance(each, dict)] if isinstance(kept, list) else []


def _step(given: Any, index: int, body: Body) -> Step | None:
    """Read one step, or note what is wrong with its shape."""
    if not isinstance(given, dict):
        body.add("steps", mistaken("object", given))
        return None
    position = given.get("position", index)
    wrong = [name for name in ("key", "type") if not isinstance(given.get(name), str)]
    for name in wrong:
        body.add("steps", f"steps[{index}].{name}: {_received('string', given, name)}")
    if not isinstance(given.get("config", {}), dict):
        body.add("steps", f"steps[{index}].config: {_received('object', given, 'config')}")
    if type(position) is not int or position < 0:
        body.add("steps", f"steps[{index}].position must be a whole number from 0")
    if not wrong and given["type"] not in TYPES:
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


def _received(wanted: str, given: Mapping[str, Any], name: str) -> str:
    return mistaken(wanted, given[name]) if name in given else f"Invalid input: expected {wanted}, received undefined"


def _event_name(config: Mapping[str, Any]) -> str:
    name = next((config[name] for name in _NAMES if name in config), "")
    return name if isinstance(name, str) else ""


def _trimmed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Take the blanks off the name of the event that a step waits for."""
    return {
        name: value.strip() if name in _NAMES and isinstance(value, str) else value for name, value in config.items()
    }


def _check_delay(config: Mapping[str, Any], what: str) -> None:
    found = _DURATION.fullmatch(text) if isinstance(text := config.get("duration"), str) else None
    unit = _SECONDS_OF.get(found["unit"].lower()) if found else None
    if found is None or unit is None or float(found["count"]) <= 0:
        raise rule_broken("delay_duration_invalid", f'{what}: duration must be a time such as "2 hours" or "1.5 d"')
    if float(found["count"]) * unit > MAX_DELAY_SECONDS:
        raise rule_broken("delay_duration_too_long", f"{what}: duration must be at most 30 days")


def _check_condition(config: Mapping[str, Any], what: str) -> None:
    predicate = config.get("predicate", config)
    if not isinstance(predicate, dict) or not predicate:
        raise rule_broken("condition_predicate_required", f"{what}: a condition needs left, operator and right")
    left, operator = predicate.get("left"), predicate.get("operator")
    if not isinstance(left, str) or not _LEFT.fullmatch(left):
        message = f"{what}: left must be event.*, contact.* or steps.<key>.output"
        raise rule_broken("condition_left_invalid", message)
    if operator not in _OPERATORS:
        raise rule_broken("condition_operator_invalid", f"{what}: operator must be one of: {', '.join(_OPERATORS)}")
    scalar = isinstance(predicate.get("right"), str | int | float | bool | None)
    if not scalar or ("right" not in predicate and operator != "exists"):
        raise rule_broken("condition_right_invalid", f"{what}: right must be a text, a number, a boolean or null")


def _check_wait(config: Mapping[str, Any], what: str) -> None:
    check_event_name(_event_name(config), "steps", f"{what}: event_name")
    seconds = config.get("timeout_seconds")
    if seconds is not None and (type(seconds) is not int or not 1 <= seconds <= MAX_WAIT_SECONDS):
        message = f"{what}: timeout_seconds must be a whole number from 1 to {MAX_WAIT_SECONDS}"
        raise rule_broken("wait_for_event_timeout_invalid", message)


def _check_email(config: Mapping[str, Any], what: str) -> None:
    if not _text(config, "template_id", "templateId"):
        raise rule_broken("send_email_template_id_required", f"{what}: template_id is required")


def _check_update(config: Mapping[str, Any], what: str) -> None:
    if not config:
        raise rule_broken("contact_update_config_required", f"{what}: nothing is to be updated")


def _check_delete(config: Mapping[str, Any], what: str) -> None:
    if config:
        raise rule_broken("contact_delete_config_invalid", f"{what}: contact_delete takes no config")


def _check_segment(config: Mapping[str, Any], what: str) -> None:
    if not _text(config, "segment_id", "segmentId"):
        raise rule_broken("add_to_segment_segment_id_required", f"{what}: segment_id is required")


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
