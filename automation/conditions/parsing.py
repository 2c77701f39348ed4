"""The parser of conditions, from text to a syntax tree within the limits."""

from __future__ import annotations

import math
import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec
from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedToken, v_args

from automation.conditions.errors import ConditionInvalid, ConditionProblem
from automation.conditions.literals import read_double, read_int, read_string
from automation.conditions.nodes import (
    ROOTS,
    Binary,
    Call,
    Conditional,
    Has,
    Index,
    ListOf,
    Literal,
    Logical,
    Macro,
    Node,
    Path,
    Select,
    Unary,
    Variable,
)
from automation.conditions.resolving import MACROS, name_errors
from automation.conditions.values import Int

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LENGTH: Final = 8192
MAX_DEPTH: Final = 32
MAX_ELEMENTS: Final = 1000

_CACHED = 1024

# CEL's precedence, loosest first. Comparisons associate to the left, as in CEL: `1 < 2 == true` is valid.
_GRAMMAR = r"""
?start: conditional
?conditional: either | either "?" either ":" conditional
?either: both ("||" both)*
?both: relation ("&&" relation)*
?relation: sum | relation (RELATION | IN) sum -> binary
?sum: product | sum (PLUS | MINUS) product -> binary
?product: unary | product PRODUCT unary -> binary
?unary: member | (NOT | MINUS) unary
?member: primary
    | member "." NAME -> select
    | member "." NAME "(" arguments CLOSED -> method
    | member "[" conditional SHUT -> index
?primary: NAME -> name
    | NAME "(" arguments CLOSED -> function
    | OPEN conditional CLOSED -> parenthesised
    | OPENED elements SHUT -> list
    | INT -> int
    | DOUBLE -> double
    | STRING -> string
    | TRUE -> true
    | FALSE -> false
    | NULL -> null
arguments: [conditional ("," conditional)*]
elements: [conditional ("," conditional)* [","]]

RELATION: "==" | "!=" | "<=" | ">=" | "<" | ">"
IN: "in"
PLUS: "+"
MINUS: "-"
NOT: "!"
PRODUCT: "*" | "/" | "%"
OPEN: "("
CLOSED: ")"
OPENED: "["
SHUT: "]"
TRUE: "true"
FALSE: "false"
NULL: "null"
NAME: /[A-Za-z_][A-Za-z0-9_]*/
DOUBLE: /[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+/
INT: /0[xX][0-9A-Fa-f]+|[0-9]+/
STRING: /[rR](?:\"\"\"(?:.|\n)*?\"\"\"|'''(?:.|\n)*?'''|"[^"\r\n]*"|'[^'\r\n]*')/
    | /\"\"\"(?:[^\\]|\\(?:.|\n))*?\"\"\"|'''(?:[^\\]|\\(?:.|\n))*?'''|"(?:[^"\\\r\n]|\\.)*"|'(?:[^'\\\r\n]|\\.)*'/
%ignore /[ \t\r\n\f]+/
%ignore /\/\/[^\n]*/
"""

_HINTS: Final = {
    "=": "equality is written ==",
    "&": "and is written &&",
    "|": "or is written ||",
    "and": "and is written &&",
    "or": "or is written ||",
    "not": "not is written !",
    "<>": "inequality is written !=",
    "{": "map literals are not supported",
}
"""Hints for tokens that CEL does not have. The tokens are in lower case."""

_LAST_TOKEN: Final = re.compile(r"(?:\w+|\S)(?=\s*\Z)")
_LONGEST_HINTED: Final = 8


class Expression(msgspec.Struct, frozen=True):
    """A parsed condition: its text and its syntax tree."""

    text: str
    root: Node


@lru_cache(maxsize=_CACHED)
def parse(text: str) -> Expression:
    """Return the parsed condition; blank text is the condition that always holds.

    Raise ConditionInvalid: TOO_LONG, SYNTAX_ERROR, TOO_DEEP, TOO_MANY_ELEMENTS, UNKNOWN_NAME, UNKNOWN_FUNCTION,
    WRONG_ARGUMENTS or INVALID_REGEX. Types are checked by `checking.check`.
    """
    if len(text) > MAX_LENGTH:
        message = f"A condition may have at most {MAX_LENGTH:,} characters; this one has {len(text):,}"
        raise ConditionInvalid([ConditionProblem(1, 1, "TOO_LONG", message)])
    if not text.strip():
        return Expression(text, Literal(start=0, end=0, value=True))
    root = _tree(text)
    if errors := list(name_errors(root)):
        raise ConditionInvalid([ConditionProblem.at(text, *error) for error in errors])
    return Expression(text, root)


