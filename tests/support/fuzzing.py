"""Random requests for every API, made from the descriptors of the contract and the tables of the dialects.

Everything is drawn from one `random.Random`, so a seed gives the same requests again, but for ids and tokens that the
server makes. What the server answered is learned: later requests name things that exist.
"""

from __future__ import annotations

import gzip
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import UUID

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from server.delivery.start_points import Place, make_cursor
from tests.support.conditions import written

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

    from server.bridge.dialect import RestDialect
    from server.bridge.routes import Route

WHOLE = [0, 1, -1, 2, 50, 1_000, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1]
REAL = [0.0, -0.0, 0.5, 1e-320, 5e-324, 1.7976931348623157e308, 2.0**53, float("nan"), float("inf"), float("-inf")]
TEXTS = [
    *["", " ", "a", "0", "-1", "\0", "a\0b", "\n", "\x7f", "\u2028", "\ufeff", "é", "e\u0301", "🙂", "\U0010ffff"],
    *["null", "true", "{}", "[]", "..", "../..", "%00", "%", "'", '"', "\\", "; DROP TABLE event", "$1", ":x", "{0}"],
    *["2026-06-01T12:00:00Z", "0001-01-01", "9999-12-31T23:59:59Z", "1e400", "9" * 400, "NaN", "a@b.c", "@", "*"],
    *["a" * 255, "a" * 256, "🙂" * 300, "x" * 70_000, "signalbox:x", "send", "_id", "__proto__"],
]
NUMBERS = ["1e400", "-1.8e308", "9" * 309, "9" * 5_000, "-0", "1E5", "0.1e-400", "1e-7", "9007199254740993"]
_NUMBERS = (*NUMBERS, *map(str, WHOLE), "1.5", "0.0")
_USUAL_TEXTS = {
    "integer": _NUMBERS,
    "number": _NUMBERS,
    "boolean": ("true", "false"),
    "null": ("null",),
    "object": ('{"order_total":2.5,"currency":"EUR"}', '{"order_total":"7"}', "{}"),
}
TOKENS = {"page_token", "cursor", "start_cursor", "pageToken", "after", "before", "limit", "page", "offset"}


class Things:
    """Values that exist in the server, by the name of the field that takes them."""

    def __init__(self, project_id: str = "") -> None:
        self._project_id = project_id
        self._known: dict[str, list[str]] = {}
        self._usual: dict[str, str] = {}

    def expect(self, **usual: str) -> None:
        """Note values that fields take more often than any other."""
        self._usual |= usual

    def learn(self, name: str, value: str) -> None:
        """Note a value; of each name the newest ones are kept."""
        if not value:
            return
        values = self._known.setdefault(name, [])
        if value not in values:
            values.append(value)
            del values[:-40]

    def known(self, name: str) -> list[str]:
        """Return the values known of a name."""
        return self._known.get(name, [])

    def learn_message(self, message: Message) -> None:
        """Note all texts of an answer."""
        for field, value in message.ListFields():
            values = value if field.is_repeated and not _is_map(field) else [value]
            for each in values:
                if field.type == FieldDescriptor.TYPE_STRING and isinstance(each, str):
                    self._learn_field(message.DESCRIPTOR.name, field.name, each)
                elif field.message_type is not None and not _is_map(field):
                    self.learn_message(each)

    def learn_json(self, answer: Any) -> None:
        """Note all texts of an answer in JSON."""
        if isinstance(answer, dict):
            for name, value in answer.items():
                if isinstance(value, str):
                    self.learn(name, value)
                self.learn_json(value)
        elif isinstance(answer, list):
            for each in answer:
                self.learn_json(each)

    def text(self, random: Random, name: str) -> str:
        """Draw a text for a field."""
        if name in self._usual and random.random() < 0.5:
            return self._usual[name]
        draw = random.random()
        known = self._known.get(name) or self._known.get(f"{name}_id") or self._known.get(name.removesuffix("_id"))
        if name in TOKENS and draw < 0.9:
            return self.token(random)
        if name == "condition" and draw < 0.8:
            return condition(random)
        if known and draw < 0.7:
            return random.choice(known)
        if self._known and draw < 0.8:
            return random.choice(self._known[random.choice(list(self._known))])
        return random.choice(TEXTS)

    def token(self, random: Random) -> str:
        """Draw a token of a page or a cursor: a true one, one with another content, or a damaged one."""
        true: list[str] = [*self._known.get("next_page_token", ()), *self._known.get("cursor", ())]
        draw = random.random()
        if draw < 0.2:
            match_id = random.choice(("", str(UUID(int=random.getrandbits(128)))))
            return make_cursor(self._project_id, Place(abs(random.choice(WHOLE)), match_id))
        if not true or draw < 0.3:
            return random.choice(TEXTS)
        token = random.choice(true)
        if draw < 0.4:
            return token
        if draw < 0.9:
            return _forged(random, token)
        return mutated(random, token.encode()).decode("latin-1")

    def _learn_field(self, message: str, field: str, value: str) -> None:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", message).lower()
        self.learn(field, value)
        if field in {"id", "name"}:
            self.learn(name, value)


