"""The benchmark of matching, `make bench-automations`: a send among 10,000 automations beside one among 10.

Each of the two servers has ten automations that match every event, and so records ten matches with it. One has 9,990
more on the same event, whose conditions ask for other values.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import grpc

from bench.data import NAMES, Request, single_requests, write_requests
from bench.harness import Group, main
from bench.results import Ratio
from bench.subjects import METADATA, Matching, Signalbox, signalbox
from signalbox.v1 import automations_pb2 as pb
from signalbox.v1.automations_pb2_grpc import AutomationsStub
from signalbox.v1.event_ingest_pb2 import SendEventRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.harness import Round

EVENT = next(iter(NAMES))
MATCHING, ALL = 10, 10_000
IN_FLIGHT = 64

MANY = "SendEvent among 10,000 automations, 10 match"
FEW = "SendEvent among the 10 alone"


@contextmanager
def many_automations(folder: Path, seconds: float) -> Iterator[Round]:
    """Start both servers and create the automations."""
    with ExitStack() as stack:
        requests = write_requests(folder / "matching.bin", _requests())
        subjects: dict[str, Signalbox] = {}
        for name, count in ((MANY, ALL), (FEW, MATCHING)):
            subjects[name] = stack.enter_context(signalbox(folder, Matching.ITS_OWN))
            _create(subjects[name], conditions(count))
        yield lambda: {name: subject.load("unary", seconds, requests) for name, subject in subjects.items()}


MANY_AUTOMATIONS = Group("Many automations", "events/s", (Ratio(MANY, FEW, 0.80),), many_automations)


def conditions(count: int) -> Iterator[str]:
    """Yield `count` conditions on the benchmark's event: the first ten hold, the others do not."""
    for number in range(count):
        if number < MATCHING:
            yield f"properties.order_total > 0.0{number}"
        elif number % 3 == 0:
            yield f'properties.currency == "X{number}"'
        elif number % 3 == 1:
            yield f"properties.order_total > {1_000 + number}"
        else:
            yield f'properties.currency in ["Y{number}", "Z{number}"] && properties.is_first_purchase'


def _requests() -> Iterator[Request]:
    """Yield requests of SendEvent whose events match all of the ten."""
    for request in single_requests():
        if SendEventRequest.FromString(request.body).event.name == EVENT:
            yield Request(request.body, MATCHING)


def _create(subject: Signalbox, texts: Iterator[str]) -> None:
    with grpc.insecure_channel(subject.grpc) as channel:
        stub = AutomationsStub(channel)
        pending = []
        for number, text in enumerate(texts):
            wanted = pb.Automation(
                name=f"a{number}", event_name=EVENT, condition=text, state=pb.AUTOMATION_STATE_ACTIVE
            )
            call = stub.CreateAutomation.future(pb.CreateAutomationRequest(automation=wanted), metadata=METADATA)
            pending.append(call)
            if len(pending) == IN_FLIGHT:
                for each in pending:
                    each.result()
                pending.clear()
        for each in pending:
            each.result()


if __name__ == "__main__":
    main(__doc__, (MANY_AUTOMATIONS,))
