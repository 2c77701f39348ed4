"""The metrics of a server, for Prometheus; `docs/metrics.md` lists them.

Counts are added as things happen, all on the event loop. What would cost a call something to count, such as the size
of a queue, is read whenever the metrics are.
"""

from __future__ import annotations

from server.metrics.metrics import Metrics
from server.metrics.series import PROJECT_LABEL

__all__ = ["PROJECT_LABEL", "Metrics"]
