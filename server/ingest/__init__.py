"""The way of an event into the log: validated, queued, committed together with others.

    front door      Draft                        the request, read into plain values
    Ingest          validate_batch               by the catalog snapshot in memory, without the database
    GroupCommit     queue                        every batch that waits goes into the next commit
    commit          one transaction              contacts, idempotency keys, positions, matches, rows
    front door      Draft.event or Draft.error   the response, once the transaction is durable

`Ingest` is the entrance that every front door calls.
"""

from __future__ import annotations
