"""The pages beside the dialects: health, readiness, metrics, the OpenAPI document and an index."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from server.bridge.metrics_page import MEDIA_TYPE, METRICS_PATH, MetricsPage
from server.bridge.openapi import dialect_document, document, document_path
from server.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from server.bridge.dialect import RestDialect
    from server.metrics import Metrics

READY_SECONDS: Final = 2.0
"""The time within which the database must answer to be ready."""

_UNREADY: Final = {
    "STORAGE_FULL": "database full",
    "STORAGE_READ_ONLY": "database read-only",
    "STORAGE_BUSY": "database locked",
    "STORAGE_LATE": "database not responding",
    "STORAGE_FAILED": "database failed",
    "STORAGE_REPLACED": "database replaced",
}
"""What readiness reports, by the reason why no event can be stored; "database unavailable" for others."""

_JSON: Final = b"application/json"


@dataclass(frozen=True, slots=True)
class SystemPage:
    """A response with its encoded content and media type."""

    status: int
    content: bytes
    media_type: bytes = _JSON


class Checked(Protocol):
    """Checks whether events can be stored: the health of the storage, or a database itself."""

    async def check(self) -> None:
        """Raise StorageError if no event can be stored."""
        ...


class SystemPages:
    """Serves the pages about the server as a whole. They need no key, and contain no data of projects."""

    def __init__(
        self,
        storage: Checked,
        metrics: Metrics,
        leaving: asyncio.Event,
        dialects: Sequence[RestDialect],
        rpcs: Callable[[], tuple[dict[str, Any], dict[str, Any]]] = lambda: ({}, {}),
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._storage = storage
        self.metrics_page = MetricsPage(metrics, refresh)
        self._leaving = leaving
        self._dialects = dialects
        self._rpcs = rpcs
        self._dialect_documents: dict[str, SystemPage] = {}
        self.pages: Mapping[str, Callable[[], Awaitable[SystemPage]]] = {
            "/": self._index,
            "/healthz": self._health,
            "/readyz": self._readiness,
            METRICS_PATH: self._metrics_page,
            "/openapi.json": self._openapi,
            **{document_path(dialect): partial(self._dialect_openapi, dialect) for dialect in dialects},
        }

    @property
    def leaving(self) -> bool:
        """Whether the server is about to stop."""
        return self._leaving.is_set()

    async def page(self, path: str) -> SystemPage:
        """Return the page at one of the paths in `pages`."""
        return await self.pages[path]()

    async def _index(self) -> SystemPage:
        mounts = {dialect.name.value: f"/{dialect.name}" for dialect in self._dialects}
        return _json(200, {"service": "signalbox", "pages": sorted(self.pages), "dialects": mounts})

    async def _health(self) -> SystemPage:
        """Report that the process is running."""
        return _json(200, {"status": "ok"})

    async def _readiness(self) -> SystemPage:
        """Report whether an event can be stored now, and no shutdown has begun."""
        if self.leaving:
            return _json(503, {"status": "stopping"})
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._storage.check()
        except StorageError as error:
            return _json(503, {"status": _UNREADY.get(error.reason, "database unavailable")})
        except Exception:
            return _json(503, {"status": "database unavailable"})
        return _json(200, {"status": "ready"})

    async def _metrics_page(self) -> SystemPage:
        return SystemPage(200, await self.metrics_page.render(by_project=False), MEDIA_TYPE)

    async def complete_metrics(self) -> SystemPage:
        """Return the metrics with those of each project, which are for operators only."""
        return SystemPage(200, await self.metrics_page.render(by_project=True), MEDIA_TYPE)

    async def _openapi(self) -> SystemPage:
        return self._document

    async def _dialect_openapi(self, dialect: RestDialect) -> SystemPage:
        page = self._dialect_documents.get(dialect.name)
        if page is None:
            page = self._dialect_documents[dialect.name] = _json(200, dialect_document(dialect))
        return page

    @cached_property
    def _document(self) -> SystemPage:
        return _json(200, document(self._dialects, *self._rpcs()))


def _json(status: int, body: Any) -> SystemPage:
    return SystemPage(status, msgspec.json.encode(body))
