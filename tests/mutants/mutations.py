"""Mutate a module's syntax tree: one small fault at a time, of the kinds that people make.

A mutation replaces one node in place. Annotations, decorators, asserts, log calls and the text of messages are left
alone: no behaviour that is promised depends on them. So are times and sizes that were chosen by measurement: numbers in
constants that are not named as a limit, and pauses of such a time.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AT_IMPORT = 0
"""The line of what runs when the module is imported, as far as reaching it goes."""

LOGS = ("log.", "logger.", "_log.")
SKIPPED_FIELDS = {"annotation", "returns", "decorator_list", "type_comment", "bases", "keywords_of_class"}

LIMITS = ("MAX", "MIN", "LIMIT")
"""Parts of the names of promised limits."""

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
CLAUSES = {"where", "limit", "offset", "order_by", "distinct", "with_for_update"}
"""Parts of a SQL statement that can be left out."""


@dataclass(frozen=True)
class Mutation:
    """One fault in one module; `apply` puts it into the tree that it was found in.

    `binds` are the names that the statement gives a value when the module is imported.
    """

    path: str
    line: int
    reached_by: int
    scope: str
    before: str
    after: str
    binds: tuple[str, ...]
    apply: Callable[[], None]

    @property
    def name(self) -> str:
        """Return a name that does not depend on the line."""
        return f"{self.path} {self.scope}: {self.before} -> {self.after}"

    @property
    def place(self) -> str:
        """Return the file, the line and the change."""
        return f"{self.path}:{self.line} in {self.scope}: {self.before} -> {self.after}"


@dataclass(frozen=True)
class _Place:
    path: str
    scope: str = "module"
    reached_by: int = AT_IMPORT
    returns_bool: bool = False
    initializes: bool = False
    binds: tuple[str, ...] = ()


def mutations(tree: ast.Module, path: str) -> list[Mutation]:
    """Return every mutation of a module, in the order of its text."""
    return list(_inside(tree, _Place(path)))


def _inside(node: ast.AST, place: _Place) -> Iterator[Mutation]:
    for field, value in ast.iter_fields(node):
        if field in SKIPPED_FIELDS:
            continue
        inner = _place_of_field(node, field, place)
        if isinstance(value, ast.AST):
            yield from _at(value, inner, node, partial(setattr, node, field))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, ast.AST):
                    yield from _at(item, inner, node, partial(value.__setitem__, index))


def _at(node: ast.AST, place: _Place, parent: ast.AST, put: Callable[[ast.AST], None]) -> Iterator[Mutation]:
    if _is_skipped(node):
        return
    place = _place_of_node(node, place)
    if isinstance(node, ast.expr | ast.stmt):
        changes = _of_expression(node) if isinstance(node, ast.expr) else _of_statement(node, place)
        for new, reached_by in changes:
            yield _mutation(node, new, reached_by or place.reached_by, place, parent, put)
    yield from _inside(node, place)


def _mutation(
    node: ast.expr | ast.stmt,
    new: ast.AST,
    reached_by: int,
    place: _Place,
    parent: ast.AST,
    put: Callable[[ast.AST], None],
) -> Mutation:
    def apply() -> None:
        ast.copy_location(new, node)
        put(ast.fix_missing_locations(new))

    before, after = _around(parent, node, new, put) if isinstance(node, ast.Constant) else _texts(node, new)
    return Mutation(place.path, node.lineno, reached_by, place.scope, before, after, place.binds, apply)


def _texts(node: ast.AST, new: ast.AST) -> tuple[str, str]:
    before, after = ast.unparse(node), ast.unparse(new)
    if isinstance(new, ast.Pass):
        after = "(dropped)"
    if isinstance(node, ast.Try):
        kept = {ast.unparse(handler) for handler in new.handlers} if isinstance(new, ast.Try) else set()
        lost = [ast.unparse(handler) for handler in node.handlers if ast.unparse(handler) not in kept]
        before, after = (lost[0] if lost else "finally"), "(dropped)"
    if isinstance(node, ast.If):
        before, after = f"if {ast.unparse(node.test)}", "if False"
    return _short(before), _short(after)


def _around(
    parent: ast.AST, node: ast.expr | ast.stmt, new: ast.AST, put: Callable[[ast.AST], None]
) -> tuple[str, str]:
    """Show a constant with what it stands in, which a number alone would not tell."""
    if not isinstance(parent, ast.expr | ast.keyword | ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return):
        return _texts(node, new)
    before = ast.unparse(parent)
    put(new)
    after = ast.unparse(parent)
    put(node)
    return _short(before), _short(after)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 110 else f"{line[:107]}..."


def _is_skipped(node: ast.AST) -> bool:
    match node:
        case ast.Assert() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case (
            ast.Assign(targets=[ast.Name() | ast.Tuple() as target], value=ast.expr() as value)
            | ast.AnnAssign(target=ast.Name() as target, value=ast.expr() as value)
        ) if ast.unparse(target).isupper() and all(map(_is_number, _parts(value))):
            return not any(word in ast.unparse(target) for word in LIMITS)
        case ast.Expr(ast.Await(ast.Call(ast.Attribute(ast.Name("asyncio"), "sleep"), [ast.Name(name)]))):
            return name.isupper()
        case ast.Expr(value=value):
            return ast.unparse(value).removeprefix("await ").startswith(LOGS)
    return False


def _parts(value: ast.expr) -> list[ast.expr]:
    """Return the values of several names, or of one that is a tuple."""
    return value.elts if isinstance(value, ast.Tuple) else [value]


def _is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_number(node.left) and _is_number(node.right)
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def _place_of_node(node: ast.AST, place: _Place) -> _Place:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            scope = node.name if place.scope == "module" else f"{place.scope}.{node.name}"
            is_bool = isinstance(node.returns, ast.Name) and node.returns.id == "bool"
            first = _first_line(node.body)
            return _Place(place.path, scope, first, is_bool, node.name in {"__init__", "__new__"})
        case ast.ClassDef():
            scope = node.name if place.scope == "module" else f"{place.scope}.{node.name}"
            return _Place(place.path, scope, place.reached_by, binds=(node.name,))
        case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)) if (
            place.reached_by == AT_IMPORT
        ):
            return _Place(place.path, place.scope, binds=(*place.binds, name))
        case ast.stmt() if place.reached_by != AT_IMPORT:
            return _Place(place.path, place.scope, node.lineno, place.returns_bool, place.initializes)
    return place


def _place_of_field(node: ast.AST, field: str, place: _Place) -> _Place:
    """Return the place for one field: an exception handler's type is reached when its body runs."""
    if isinstance(node, ast.ExceptHandler) and field == "type" and place.reached_by != AT_IMPORT:
        return _Place(place.path, place.scope, _first_line(node.body), place.returns_bool)
    return place