class _Refused(Exception):
    """A rule that the grammar cannot express is broken, at an offset."""

    def __init__(self, offset: int, reason: str, message: str) -> None:
        super().__init__(offset, reason, message)
        self.error = (offset, reason, message)


def _tree(text: str) -> Node:
    try:
        return _limited(_parser()(text))
    except _Refused as refused:
        raise ConditionInvalid([ConditionProblem.at(text, *refused.error)]) from None
    except UnexpectedCharacters as unexpected:
        offset = unexpected.pos_in_stream or 0
        character = text[offset]
        if character in "\"'":
            message = "The string does not end, or has an undefined escape"
        else:
            message = _unexpected(text, offset, character)
    except UnexpectedToken as unexpected:
        ended = unexpected.token.type == "$END"
        offset = len(text.rstrip()) if ended else _span(unexpected.token)[0]
        message = "The condition is incomplete" if ended else _unexpected(text, offset, str(unexpected.token))
    raise ConditionInvalid([ConditionProblem.at(text, offset, "SYNTAX_ERROR", message)])


def _unexpected(text: str, offset: int, token: str) -> str:
    shown = token if len(token) <= 40 else token[:40] + "…"
    found = _LAST_TOKEN.search(text, max(0, offset - _LONGEST_HINTED), offset)
    before = found[0] if found else ""
    hint = next((_HINTS[each] for each in (token.lower(), before + token, before.lower()) if each in _HINTS), None)
    return f"{shown} is not expected here" + (f"; {hint}" if hint else "")


@cache
def _parser() -> Callable[[str], Any]:
    parser = Lark(_GRAMMAR, parser="lalr", lexer="basic", transformer=_Builder(), maybe_placeholders=False)
    return parser.parse


def _height(*parts: Node) -> int:
    return 1 + max((part.height for part in parts), default=0)


def _limited(node: Node) -> Node:
    """Return a node within MAX_DEPTH. Raise for a deeper one, before a recursion walks it."""
    if node.height > MAX_DEPTH:
        raise _Refused(
            node.start, "TOO_DEEP", f"A condition may be at most {MAX_DEPTH} levels deep; this part is deeper"
        )
    if isinstance(node, Path) and len(node.names) > MAX_DEPTH:
        raise _Refused(node.start, "TOO_DEEP", f"A path may have at most {MAX_DEPTH} names")
    return node


