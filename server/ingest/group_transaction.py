"""The transaction of a group commit: its batches are decided and stored, then the steps of subscriptions are taken."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final

from automation.subscriptions.log_reading import Recorded
from server.ingest.commit import commit
from server.ingest.validate import validate_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from server.ingest.commit import ProjectCommit
    from server.ingest.contacts import ContactCache
    from server.ingest.draft import Batch
    from server.ingest.piggyback import PiggybackedStep
    from server.ingest.quarantine import QuarantineLimits

_NOTHING_RECORDED: Final = Recorded()


class GroupTransaction:
    """The transaction of a group commit. The database may run it again, after an attempt that was rolled back.

    Such an attempt has left its decisions in the drafts, so each later one validates them again. `broken_by` is the
    step that raised the error of the latest attempt, None if something else did. `step_seconds` is the time of all
    steps.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        caches: dict[int, ContactCache],
        limits: QuarantineLimits,
        steps: Sequence[PiggybackedStep] = (),
    ) -> None:
        self._batches = batches
        self._caches = caches
        self._limits = limits
        self._steps = steps
        self._begun = False
        self.step_seconds = 0.0
        self.broken_by: PiggybackedStep | None = None

    def __call__(self, connection: Connection) -> list[ProjectCommit]:
        """Decide and store the batches, then take the steps. Return the part of each project."""
        self.broken_by = None
        if self._begun:
            for batch in self._batches:
                validate_batch(batch)
        self._begun = True
        commits = commit(connection, self._batches, self._caches, self._limits) if self._batches else []
        began = perf_counter()
        recorded = {project.snapshot.project_pk: project.recorded for project in commits}
        for step in self._steps:
            self.broken_by = step
            step.run(connection, recorded.get(step.project_pk, _NOTHING_RECORDED))
        self.broken_by = None
        self.step_seconds = perf_counter() - began
        return commits
