"""The benchmark of the REST bridge, `make bench-rest`: a send beside an echo and a service written by hand."""

from __future__ import annotations

from bench.harness import main
from bench.ingest import REST_SENDS

if __name__ == "__main__":
    main(__doc__, (REST_SENDS,))
