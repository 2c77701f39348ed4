"""The benchmark of the REST bridge, `make bench-rest`: a send beside an echo and a service written by hand."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict

from bench.data import SINGLES, event_inputs
from bench.harness import Rates, Ratio, main, progress, server
from bench.rest_peers import PATH
from bench.subjects import AUTOSEND_KEY, Wrk, signalbox

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS = 64
WARM_UP_SECONDS = 1.0

SEND = "POST /v1/events/send, 64 in flight"
ECHO = "  Starlette echo"
BY_HAND = "  FastAPI + SQLAlchemy + aiosqlite"

RATIOS = (Ratio(SEND, ECHO, 0.60), Ratio(SEND, BY_HAND, 10.0))


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
        subject.load_rest(send, WARM_UP_SECONDS)
        for peer in peers:
            peer.run(WARM_UP_SECONDS)
        rates: Rates = {SEND: [], ECHO: [], BY_HAND: []}
        for number in range(1, rounds + 1):
            progress(f"round {number} of {rounds}")
            rates[SEND].append(subject.load_rest(send, seconds))
            for name, peer in zip((ECHO, BY_HAND), peers, strict=True):
                rates[name].append(peer.run(seconds) / seconds)
        progress("")
        return rates


def _script() -> str:
    """Write the requests for wrk, which sends one after the other."""
    bodies = ",\n".join(f"[[{body}]]" for body in _bodies())
    return f"""
local bodies = {{{bodies}}}
local next_body = 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {AUTOSEND_KEY}"
request = function()
    next_body = next_body % #bodies + 1
    return wrk.format(nil, nil, nil, bodies[next_body])
end
"""


def _bodies() -> Iterator[str]:
    for event, _ in event_inputs(SINGLES):
        properties = MessageToDict(event.properties)
        yield json.dumps({"eventName": event.name, "email": event.email, "eventProperties": properties})


if __name__ == "__main__":
    main(__doc__, ("wrk",), measure, RATIOS)