def _first_line(body: list[ast.stmt]) -> int:
    first = body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return (body[1] if is_docstring and len(body) > 1 else first).lineno


def _of_expression(node: ast.expr) -> Iterator[tuple[ast.expr, int]]:
    for new in _expressions(node):
        yield new, 0


def _expressions(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare(left, ops, comparators):
            for index, operator in enumerate(ops):
                swapped = [*ops[:index], COMPARISONS[type(operator)](), *ops[index + 1 :]]
                yield ast.Compare(left, swapped, comparators)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not(), operand):
            yield operand
        case ast.IfExp(_, body, orelse):
            yield body
            yield orelse
        case ast.BinOp(left, op, right) if type(op) in ARITHMETIC and not (_is_text(left) or _is_text(right)):
            yield ast.BinOp(left, ARITHMETIC[type(op)](), right)
        case ast.Constant(value):
            yield from _constants(value)
        case ast.Call():
            yield from _calls(node)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def _constants(value: Any) -> Iterator[ast.expr]:
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
        if value > 0:
            yield ast.Constant(value - 1)


def _calls(node: ast.Call) -> Iterator[ast.expr]:
    match node.func:
        case ast.Name(name) if name in CALLS:
            yield ast.Call(ast.Name(CALLS[name], ast.Load()), node.args, node.keywords)
        case ast.Attribute(value=statement, attr=clause) if clause in CLAUSES:
            if clause == "where" and len(node.args) > 1:
                yield from _without_each(node)
            else:
                yield statement
        case ast.Name("and_"):
            yield from _without_each(node)


