"""Regular expressions of RE2, which match in linear time and are compiled within a fixed amount of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import re2

if TYPE_CHECKING:
    from collections.abc import Callable

_OPTIONS = re2.Options()
_OPTIONS.max_mem = 128 * 1024
_OPTIONS.log_errors = False
_OPTIONS.never_capture = True


class Regex:
    """A compiled pattern. Raise ValueError if it is not an RE2 pattern, or too large."""

    def __init__(self, pattern: str) -> None:
        try:
            compiled: Any = re2.compile(pattern, _OPTIONS)
        except re2.error as refused:
            cause = refused.args[0] if refused.args else b"invalid"
            raise ValueError(cause.decode(errors="replace") if isinstance(cause, bytes) else str(cause)) from None
        self.search: Callable[[str], object] = compiled.search
        self._size: int = compiled.programsize

    def cost(self, text: str) -> int:
        """Return an upper estimate of the cost of a search in steps: the slowest patterns visit their whole program."""
        return 1 + len(text) * self._size // 64
