"""Commands, servers and pytest's workers, forked from a process that has imported everything.

A command takes about a second of CPU to import gRPC and its messages, and a hundredth to run; a server takes two. The
tests run hundreds of them, so they fork each from one process that has done the imports: still a process of its own,
with its own standard streams, environment, signals and exit code. That process has also been a server once, but for
gRPC: forks find statements and the grammar of conditions compiled.

    python -m tests.support.forking SOCKET     serve until standard input is closed
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from runpy import run_module
from threading import Lock, Thread
from typing import IO, TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEADER_BYTES = 8
START_SECONDS = 60
IMPORTED_OF_RELEASES = ("server.app", "server.storage.sqlite", "server.storage.postgresql", "asyncpg")
"""What processes of every release have in common; each imports the rest by itself."""
IMPORTED_OF_WORKERS = (
    "httpx", "jsonschema_rs", "opentelemetry.sdk.trace", "pytest", "resend", "server.delivery.push.http_client",
    "tests.support.neighbour", "uvloop",
)  # fmt: skip
"""What workers import besides commands, and servers late. Pytest rewrites the asserts of Hypothesis: it is not here."""
SHARED = "TESTS_FORKER"
"""The variable that leads a forked process to the process that it was forked from, to have others forked, too."""

_SCRIPT = """\
#!{python} -IS
import json, os, signal, socket, sys
if {module!r}:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The fork heeds it.
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
call = dict(program=sys.argv[0], arguments=sys.argv[1:], environment=dict(os.environ), folder=os.getcwd())
call["module"] = {module!r}
body = json.dumps(call).encode()
socket.send_fds(connection, [len(body).to_bytes({header}, "big")], [0, 1, 2])
connection.sendall(body)
sys.exit(int(connection.makefile().read().split()[1]) % 256)
"""


def _write(pipe: int, content: bytes) -> None:
    """Write to a pipe and close it; the command need not read everything."""
    with suppress(BrokenPipeError), open(pipe, "wb") as file:
        file.write(content)


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


class ForkedProcess:
    """A process that was forked, as seen by the one that asked for it."""

    def __init__(self, connection: socket.socket) -> None:
        self._answers = connection.makefile("r")
        self._connection = connection
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def poll(self) -> int | None:
        """Return the exit code, None while the process runs."""
        if self.returncode is None:
            ended = select.poll()
            ended.register(self._connection, select.POLLIN)
            if ended.poll(0):
                self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process has ended; return its exit code, negative for a signal."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._connection.close()
        return self.returncode


class Forker:
    """The process from which others are forked, started with the first of them.

    `source` is the checkout of another release, to fork its program.
    """

    def __init__(self, source: Path | None = None) -> None:
        self._source = source
        self._address = "" if source else os.environ.get(SHARED, "")
        self._lock = Lock()

    def shared(self) -> dict[str, str]:
        """Return the variable by which a forked process uses the same process."""
        return {SHARED: self._started()}

    def run(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        *,
        stdin: str,
        timeout: float,
        module: str = "",
    ) -> tuple[int, str, str]:
        """Run a command; return its exit code and what it wrote to stdout and stderr."""
        reading, writing = os.pipe()
        writer = Thread(target=_write, args=(writing, stdin.encode()), daemon=True)
        writer.start()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                process = self.start(arguments, environment, folder, (reading, out.fileno(), err.fileno()), module)
            finally:
                os.close(reading)
            try:
                code = process.wait(timeout)
            finally:
                process.kill()
                writer.join()
            return code, _content(out), _content(err)

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        files: Sequence[int],
        module: str = "",
    ) -> ForkedProcess:
        """Start `signalbox`, or a module of Python, with these files as its standard streams."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._started())
        call = {"arguments": arguments, "environment": environment, "folder": str(folder), "module": module}
        body = json.dumps(call).encode()
        socket.send_fds(connection, [len(body).to_bytes(HEADER_BYTES, "big")], list(files))
        connection.sendall(body)
        return ForkedProcess(connection)

    def install(self, path: Path, module: str = "") -> None:
        """Write a `signalbox`, or a module, that is forked too: a script that hands its streams over.

        It exits as the fork does.
        """
        values = {"python": sys.executable, "address": self._started(), "header": HEADER_BYTES, "module": module}
        path.write_text(_SCRIPT.format(**values))
        path.chmod(0o755)

    def share(self) -> None:
        """Start the process for all workers of a run, which inherit its address; it imports while they do."""
        self._address = os.environ[SHARED] = self._address or self._start()

    def worker(self) -> str:
        """Return how pytest-xdist is to start a worker: forked."""
        script = Path(self._started()).with_name("worker")
        self.install(script, "tests.support.forked_worker")
        return f"popen//python={sys.executable} -IS {script}"

    def _started(self) -> str:
        """Return the address of the process, which the first caller starts."""
        with self._lock:
            self._address = self._address or self._start()
        until = time.monotonic() + START_SECONDS
        while not Path(self._address).exists():
            if time.monotonic() > until:
                raise TimeoutError("the process that forks others did not start")
            time.sleep(0.01)
        return self._address

    def _start(self) -> str:
        folder = tempfile.TemporaryDirectory(prefix="signalbox-forks-")
        address = str(Path(folder.name, "socket"))
        command = [sys.executable, "-m", "tests.support.forking", address]
        variables = dict(os.environ)
        if self._source:
            command = [sys.executable, "-P", __file__, address, *IMPORTED_OF_RELEASES]
            variables["PYTHONPATH"] = f"{self._source}:{self._source / 'generated'}"
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            env=variables | {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "NONE"},
        )
        atexit.register(_stop, process, folder)
        return address


