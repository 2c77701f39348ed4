"""YAML files, read with the file, line and column of every error.

Names and enum values are read as text (`no` is the text "no"), other values by the core schema of YAML 1.2, so that a
date stays text. Anchors, aliases and tags are rejected, so that a file cannot expand beyond its size.
"""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from yaml import MappingNode, MarkedYAMLError, Node, SafeLoader, ScalarNode, SequenceNode
from yaml.events import AliasEvent
from yaml.reader import ReaderError

from registry.suggestions import Suggestions
from registry.values.json_values import HALF_A_PAIR, OUT_OF_RANGE
from registry.values.plain_json import describe
from server.cli.arguments.value_parsers import STDIN
from server.cli.errors import Failure
from server.cli.output.tables import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from registry.values.plain_json import JSON

Item = TypeVar("Item")
Value = TypeVar("Value")

MAX_DEPTH: Final = 64
"""More levels than any definition or payload may have."""

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
"""The plain scalars of the core schema of YAML 1.2; any other scalar is text."""


class FileError(Exception):
    """Errors of a file: one line each, with its place."""

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = lines


class FileErrors:
    """Collects errors, so that one run reports all of them."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Collect a FileError that is raised inside the context."""
        try:
            yield
        except FileError as error:
            self._lines += error.lines

    def raise_all(self) -> None:
        """Raise one FileError with the errors that were collected, if there are any."""
        if self._lines:
            raise FileError(*self._lines)

    def stop(self) -> None:
        """Raise Failure if an error was collected."""
        if self._lines:
            raise failure_of(FileError(*self._lines))


def read_all(read: Callable[[Item], Value], items: Iterable[Item]) -> list[Value]:
    """Return what `read` returns for each item. Raise one FileError with the errors of all."""
    values: list[Value] = []
    errors = FileErrors()
    for item in items:
        with errors.gathered():
            values.append(read(item))
    errors.raise_all()
    return values


class Entry(NamedTuple):
    """One entry of a mapping: its key as text, the key itself, its value."""

    name: str
    key: Node
    value: Node


def failure_of(error: FileError) -> Failure:
    """Return the failure of a command for one error or several."""
    if len(error.lines) == 1:
        return Failure(error.lines[0])
    return Failure(f"{len(error.lines)} errors were found", error.lines)


def files_in(paths: Iterable[Path]) -> list[Path]:
    """Return the files: those given, and all .yaml and .yml files in the given folders, at any depth, sorted.

    No file is returned twice. Raise FileError for a folder without any.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        files = [path]
        if path is not STDIN and path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix in _ENDINGS and not file.is_dir())
            if not files:
                raise FileError(f"{path}: no .yaml or .yml file is in this folder")
        for file in files:
            found.setdefault(file if file is STDIN else file.resolve(), file)
    return list(found.values())


def load(path: Path) -> Node:
    """Return the root node of the single document of a file. Raise FileError."""
    try:
        content = sys.stdin.buffer.read() if path is STDIN else path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    try:
        root = _Loader(text, str(path)).get_single_node()
    except MarkedYAMLError as error:
        raise FileError(f"{_place(error.problem_mark, path)}: {_problem(error)}") from None
    except ReaderError as error:
        line, column = text.count("\n", 0, error.position) + 1, error.position - text.rfind("\n", 0, error.position)
        raise FileError(f"{path}:{line}:{column}: not YAML: U+{ord(text[error.position]):04X} is not allowed") from None
    if root is None:
        raise FileError(f"{path}: the file is empty")
    return root


def place_of(node: Node) -> str:
    """Return where a node begins, as FILE:LINE:COLUMN."""
    return _place(node.start_mark, "")


def error_at(node: Node, message: str) -> FileError:
    """Return an error with the place of a node."""
    return FileError(f"{place_of(node)}: {message}")


def quoted(text: str) -> str:
    """Return a text for a message: quoted, shortened if it is long, without control characters."""
    return printable(describe(text).removeprefix("the string "))


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return the suggestion that completes a message about an unknown word; empty if there is none."""
    meant = Suggestions(known).closest(word)
    return f"; did you mean {quoted(meant)}?" if meant else ""


