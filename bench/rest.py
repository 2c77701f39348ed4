"""The benchmark of HTTP, `make bench-rest`: a send over REST beside an echo and a service by hand, and over Connect."""

from __future__ import annotations

from bench.harness import main
from bench.ingest import CONNECT_SENDS, REST_SENDS

if __name__ == "__main__":
    main(__doc__, (REST_SENDS, CONNECT_SENDS))
