"""The type check of a condition against the schema of its events.

Each part of the condition gets the set of kinds that its values may have. An operation is a mismatch if it is defined
for no combination of the kinds of its operands. So the check reports only operations that would fail, or be false, on
every event; it never rejects a condition that could hold. The numbers of a payload are doubles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from automation.conditions.compiling import FUNCTIONS
from automation.conditions.errors import ConditionInvalid, ConditionProblem
from automation.conditions.nodes import (
    CONTACT,
    EVENT,
    Binary,
    Call,
    Conditional,
    Has,
    Index,
    ListOf,
    Literal,
    Logical,
    Macro,
    Path,
    Select,
    Unary,
    Variable,
)
from automation.conditions.value_types import (
    ANY,
    BOOLEAN,
    BOOLEAN_TYPE,
    DOUBLE,
    DURATION,
    DYNAMIC_TYPE,
    INTEGER,
    LIST,
    NULL,
    NUMBER,
    OBJECT,
    STRING,
    TIMESTAMP,
    Kind,
    Type,
    comparable,
    in_words,
    items_type,
    object_type,
    union_of,
)
from automation.conditions.values import ORDER, Failure, Int
from registry.paths import property_path, quoted_property
from registry.suggestions import Suggestions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from automation.conditions.nodes import Node
    from automation.conditions.parsing import Expression
    from registry.definitions.schema import Schema


_ARITHMETIC: Final[Mapping[str, tuple[tuple[Kind, Kind, Kind], ...]]] = {
    "+": (
        *((kind, kind, kind) for kind in (INTEGER, DOUBLE, STRING, LIST, DURATION)),
        (TIMESTAMP, DURATION, TIMESTAMP),
        (DURATION, TIMESTAMP, TIMESTAMP),
    ),
    "-": (
        *((kind, kind, kind) for kind in (INTEGER, DOUBLE, DURATION)),
        (TIMESTAMP, DURATION, TIMESTAMP),
        (TIMESTAMP, TIMESTAMP, DURATION),
    ),
    "*": ((INTEGER, INTEGER, INTEGER), (DOUBLE, DOUBLE, DOUBLE)),
    "/": ((INTEGER, INTEGER, INTEGER), (DOUBLE, DOUBLE, DOUBLE)),
    "%": ((INTEGER, INTEGER, INTEGER),),
}
_LITERALS: Final = {bool: BOOLEAN, Int: INTEGER, float: DOUBLE, str: STRING, type(None): NULL}
_FUNCTIONS: Final[Mapping[str, tuple[Kind, Kind]]] = {
    "size": (STRING | LIST | OBJECT, INTEGER),
    "timestamp": (STRING | INTEGER | TIMESTAMP, TIMESTAMP),
    "duration": (STRING | DURATION, DURATION),
}
"""The kinds of the argument and of the result of each function; string methods take strings and return a boolean."""


_EVENT: Final = {"occurred_at": Type(TIMESTAMP), "received_at": Type(TIMESTAMP), "revision": Type(INTEGER)}


def check(expression: Expression, schema: Schema | None) -> None:
    """Check a condition against the schema of its event, None for an event without a definition.

    Without a schema, every property may exist.

    Raise ConditionInvalid with every UNKNOWN_PROPERTY, TYPE_MISMATCH and INVALID_ARGUMENT.
    """
    checker = _Checker(expression.text, schema)
    checker.boolean(expression.root, {})
    if checker.errors:
        raise ConditionInvalid(sorted(checker.errors, key=lambda error: (error.line, error.column)))


class _Checker:
    """Determines the type of every node, and collects errors."""

    def __init__(self, text: str, schema: Schema | None) -> None:
        self._text = text
        self._root = Type(OBJECT) if schema is None else object_type(schema.properties, schema.unknown_properties)
        self.errors: list[ConditionProblem] = []

    def boolean(self, node: Node, scope: Mapping[str, Type]) -> None:
        """Check a part that must be true or false."""
        actual = self.type_of(node, scope)
        if not actual.kinds & BOOLEAN:
            self._mismatch(node, f"{self._named(node)} must be true or false, but it is {in_words(actual)}")

    def type_of(self, node: Node, scope: Mapping[str, Type]) -> Type:  # noqa: C901, PLR0911 - a line for each node
        """Return the type of a node; after an error, a type that causes no further errors."""
        match node:
            case Literal(value=value):
                return Type(_LITERALS[type(value)])
            case Variable(name=name):
                return scope[name]
            case Path():
                return self._path(node)
            case Binary():
                return self._binary(node, scope)
            case Macro():
                return self._macro(node, scope)
            case Call():
                return self._call(node, scope)
            case Logical(parts=parts):
                for part in parts:
                    self.boolean(part, scope)
                return BOOLEAN_TYPE
            case Unary(operator="!", operand=operand):
                self.boolean(operand, scope)
                return BOOLEAN_TYPE
            case Has(field=field):
                self.type_of(field, scope)
                return BOOLEAN_TYPE
            case _:
                return self._composed(node, scope)

    def _composed(self, node: Node, scope: Mapping[str, Type]) -> Type:
        match node:
            case Unary(operand=operand):
                return Type(self._among(operand, scope, NUMBER, "- needs a number"))
            case ListOf(items=items):
                types = [self.type_of(item, scope) for item in items]
                return Type(LIST, items=union_of(types))
            case Conditional(condition=condition, then=then, otherwise=otherwise):
                self.boolean(condition, scope)
                return union_of([self.type_of(then, scope), self.type_of(otherwise, scope)])
            case Select(operand=operand, name=name):
                return self._field(node, self.type_of(operand, scope), name, self._named(operand))
            case _:
                assert isinstance(node, Index)
                return self._index(node, scope)

    def _path(self, path: Path) -> Type:
        root, *names = path.names
        if root == EVENT:
            return _EVENT.get(names[0], Type(STRING))
        if root == CONTACT:
            return Type(STRING) if names[0] != "properties" else Type(OBJECT) if len(names) == 1 else DYNAMIC_TYPE
        path_type, here = self._root, root
        for name in names:
            path_type = self._field(path, path_type, name, here)
            here = property_path(here, name)
        return path_type

    def _field(self, node: Node, owner: Type, name: str, here: str) -> Type:
        if not owner.kinds & OBJECT:
            self._mismatch(node, f'{here} has no field "{name}": it is {in_words(owner)}')
        elif owner.properties is not None and name in owner.properties:
            return owner.properties[name]
        elif owner.closed and owner.properties is not None:
            closest = Suggestions(list(owner.properties)).closest(name)
            hint = f'; did you mean "{closest}"?' if closest else ""
            message = f"Property {quoted_property(property_path(here, name))} is not in the schema{hint}"
            self._error(node, "UNKNOWN_PROPERTY", message)
            return Type(ANY)
        return DYNAMIC_TYPE

    def _index(self, node: Index, scope: Mapping[str, Type]) -> Type:
        operand, key = self.type_of(node.operand, scope), self.type_of(node.key, scope)
        if isinstance(node.key, Literal) and isinstance(node.key.value, str):
            return self._field(node, operand, node.key.value, self._named(node.operand))
        if not ((operand.kinds & LIST and key.kinds & NUMBER) or (operand.kinds & OBJECT and key.kinds & STRING)):
            self._mismatch(node, f"{self._named(node.operand)} cannot be indexed by {in_words(key)}")
        return items_type(operand) if operand.kinds is LIST else Type(ANY)

    def _binary(self, node: Binary, scope: Mapping[str, Type]) -> Type:
        left, right = self.type_of(node.left, scope), self.type_of(node.right, scope)
        if node.operator in _ARITHMETIC:
            return self._arithmetic(node, left, right)
        if node.operator == "in":
            self._membership(node, left, right)
        elif left.date and right.date and node.operator in ORDER:
            self._mismatch(
                node, f"Dates are strings: write timestamp({self._named(node.left)}) to compare them as times"
            )
        elif not comparable(left, right, node.operator) or (node.operator in ORDER and (left.date or right.date)):
            self._mismatch(node, self._incomparable(node, left, right))
        return BOOLEAN_TYPE

    def _incomparable(self, node: Binary, left: Type, right: Type) -> str:
        date = node.left if left.date else node.right
        if left.date or right.date:
            return f"A date is stored as a string: write timestamp({self._named(date)}) and compare it with a timestamp"
        if NULL in {left.kinds, right.kinds} and node.operator not in ORDER:
            other = node.right if left.kinds is NULL else node.left
            return f"{self._named(other)} is never null; use has(...) to check whether it exists"
        never = "is never equal to" if node.operator in {"==", "!="} else f"cannot be compared by {node.operator} with"
        return f"{self._named(node.left)}, which is {in_words(left)}, {never} {in_words(right)}"

    def _membership(self, node: Binary, item: Type, container: Type) -> None:
        if container.kinds & LIST:
            items = container.items or Type(ANY)
            if not container.kinds & OBJECT and items.kinds and not comparable(item, items, "=="):
                self._mismatch(
                    node,
                    f"{self._named(node.left)} is {in_words(item)}, and the list holds {in_words(items)}",
                )
        elif not (container.kinds & OBJECT and item.kinds & STRING):
            message = f"in needs a list, or an object and a name; {self._named(node.right)} is {in_words(container)}"
            self._mismatch(node, message)

    def _arithmetic(self, node: Binary, left: Type, right: Type) -> Type:
        table = _ARITHMETIC[node.operator]
        results = [
            result for left_kind, right_kind, result in table if left.kinds & left_kind and right.kinds & right_kind
        ]
        if not results:
            message = f"{in_words(left)} {node.operator} {in_words(right)} is not defined".capitalize()
            if node.operator != "%" and INTEGER in {left.kinds, right.kinds} and (left.kinds | right.kinds) & DOUBLE:
                message += "; the numbers of a payload are doubles: write 1.0 for 1"
            self._mismatch(node, message)
            return Type(ANY)
        kinds = results[0]
        for result in results:
            kinds |= result
        return Type(kinds)

    def _macro(self, node: Macro, scope: Mapping[str, Type]) -> Type:
        operand = self.type_of(node.operand, scope)
        if not operand.kinds & (LIST | OBJECT):
            self._mismatch(node, f"{node.function} needs a list; {self._named(node.operand)} is {in_words(operand)}")
        item = Type(STRING) if operand.kinds is OBJECT else items_type(operand) if operand.kinds is LIST else Type(ANY)
        self.boolean(node.body, {**scope, node.variable: item})
        return BOOLEAN_TYPE

    def _call(self, node: Call, scope: Mapping[str, Type]) -> Type:
        name = node.function.removeprefix(".")
        if name not in _FUNCTIONS:
            for part in node.arguments:
                self._among(part, scope, STRING, f"{name} needs a string")
            return BOOLEAN_TYPE
        takes, makes = _FUNCTIONS[name]
        (part,) = node.arguments
        self._among(part, scope, takes, f"{name} needs {in_words(Type(takes))}")
        if isinstance(part, Literal) and name != "size" and _LITERALS[type(part.value)] & takes:
            made = FUNCTIONS[name](part.value)
            if isinstance(made, Failure):
                self._error(part, "INVALID_ARGUMENT", made.message)
        return Type(makes)

    def _among(self, node: Node, scope: Mapping[str, Type], allowed: Kind, rule: str) -> Kind:
        actual = self.type_of(node, scope)
        if not actual.kinds & allowed:
            self._mismatch(node, f"{rule}; {self._named(node)} is {in_words(actual)}")
            return allowed
        return actual.kinds & allowed

    def _named(self, node: Node) -> str:
        text = self._text[node.start : node.end]
        return text if len(text) <= 60 else text[:60] + "…"

    def _mismatch(self, node: Node, message: str) -> None:
        self._error(node, "TYPE_MISMATCH", message)

    def _error(self, node: Node, reason: str, message: str) -> None:
        self.errors.append(ConditionProblem.at(self._text, node.start, reason, message))