def _stop(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    process.kill()
    process.communicate()
    folder.cleanup()


def serve(address: str, modules: Sequence[str]) -> None:
    """Import modules, by default all, and fork a process for each connection, until standard input is closed."""
    # Ctrl-C is for the forks and for the tests, which close standard input then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Nothing that is imported becomes garbage.
    gc.disable()
    from server.__main__ import main

    for module in modules or _modules():
        import_module(module)
    if not modules:
        from tests.support.warm_server import warm_up  # modules of this release

        warm_up()
    # Each fork would look through all of it again, and copy it thereby.
    gc.collect()
    gc.freeze()
    gc.enable()
    with socket.socket(socket.AF_UNIX) as listening, selectors.DefaultSelector() as selector:
        # The address exists once connections are taken.
        listening.bind(f"{address}.new")
        listening.listen()
        Path(f"{address}.new").rename(address)
        selector.register(listening, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        forks = _Forks(selector)
        while sys.stdin not in (ready := [key.fileobj for key, _ in selector.select()]):
            for file in ready:
                if file is not listening:
                    forks.report(file)
                elif child := forks.fork(listening.accept()[0]):
                    listening.close()
                    _become(*child, main)


def _modules() -> list[str]:
    from server.cli.main import _COMMANDS

    commands = [module for module, _ in _COMMANDS.values()]
    return [*commands, "tests.torture.preloaded", *IMPORTED_OF_WORKERS]


class _Forks:
    """The processes that were forked and have not ended, each with the connection of the one that asked for it.

    They are this process's own children: a process between the two would copy its memory map once more.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._running: dict[Any, tuple[int, socket.socket]] = {}

    def fork(self, connection: socket.socket) -> tuple[dict[str, Any], Sequence[int]] | None:
        """Fork a process and send its id. Return, in it alone, what it is to run, and its standard streams."""
        header, files, _, _ = socket.recv_fds(connection, HEADER_BYTES, 3)
        call = json.loads(_received(connection, int.from_bytes(header, "big")))
        if (child := os.fork()) == 0:
            connection.close()
            self._close()
            return call, files
        for file in files:
            os.close(file)
        ending = os.pidfd_open(child)
        self._running[ending] = (child, connection)
        self._selector.register(ending, selectors.EVENT_READ)
        self._send(connection, child)
        return None

    def report(self, ending: Any) -> None:
        """Send the exit code of a process that has ended."""
        self._selector.unregister(ending)
        os.close(ending)
        child, connection = self._running.pop(ending)
        with connection:
            self._send(connection, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    def _send(self, connection: socket.socket, number: int) -> None:
        # Whoever asked may be gone.
        with suppress(BrokenPipeError):
            connection.sendall(f"{number}\n".encode())

    def _close(self) -> None:
        self._selector.close()
        for ending, (_, connection) in self._running.items():
            os.close(ending)
            connection.close()


def _received(connection: socket.socket, size: int) -> bytes:
    body = b""
    while len(body) < size:
        body += connection.recv(size - len(body))
    return body


def _become(call: dict[str, Any], files: Sequence[int], main: Any) -> NoReturn:
    """Run the command with its streams, environment and folder."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(call["environment"])
    os.chdir(call["folder"])
    module = sys.modules["__main__"] = sys.modules["server.__main__"]
    if program := call.get("program"):
        module.__package__ = None
    sys.argv = [program or module.__file__ or "", *call["arguments"]]
    code = 1
    try:
        code = _run_module(call["module"]) if call.get("module") else main() or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_module(name: str) -> int:
    """Run a module as `python -m` does."""
    run_module(name, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
