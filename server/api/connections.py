"""The connections of a port, to which the gRPC library gives no access."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

_OPEN_FILES = Path("/dev/fd")


def close_connections(port: int) -> None:
    """Close every TCP connection that this process accepted on a port; data already written to it is still sent."""
    for opened in [int(path.name) for path in _OPEN_FILES.iterdir()]:
        # A descriptor may have been closed since it was listed; the one that listed the folder has been.
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(opened).st_mode):
                _close_accepted(os.dup(opened), port)


def _close_accepted(descriptor: int, port: int) -> None:
    with socket.socket(fileno=descriptor) as connection:
        if connection.family not in {socket.AF_INET, socket.AF_INET6} or connection.getsockname()[1] != port:
            return
        if not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            connection.shutdown(socket.SHUT_RDWR)