@v_args(inline=True)
class _Builder(Transformer[Token, Any]):
    """Builds the nodes from the leaves up, while the text is parsed."""

    def name(self, token: Token) -> Node:
        start, end = _span(token)
        return Path(start=start, end=end, names=(str(token),)) if token in ROOTS else _variable(token)

    def int(self, token: Token) -> Node:
        return _literal(token, read_int)

    def double(self, token: Token) -> Node:
        return _literal(token, read_double)

    def string(self, token: Token) -> Node:
        return _literal(token, read_string)

    def true(self, token: Token) -> Node:
        return _literal(token, lambda _: True)

    def false(self, token: Token) -> Node:
        return _literal(token, lambda _: False)

    def null(self, token: Token) -> Node:
        return _literal(token, lambda _: None)

    def arguments(self, *parts: Node) -> tuple[Node, ...]:
        return parts

    elements = arguments

    def list(self, opened: Token, items: tuple[Node, ...], shut: Token) -> Node:
        start = _span(opened)[0]
        if len(items) > MAX_ELEMENTS:
            message = f"A list may have at most {MAX_ELEMENTS:,} elements; this one has {len(items):,}"
            raise _Refused(start, "TOO_MANY_ELEMENTS", message)
        return _limited(ListOf(start=start, end=_span(shut)[1], height=_height(*items), items=items))

    def parenthesised(self, opened: Token, inside: Node, closed: Token) -> Node:
        span = {"start": _span(opened)[0], "end": _span(closed)[1]}
        return _limited(msgspec.structs.replace(inside, **span, height=inside.height + 1))

    def select(self, operand: Node, name: Token) -> Node:
        end = _span(name)[1]
        if isinstance(operand, Path):
            return _limited(Path(start=operand.start, end=end, names=(*operand.names, str(name))))
        return _limited(Select(start=operand.start, end=end, height=_height(operand), operand=operand, name=str(name)))

    def index(self, operand: Node, key: Node, shut: Token) -> Node:
        end = _span(shut)[1]
        if isinstance(operand, Path) and isinstance(key, Literal) and isinstance(key.value, str):
            return _limited(Path(start=operand.start, end=end, names=(*operand.names, key.value), indexed=True))
        return _limited(Index(start=operand.start, end=end, height=_height(operand, key), operand=operand, key=key))

    def method(self, receiver: Node, name: Token, arguments: tuple[Node, ...], closed: Token) -> Node:
        if f".{name}" in MACROS:
            return _macro(receiver, name, arguments, closed)
        start, end, parts = receiver.start, _span(closed)[1], (receiver, *arguments)
        return _limited(Call(start=start, end=end, height=_height(*parts), function=f".{name}", arguments=parts))

    def function(self, name: Token, arguments: tuple[Node, ...], closed: Token) -> Node:
        start, end = _span(name)[0], _span(closed)[1]
        if name in MACROS:
            return _limited(_has(start, end, arguments))
        return _limited(Call(start=start, end=end, height=_height(*arguments), function=str(name), arguments=arguments))

    def unary(self, operator: Token, operand: Node) -> Node:
        start = _span(operator)[0]
        if operator == "-" and isinstance(operand, Literal) and _is_digits(operand):
            return msgspec.structs.replace(operand, start=start, value=type(operand.value)(-operand.value))
        height = _height(operand)
        return _limited(Unary(start=start, end=operand.end, height=height, operator=str(operator), operand=operand))

    def binary(self, left: Node, operator: Token, right: Node) -> Node:
        height = _height(left, right)
        return _limited(
            Binary(start=left.start, end=right.end, height=height, operator=str(operator), left=left, right=right)
        )

    def both(self, *parts: Node) -> Node:
        return _limited(_logical("&&", parts))

    def either(self, *parts: Node) -> Node:
        return _limited(_logical("||", parts))

    def conditional(self, condition: Node, then: Node, otherwise: Node) -> Node:
        height, end = _height(condition, then, otherwise), otherwise.end
        return _limited(
            Conditional(
                start=condition.start, end=end, height=height, condition=condition, then=then, otherwise=otherwise
            )
        )


def _is_digits(node: Literal) -> bool:
    """Return whether a literal is a number without sign and parentheses: a minus sign before it is part of it."""
    return node.height == 1 and type(node.value) in {Int, float} and math.copysign(1, node.value) > 0


def _span(token: Token) -> tuple[int, int]:
    assert token.start_pos is not None
    assert token.end_pos is not None
    return token.start_pos, token.end_pos


def _variable(token: Token) -> Variable:
    start, end = _span(token)
    return Variable(start=start, end=end, name=str(token))


def _literal(token: Token, read: Callable[[str], object]) -> Literal:
    start, end = _span(token)
    try:
        return Literal(start=start, end=end, value=read(str(token)))
    except ValueError as error:
        raise _Refused(start, "SYNTAX_ERROR", str(error)) from None


def _logical(operator: str, parts: tuple[Node, ...]) -> Logical:
    height = _height(*parts)
    return Logical(start=parts[0].start, end=parts[-1].end, height=height, operator=operator, parts=parts)


def _has(start: int, end: int, arguments: tuple[Node, ...]) -> Has:
    match arguments:
        case (Path(names=[_, _, *_], indexed=False) | Select() as field,):
            return Has(start=start, end=end, height=_height(field), field=field)
        case _:
            message = (
                'has() takes one field, such as has(properties.a); for other names, write "odd name" in properties'
            )
            raise _Refused(start, "WRONG_ARGUMENTS", message)


def _macro(operand: Node, name: Token, arguments: tuple[Node, ...], closed: Token) -> Macro:
    match arguments:
        case (Variable(name=variable), body):
            start, end, height = operand.start, _span(closed)[1], _height(operand, body)
            made = Macro(
                start=start, end=end, height=height, function=str(name), operand=operand, variable=variable, body=body
            )
            _limited(made)
            return made
        case _:
            message = f"{name} takes a variable and a condition: list.{name}(item, item > 1.0)"
            raise _Refused(_span(name)[0], "WRONG_ARGUMENTS", message)