def _forged(random: Random, token: str) -> str:
    """Replace a value within a token of a page, whose digest stays true."""
    try:
        digest, *cursor = json.loads(urlsafe_b64decode(token))
    except ValueError:
        return token[:-1]
    if cursor and random.random() < 0.9:
        index = random.randrange(len(cursor))
        values: list[Any] = [*WHOLE] if isinstance(cursor[index], int) else [*TEXTS, "\ud800"]
        cursor[index] = random.choice([*values, None, 1.5, [], True])
    else:
        cursor.append(1)
    return urlsafe_b64encode(json.dumps([digest, *cursor]).encode()).decode()


# Conditions


def condition(random: Random) -> str:
    """Draw a condition by the grammar, or a damaged one."""
    text = written(random, random.choice(("bool", "any")), random.randrange(5))
    draw = random.random()
    if draw < 0.5:
        return text
    if draw < 0.8:
        return mutated(random, text.encode()).decode(errors="replace")
    inner = random.choice(("(", "!", "-", "[", "properties[", "true && ", "true ? 1 : ", "'a' + ", "a.", "size("))
    return inner * random.choice((5, 33, 100, 5_000)) + text


# Bytes


def mutated(random: Random, content: bytes) -> bytes:
    """Damage bytes in a few places."""
    changed = bytearray(content)
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(len(changed) + 1)
        until = min(len(changed), at + random.choice((1, 1, 2, 8, 64)))
        match random.randrange(5):
            case 0:
                del changed[at:until]
            case 1:
                changed[at:at] = random.randbytes(random.choice((1, 2, 9)))
            case 2:
                changed[at:at] = changed[at:until] * random.choice((1, 3, 20))
            case 3:
                del changed[at:]
            case _:
                changed[at : at + 1] = bytes([random.choice((0, 1, 127, 128, 255, random.randrange(256)))])
    return bytes(changed)


# Messages of the contract


def message(random: Random, descriptor: Descriptor, things: Things, depth: int = 0) -> Message:
    """Draw a message with some of its fields."""
    made = GetMessageClass(descriptor)()
    share = random.choice((0.3, 0.6, 0.9)) if depth < 4 else 0.1
    for field in descriptor.fields:
        if random.random() < share:
            _set(random, made, field, things, depth)
    return made


def _set(random: Random, made: Message, field: FieldDescriptor, things: Things, depth: int) -> None:
    draw = _drawer(random, field, things, depth)
    if field.message_type is not None and _is_map(field):
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        for _ in range(random.choice((0, 1, 1, 3))):
            name = _drawer(random, key, things, depth)()
            if value.message_type is None:
                getattr(made, field.name)[name] = _drawer(random, value, things, depth)()
            else:
                getattr(made, field.name)[name].CopyFrom(_drawer(random, value, things, depth)())
    elif field.is_repeated:
        getattr(made, field.name).extend(draw() for _ in range(random.choice((0, 1, 1, 2, 5))))
    elif field.message_type is not None:
        getattr(made, field.name).CopyFrom(draw())
    else:
        setattr(made, field.name, draw())


