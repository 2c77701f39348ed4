"""Settings of a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network
    from pathlib import Path

DEFAULT_GRPC = "127.0.0.1:50051"
DEFAULT_HTTP = "127.0.0.1:8080"
DEFAULT_DATABASE = "sqlite:///signalbox.db"


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of a TLS server; with a client CA, clients must show a certificate of it. Read again when they change."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Return a stamp that differs once a file has changed. Raise OSError."""
        files = (self.certificate, self.key, self.client_ca)
        states = [file.stat() for file in files if file is not None]
        return tuple((state.st_mtime_ns, state.st_ino) for state in states)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one server. An empty `admin_key` is read from, or made in, the admin key file.

    Matches are kept for `match_retention_seconds`, for ever if that is None, and entries of the audit log for
    `audit_retention_seconds`. Without `migrate` a database that lacks migrations is refused. Matches are pushed to
    public addresses and to `push_networks`. Of the calls that neither fail nor are slow nor change anything, each
    `log_calls`-th is logged, none if that is 0. With `otel`, spans are exported. The limits of the quarantine are those
    of each project.
    """

    grpc: str = DEFAULT_GRPC
    http: str = DEFAULT_HTTP
    metrics: str | None = None
    database: str = DEFAULT_DATABASE
    migrate: bool = True
    admin_key: str = ""
    demo: bool = False
    drain_seconds: float = 5.0
    grace_seconds: float = 10.0
    queue_events: int = 50_000
    match_retention_seconds: float | None = None
    audit_retention_seconds: float = 400 * 86_400.0
    quarantine_retention_seconds: float = 30 * 24 * 3600
    quarantine_events: int = 100_000
    quarantine_bytes: int = 256 * 1024 * 1024
    tls: Tls | None = None
    rate_limits: bool = False
    http_body_bytes: int = 1024 * 1024
    http_connections: int | None = None
    http_address_connections: int | None = None
    cors_origins: tuple[str, ...] = ()
    log_calls: int = 0
    otel: bool = False
    push_networks: tuple[IPv4Network | IPv6Network, ...] = ()