def _without_each(node: ast.Call) -> Iterator[ast.expr]:
    for index in range(len(node.args)):
        yield ast.Call(node.func, [*node.args[:index], *node.args[index + 1 :]], node.keywords)


def _of_statement(node: ast.stmt, place: _Place) -> Iterator[tuple[ast.stmt, int]]:
    match node:
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign() | ast.Delete() | ast.Raise():
            yield ast.Pass(), 0
        case ast.Break() | ast.Continue() | ast.Return(value=None):
            yield ast.Pass(), 0
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) if not place.initializes:
            yield ast.Pass(), 0
        case ast.Return(value=value) if place.returns_bool:
            for outcome in (True, False):
                if not (isinstance(value, ast.Constant) and value.value is outcome):
                    yield ast.Return(ast.Constant(outcome)), 0
        case ast.Return(value=value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield ast.Return(ast.Constant(None)), 0
        case ast.If():
            reached_by = _first_line(node.body) if place.reached_by != AT_IMPORT else AT_IMPORT
            yield ast.If(ast.Constant(value=False), node.body, node.orelse), reached_by
        case ast.Try():
            yield from _of_try(node)


def _of_try(node: ast.Try) -> Iterator[tuple[ast.stmt, int]]:
    for index, handler in enumerate(node.handlers):
        handlers = [*node.handlers[:index], *node.handlers[index + 1 :]]
        reached_by = _first_line(handler.body)
        if handlers or node.finalbody:
            yield ast.Try(node.body, handlers, [] if not handlers else node.orelse, node.finalbody), reached_by
        else:
            yield ast.If(ast.Constant(value=True), [*node.body, *node.orelse], []), reached_by
    if node.finalbody:
        reached_by = _first_line(node.finalbody)
        if node.handlers:
            yield ast.Try(node.body, node.handlers, node.orelse, []), reached_by
        else:
            yield ast.If(ast.Constant(value=True), node.body, []), reached_by


def uses(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Return the names that the functions of a module use, each with the line of its statement."""
    for node in tree.body:
        yield from _uses(node, AT_IMPORT)


def _uses(node: ast.AST, line: int) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        line = _first_line(node.body)
    elif isinstance(node, ast.stmt) and line != AT_IMPORT:
        line = node.lineno
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)) if line != AT_IMPORT:
            yield name, line
    for child in ast.iter_child_nodes(node):
        yield from _uses(child, line)


class Instrumented(ast.NodeTransformer):
    """Note before every statement of every function that its line is reached, by its number in an array."""

    def __init__(self, array: str, number: Callable[[int], int]) -> None:
        self._array = array
        self._number = number
        self._depth = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        self._depth += 1
        node.body = self._recorded(node.body)
        self._depth -= 1
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if self._depth == 0:
            return super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            value = getattr(node, field, None)
            if isinstance(value, list) and value:
                setattr(node, field, self._recorded(value))
        for child in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
            self.generic_visit(child)
        return node

    def _recorded(self, body: list[ast.stmt]) -> list[ast.stmt]:
        recorded: list[ast.stmt] = []
        for statement in body:
            line = ast.Constant(self._number(statement.lineno))
            target = ast.Subscript(ast.Name(self._array, ast.Load()), line, ast.Store())
            note = ast.Assign([target], ast.Constant(1))
            recorded += [ast.fix_missing_locations(ast.copy_location(note, statement)), self.visit(statement)]
        return recorded
