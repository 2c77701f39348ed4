"""Events as JSON lines, read from a file or a pipe in batches with bounded memory."""

from __future__ import annotations

import asyncio
import os
import stat
from codecs import BOM_UTF8
from typing import IO, TYPE_CHECKING, Any

import msgspec

from registry.suggestions import Suggestions
from registry.times.timestamps import parse_rfc3339
from registry.values.decoder_messages import shape_violation, syntax_problem
from registry.values.json_values import json_violation, repeated_name
from server.cli.arguments.message_parsers import MAX_SHOWN_NAME, to_struct
from server.rpc.messages.times import timestamp
from server.status import cut
from signalbox.v1 import event_ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHUNK_BYTES = 512 * 1024
MAX_LINE_BYTES = 1024 * 1024

Line = tuple[int, bytes]
"""A line's number, from 1, and its text."""


class EventLine(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of one line; null stands for a field that is not set, as in a call."""

    name: str | None = None
    email: str | None = None
    contact_id: str | None = None
    properties: dict[str, Any] | None = None
    occurred_at: str | None = None
    idempotency_key: str | None = None


_decode = msgspec.json.Decoder(EventLine).decode


def read_event(line: bytes, default_name: str) -> pb.EventInput:
    """Parse one line. Raise ValueError with the reason if it is invalid."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    try:
        stated = _decode(line)
    except RecursionError:
        raise ValueError("the JSON is nested too deep") from None
    except ValueError as error:
        raise ValueError(_problem(line, error)) from None
    name = stated.name or default_name
    if not name:
        raise ValueError('the line names no event: add "name", or give NAME to the command')
    if bool(stated.email) == bool(stated.contact_id):
        raise ValueError('the line must have either "email" or "contact_id"')
    try:
        occurred_at = None if stated.occurred_at is None else timestamp(parse_rfc3339(stated.occurred_at))
    except ValueError as error:
        raise ValueError(f'occurred_at is {error}; got "{stated.occurred_at}"') from None
    event = pb.EventInput(
        name=name,
        email=stated.email or "",
        properties=to_struct(stated.properties or {}),
        occurred_at=occurred_at,
        idempotency_key=stated.idempotency_key or "",
    )
    if stated.contact_id:
        event.contact_id = stated.contact_id
    try:
        repeated = repeated_name(line.decode())
    except RecursionError:
        raise ValueError("the JSON is nested too deep") from None
    if repeated is not None:
        raise ValueError(f'the name "{cut(repeated, MAX_SHOWN_NAME)}" is given twice in one object')
    return event


def _problem(line: bytes, error: ValueError) -> str:
    """Return why the decoder rejected a line."""
    if fault := json_violation(line):
        return fault.message
    if not isinstance(error, msgspec.ValidationError):
        return f"the line is not valid JSON: {syntax_problem(line, error)}"
    violation = shape_violation(str(error), "The line")
    if violation.reason == "UNKNOWN_FIELD":
        meant = Suggestions(EventLine.__struct_fields__).closest(violation.path)
        hint = f"did you mean {meant}?" if meant else f"it has {', '.join(EventLine.__struct_fields__)}"
        return f"{violation.message}; {hint}"
    return violation.message


async def batches(file: IO[bytes], size: int) -> AsyncIterator[list[Line]]:
    """Yield the non-blank lines in batches of at most `size` lines.

    Lines from a pipe are yielded as soon as they arrive, in smaller batches. A line that is too long is cut one byte
    after the limit, which `read_event` rejects.
    """
    lines = _Lines()
    async for chunk in _chunks(file):
        found = lines.feed(chunk)
        for start in range(0, len(found), size):
            yield found[start : start + size]
    if rest := lines.feed(b"\n"):
        yield rest


class _Lines:
    """Splits chunks into numbered lines, and keeps an unfinished line only up to the limit.

    A byte order mark at the beginning is skipped.
    """

    def __init__(self) -> None:
        self._number = 0
        self._rest = b""

    def feed(self, chunk: bytes) -> list[Line]:
        """Return the lines that the chunk completes, without blank ones."""
        *whole, last = chunk.split(b"\n")
        if not whole:
            self._keep(last)
            return []
        self._keep(whole[0])
        whole[0], self._rest = self._rest, b""
        if not self._number:
            whole[0] = whole[0].removeprefix(BOM_UTF8)
        self._keep(last)
        numbered = list(enumerate(whole, self._number + 1))
        self._number += len(whole)
        return [(number, line) for number, line in numbered if line.strip()]

    def _keep(self, part: bytes) -> None:
        self._rest += part[: MAX_LINE_BYTES + 1 - len(self._rest)]


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    if not _may_block(file):
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
        return
    reader = asyncio.StreamReader(limit=CHUNK_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), file
    )
    try:
        while chunk := await reader.read(CHUNK_BYTES):
            yield chunk
    finally:
        transport.close()


def _may_block(file: IO[bytes]) -> bool:
    """Return whether reading can block: a pipe, a socket or a terminal may deliver nothing for a while."""
    mode = os.fstat(file.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or file.isatty()
