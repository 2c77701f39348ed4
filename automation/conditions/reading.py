"""Reading the subject of a condition: paths from the roots, fields of objects and items of lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from automation.conditions.closures import strict
from automation.conditions.nodes import CONTACT, EVENT, PROPERTIES, Path
from automation.conditions.values import Failure, Int, Timestamp, Verdict, error, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from automation.conditions.closures import Closure, Frame
    from automation.conditions.subject import Subject


def compile_path(path: Path) -> Closure:
    """Return the closure that reads the value at a path whose names are known."""
    match path.names:
        case (root, name) if root == EVENT:
            return _event_field(name, _missing(path.names))
        case (root, name) if root == CONTACT and name != PROPERTIES:
            attribute = "contact_id" if name == "id" else name
            return _field(attribute, _missing(path.names))
        case (root, *names) if root == PROPERTIES:
            return _property(names)
        case _:
            return _contact_property(list(path.names[2:]))


def _missing(names: tuple[str, ...]) -> Failure:
    return Failure(Verdict.MISSING, f"{Path(start=0, end=0, names=names)} is missing")


def _field(attribute: str, missing: Failure) -> Closure:
    def run(subject: Subject, frame: Frame) -> Any:
        value = getattr(subject, attribute)
        return missing if value is None else value

    return run


def _event_field(name: str, missing: Failure) -> Closure:
    wraps: Mapping[str, Callable[[int], Any]] = {
        "occurred_at": _from_micros,
        "received_at": _from_micros,
        "revision": Int,
    }
    wrap = wraps.get(name)
    read = _field(name, missing)
    if wrap is None:
        return read

    def run(subject: Subject, frame: Frame) -> Any:
        value = read(subject, frame)
        return value if type(value) is Failure else wrap(value)

    return run


def _from_micros(micros: int) -> Timestamp:
    return Timestamp(micros * 1000)


def _property(names: list[str]) -> Closure:
    if not names:
        return lambda subject, frame: subject.properties
    if len(names) > 1:
        segments = _segments((PROPERTIES,), names)
        return lambda subject, frame: _descend(subject.properties, segments)
    (name,) = names
    missing = _missing((PROPERTIES, name))
    return lambda subject, frame: subject.properties.get(name, missing)


def _contact_property(names: list[str]) -> Closure:
    root = (CONTACT, PROPERTIES)
    missing, segments = _missing(root), _segments(root, names)

    def run(subject: Subject, frame: Frame) -> Any:
        properties = subject.contact_properties
        return missing if properties is None else _descend(properties, segments)

    return run


def _segments(root: tuple[str, ...], names: list[str]) -> list[tuple[str, Failure]]:
    return [(name, _missing((*root, *names[: place + 1]))) for place, name in enumerate(names)]


def _descend(value: Any, segments: list[tuple[str, Failure]]) -> Any:
    for name, missing in segments:
        if type(value) is not dict:
            return value if type(value) is Failure else select(value, name)
        value = value.get(name, missing)
    return value


def select(operand: Any, name: str) -> Any:
    """Return a field of an object, or the failure of reading it."""
    if type(operand) is not dict:
        return error(f'{kind_of(operand).capitalize()} has no field "{name}"')
    return operand[name] if name in operand else Failure(Verdict.MISSING, f'The object has no field "{name}"')


def has_name(operand: Any, name: str) -> bool | Failure:
    """Return whether an object has a field."""
    return name in operand if type(operand) is dict else select(operand, name)


def index(operand: Any, key: Any) -> Any:
    """Return an item of a list by its index from 0, or a field of an object by its name, or a failure."""
    if type(operand) is dict and type(key) is str:
        return select(operand, key)
    if type(operand) is not list or type(key) not in {Int, int, float}:
        return error(f"{kind_of(operand).capitalize()} has no item at {kind_of(key)}")
    if key != key // 1:
        return error("The number of an item must be whole")
    if 0 <= key < len(operand):
        return operand[int(key)]
    return Failure(Verdict.MISSING, f"The list of {len(operand)} has no such item")


def has_path(path: Path) -> Closure:
    """Return the closure that checks whether there is a value at a path; its parent must exist."""
    *parent, name = path.names
    if len(parent) == 1 and parent[0] != PROPERTIES:
        read = compile_path(path)
        return lambda subject, frame: type(read(subject, frame)) is not Failure
    return strict(lambda value: has_name(value, name), [_path_or_root(tuple(parent))])


def _path_or_root(names: tuple[str, ...]) -> Closure:
    return compile_path(Path(start=0, end=0, names=names))
