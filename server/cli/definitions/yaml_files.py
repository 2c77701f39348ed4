"""YAML files, read so that every fault is told with its file, line and column.

What YAML readers differ on does no harm here: names and words are taken as they are written (`no` is the text "no"),
and values are read by the core schema of YAML 1.2, so that a date stays text. Anchors, aliases and tags are refused:
without them a file is as large as it looks.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from yaml import MappingNode, MarkedYAMLError, Node, SafeLoader, ScalarNode, SequenceNode
from yaml.events import AliasEvent
from yaml.reader import ReaderError

from registry.json_values import HALF_A_PAIR, OUT_OF_RANGE
from registry.suggestions import Suggestions
from registry.values import describe
from server.cli.client.errors import Failure
from server.cli.output.tables import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from registry.values import JSON

MAX_DEPTH: Final = 64
"""Deeper than any definition or payload may be."""

_ENDINGS = (".yaml", ".yml")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

_CORE: Final[tuple[tuple[re.Pattern[str], Callable[[str], JSON]], ...]] = (
    (re.compile(r"null|Null|NULL|~|"), lambda _: None),
    (re.compile(r"true|True|TRUE"), lambda _: True),
    (re.compile(r"false|False|FALSE"), lambda _: False),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+"), lambda text: int(text, 0)),
    (re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"), float),
)
"""What a plain scalar stands for, by the core schema of YAML 1.2; anything else is text."""


class Fault(Exception):
    """Something in a file is wrong: one line or more, each with its place."""

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = lines


class Faults:
    """Gathers faults, so that one run tells all of them."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Go on behind a fault."""
        try:
            yield
        except Fault as fault:
            self._lines += fault.lines

    def stop(self) -> None:
        """Raise Failure if there was any fault."""
        if self._lines:
            raise failure_of(Fault(*self._lines))


class Entry(NamedTuple):
    """One entry of a mapping: its key as text, the key itself, its value."""

    name: str
    key: Node
    value: Node


def failure_of(fault: Fault) -> Failure:
    """Make the failure of a command: one fault in its line, several below it."""
    if len(fault.lines) == 1:
        return Failure(fault.lines[0])
    return Failure(f"{len(fault.lines)} faults were found", fault.lines)


def files_in(paths: Iterable[Path]) -> list[Path]:
    """Name the files: those given, and of each folder all that end in .yaml or .yml, at any depth, sorted.

    No file is named twice. Raises Fault for a folder without any.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        files = [path]
        if path.is_dir():
            files = sorted(each for each in path.rglob("*") if each.suffix in _ENDINGS and not each.is_dir())
            if not files:
                raise Fault(f"{path}: no .yaml or .yml file is in this folder")
        for each in files:
            found.setdefault(each.resolve(), each)
    return list(found.values())


def load(path: Path) -> Node:
    """Read the one document of a file. Raises Fault."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise Fault(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise Fault(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    try:
        root = _Loader(text, str(path)).get_single_node()
    except MarkedYAMLError as error:
        raise Fault(f"{_place(error.problem_mark, path)}: {_problem(error)}") from None
    except ReaderError as error:
        line, column = text.count("\n", 0, error.position) + 1, error.position - text.rfind("\n", 0, error.position)
        raise Fault(f"{path}:{line}:{column}: not YAML: U+{ord(text[error.position]):04X} is not allowed") from None
    if root is None:
        raise Fault(f"{path}: the file is empty")
    return root


def place_of(node: Node) -> str:
    """Say where something begins, as FILE:LINE:COLUMN."""
    return _place(node.start_mark, "")


def fault(node: Node, message: str) -> Fault:
    """Make the fault of a place."""
    return Fault(f"{place_of(node)}: {message}")