def _drawer(random: Random, field: FieldDescriptor, things: Things, depth: int) -> Callable[[], Any]:
    inner: Any = field.message_type
    numbers: Any = field.enum_type
    kinds: dict[int, Callable[[], Any]] = {
        FieldDescriptor.TYPE_STRING: lambda: things.text(random, field.name),
        FieldDescriptor.TYPE_BYTES: lambda: random.choice((b"", b"\xff", random.randbytes(20))),
        FieldDescriptor.TYPE_BOOL: lambda: random.random() < 0.5,
        FieldDescriptor.TYPE_DOUBLE: lambda: random.choice((*REAL, random.uniform(-10, 10))),
        FieldDescriptor.TYPE_FLOAT: lambda: random.uniform(-10, 10),
        FieldDescriptor.TYPE_INT64: lambda: random.choice([each for each in WHOLE if -(2**63) <= each < 2**63]),
        FieldDescriptor.TYPE_INT32: lambda: random.choice([each for each in WHOLE if -(2**31) <= each < 2**31]),
        FieldDescriptor.TYPE_UINT64: lambda: random.choice([each for each in WHOLE if each >= 0]),
        FieldDescriptor.TYPE_UINT32: lambda: random.choice([each for each in WHOLE if 0 <= each < 2**32]),
        FieldDescriptor.TYPE_ENUM: lambda: random.choice(
            (*(each.number for each in numbers.values), 99, -1, 2**31 - 1)
        ),
        FieldDescriptor.TYPE_MESSAGE: lambda: message(random, inner, things, depth + 1),
    }
    return kinds[field.type]


def _is_map(field: Any) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


# Requests of the dialects


class JsonRequests:
    """Draws requests of one dialect from the table of its routes."""

    def __init__(self, dialect: RestDialect, key: str, things: Things) -> None:
        self._dialect = dialect
        self._key = key
        self._things = things

    @property
    def dialect(self) -> str:
        """The name of the dialect."""
        return self._dialect.name.value

    def draw(self, random: Random) -> bytes:
        """Draw a request as bytes of HTTP."""
        route = random.choice(self._dialect.routes)
        method = route.method if random.random() < 0.95 else random.choice(("GET", "HEAD", "PUT", "PATCH", "OPTIONS"))
        target = self._path(random, route) + self._query(random, route)
        body = self._body(random, route)
        headers = self._headers(random, body)
        if random.random() < 0.1:
            headers["Content-Encoding"], body = "gzip", gzip.compress(body, 1)
            if random.random() < 0.3:
                body = mutated(random, body)
        headers["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{method} {target} HTTP/1.1\r\nHost: fuzz\r\n{head}\r\n".encode() + body

    def _path(self, random: Random, route: Route) -> str:
        parts = []
        for segment in route.segments:
            if segment.startswith("{"):
                value = self._things.text(random, segment[1:-1])[:2_000]
                parts.append(quote(value, safe="", errors="replace") if random.random() < 0.95 else "%FF%00")
            else:
                parts.append(segment)
        mount = f"/{self._dialect.name.value}" if random.random() < 0.2 else ""
        return mount + "/" + "/".join(parts)

    def _query(self, random: Random, route: Route) -> str:
        names = [*(msgspec.structs.fields(route.query) if route.query else ())]
        parts = [
            f"{each.encode_name}={quote(random.choice((self._things.text(random, each.encode_name)[:500], '1', '-1')))}"
            for each in names
            if random.random() < 0.6
        ]
        if random.random() < 0.1:
            parts.append(random.choice(("x", "=", "&&", "%FF=%FF", "limit=1&limit=2", "page=99999999999999999999")))
        return "?" + "&".join(parts) if parts else ""

    def _headers(self, random: Random, body: bytes) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self._key}"}
        draw = random.random()
        if body and draw < 0.9:
            headers["Content-Type"] = "application/json"
        elif draw > 0.95:
            headers["Content-Type"] = random.choice(
                ("text/plain", "application/json; charset=x", "", "application/json;;")
            )
        if random.random() < 0.2:
            headers["Idempotency-Key"] = random.choice(("a", "b", "k" * 256, "é".encode().decode("latin-1"), " "))
        return headers

    def _body(self, random: Random, route: Route) -> bytes:
        if route.body is None:
            return b"" if random.random() < 0.8 else b"{}"
        (schema,), parts = msgspec.json.schema_components([route.body])
        content = json_text(random, schema, parts, self._things).encode(errors="surrogatepass")
        draw = random.random()
        if draw < 0.05:
            content = b"\xef\xbb\xbf" + content
        return mutated(random, content) if draw > 0.9 else content


