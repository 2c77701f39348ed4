"""What the HTTP port serves beside the dialects: health, metrics, the OpenAPI document and a first page."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import msgspec
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from server.bridge.openapi import document
from server.errors import StorageReadOnly

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from server.bridge.dialect import Door
    from server.metrics import Metrics
    from server.storage.database import Database

READY_SECONDS: Final = 2.0
"""A database that does not answer by then is not ready."""

_JSON: Final = b"application/json"


@dataclass(frozen=True, slots=True)
class Page:
    """An answer as it goes out; `kind` is its media type."""

    status: int
    content: bytes
    kind: bytes = _JSON


class System:
    """Answers for the server as a whole, to anybody; none of its pages tells what is in a project."""

    def __init__(self, database: Database, metrics: Metrics, stopping: asyncio.Event, doors: Sequence[Door]) -> None:
        self._database = database
        self._metrics = metrics
        self._stopping = stopping
        self._doors = doors
        self.pages: Mapping[str, Callable[[], Awaitable[Page]]] = {
            "/": self._index,
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/metrics": self._numbers,
            "/openapi.json": self._openapi,
        }

    async def page(self, path: str) -> Page:
        """Give the page at one of the paths in `pages`."""
        return await self.pages[path]()

    async def _index(self) -> Page:
        doors = {door.dialect.value: f"/{door.dialect.value}" for door in self._doors}
        return _json(200, {"service": "signalbox", "pages": sorted(self.pages), "dialects": doors})

    async def _health(self) -> Page:
        """Say that the process serves."""
        return _json(200, {"status": "ok"})

    async def _readiness(self) -> Page:
        """Report whether events can be accepted: the database accepts writes, and no shutdown has begun."""
        if self._stopping.is_set():
            return _json(503, {"status": "stopping"})
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._database.check()
        except StorageReadOnly:
            return _json(503, {"status": "database read-only"})
        except Exception:
            return _json(503, {"status": "database unavailable"})
        return _json(200, {"status": "ready"})

    async def _numbers(self) -> Page:
        # Writing them takes milliseconds, which the loop has better use for.
        content = await asyncio.to_thread(generate_latest, self._metrics.registry)
        return Page(200, content, CONTENT_TYPE_LATEST.encode())

    async def _openapi(self) -> Page:
        return self._document

    @cached_property
    def _document(self) -> Page:
        return _json(200, document(self._doors))


def _json(status: int, body: Any) -> Page:
    return Page(status, msgspec.json.encode(body))
