"""The benchmark of the REST bridge, `make bench-rest`: a send beside an echo and a service written by hand."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.harness import Rates, Ratio, main, progress, server
from bench.rest_peers import PATH
from bench.subjects import Wrk, signalbox
from server.demo import EMAIL, EVENT, PROPERTIES, SECRETS
from server.model import Dialect

CONNECTIONS = 64
WARM_UP_SECONDS = 1.0

SEND = "POST /v1/events/send, 64 in flight"
ECHO = "  Starlette echo"
BY_HAND = "  FastAPI + SQLAlchemy + aiosqlite"

RATIOS = (Ratio(SEND, ECHO, 0.50), Ratio(SEND, BY_HAND, 10.0))


def measure(rounds: int, seconds: float) -> Rates:
    """Start the servers, measure `rounds` rounds of `seconds`, and stop the servers."""
    seconds = float(max(1, round(seconds)))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-bench-")))
        subject = stack.enter_context(signalbox(folder))
        echo = stack.enter_context(server(folder, "bench.rest_peers", "echo"))
        by_hand = stack.enter_context(server(folder, "bench.rest_peers", "by_hand", str(folder / "by_hand.db")))
        script = folder / "send.lua"
        script.write_text(_script())
        send, *peers = (
            Wrk(f"http://{address}{PATH}", script, CONNECTIONS)
            for address in (subject.http, echo["http"], by_hand["http"])
        )
        subject.load(send, 1, WARM_UP_SECONDS)
        for peer in peers:
            peer.run(WARM_UP_SECONDS)
        rates: Rates = {SEND: [], ECHO: [], BY_HAND: []}
        for number in range(1, rounds + 1):
            progress(f"round {number} of {rounds}")
            rates[SEND].append(subject.load(send, 1, seconds))
            for name, peer in zip((ECHO, BY_HAND), peers, strict=True):
                rates[name].append(peer.run(seconds) / seconds)
        progress("")
        return rates


def _script() -> str:
    """Write the request for wrk."""
    body = {"eventName": EVENT, "email": EMAIL, "eventProperties": json.loads(PROPERTIES)}
    return f"""
wrk.method = "POST"
wrk.body = [[{json.dumps(body)}]]
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {SECRETS[Dialect.AUTOSEND]}"
"""


if __name__ == "__main__":
    main(__doc__, ("wrk",), measure, RATIOS)
