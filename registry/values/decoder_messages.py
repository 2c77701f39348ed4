"""What a decoder says of a text that is not JSON, or not of the expected form, in plain English.

msgspec names types of Python: ``Expected `str | null`, got `int` - at `$.email` ``. A caller reads "email must be a
string or null; got a number". A message of another form is left as it is.
"""

from __future__ import annotations

import re
from typing import Final

from registry.errors import Violation

_MESSAGE: Final = re.compile(r"(?P<message>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(?P<field>.*)`")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)
_TYPE: Final = re.compile(r"Expected `(?P<wanted>[a-z |]+)`, got `(?P<given>[a-z]+)`")
_LENGTH: Final = re.compile(r"Expected `(?P<type>str|array)` of length (?P<sign>[<>]=) (?P<bound>[0-9]+)")
_RANGE: Final = re.compile(r"Expected `int` (?P<sign>[<>]=) (?P<bound>-?[0-9]+)")

_WANTED: Final = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "an array",
    "null": "null",
}
_GIVEN: Final = _WANTED | {"int": "a number", "float": "a number with a fraction", "bool": "a boolean"}
_SIGNS: Final = {">=": "at least", "<=": "at most"}
_ITEMS: Final = {"str": "character", "array": "item"}


def shape_violation(text: str, root: str = "The body") -> Violation:
    """Return the violation of a decoder's message; its path is empty if the message is about the whole, the `root`."""
    parts = _MESSAGE.fullmatch(text)
    assert parts is not None
    message, path = parts["message"], parts["path"] or ""
    if missing := _MISSING.fullmatch(message):
        path = _member(path, missing["field"])
        return Violation(path, "REQUIRED_FIELD_MISSING", f"{path} is required")
    if unknown := _UNKNOWN.fullmatch(message):
        path = _member(path, unknown["field"])
        return Violation(path, "UNKNOWN_FIELD", f"{path} is not a field of {root[0].lower()}{root[1:]}")
    problem = _problem(message)
    return Violation(path, "INVALID_FIELD", f"{path or root} {problem}" if problem else message)


def syntax_problem(data: bytes, error: BaseException | None) -> str:
    """Return why a text is not JSON, to follow "not valid JSON:"."""
    if not data:
        return "it is empty"
    try:
        # The decoder counts from the beginning of the text in which the byte is.
        data.decode()
    except UnicodeDecodeError as fault:
        return f"it must be UTF-8, and byte {fault.start} is not"
    problem = str(error).removeprefix("JSON is malformed: ")
    return "it ends too early" if problem == "Input data was truncated" else problem


def _member(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field


def _problem(message: str) -> str:
    """Return what is wrong, to follow the path; empty for a message of another form."""
    if wrong := _TYPE.fullmatch(message):
        wanted = " or ".join(_WANTED.get(name, name) for name in wrong["wanted"].split(" | "))
        return f"must be {wanted}; got {_GIVEN.get(wrong['given'], wrong['given'])}"
    if length := _LENGTH.fullmatch(message):
        bound = int(length["bound"])
        return f"must have {_SIGNS[length['sign']]} {bound:,} {_ITEMS[length['type']]}{'' if bound == 1 else 's'}"
    if outside := _RANGE.fullmatch(message):
        return f"must be {_SIGNS[outside['sign']]} {int(outside['bound']):,}"
    return ""
