"""The systems with which Signalbox is compared, each if it is installed: their servers, and a client for each.

Servers keep their data in the temporary folder of the run, on the same disk. A client is a module of the benchmark that
runs in its own process: `jetstream.py`, `redis_streams.py` and `job_queue.py`. Their Python packages are the extra
`bench` (`pip install -e '.[bench]'`).
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from time import monotonic, sleep
from typing import TYPE_CHECKING, Protocol

from bench.data import MATCHES
from bench.harness import run_python
from bench.results import Failed
from tests.support.postgres import DURABLE, Cluster, find_binaries, running_cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

START_SECONDS = 20.0
UNCONFIRMED, CONFIRMED = "ack", "ack confirmed"


class Client(Protocol):
    """Runs the client of a peer with a command and its arguments, and returns its figures."""

    def __call__(self, command: str, *arguments: str) -> dict[str, float]: ...


@dataclass(frozen=True)
class Peer:
    """A system: how it is run, what it lacks on this machine, and what is consumed of it in a round."""

    title: str
    module: str
    server: Callable[[Path], AbstractContextManager[str]]
    lacks: Callable[[], str]
    deliveries: int = MATCHES
    consumes: tuple[str, ...] = (CONFIRMED,)


@contextmanager
def running(folder: Path, *peers: Peer) -> Iterator[dict[Peer, Client]]:
    """Run the servers of those that are installed. Yield a client for each."""
    with ExitStack() as stack:
        clients: dict[Peer, Client] = {}
        for peer in peers:
            if not peer.lacks():
                own = folder / f"peer-{len(clients)}"
                own.mkdir()
                clients[peer] = _client(peer, stack.enter_context(peer.server(own)))
        yield clients


def missing(*peers: Peer) -> list[str]:
    """Return a line for each that is not installed."""
    return [f"{peer.title}: {lacks}" for peer in peers if (lacks := peer.lacks())]


def _client(peer: Peer, address: str) -> Client:
    def run(command: str, *arguments: str) -> dict[str, float]:
        return run_python(peer.module, command, address, *arguments)

    return run


def _lacks(program: str, debian: str, package: str) -> str:
    if _path(program) is None:
        return f"{program} is not installed (apt-get install {debian})"
    return "" if find_spec(package) else f"the Python package {package} is not installed (pip install -e '.[bench]')"


def _path(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


@contextmanager
def _process(folder: Path, port: int, *command: str) -> Iterator[str]:
    """Run a server until it listens on a port, and end it afterwards. Yield its address."""
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as process,
    ):
        try:
            _await_port(process, port, folder / "log")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = monotonic() + START_SECONDS
    while monotonic() < until and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        sleep(0.05)
    raise Failed(f"a peer did not start:\n{log.read_text()[-2_000:]}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@cache
def _nats_version() -> tuple[int, ...]:
    program = _path("nats-server")
    assert program is not None
    output = subprocess.run((program, "--version"), capture_output=True, text=True, check=False).stdout
    return tuple(int(number) for number in re.findall(r"\d+", output))


def _nats(folder: Path, sync: str = "") -> AbstractContextManager[str]:
    port = _free_port()
    settings = f'store_dir: "{folder / "jetstream"}"' + (f", sync_interval: {sync}" if sync else "")
    configuration = folder / "nats.conf"
    configuration.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ {settings} }}\n')
    return _process(folder, port, _path("nats-server") or "", "-c", str(configuration))


def _lacks_nats() -> str:
    return _lacks("nats-server", "nats-server", "nats")


def _lacks_nats_always() -> str:
    if lacks := _lacks_nats():
        return lacks
    version = ".".join(map(str, _nats_version()))
    return "" if _nats_version() >= (2, 10) else f"sync_interval needs nats-server 2.10; here is {version}"


def _redis(folder: Path) -> AbstractContextManager[str]:
    port = _free_port()
    options = ("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "")
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    return _process(folder, port, _path("redis-server") or "", *options, *durable)


@contextmanager
def _postgresql(_folder: Path) -> Iterator[str]:
    binaries = find_binaries()
    assert binaries is not None
    with running_cluster(binaries, options=DURABLE) as cluster:
        yield _database(cluster)


def _database(cluster: Cluster) -> str:
    cluster.execute("CREATE DATABASE jobs")
    return cluster.url("jobs")


def _lacks_jobs() -> str:
    if find_binaries() is None:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if find_spec("procrastinate"):
        return ""
    return "the Python package procrastinate is not installed (pip install -e '.[bench]')"


JETSTREAM = Peer("JetStream, no fsync", "jetstream", _nats, _lacks_nats, consumes=(UNCONFIRMED, CONFIRMED))
JETSTREAM_ALWAYS = Peer(
    "JetStream, sync_interval always", "jetstream", lambda folder: _nats(folder, "always"), _lacks_nats_always
)
REDIS = Peer(
    "Redis Streams, appendfsync always",
    "redis_streams",
    _redis,
    lambda: _lacks("redis-server", "redis-server", "redis"),
)
JOBS = Peer("procrastinate on PostgreSQL", "job_queue", _postgresql, _lacks_jobs, deliveries=300)

ALL = (JETSTREAM, JETSTREAM_ALWAYS, REDIS, JOBS)
