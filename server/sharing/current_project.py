"""The project on whose behalf the running code works, so that shared resources can be divided fairly between projects.

It is set when the caller of a request is authenticated, and inherited by the tasks that the request starts. Work of the
server itself, such as group commits, serves all projects and has none.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

SERVER: Final = None
"""The key of the server's own work."""

_project_pk: ContextVar[int | None] = ContextVar("project_pk", default=SERVER)


def work_for(project_pk: int | None) -> None:
    """Count the rest of the current task, and the tasks that it starts, as work for a project, or for SERVER."""
    _project_pk.set(project_pk)


def current_project() -> int | None:
    """Return the `project_pk` that the current task works for, or SERVER."""
    return _project_pk.get()
