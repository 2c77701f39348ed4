"""The groups that measure sending events. See bench/README.md."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from bench.data import KEY
from bench.harness import Group, rate, run_python, server
from bench.results import Ratio
from bench.stored import stored_events
from bench.subjects import Matching, signalbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.harness import Round

SEND_EVENT = "SendEvent"
NO_OP = "no-op gRPC server"
SEND_EVENTS = "SendEvents of 500"
BARE_LOOP = "bare loop"
STREAM_EVENTS = "StreamEvents of 100"
ONE_CALLER = "SendEvent p50, one call at a time"
BARE_CALLER = "bare commit p50 + no-op call p50"
ONE_CONTACT = "one contact, no automations"
MANY_CONTACTS = "1,000 contacts, no automations"
NEVER = "ten automations that never match"
ONE_IN_TEN = "ten automations, one event in ten matches one"
STORED = "the same with 5 million stored events"
REST = "POST /v1/events/send"
ECHO = "Starlette echo"
CONNECT_PROTO = "SendEvent over Connect, Protocol Buffers"
CONNECT_JSON = "SendEvent over Connect, JSON"
BY_HAND = "FastAPI + SQLAlchemy + aiosqlite by hand"


@contextmanager
def single_events(folder: Path, seconds: float) -> Iterator[Round]:
    """Measure SendEvent and a server that does nothing."""
    with signalbox(folder) as subject, server(folder, "bench.no_op") as no_op:

        def take() -> dict[str, float]:
            sent = subject.run_turns(no_op["grpc"], seconds)
            return {SEND_EVENT: rate(sent), NO_OP: sent["other"]}

        yield take


@contextmanager
def batches(folder: Path, seconds: float) -> Iterator[Round]:
    """Measure SendEvents, a loop that stores the same, and StreamEvents."""
    with signalbox(folder) as subject:
        bare = ("bare_loop", str(folder / "bare.db"), str(subject.requests.of("batches")), str(seconds))

        def take() -> dict[str, float]:
            sent = subject.load("batches", seconds)
            stored = rate(run_python(*bare))
            return {SEND_EVENTS: sent, BARE_LOOP: stored, STREAM_EVENTS: subject.load("stream", seconds)}

        yield take


@contextmanager
def one_caller(folder: Path, seconds: float) -> Iterator[Round]:
    """Measure one call at a time, and what it cannot do without: a commit and a gRPC call."""
    with signalbox(folder) as subject, server(folder, "bench.no_op") as no_op:
        requests = str(subject.requests.of("one"))
        bare = ("bare_loop", str(folder / "bare.db"), requests, str(seconds), "1")

        def take() -> dict[str, float]:
            sent = subject.run_load("one", seconds)["p50"]
            commit = run_python(*bare)["p50"]
            call = run_python("load", "one", no_op["grpc"], KEY, requests, str(seconds))["p50"]
            return {ONE_CALLER: sent, BARE_CALLER: commit + call}

        yield take


@contextmanager
def projects(folder: Path, seconds: float) -> Iterator[Round]:
    """Measure SendEvents of 500 to servers with different projects."""
    with ExitStack() as stack:
        subjects = {
            ONE_CONTACT: stack.enter_context(signalbox(folder, Matching.NO_AUTOMATIONS, contacts=1)),
            MANY_CONTACTS: stack.enter_context(signalbox(folder, Matching.NO_AUTOMATIONS)),
            NEVER: stack.enter_context(signalbox(folder, Matching.NEVER)),
            ONE_IN_TEN: stack.enter_context(signalbox(folder)),
            STORED: stack.enter_context(signalbox(folder, database=stored_events(folder))),
        }
        yield lambda: {name: subject.load("batches", seconds) for name, subject in subjects.items()}


@contextmanager
def rest(folder: Path, seconds: float) -> Iterator[Round]:
    """Measure a send over REST, an echo, and a service written by hand."""
    with (
        signalbox(folder) as subject,
        server(folder, "bench.rest_peers", "echo") as echo,
        server(folder, "bench.rest_peers", "by_hand", str(folder / "by_hand.db")) as by_hand,
    ):
        requests = str(subject.requests.of("rest"))

        def load(address: str) -> float:
            return rate(run_python("load", "rest", address, KEY, requests, str(seconds)))

        yield lambda: {
            REST: subject.load("rest", seconds),
            ECHO: load(echo["http"]),
            BY_HAND: load(by_hand["http"]),
        }


@contextmanager
def connect(folder: Path, seconds: float) -> Iterator[Round]:
    """SendEvent over Connect beside SendEvent over gRPC."""
    with signalbox(folder) as subject:

        def take() -> dict[str, float]:
            # In the order A B C C B A, because the machine's speed drifts within a second.
            kinds = {CONNECT_PROTO: "connect_proto", CONNECT_JSON: "connect_json", SEND_EVENT: "unary"}
            first = {name: subject.load(kind, seconds / 2) for name, kind in kinds.items()}
            again = {name: subject.load(kinds[name], seconds / 2) for name in reversed(kinds)}
            return {name: (first[name] + again[name]) / 2 for name in kinds}

        yield take


SINGLE_EVENTS = Group("Single events, 64 in flight", "events/s", (Ratio(SEND_EVENT, NO_OP, 0.70),), single_events)
BATCHES = Group(
    "Batches",
    "events/s",
    (Ratio(SEND_EVENTS, BARE_LOOP, 0.45), Ratio(STREAM_EVENTS, SEND_EVENTS, 0.80)),
    batches,
)
CALLER = Group("One caller", "ms", (Ratio(ONE_CALLER, BARE_CALLER, 1.7, at_most=True),), one_caller)
PROJECTS = Group(
    "Projects, SendEvents of 500",
    "events/s",
    (
        Ratio(MANY_CONTACTS, ONE_CONTACT, 0.90),
        Ratio(NEVER, MANY_CONTACTS, 0.92),
        Ratio(ONE_IN_TEN, MANY_CONTACTS, 0.85),
        Ratio(STORED, ONE_IN_TEN, 0.90),
    ),
    projects,
)
REST_SENDS = Group("REST sends, 64 in flight", "events/s", (Ratio(REST, ECHO, 0.60), Ratio(REST, BY_HAND, 10.0)), rest)

CONNECT_SENDS = Group(
    "SendEvent over Connect, 64 in flight",
    "events/s",
    (Ratio(CONNECT_PROTO, SEND_EVENT, 2.5), Ratio(CONNECT_JSON, SEND_EVENT, 2.5)),
    connect,
)

GROUPS = (SINGLE_EVENTS, BATCHES, CALLER, PROJECTS, REST_SENDS, CONNECT_SENDS)
