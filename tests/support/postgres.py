"""A PostgreSQL server of the tests' own, run from the installed binaries on a private socket."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = "signalbox"
START_SECONDS = 30

INITDB = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")

# The data is thrown away, so nothing needs to survive a power cut; many small databases are made from a template.
OPTIONS = ("fsync=off", "full_page_writes=off", "autovacuum=off", "shared_buffers=64MB", "max_connections=200")


class Cluster:
    """A running PostgreSQL server."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    def url(self, database: str) -> str:
        return f"postgresql://{USER}@/{database}?host={self.socket}"


def find_binaries() -> Path | None:
    """Find the folder of `initdb` and `postgres`; Debian keeps it off the PATH."""
    folders = [Path(found).resolve().parent for found in (shutil.which("initdb"),) if found]
    folders += sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda path: -float(path.parts[-2]))
    if pg_config := shutil.which("pg_config"):
        told = subprocess.run([pg_config, "--bindir"], check=True, capture_output=True, text=True)
        folders.append(Path(told.stdout.strip()))
    return next((each for each in folders if (each / "initdb").exists() and (each / "postgres").exists()), None)


@contextmanager
def running_cluster(binaries: Path) -> Iterator[Cluster]:
    """Run a server until the context is left."""
    owner = _unprivileged_user()
    with tempfile.TemporaryDirectory(prefix="signalbox-pg-") as name:
        folder = Path(name)
        if owner:
            os.chown(folder, owner["user"], owner["group"])
        data = folder / "data"
        choices = ["-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            [binaries / "initdb", "-D", data, *choices], check=True, capture_output=True, cwd=folder, **owner
        )
        options = [part for option in OPTIONS for part in ("-c", option)]
        listen = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [binaries / "postgres", "-D", data, *listen, *options], cwd=folder, stdout=log, stderr=log, **owner
            )
        try:
            _wait_until_ready(folder, server)
            yield Cluster(folder)
        finally:
            server.send_signal(signal.SIGINT)  # ends open sessions, then the server
            server.wait(START_SECONDS)


def _unprivileged_user() -> dict[str, Any]:
    """Say as whom to run: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    known = {user.pw_name: user for user in pwd.getpwall()}
    user = known.get("postgres") or known["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _wait_until_ready(folder: Path, server: subprocess.Popen[bytes]) -> None:
    status = folder / "data" / "postmaster.pid"
    until = time.monotonic() + START_SECONDS
    while not (status.exists() and status.read_text().rstrip().endswith("ready")):
        if server.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"PostgreSQL did not start:\n{(folder / 'log').read_text()}")
        time.sleep(0.02)
