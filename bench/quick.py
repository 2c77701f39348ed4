"""The quick benchmark, `make bench-quick`: what Signalbox adds to what cannot be avoided. See bench/README.md."""

from __future__ import annotations

from bench.harness import main
from bench.ingest import BATCHES, SINGLE_EVENTS

if __name__ == "__main__":
    main(__doc__, (SINGLE_EVENTS, BATCHES))
