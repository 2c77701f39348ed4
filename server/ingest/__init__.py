"""How an event gets into the log: validated, queued, committed together with others.

    API             Draft                        the request, read into plain values
    Ingest          validate_batch               by the catalog snapshot in memory, without the database
    GroupCommit     queue                        queued batches share the next commit
    commit          one transaction              contacts, idempotency keys, positions, matches, rows
    API             Draft.event or Draft.error   the response, once the transaction is durable

Every API calls `Ingest`.
"""

from __future__ import annotations
