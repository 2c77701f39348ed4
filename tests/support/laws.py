"""The number of examples that laws are tried with."""

from __future__ import annotations

import os

FACTOR = int(os.environ.get("SIGNALBOX_EXAMPLES_FACTOR", "1"))
"""`make test-long` tries a hundred times as many examples as `make test`."""


def examples(count: int) -> int:
    """Return the `max_examples` of a law of which `make test` tries `count`."""
    return count * FACTOR
