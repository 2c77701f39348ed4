"""Callers: who makes a call, and what it is authorized for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from server.errors import (
    AdminRequired,
    ProjectRequired,
    ScopeMissing,
)
from server.model import Dialect, Scope

ADMIN = "admin"
"""The scope of methods that only the admin key may call."""

ANY: Final = "any"
"""The scope of methods that every valid key may call."""

_ACROSS_PROJECTS: Final = frozenset({Scope.AUDIT_READ.value})
"""Scopes of methods that the admin key may call without naming a project, for all of them."""


_SEEING_PERSONAL: Final = frozenset({ADMIN, Scope.ALL, Scope.PERSONAL_READ})


@dataclass(frozen=True, slots=True)
class Caller:
    """The maker of a call: an API key of a project, or the admin key, perhaps on behalf of a project.

    `key_id` is empty for the admin key.
    """

    project_pk: int
    project_id: str
    scopes: frozenset[str]
    dialect: Dialect = Dialect.NATIVE
    key_id: str = ""

    @property
    def admin(self) -> bool:
        """Whether this is the admin key."""
        return ADMIN in self.scopes

    @property
    def sees_personal(self) -> bool:
        """Whether personal values are shown to the caller."""
        return not self.scopes.isdisjoint(_SEEING_PERSONAL)

    def authorize(self, scope: str) -> None:
        """Raise ScopeMissing, AdminRequired or ProjectRequired unless the caller has the scope."""
        if scope in self.scopes or scope == ANY:
            return
        if scope == ADMIN:
            raise AdminRequired
        if self.admin:
            if not self.project_pk and scope not in _ACROSS_PROJECTS:
                raise ProjectRequired
            return
        if Scope.ALL not in self.scopes:
            raise ScopeMissing(scope)
