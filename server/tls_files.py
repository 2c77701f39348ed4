"""The files of a TLS server, which gRPC and REST reload when they change."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.settings import Tls


def stamp_of(tls: Tls) -> tuple[tuple[int, int], ...]:
    """Return a stamp that differs once a file has changed. Raise OSError."""
    files = (tls.certificate, tls.key, tls.client_ca)
    states = [file.stat() for file in files if file is not None]
    return tuple((state.st_mtime_ns, state.st_ino) for state in states)