def quoted(text: str) -> str:
    """Show a text in a message: quoted, cut where it is long, harmless to a terminal."""
    return printable(describe(text).removeprefix("the string "))


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Complete a message about an unknown word."""
    meant = Suggestions(known).closest(word)
    return f"; did you mean {quoted(meant)}?" if meant else ""


def mapping(node: Node, what: str) -> list[Entry]:
    """Read a mapping, in order, that holds something under each key. Raises Fault, also for a key that comes twice."""
    if not isinstance(node, MappingNode):
        raise fault(node, f"{what} must be a mapping, KEY: VALUE on each line; got {_kind(node)}")
    seen: dict[str, Node] = {}
    entries = []
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            raise fault(key, f"a key of {what} must be text; got {_kind(key)}")
        if key.value in seen:
            raise fault(key, f"{quoted(key.value)} stands here already, at {place_of(seen[key.value])}")
        seen[key.value] = key
        entries.append(Entry(key.value, key, value))
    return entries


def members(node: Node, what: str, known: Sequence[str]) -> dict[str, Node]:
    """Read a mapping that has these keys at most. Raises Fault."""
    entries = mapping(node, what)
    for each in entries:
        if each.name not in known:
            meant = did_you_mean(each.name, known) or f"; it may have: {', '.join(known)}"
            raise fault(each.key, f"{what} has no {quoted(each.name)}{meant}")
    return {each.name: each.value for each in entries}


def sequence(node: Node, what: str) -> list[Node]:
    """Read a list. Raises Fault."""
    if not isinstance(node, SequenceNode):
        raise fault(node, f"{what} must be a list; got {_kind(node)}")
    items: list[Node] = node.value
    return items


def text_of(node: Node, what: str) -> str:
    """Read a text as it is written, whatever a plain one may look like. Raises Fault."""
    if not isinstance(node, ScalarNode) or (_is_plain(node) and not node.value):
        raise fault(node, f"{what} must be a text; got {_kind(node)}")
    text: str = node.value
    return text


def word_of(node: Node, what: str, words: Sequence[str]) -> str:
    """Read one of some words. Raises Fault."""
    word = text_of(node, what)
    if word not in words:
        raise fault(node, f"{what} must be one of {', '.join(words)}; got {quoted(word)}{did_you_mean(word, words)}")
    return word


def flag_of(node: Node, what: str) -> bool:
    """Read true or false. Raises Fault."""
    value = json_of(node) if isinstance(node, ScalarNode) else None
    if not isinstance(value, bool):
        raise fault(node, f"{what} must be true or false; got {_kind(node)}")
    return value


def object_of(node: Node, what: str) -> dict[str, Any]:
    """Read a JSON object. Raises Fault."""
    return {each.name: json_of(each.value) for each in mapping(node, what)}


def json_of(node: Node) -> Any:
    """Read a JSON value. Raises Fault for what JSON has no word for."""
    if isinstance(node, MappingNode):
        return object_of(node, "an object")
    if isinstance(node, SequenceNode):
        return [json_of(each) for each in node.value]
    text: str = node.value
    if not _is_plain(node):
        return text
    for pattern, convert in _CORE:
        if pattern.fullmatch(text):
            return _number(node, text, convert)
    if _NO_NUMBER.fullmatch(text):
        raise fault(node, f"{text} is no JSON value: a number is finite; quote it if it is meant as text")
    return text


def _number(node: Node, text: str, convert: Callable[[str], JSON]) -> JSON:
    try:
        value = convert(text)
        if isinstance(value, int | float) and not isfinite(value):
            raise OverflowError
    except (OverflowError, ValueError):
        raise fault(node, f"the number {OUT_OF_RANGE}") from None
    return value


class _Loader(SafeLoader):
    """Composes nodes, refusing what makes a file larger than it looks, or deeper than anything in it may be."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name
        self._depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        refused = None
        if isinstance(event, AliasEvent) or event.anchor:
            refused = "anchors and aliases are not taken: write it out, or quote a text that begins with & or *"
        elif event.tag:
            refused = "tags are not taken: leave it out, or quote a text that begins with !"
        elif self._depth == MAX_DEPTH:
            refused = f"nested deeper than {MAX_DEPTH} levels"
        if refused:
            raise MarkedYAMLError(problem=refused, problem_mark=event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, ScalarNode) and _SURROGATE.search(node.value):
            node.value = _joined(node)
        return node


def _joined(node: Node) -> str:
    """Join the pairs by which JSON writes characters beyond U+FFFF."""
    try:
        joined: str = node.value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise MarkedYAMLError(problem=f"the text {HALF_A_PAIR}", problem_mark=node.start_mark) from None
    return joined


def _problem(error: MarkedYAMLError) -> str:
    if error.problem == "but found another document":
        return "a second document begins here; a file holds one, so give it a file of its own"
    if type(error) is MarkedYAMLError:
        return str(error.problem)
    context = f" ({error.context})" if error.context else ""
    return printable(f"not YAML: {error.problem}{context}")


def _place(mark: Any, path: Path | str) -> str:
    return f"{path}" if mark is None else f"{mark.name}:{mark.line + 1}:{mark.column + 1}"


def _is_plain(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.style is None


def _kind(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    return quoted(node.value) if node.value else "nothing"
