"""The calls in progress, which a shutdown announces itself to and waits for."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

from server.errors import Stopping

LAST_WORD_SECONDS: Final = 1.0
"""Time for a client that reads no responses to read the status."""


class OpenCalls:
    """The calls in progress, and the state of the shutdown.

    leaving    health reports NOT_SERVING; all calls are served
    stopping   streams are asked to end; single calls are served
    closed     further calls are answered Stopping; calls that have not ended in time are cancelled, which the
               calls turn into Stopping, too

    `end` ends one call early: its task is cancelled, and the call is answered with the given error.
    """

    def __init__(self) -> None:
        self.leaving = asyncio.Event()
        self.stopping = asyncio.Event()
        self.closed = False
        self._streams: set[asyncio.Task[Any]] = set()
        self._calls: set[asyncio.Task[Any]] = set()
        self._idle: set[asyncio.Task[Any]] = set()
        self._ended: dict[asyncio.Task[Any], Exception] = {}

    def enter(self, *, stream: bool = False, idle: bool = False) -> asyncio.Task[Any]:
        """Register the current task as serving a call. An idle one has nothing to finish when the server stops."""
        task = asyncio.current_task()
        assert task is not None
        (self._idle if idle else self._streams if stream else self._calls).add(task)
        return task

    def enter_task(self, task: asyncio.Task[Any]) -> None:
        """Register the current task as serving a call with one response: looking for it costs each call some time."""
        self._calls.add(task)

    def check_open(self) -> None:
        """Raise Stopping if no further call is served."""
        if self.closed:
            raise Stopping

    def leave(self, task: asyncio.Task[Any]) -> None:
        """Remove the task of a call that has ended."""
        self._streams.discard(task)
        self._calls.discard(task)
        self._idle.discard(task)
        self._ended.pop(task, None)

    def end(self, task: asyncio.Task[Any], error: Exception) -> None:
        """End a call with an error, unless it has left. The first error stands."""
        open_ = task in self._calls or task in self._streams or task in self._idle
        if open_ and task not in self._ended:
            self._ended[task] = error
            task.cancel()

    def __len__(self) -> int:
        return len(self._calls) + len(self._streams)

    def end_of(self, task: asyncio.Task[Any]) -> Exception | None:
        """Return the error that a call was ended with, if it was."""
        return self._ended.get(task)

    def ended_by(self, task: asyncio.Task[Any]) -> Exception | None:
        """Return the error that a call was ended with, if it was, and undo the cancellation."""
        error = self._ended.get(task)
        if error is not None:
            task.uncancel()
        return error

    async def drain(self, seconds: float) -> None:
        """Ask the streams to end, wait for all calls for `seconds`, then cancel the rest.

        Streams may take long to end. Single calls are served until all have ended: a client that is refused retries
        a few times within a second, and may reach this server each time.
        """
        self.leaving.set()
        self.stopping.set()
        self._end(self._idle, Stopping())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._streams:
                    await asyncio.wait(self._streams)
                self.closed = True
                while self._calls:
                    await asyncio.wait(self._calls)
        self.closed = True
        self._end(self._streams | self._calls, Stopping(cut_off=True))
        if self._ended:
            await asyncio.wait(self._ended, timeout=LAST_WORD_SECONDS)

    def _end(self, tasks: set[asyncio.Task[Any]], error: Stopping) -> None:
        for task in tasks:
            self.end(task, error)
