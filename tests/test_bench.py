"""The benchmarks: each load is accepted as it should be, the checks can fail, and the documentation has the results."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from bench import check, data, harness, lists, peers, stored
from bench.data import (
    BATCH,
    CONTACTS,
    MATCHING_EVERY,
    Request,
    batch_requests,
    event_inputs,
    read_requests,
    write_requests,
)
from bench.delivery import cpu_seconds, open_streams, resident
from bench.harness import Group, run_python
from bench.ingest import BATCHES, CALLER, REST_SENDS, SINGLE_EVENTS
from bench.page import pages
from bench.results import Failed, Ratio, Result, from_json, merged, to_json
from bench.subjects import Heads, Matching, Signalbox, signalbox
from registry.log_ids import LogIds, position_of
from tests.support import forked_modules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.checkout, pytest.mark.timeout(300)]

SECONDS = 0.1
EVENTS = 4_000


@pytest.fixture(scope="module", autouse=True)
def _small_and_forked() -> Iterator[None]:
    """Prepare fewer events, which loads repeat, and fork the programs: otherwise each would import everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "subprocess", forked_modules)
        for module in (data, stored):
            patch.setattr(module, "EVENTS", EVENTS)
        patch.setattr(stored, "MATCHES", EVENTS // MATCHING_EVERY)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def subject(folder: Path) -> Iterator[Signalbox]:
    with signalbox(folder) as running:
        yield running


@pytest.mark.parametrize("kind", ["unary", "one", "batches", "stream", "rest", "connect_proto", "connect_json"])
def test_every_event_of_a_load_and_its_matches_are_stored(subject: Signalbox, kind: str) -> None:
    before = subject.heads()
    result = subject.run_load(kind, SECONDS)
    assert subject.heads() - before == Heads(int(result["events"]), int(result["matches"]))
    assert result["events"] >= MATCHING_EVERY or kind == "one"


def test_a_load_whose_matches_are_not_stored_fails(subject: Signalbox, folder: Path) -> None:
    wrong = write_requests(folder / "wrong.bin", [Request(next(batch_requests()).body, BATCH)])
    with pytest.raises(Failed, match="were acknowledged, but the logs have"):
        subject.run_load("once", SECONDS, wrong)


def test_a_load_that_is_refused_fails(subject: Signalbox) -> None:
    requests = str(subject.requests.of("unary"))
    with pytest.raises(Failed, match="a call failed"):
        run_python("load", "unary", subject.grpc, "sb_key_of_nobody_at_all", requests, str(SECONDS))


def test_matches_are_consumed_and_watched_while_events_are_sent(subject: Signalbox) -> None:
    subject.run_load("batches", SECONDS)
    assert subject.deliveries(window=10, consumers=2, count=40) > 0
    assert subject.deliveries(by_contact=True, count=20) > 0
    for kind in ("watch", "consume"):
        figures = subject.lag(kind, 100, SECONDS)
        assert 0 < figures["lag_p50"] <= figures["lag_p99"]
        assert figures["delivery_p99"] >= figures["delivery_p50"] > 0
    with ExitStack() as stack:
        streams = stack.enter_context(open_streams(subject, "watch", 3))
        subject.add_project("sb_key_of_another_project")
        stack.enter_context(open_streams(subject, "consume", 3, "sb_key_of_another_project"))
        assert set(subject.lag("alone", 100, SECONDS, MATCHING_EVERY)) == {"send_p50", "send_p99", "events"}
        streams.await_position(subject.heads().matches)
    assert cpu_seconds(subject.process) > 0
    assert resident(subject.process) > 1e6


def test_every_page_of_a_list_and_every_explanation_is_measured(
    subject: Signalbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "CALLS", 1)
    subject.run_load("batches", SECONDS)
    with subject.subscription(lists.SUBSCRIPTION), grpc.insecure_channel(subject.grpc) as channel:
        measured = lists.measured(channel)
        assert all(call.slowest() > 0 for call in measured.values())
    assert {ratio.subject for ratio in lists.LISTS.ratios} == set(measured)


def test_the_bare_loop_stores_the_same_events(subject: Signalbox, folder: Path) -> None:
    for kind, size in (("batches", str(BATCH)), ("one", "1")):
        file = str(subject.requests.of(kind))
        result = run_python("bare_loop", str(folder / f"{kind}.db"), file, str(SECONDS), size)
        connection = sqlite3.connect(folder / f"{kind}.db")
        assert connection.execute("SELECT count(*) FROM event").fetchone()[0] == result["events"]
        connection.close()


@pytest.mark.parametrize("group", [SINGLE_EVENTS, BATCHES, CALLER, REST_SENDS], ids=lambda group: group.title)
def test_a_group_measures_everything_that_it_compares(group: Group) -> None:
    result = replace(group, rounds=1).measure(1, SECONDS)
    assert result.compared() == list(group.ratios)
    assert all(value > 0 for values in result.values.values() for value in values)


def test_a_project_may_have_no_matches(folder: Path) -> None:
    with signalbox(folder, Matching.NEVER) as subject:
        assert subject.load("batches", SECONDS) > 0
        assert subject.heads().matches == 0


def test_stored_events_are_copied_with_matches_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNALBOX_BENCH_CACHE", str(tmp_path / "cache"))
    with signalbox(tmp_path, database=stored.stored_events(tmp_path, 2 * EVENTS)) as subject:
        assert subject.heads() == Heads(CONTACTS + 2 * EVENTS, 2 * stored.MATCHES)
        assert subject.deliveries(count=100) > 0
        assert subject.load("batches", SECONDS) > 0
    connection = sqlite3.connect(tmp_path / "stored.db")
    events, ids = connection.execute("SELECT count(*), count(DISTINCT id) FROM event").fetchone()
    runs, of_events = connection.execute("SELECT count(*), count(DISTINCT event_position) FROM run").fetchone()
    assert events == ids > CONTACTS + 2 * EVENTS
    assert runs == of_events > 2 * stored.MATCHES
    connection.close()


@pytest.mark.parametrize("position", [1, 2**14 - 1, 2**14, 2**28 - 1, 2**28 + 2**14 + 1])
def test_the_id_of_a_copy_has_its_position(position: int) -> None:
    entry_id = LogIds(1_700_000_000_000_000).make(position)
    later = stored.later_id(entry_id, 32_000)
    assert position_of(later) == position + 32_000
    assert (later[:13], later[-8:]) == (entry_id[:13], entry_id[-8:])


def test_one_event_in_ten_matches_and_few_contacts_have_many_events() -> None:
    events = list(event_inputs(10_000))
    assert sum(matches for _, matches in events) == 1_000
    contacts = [event.email for event, _ in events]
    assert 0.11 < contacts.count("contact0@example.com") / len(contacts) < 0.16
    assert {event.name for event, _ in events} == {"order_completed", "cart_updated", "page_viewed"}


def test_requests_are_read_as_they_were_written(tmp_path: Path) -> None:
    requests = [Request(b"", 0), Request(b"body", 3)]
    assert read_requests(write_requests(tmp_path / "requests.bin", requests)) == requests


def test_checkouts_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"here": 8.0, "other": 10.0}
    monkeypatch.setattr(check, "ROWS", {"row": lambda side: values[side.grpc]})
    here, other = (Signalbox(name, "", Matching.NEVER, None, 0) for name in values)  # type: ignore[arg-type]
    comparison = check.Comparison(here, other)
    comparison.measure(["row"], 3)
    assert comparison.results["row"] == [(8.0, 10.0)] * 3
    assert comparison.lost() == ["row"]
    assert comparison.table().splitlines()[1].endswith("lost")
    values["here"] = 9.5
    comparison.measure(["row"], 4)
    assert comparison.lost() == []


