"""Connections to PostgreSQL: choose the writable one of several hosts, detect lost peers, and look up no types."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from server.errors import StorageReadOnly, StorageUnavailable

if TYPE_CHECKING:
    import asyncpg

ENGINE_URL: Final = "postgresql+signalbox://"
"""The URL of an engine whose connections do not look up types that no column has."""

KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 3, 2, 3
"""A peer without power or network closes no connection: it is probed, and its connections end after nine seconds."""

_SOCKET_OPTIONS: Final = {
    (socket.SOL_SOCKET, "SO_KEEPALIVE"): 1,
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE"): KEEPALIVE_IDLE_S,
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL"): KEEPALIVE_INTERVAL_S,
    (socket.IPPROTO_TCP, "TCP_KEEPCNT"): KEEPALIVE_COUNT,
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT"): 1_000 * (KEEPALIVE_IDLE_S + KEEPALIVE_INTERVAL_S * KEEPALIVE_COUNT),
}

_INTEGER_ARRAYS: Final = ((1005, "_int2", 21), (1007, "_int4", 23), (1016, "_int8", 20))
"""Types of parameters, with their names and the types of their items: the numbers are the same in every PostgreSQL.
"""


class _Dialect(PGDialect_asyncpg):
    """Leaves JSON as the driver has it: to set up a codec is a query of the catalog on each new connection."""

    supports_statement_cache = True

    async def setup_asyncpg_json_codec(self, conn: Any) -> None:
        """Set up nothing: no column is JSON."""

    async def setup_asyncpg_jsonb_codec(self, conn: Any) -> None:
        """Set up nothing: no column is JSONB."""


def is_unsent(error: BaseException | None) -> bool:
    """Return whether a statement was not sent, because the driver knew that the session had ended.

    `error` is that of SQLAlchemy's adapter, whose cause is the driver's.
    """
    import asyncpg

    cause = error.__cause__ if error is not None else None
    if isinstance(cause, asyncpg.InternalClientError):
        # It has other meanings too, such as a response that cannot be read.
        return str(cause).startswith("cannot switch to state")
    return isinstance(cause, asyncpg.InterfaceError) and "connection is closed" in str(cause)


registry.register("postgresql.signalbox", __name__, _Dialect.__name__)


class Connector:
    """Connects to the first usable host, beginning with the one used last.

    So a failed primary that does not respond costs its timeout once, not with every connection.
    """

    def __init__(self) -> None:
        self._latest = 0

    async def __call__(
        self, *, host: list[str] | None = None, port: list[int] | None = None, **arguments: Any
    ) -> asyncpg.Connection:
        """Connect as `asyncpg.connect` does, `timeout` being that of each host.

        Raise StorageReadOnly if a server answers but none accepts writes, StorageUnavailable if none answers.
        """
        if host is None or port is None:
            return await _connected(arguments | {"host": host, "port": port})
        failures: list[Exception] = []
        for offset in range(len(host)):
            index = (self._latest + offset) % len(host)
            try:
                connection = await _connected(arguments | {"host": host[index], "port": port[index]})
            except (StorageReadOnly, StorageUnavailable) as error:
                failures.append(error)
            else:
                self._latest = index
                return connection
        # A standby that answers explains more than a host that does not.
        raise next((each for each in failures if isinstance(each, StorageReadOnly)), failures[0])


async def _connected(arguments: dict[str, Any]) -> asyncpg.Connection:
    import asyncpg

    try:
        connection: asyncpg.Connection = await asyncpg.connect(**arguments)
    except asyncpg.exceptions.TargetServerAttributeNotMatched as error:
        raise StorageReadOnly from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StorageUnavailable(began=False) from error
    _watch_peer(connection)
    _declare_arrays(connection)
    return connection


def _watch_peer(connection: asyncpg.Connection) -> None:
    """Let the kernel detect a peer that vanished. The driver has no public name for its socket."""
    transport: Any = getattr(connection, "_transport", None)
    peer = transport.get_extra_info("socket") if transport is not None else None
    if peer is None or peer.family == socket.AF_UNIX:
        return
    for (level, name), value in _SOCKET_OPTIONS.items():
        # Some systems lack some of them.
        if (option := getattr(socket, name, None)) is not None:
            peer.setsockopt(level, option, value)


def _declare_arrays(connection: asyncpg.Connection) -> None:
    """Register the types of integer arrays with the driver, which has no public way to do so.

    It would look them up with the first statement that has one, on each connection: 20 to 35 ms of the server's CPU.
    """
    unused = dict.fromkeys(("basetype", "range_subtype", "attrtypoids", "attrnames"))
    types = [
        {"oid": array, "ns": "pg_catalog", "name": name, "kind": b"b", "elemtype": item, "elemdelim": ",", **unused}
        for array, name, item in _INTEGER_ARRAYS
    ]
    protocol: Any = getattr(connection, "_protocol", None)
    # A driver that keeps its types otherwise looks them up.
    with suppress(AttributeError, KeyError, TypeError):
        protocol.get_settings().register_data_types(types)
