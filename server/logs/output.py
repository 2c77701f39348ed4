"""The log of a server: JSON lines on stderr, or lines for people if stderr is a terminal.

Tracebacks never show the values of variables: they hold secrets and customer data. Addresses and secrets that a text
has all the same, such as the words of a database about a row, are masked.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import structlog

from server.logs.defects import RepeatedDefects
from server.logs.masking import mask

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from structlog.typing import Processor

MAX_ENTRY_BYTES: Final = 2_000

_SHORTEST: Final = 40

LEVELS = ("debug", "info", "warning", "error")


def configure_logs(level: str) -> None:
    """Write the entries of structlog and of `logging` to stderr, from this level up."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[RepeatedDefects(), *shared, *_rendering()],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(_Stderr()),  # type: ignore[arg-type]  # needs no more of a file
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(_Stderr())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering()],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING))
    logging.captureWarnings(capture=True)


class _Stderr:
    """Writes to the current stderr: one that was redirected for a while may be closed afterwards.

    What cannot be written, such as to a full disk or a closed pipe, is lost: no call fails because of its line.
    """

    def write(self, text: str) -> int:
        """Write a text."""
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the current stderr."""
        with suppress(OSError):
            sys.stderr.flush()


def _rendering() -> list[Processor]:
    renderer: Processor = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    return [structlog.processors.format_exc_info, _mask, BoundedRenderer(renderer)]


def _mask(_logger: Any, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace addresses and secrets in all texts of an entry.

    Nothing of the kind is logged on purpose. But an error of a library may quote a row, a URL or a header.
    """
    for name, value in entry.items():
        if isinstance(value, (str, bytes, list, tuple, dict, Exception)):
            text = value if isinstance(value, str) else repr(value)
            masked = mask(text)
            if masked is not text:
                entry[name] = masked
    return entry


class BoundedRenderer:
    """Renders an entry in at most MAX_ENTRY_BYTES, whatever a caller sent and however deep a traceback is.

    The longest text is shortened in its middle until the entry fits: a traceback keeps where it began and what was
    raised.
    """

    def __init__(self, renderer: Processor) -> None:
        self._renderer = renderer

    def __call__(self, logger: Any, method: str, entry: MutableMapping[str, Any]) -> str:
        """Render one entry."""
        while True:
            # A renderer takes the entry apart.
            line = str(self._renderer(logger, method, dict(entry)))
            if len(line.encode(errors="replace")) <= MAX_ENTRY_BYTES or not _shorten(entry):
                return line


def _shorten(entry: MutableMapping[str, Any]) -> bool:
    """Halve the longest value of an entry. Return whether there was one to halve."""
    texts = {name: value if isinstance(value, str) else repr(value) for name, value in entry.items()}
    longest = max(texts, key=lambda name: len(texts[name]), default="")
    text = texts.get(longest, "")
    if len(text) < _SHORTEST:
        return False
    kept = len(text) // 4
    entry[longest] = f"{text[:kept]} […] {text[-kept:]}"
    return True
