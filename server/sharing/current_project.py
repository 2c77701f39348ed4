"""The project on whose behalf the running code works, so that shared resources can be divided fairly between projects.

It is set where a caller is authenticated, which every call passes, and is inherited by the tasks that the call starts.
The server's own work, such as group commits, which serve all projects, has none.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

SERVER: Final = None
"""The key of the server's own work."""

_project_pk: ContextVar[int | None] = ContextVar("project_pk", default=SERVER)


def work_for(project_pk: int | None) -> None:
    """Do the rest of the current task, and all tasks that it starts from now on, for a project, or for SERVER."""
    _project_pk.set(project_pk)


def current_project() -> int | None:
    """Return the `project_pk` of the project that the current task works for, SERVER if there is none."""
    return _project_pk.get()