def mapping(node: Node, what: str) -> list[Entry]:
    """Read the entries of a mapping, in order. Raise FileError, also for a repeated key."""
    if not isinstance(node, MappingNode):
        raise error_at(node, f"{what} must be a mapping, KEY: VALUE on each line; got {_kind(node)}")
    seen: dict[str, Node] = {}
    entries = []
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            raise error_at(key, f"a key of {what} must be text; got {_kind(key)}")
        if key.value in seen:
            raise error_at(key, f"{quoted(key.value)} is repeated; it is first given at {place_of(seen[key.value])}")
        seen[key.value] = key
        entries.append(Entry(key.value, key, value))
    return entries


def members(node: Node, what: str, known: Sequence[str]) -> dict[str, Node]:
    """Read a mapping whose keys are all in `known`. Raise FileError."""

    def member(entry: Entry) -> tuple[str, Node]:
        if entry.name not in known:
            meant = did_you_mean(entry.name, known) or f"; it may have: {', '.join(known)}"
            raise error_at(entry.key, f"{what} has no {quoted(entry.name)}{meant}")
        return entry.name, entry.value

    return dict(read_all(member, mapping(node, what)))


def sequence(node: Node, what: str) -> list[Node]:
    """Read a list. Raise FileError."""
    if not isinstance(node, SequenceNode):
        raise error_at(node, f"{what} must be a list; got {_kind(node)}")
    items: list[Node] = node.value
    return items


def text_of(node: Node, what: str) -> str:
    """Read a scalar as text, even if it looks like another type. Raise FileError."""
    if not isinstance(node, ScalarNode) or (_is_plain(node) and not node.value):
        raise error_at(node, f"{what} must be a text; got {_kind(node)}")
    text: str = node.value
    return text


def word_of(node: Node, what: str, words: Sequence[str]) -> str:
    """Read one of the given words. Raise FileError."""
    word = text_of(node, what)
    if word not in words:
        raise error_at(node, f"{what} must be one of {', '.join(words)}; got {quoted(word)}{did_you_mean(word, words)}")
    return word


def flag_of(node: Node, what: str) -> bool:
    """Read true or false. Raise FileError."""
    value = json_of(node) if isinstance(node, ScalarNode) else None
    if not isinstance(value, bool):
        raise error_at(node, f"{what} must be true or false; got {_kind(node)}")
    return value


def object_of(node: Node, what: str) -> dict[str, Any]:
    """Read a JSON object. Raise FileError."""
    return {entry.name: json_of(entry.value) for entry in mapping(node, what)}


def json_of(node: Node) -> Any:
    """Read a JSON value. Raise FileError for a value that JSON cannot express."""
    if isinstance(node, MappingNode):
        return object_of(node, "an object")
    if isinstance(node, SequenceNode):
        return [json_of(item) for item in node.value]
    text: str = node.value
    if not _is_plain(node):
        return text
    for pattern, convert in _CORE:
        if pattern.fullmatch(text):
            return _number(node, text, convert)
    if _NO_NUMBER.fullmatch(text):
        raise error_at(node, f"{text} is not a JSON value: numbers are finite; quote it if it is text")
    return text


def _number(node: Node, text: str, convert: Callable[[str], JSON]) -> JSON:
    try:
        value = convert(text)
        if isinstance(value, int | float) and not isfinite(value):
            raise OverflowError
    except (OverflowError, ValueError):
        raise error_at(node, f"the number {OUT_OF_RANGE}") from None
    return value


class _Loader(SafeLoader):
    """Composes nodes; rejects anchors, aliases, tags and more than MAX_DEPTH levels."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name
        self._depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        refused = None
        if isinstance(event, AliasEvent) or event.anchor:
            refused = (
                "anchors and aliases are not supported: write the value out, or quote a text that begins with & or *"
            )
        elif event.tag:
            refused = "tags are not supported: leave it out, or quote a text that begins with !"
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
    """Join surrogate pairs, by which JSON writes characters beyond U+FFFF."""
    try:
        joined: str = node.value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise MarkedYAMLError(problem=f"the text {HALF_A_PAIR}", problem_mark=node.start_mark) from None
    return joined


def _problem(error: MarkedYAMLError) -> str:
    if error.problem == "but found another document":
        return "a second document begins here: put it into a file of its own"
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