def test_a_commit_that_does_not_exist_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="neither a folder nor a commit"):
        check.checkout("no-such-commit", tmp_path)
    assert check.checkout(str(tmp_path), tmp_path) == tmp_path


RESULT = Result(
    "Group",
    "ms",
    {"a": [4.0, 2.0, 3.0], "b": [1.0, 1.0, 1.0], "c": [2.0, 2.0, 3.0]},
    (
        Ratio("a", "b", 3.5),
        Ratio("a", "b", 2.0, at_most=True),
        Ratio("a", "b", 2.0, at_most=True, enough=3.0),
        Ratio("c", "a", 0.9),
        Ratio("a", "not measured", 1.0),
        Ratio("b", "a"),
    ),
    ("a peer: not installed",),
    "abc, 2026-01-01",
)


def test_targets_are_met_or_missed_by_the_median_of_the_rounds() -> None:
    assert RESULT.missed() == ["a / b is 3.00; the target is >= 3.5", "a / b is 3.00; the target is <= 2"]
    assert RESULT.ratios[3].of_rounds(RESULT.values) == [0.5, 1.0, 1.0]
    table = RESULT.table()
    assert table.count("missed") == 2
    assert "not measured" not in table
    assert table.endswith("skipped: a peer: not installed")


def test_results_are_read_as_they_were_written() -> None:
    document, (read,) = from_json(to_json("machine", [RESULT]))
    assert document["machine"] == "machine"
    assert read == RESULT
    newer = Result("Group", "ms", {"a": [1.0]}, ())
    assert merged([RESULT, Result("Other", "ms", {}, ())], [newer])[0] == newer


def test_a_group_is_measured_after_a_round_that_does_not_count() -> None:
    taken = iter(range(10))

    @contextmanager
    def opened(_folder: Path, _seconds: float) -> Iterator[object]:
        yield lambda: {"subject": float(next(taken))}

    group = Group("Group", "ms", (), opened)  # type: ignore[arg-type]
    assert group.measure(3, 1.0).values == {"subject": [1.0, 2.0, 3.0]}


@pytest.mark.parametrize("peer", [peers.JETSTREAM, peers.REDIS, peers.JOBS], ids=lambda peer: peer.module)
def test_peers_are_measured_if_they_are_installed(peer: peers.Peer, tmp_path: Path) -> None:
    if lacks := peer.lacks():
        pytest.skip(lacks)
    with peers.running(tmp_path, peer) as running:
        client = running[peer]
        assert client("publish", str(SECONDS))["events"] > 0
        client("fill", "200")
        for kind in peer.consumes:
            assert client("consume", kind, "200")["events"] >= 200
        if peer is not peers.JOBS:
            assert client("lag", "100", str(SECONDS))["lag_p50"] > 0


def test_what_is_not_installed_is_skipped_and_named(tmp_path: Path) -> None:
    absent = peers.Peer("absent", "absent", lambda _: pytest.fail("it was started"), lambda: "it is not installed")
    with peers.running(tmp_path, absent) as running:
        assert running == {}
    assert peers.missing(absent) == ["absent: it is not installed"]


def test_the_documentation_has_the_results() -> None:
    for path, text in pages():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: python -m bench.page renews it"
