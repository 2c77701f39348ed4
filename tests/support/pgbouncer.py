"""A PgBouncer of the tests' own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.postgres import USER, free_port, unprivileged_user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres import Cluster

_CONFIGURATION = """
[databases]
* = host={socket} port={socket_port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = {mode}
default_pool_size = {connections}
ignore_startup_parameters = {ignored}
"""


def find_pgbouncer() -> str | None:
    """Find the program; Debian keeps it off the PATH of users."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def running_pgbouncer(
    program: str, cluster: Cluster, mode: str = "transaction", connections: int = 2, ignored: str = ""
) -> Iterator[str]:
    """Run a pooler before a cluster until the context is left, and yield its address.

    All of its clients share a few connections.
    """
    owner, port = unprivileged_user(), free_port()
    with tempfile.TemporaryDirectory(prefix="signalbox-pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "users").write_text(f'"{USER}" ""\n')
        settings = {"socket": cluster.socket, "socket_port": cluster.port, "port": port, "folder": folder, "mode": mode}
        text = _CONFIGURATION.format(**settings, connections=connections, ignored=ignored)
        (folder / "ini").write_text(text)
        with subprocess.Popen([program, folder / "ini"], stderr=subprocess.PIPE, text=True, **owner) as process:
            assert process.stderr is not None
            lines = []
            try:
                for line in process.stderr:
                    lines.append(line)
                    if "process up" in line:
                        break
                else:
                    raise RuntimeError(f"PgBouncer did not start:\n{''.join(lines)}")
                yield f"127.0.0.1:{port}"
            finally:
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=20)