def json_text(
    random: Random, schema: dict[str, Any], parts: dict[str, Any], things: Things, name: str = "", depth: int = 0
) -> str:
    """Draw a JSON text that a JSON Schema describes, or nearly."""
    if random.random() < 0.04:
        return any_json(random, things, depth)
    if "$ref" in schema:
        return json_text(random, parts[schema["$ref"].rpartition("/")[2]], parts, things, name, depth)
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return json_text(random, random.choice(choices), parts, things, name, depth)
    if "properties" in schema:
        return _object_text(random, schema, parts, things, depth)
    if schema.get("type") == "array":
        items = schema.get("items") or {}
        count = random.choice((0, 1, 1, 2, 5))
        return f"[{','.join(json_text(random, items, parts, things, name, depth + 1) for _ in range(count))}]"
    return _plain_text(random, schema, things, name, depth)


def _plain_text(random: Random, schema: dict[str, Any], things: Things, name: str, depth: int) -> str:
    if "enum" in schema:
        return json.dumps(random.choice(schema["enum"]))
    kind = schema.get("type")
    if kind == "string":
        return json.dumps(things.text(random, name))
    usual = _USUAL_TEXTS.get(str(kind), ())
    return (
        random.choice(usual)
        if usual and (kind != "object" or random.random() < 0.5)
        else any_json(random, things, depth)
    )


def _object_text(random: Random, schema: dict[str, Any], parts: dict[str, Any], things: Things, depth: int) -> str:
    required = schema.get("required", ())
    members = []
    for name, inner in schema["properties"].items():
        if random.random() < (0.95 if name in required else 0.5):
            members.append((name, json_text(random, inner, parts, things, name, depth + 1)))
    if random.random() < 0.1:
        members.append((random.choice(TEXTS[:40]), any_json(random, things, depth + 1)))
    if members and random.random() < 0.03:
        members.append(members[0])
    return "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in members) + "}"


def any_json(random: Random, things: Things, depth: int = 0) -> str:
    """Draw any JSON text, odd ones among them."""
    draw = random.randrange(12 if depth < 5 else 8)
    if draw < 3:
        return json.dumps(things.text(random, random.choice(("event", "name", "email", "id"))))
    if draw < 5:
        return random.choice((*NUMBERS, *map(str, WHOLE)))
    if draw < 8:
        return random.choice(("null", "true", "false", '"\\ud800"', '"\\u0000"', "{}", "[]", "[" * 40 + "]" * 40))
    inner = [any_json(random, things, depth + 1) for _ in range(random.choice((0, 1, 2, 4)))]
    if draw < 10:
        return f"[{','.join(inner)}]"
    names = ["order_total", "currency", "is_first_purchase", *TEXTS[:30]]
    return "{" + ",".join(f"{json.dumps(random.choice(names))}:{text}" for text in inner) + "}"
