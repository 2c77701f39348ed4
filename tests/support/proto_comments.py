"""The comments of the protos: what the contract promises in words."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

PROTOS = Path(__file__).parents[2] / "protos" / "signalbox" / "v1"

_MESSAGE = re.compile(r"message (\w+) \{")
_FIELD = re.compile(r"(?:repeated |optional )?(?:map<[^>]*>|[\w.]+) (\w+) = \d+;")


@cache
def proto_comments() -> dict[str, str]:
    """Return the comments of messages and of their fields, by `Message` and by `Message.field`."""
    found: dict[str, str] = {}
    for path in PROTOS.glob("*.proto"):
        found |= _comments(path.read_text(encoding="utf-8"))
    return found


def _comments(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    blocks: list[str] = []
    comment: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("//"):
            comment.append(line.removeprefix("//").strip())
            continue
        messages = [name for name in blocks if name]
        if message := _MESSAGE.match(line):
            found[".".join([*messages, message[1]])] = " ".join(comment)
        if line.endswith("{"):
            # A field of a oneof is one of the message.
            blocks.append(message[1] if message else "")
        elif field := _FIELD.match(line):
            found[".".join([*messages, field[1]])] = " ".join(comment)
        elif line.startswith("}"):
            blocks.pop()
        comment = []
    return found
