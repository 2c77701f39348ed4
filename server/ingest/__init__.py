"""The way of an event: judged by its definition, queued, committed in a group.

`Ingest` is the entrance that every front door calls; `judge` decides by the catalogue, `commit` by the database and
inside its transaction, `GroupCommit` brings both together with one commit for all that waits.
"""

from __future__ import annotations
