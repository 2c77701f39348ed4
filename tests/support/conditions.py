"""Generated conditions, and the data to evaluate them on."""

from __future__ import annotations

import json
import re
from random import Random

from hypothesis import strategies as st

from tests.support import boundaries

# Expressions, by the type that they are likely to have. Composite ones stand in parentheses.

NAMES = ["n", "i", "s", "t", "b", "z", "list", "numbers", "o", "items", "at", "missing"]
FIELDS = ["x", "sku", "s"]
TEXTS = ["", "a", "ab", "abc", "é", "日本", "🙂x", "A", "2026-06-01T12:00:00Z", '"', "\\", "x\ny"]
MOMENTS = ["2026-06-01T12:00:00Z", "2026-06-01T14:00:00.123456+02:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]
SPANS = ["1h", "-1h30m", "1.5s", "10ms", "0", "2000000h", ".5m1.s", "3us", "bad", ""]
LEAVES = {
    "bool": ["properties.b", "true", "false", "has(properties.n)", "has(properties.missing)", "has(contact.id)"],
    "int": [
        "0",
        "1",
        "2",
        "(-1)",
        "7",
        "0x10",
        str(2**53),
        "9223372036854775807",
        "(-9223372036854775808)",
        "event.revision",
    ],
    "number": ["properties.n", "properties.i", "0.0", "1.0", "2.0", "(-1.5)", ".5", "1e3", "1e308", "(-0.0)"],
    "string": [
        *["properties.s", "properties.t", "event.name", "contact.email", 'properties["odd name"]'],
        *(json.dumps(text, ensure_ascii=False) for text in TEXTS),
        *(f"'''{text}'''" for text in TEXTS[:8]),
        *['r"\\d"', "'\\x41\\101\\u00e9\\U0001F642'", '"\\a\\b\\f\\v\\?\\`"'],
    ],
    "list": ["properties.list", "properties.numbers", "properties.items", "[]", "[1, 2.0, 'a', true, null]"],
    "time": [
        *["event.occurred_at", "event.received_at", "timestamp(properties.at)"],
        *(f'timestamp("{text}")' for text in MOMENTS),
    ],
    "span": ["(event.received_at - event.occurred_at)", *(f'duration("{text}")' for text in SPANS)],
    "map": ["properties.o", "properties", "contact.properties", "properties.items[0]"],
    "any": ["null", "contact.id", "contact.properties.tier", *(f"properties.{name}" for name in NAMES)],
}
LEAVES["guard"] = [
    *(f"properties.{name} {symbol} {value}" for name in "nis" for symbol in ("==", "<", ">=") for value in (1, 2, 2.5)),
    *(f"{value} {symbol} properties.n" for symbol in ("==", "<=", ">") for value in (0, "'a'", "true")),
    *("properties.b", "!properties.b", "properties.b == true", "properties.n == true", "properties.z == null"),
    *("properties.s in ['a', 'ab']", "properties.n in [1, true, 2.0]", "properties.i in []", "properties.t == 'a'"),
    *("properties.o.x == 1", "properties.o.x < 3", "contact.properties.tier == 'a'", "event.revision == 3", "false"),
    *("contact.email == 'ada@example.com'", "event.revision > 5", 'properties["odd name"] == "a"', "true"),
]
ORDER, EQUALITY = ("<", "<=", ">", ">="), ("==", "!=")
PATTERNS = ["a", "^a", "b$", "[a-c]+", "(?i)A", ".", "", "^.$", "a|é", "(a*)*b"]

# `$kind` is an expression of that kind, @ a new variable, &kind an expression that may use it.
FORMS = {
    "bool": [
        *["($bool && $bool)", "($bool || $bool)"] * 3,
        *["($bool || $bool && $bool)", "(!($bool))", "($bool ? $bool : $bool)", "($any in $list)", "($string in $map)"],
        *(f"($int {symbol} $number)" for symbol in ORDER + EQUALITY),
        *(f"($number {symbol} $number)" for symbol in ORDER + EQUALITY),
        *(f"(${kind} {symbol} ${kind})" for kind in ("string", "time", "span", "bool") for symbol in ORDER + EQUALITY),
        *(f"($any {symbol} $any)" for symbol in EQUALITY),
        *(f"($list {symbol} $list)" for symbol in EQUALITY),
        *(f"$string.{method}($string)" for method in ("startsWith", "endsWith", "contains")),
        *(f'$string.matches("{pattern}")' for pattern in PATTERNS),
        *[f"${kind}.{macro}(@, &bool)" for kind in ("list", "list", "map") for macro in ("exists", "all")] * 2,
        *(f"has($map.{field})" for field in FIELDS),
        *(f"has(properties.{name})" for name in NAMES),
    ],
    "int": [
        "size($string)",
        "size($list)",
        "$map.size()",
        "(-($int))",
        *(f"($int {symbol} $int)" for symbol in "+-*/%"),
    ],
    "number": [
        "(-($number))",
        "$list[$int]",
        "($bool ? $number : $int)",
        *(f"($number {symbol} $number)" for symbol in "+-*/"),
    ],
    "string": ["($string + $string)", "$list[$int]", "$map[$string]", *(f"$map.{field}" for field in FIELDS)],
    "list": ["[$any, $any]", "[$number, $int, $string]", "($list + $list)"],
    "time": ["($time + $span)", "($time - $span)", "($span + $time)", "timestamp($string)", "timestamp($int)"],
    "span": ["($span + $span)", "($span - $span)", "($time - $time)", "duration($string)"],
    "map": [],
    "guard": ["($guard && $guard)", "($guard || $guard)", "($guard && $bool)", "($bool && $guard && $guard)"],
    "any": ["$bool", "$int", "$number", "$string", "$list", "$time", "$span", "$map"],
}
HOLE = re.compile(r"[$&]([a-z]+)|@")


def written(random: Random, kind: str, depth: int, variables: tuple[str, ...] = ()) -> str:
    """Write an expression that is likely of a kind; one in twelve is of any kind."""
    if random.randrange(12) == 0:
        kind = random.choice([each for each in FORMS if each != "guard"])
    if variables and random.randrange(3) == 0:
        return random.choice(variables)
    if depth == 0 or not FORMS[kind]:
        return random.choice(LEAVES[kind])
    variable = f"x{len(variables)}"

    def fill(hole: re.Match[str]) -> str:
        if hole.group() == "@":
            return variable
        inside = (*variables, variable) if hole.group().startswith("&") else variables
        return written(random, hole.group(1), random.randrange(depth), inside)

    return HOLE.sub(fill, random.choice(FORMS[kind]))


@st.composite
def conditions(draw: st.DrawFn, kinds: tuple[str, ...] = ("bool", "bool", "any")) -> str:
    """Write a condition, or another expression, that is within the limits."""
    random = Random(draw(st.integers(0, 2**32)))  # noqa: S311 - the seed is drawn; drawing each word is too slow
    return written(random, random.choice(kinds), 4)


# Data

numbers = (
    st.sampled_from([0, 1, 2, -1, 3.5, 1e300, 2**53, -0.5])
    | boundaries.doubles
    | st.integers(-5, 5)
    | st.floats(-1e6, 1e6)
)
texts = st.sampled_from(TEXTS) | st.sampled_from(MOMENTS)
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=2),
    max_leaves=5,
)
LIKELY = {
    "n": numbers,
    "i": st.integers(-10, 10),
    "s": texts,
    "t": texts,
    "b": st.booleans(),
    "z": st.none(),
    "list": st.lists(scalars, max_size=4),
    "numbers": st.lists(numbers, max_size=4),
    "o": st.dictionaries(st.sampled_from(FIELDS), scalars, max_size=3),
    "items": st.lists(st.fixed_dictionaries({"sku": texts}, optional={"x": numbers}), max_size=3),
    "at": st.sampled_from(MOMENTS),
    "odd name": texts,
}
payloads = (
    st.fixed_dictionaries({}, optional=LIKELY)
    | st.fixed_dictionaries(LIKELY)
    | st.dictionaries(st.sampled_from(NAMES), values, max_size=6)
)
contacts = st.none() | st.fixed_dictionaries({"tier": scalars, "x": scalars})
