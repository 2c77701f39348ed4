"""Every benchmark, `make bench`: the results go to bench/results/, from where `bench.page` writes the documentation."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench import delivery, ingest, peers
from bench.automations import MANY_AUTOMATIONS
from bench.harness import Group, main, rate
from bench.lists import LISTS
from bench.pushes import PUSHES
from bench.results import RESULTS, Ratio
from bench.subjects import signalbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.harness import Round

SEND_EVENT = "SendEvent"


@contextmanager
def durable_sends(folder: Path, seconds: float) -> Iterator[Round]:
    """Measure SendEvent and confirmed sends to other systems, 64 in flight."""
    with signalbox(folder) as subject, peers.running(folder, *peers.ALL) as running:
        yield (
            lambda: (
                {SEND_EVENT: subject.load("unary", seconds)}
                | {peer.title: rate(client("publish", str(seconds))) for peer, client in running.items()}
            )
        )


DURABLE_SENDS = Group(
    "One event a request, 64 in flight, beside other systems",
    "events/s",
    tuple(Ratio(SEND_EVENT, peer.title) for peer in peers.ALL),
    durable_sends,
    lambda: peers.missing(*peers.ALL),
)

GROUPS = (*ingest.GROUPS, MANY_AUTOMATIONS, *delivery.GROUPS, PUSHES, LISTS, DURABLE_SENDS)

if __name__ == "__main__":
    main(__doc__, GROUPS, json_file=RESULTS)
