"""PostgreSQL servers of the tests' own, run from the installed binaries: primaries, standbys and their backups."""

from __future__ import annotations

import atexit
import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

USER = "signalbox"

TEMPLATE = "TESTS_POSTGRES_TEMPLATE"
"""The variable that holds the folder of an empty server's data; processes that inherit it make the data only once."""
_kept_folder = ExitStack()
atexit.register(_kept_folder.close)

START_SECONDS = 30

INITDB = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")

# The data is thrown away, so nothing needs to survive a power cut; many small databases are made from a template.
OPTIONS = (
    "fsync=off", "full_page_writes=off", "autovacuum=off", "shared_buffers=64MB", "max_connections=200",
    "update_process_title=off", "track_counts=off", "jit=off", "max_parallel_workers_per_gather=0",
    "bgwriter_delay=10s", "wal_writer_delay=10s", "checkpoint_timeout=1h", "max_wal_size=4GB",
)  # fmt: skip

DURABLE = ("shared_buffers=64MB", "max_connections=200")
"""Options of a server whose commits survive a power cut, for measurements."""


@dataclass(frozen=True)
class TlsFiles:
    """The certificate and key of a server, and the authority of its clients."""

    certificate: Path
    key: Path
    client_ca: Path


class Cluster:
    """A PostgreSQL server that listens on a private socket and a port of the loopback interface.

    The folder holds its data, its log and its socket.
    """

    def __init__(self, binaries: Path, folder: Path, options: Sequence[str] = OPTIONS) -> None:
        self.socket = folder
        self.port = free_port()
        self._binaries = binaries
        self._data = folder / "data"
        self._owner = unprivileged_user()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        """Return the URL of a database, by the socket."""
        return f"postgresql://{USER}@/{database}?host={self.socket}&port={self.port}"

    @property
    def address(self) -> str:
        """HOST:PORT of the loopback interface."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        # The file of a server that was killed would look like that of a running one.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        options = [f"unix_socket_directories={self.socket}", "listen_addresses=127.0.0.1", f"port={self.port}"]
        arguments = [part for option in (*self._options, *options) for part in ("-c", option)]
        with (self.socket / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_as(self._owner), self._binaries / "postgres", "-D", self._data, *arguments],
                cwd=self.socket,
                stdout=log,
                stderr=log,
            )
        self._wait_until_ready(self._process)

    def stop(self) -> None:
        """End open sessions, then the server; a stopped one stays so."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """End the server as in a crash: nothing is finished, and a standby receives nothing more."""
        self._end(signal.SIGQUIT)

    def freeze(self) -> None:
        """Stop all processes of the server in the middle of whatever they do."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume the processes of a frozen server."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        for process in (self._process.pid, *children_of(self._process.pid)):
            # A process may have ended since it was found.
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def execute(self, statement: str, database: str = "postgres") -> str:
        """Run one statement outside of a transaction. Return its output, unaligned."""
        return self._run("psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement, self.url(database)).strip()

    def promote(self) -> None:
        """Make a standby a primary; it has applied all that it received."""
        self._run("pg_ctl", "promote", "-w", "-D", self._data)

    def detach(self) -> None:
        """Make a standby receive nothing more, as if the network between the two had gone."""
        self.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self.execute("SELECT pg_reload_conf()")
        self.await_true("SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")

    def await_copy_of(self, primary: Cluster) -> None:
        """Wait until a standby has applied all that its primary holds now."""
        position = primary.execute("SELECT pg_current_wal_flush_lsn()")
        self.await_true(f"SELECT pg_last_wal_replay_lsn() >= '{position}'")

    def await_true(self, query: str) -> None:
        """Wait until a query returns true."""
        until = time.monotonic() + START_SECONDS
        while self.execute(query) != "t":
            if time.monotonic() > until:
                raise TimeoutError(query)
            time.sleep(0.02)

    def backup(self, folder: Path, *options: str) -> None:
        """Copy the data of the running server into a folder."""
        folder.mkdir(mode=0o700)
        if self._owner:
            os.chown(folder, self._owner["user"], self._owner["group"])
        source = f"host={self.socket} port={self.port} user={USER} application_name={folder.parent.name}"
        self._run("pg_basebackup", "-d", source, "-D", folder, "-c", "fast", "--no-sync", *options)

    def restore(self, backup: Path) -> None:
        """Replace the data by a backup, on the same address; sessions end as in a crash."""
        self.crash()
        shutil.rmtree(self._data)
        _copy_data(backup, self._data)
        self.start()

    def make(self) -> None:
        """Make the data of a new, empty server. All of a run are copies of the first: to make one takes long."""
        template = share_template() / "data"
        with (template.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not template.exists():
                self._run("initdb", "-D", self._data, "-U", USER, *INITDB)
                # A copy that was interrupted is no template.
                unfinished = template.with_name(f"data-{os.getpid()}")
                _copy_data(self._data, unfinished)
                unfinished.rename(template)
                return
        _copy_data(template, self._data)

    def offer_tls(self, files: TlsFiles) -> None:
        """Make a new server offer TLS, and the user `certified` show a certificate of that name."""
        for name, file in (("server.crt", files.certificate), ("server.key", files.key), ("root.crt", files.client_ca)):
            path = self._data / name
            path.write_bytes(file.read_bytes())
            path.chmod(0o600)
            if self._owner:
                os.chown(path, self._owner["user"], self._owner["group"])
        with (self._data / "postgresql.conf").open("a") as configuration:
            configuration.write("ssl = on\nssl_ca_file = 'root.crt'\n")
        rules = self._data / "pg_hba.conf"
        rules.write_text("hostssl all certified all cert\n" + rules.read_text())

    @contextmanager
    def standby(self, *, synchronous: bool = False) -> Iterator[Cluster]:
        """Run a standby of this server; a synchronous one confirms every commit of the primary."""
        with _folder() as folder:
            standby = Cluster(self._binaries, folder)
            self.backup(folder / "data", "-R")
            standby.start()
            try:
                if synchronous:
                    self.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                    self.execute("SELECT pg_reload_conf()")
                    self.await_true("SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')")
                yield standby
            finally:
                standby.stop()

    def _run(self, program: str, *arguments: str | Path) -> str:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [*_as(self._owner), self._binaries / program, *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.socket,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")
        return done.stdout

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(START_SECONDS)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        status = self._data / "postmaster.pid"
        until = time.monotonic() + START_SECONDS
        while not (status.exists() and status.read_text().rstrip().endswith("ready")):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL did not start:\n{(self.socket / 'log').read_text()}")
            time.sleep(0.02)


def share_template() -> Path:
    """Return the folder for the data of an empty server, which processes started from now on use, too."""
    if TEMPLATE not in os.environ:
        os.environ[TEMPLATE] = str(_kept_folder.enter_context(_folder()))
    return Path(os.environ[TEMPLATE])


def find_binaries() -> Path | None:
    """Find the folder of `initdb` and `postgres`; Debian keeps it off the PATH."""
    folders = [Path(found).resolve().parent for found in (shutil.which("initdb"),) if found]
    folders += sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda path: -float(path.parts[-2]))
    if pg_config := shutil.which("pg_config"):
        told = subprocess.run([pg_config, "--bindir"], check=True, capture_output=True, text=True)
        folders.append(Path(told.stdout.strip()))
    return next((each for each in folders if (each / "initdb").exists() and (each / "postgres").exists()), None)


@contextmanager
def running_cluster(binaries: Path, tls: TlsFiles | None = None, options: Sequence[str] = OPTIONS) -> Iterator[Cluster]:
    """Run a server until the context is left, which offers TLS with these files."""
    with ExitStack() as stack:
        cluster = Cluster(binaries, stack.enter_context(_folder()), options)
        cluster.make()
        if tls is not None:
            cluster.offer_tls(tls)
        stack.callback(cluster.stop)
        cluster.start()
        yield cluster


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="signalbox-pg-") as name:
        folder = Path(name)
        if owner := unprivileged_user():
            os.chown(folder, owner["user"], owner["group"])
        yield folder


def unprivileged_user() -> dict[str, Any]:
    """Return as whom to run: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    known = {user.pw_name: user for user in pwd.getpwall()}
    user = known.get("postgres") or known["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _as(owner: dict[str, Any]) -> list[str]:
    """Return how to run a program as a user.

    A program starts it: Python would have to fork for that, which kills the child now and then where gRPC has threads.
    """
    if not owner:
        return []
    return ["setpriv", f"--reuid={owner['user']}", f"--regid={owner['group']}", "--clear-groups", "--"]


def children_of(parent: int) -> list[int]:
    """Return the processes that a process has started and that still run."""
    return [int(each.parent.name) for each in Path("/proc").glob("[0-9]*/stat") if _parent(each) == parent]


def _parent(status: Path) -> int:
    try:
        # The name of the program, in parentheses, may hold anything.
        return int(status.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _copy_data(source: Path, target: Path) -> None:
    """Copy the data of a server that does not run."""
    shutil.copytree(source, target, copy_function=_copy_owned)
    _own(target, source)


def _copy_owned(source: str, target: str) -> str:
    shutil.copy2(source, target)
    _own(Path(target), Path(source))
    return target


def _own(target: Path, like: Path) -> None:
    """Set the owner of a copy and of the folders in it to that of the original."""
    status = like.stat()
    os.chown(target, status.st_uid, status.st_gid)
    if target.is_dir():
        for folder in [each for each in target.rglob("*") if each.is_dir()]:
            os.chown(folder, status.st_uid, status.st_gid)
