"""Database URLs of PostgreSQL: words of libpq, TLS, and poolers."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import subprocess
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from sqlalchemy import text

from server.errors import StorageError, StorageUnavailable
from server.storage.opening import open_database
from server.storage.postgresql.url import Host, parse_postgres_url
from tests.support.messages import event
from tests.support.pgbouncer import find_pgbouncer, running_pgbouncer
from tests.support.postgres import USER, TlsFiles, find_binaries, running_cluster
from tests.support.service import serving
from tests.support.stores import PostgresBackend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from tests.support.postgres import Cluster

OWN = {"application_name": "signalbox", "lock_timeout": "5s"}


def arguments(query: str, **own: str) -> dict[str, Any]:
    return parse_postgres_url(f"postgresql://host/name?{query}").connect_args(own)


# What a URL says


@pytest.mark.parametrize(
    ("url", "hosts", "who"),
    [
        ("postgresql://me@a/name", [("a", 5432)], ("me", None, "name")),
        ("postgres://me:p%40ss@a:1/na%20me", [("a", 1)], ("me", "p@ss", "na me")),
        ("postgresql://me:p@ss@a:1/name", [("a", 1)], ("me", "p@ss", "name")),
        ("postgresql://a:1,b:2,c/name", [("a", 1), ("b", 2), ("c", 5432)], (None, None, "name")),
        ("postgresql://[::1]:1,[2001:db8::1]/name", [("::1", 1), ("2001:db8::1", 5432)], (None, None, "name")),
        ("postgresql:///name?host=/run/a&port=1", [("/run/a", 1)], (None, None, "name")),
        ("postgresql://%2Frun%2Fa/name", [("/run/a", 5432)], (None, None, "name")),
        ("postgresql:///?host=a,b&port=1,2&dbname=name&user=me&password=p", [("a", 1), ("b", 2)], ("me", "p", "name")),
        ("postgresql:///?host=a,b&port=7", [("a", 7), ("b", 7)], (None, None, None)),
        ("postgresql://a:65535,b:1/name", [("a", 65_535), ("b", 1)], (None, None, "name")),
        ("postgresql:///?host=a,b,c&port=1,,3", [("a", 1), ("b", 5432), ("c", 3)], (None, None, None)),
        ("postgresql://a:9,b/?port=7", [("a", 9), ("b", 7)], (None, None, None)),
        ("postgresql://:7/name", [("", 7)], (None, None, "name")),
        ("postgresql://", [], (None, None, None)),
        ("postgresql://me@", [], ("me", None, None)),
    ],
)
def test_a_url_names_hosts_a_user_and_a_database_as_libpq_reads_it(
    url: str, hosts: list[tuple[str, int]], who: tuple[str | None, ...]
) -> None:
    parsed = parse_postgres_url(url)
    assert parsed.hosts == tuple(Host(*host) for host in hosts)
    assert (parsed.user, parsed.password, parsed.database) == who


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("connect_timeout=3", {"timeout": 3.0}),
        ("application_name=shop%201", {"server_settings": {"application_name": "shop 1"}}),
        ("fallback_application_name=b&application_name=a", {"server_settings": {"application_name": "a"}}),
        ("options=-c%20search_path%3Dshop", {"server_settings": {"search_path": "shop"}}),
        (
            "options=-csearch_path=a,b --statement-timeout=5s -c 'DateStyle=ISO, MDY'",
            {"server_settings": {"search_path": "a,b", "statement_timeout": "5s", "DateStyle": "ISO, MDY"}},
        ),
        ("sslmode=require", {"dsn": "postgresql://?sslmode=require&target_session_attrs=read-write"}),
        ("ssl=true", {"dsn": "postgresql://?sslmode=require&target_session_attrs=read-write"}),
        ("target_session_attrs=any", {"dsn": "postgresql://?target_session_attrs=any"}),
        ("channel_binding=prefer&gssencmode=disable&client_encoding=UTF8", {}),
        ("pgbouncer=false", {}),
    ],
)
def test_parameters_of_libpq_become_arguments_of_the_driver(query: str, expected: dict[str, Any]) -> None:
    plain: dict[str, Any] = {"timeout": 10.0, "host": ["host"], "port": [5432], "database": "name"}
    plain |= {"server_settings": {}, "dsn": "postgresql://?target_session_attrs=read-write"}
    assert arguments(query) == plain | expected


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://host:x/name", "A port in the URL is a number from 1 to 65535"),
        ("postgresql://host:65536/name", "A port in the URL is a number from 1 to 65535"),
        ("postgresql://host:0/name", "A port in the URL is a number"),
        ("postgresql://a,,b/name", "a host without a name"),
        ("postgresql://a,/name", "a host without a name"),
        ("postgresql:///name?port=1,2", "1 hosts and 2 ports"),
        ("postgresql:///name?host=a,b,c&port=1,2", "3 hosts and 2 ports"),
        ("postgresql://host/name?sslmode", "PARAMETER=VALUE"),
        ("postgresql://host/name?sslmode=on", "sslmode is disable or allow or prefer or require or verify-ca or"),
        ("postgresql://host/name?sslmode=require&sslmode=disable", "sslmode twice"),
        ("postgresql://host/name?sslrotcert=x", "sslrotcert is not supported in a database URL; supported are"),
        ("postgresql://host/name?sslrootcert=/no/file", "sslrootcert: /no/file: No such file"),
        ("postgresql://host/name?sslkey=/", "sslkey: /: Is a directory"),
        ("postgresql://host/name?sslmode=require&sslrootcert=system", "sslrootcert=system needs sslmode=verify-full"),
        ("postgresql://host/name?channel_binding=require", "the driver does not support channel binding"),
        ("postgresql://host/name?connect_timeout=soon", "connect_timeout is a whole number of seconds"),
        ("postgresql://host/name?connect_timeout=0", "connect_timeout is a whole number of seconds, at least 1"),
        ("postgresql://host/name?target_session_attrs=standby", "a standby cannot serve it"),
        ("postgresql://host/name?keepalives=1", "keepalives is not supported"),
        ("postgresql://host/name?options=-d5", 'options holds "-d5"'),
        ("postgresql://host/name?options=-c", "options holds"),
        ("postgresql://host/name?options=-c%20a='b", "options cannot be read"),
        ("postgresql://host/name?options=-c%20lock_timeout=0", "lock_timeout, which Signalbox sets itself"),
        ("postgresql://host/name?pgbouncer=yes", "pgbouncer is true or false"),
        ("postgresql://u:hunter/2@host/name", "in a password is written %2F"),
        ("postgresql://u:hunter?2@host/name", "in a password is written"),
        ("postgresql://host/a?application_name=b#c&d", "PARAMETER=VALUE"),
    ],
)
def test_unsupported_parameters_are_refused_by_name(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        parse_postgres_url(url).connect_args(OWN)
    assert "hunter" not in str(refused.value)


def test_the_authorities_of_the_system_may_be_trusted() -> None:
    trusting = arguments("sslrootcert=system")
    assert "ssl" not in trusting["dsn"]
    assert (trusting["ssl"].verify_mode, trusting["ssl"].check_hostname) == (ssl.CERT_REQUIRED, True)


# TLS


class Certificates:
    """An authority, and what it certified."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.ca = folder / "ca.crt"
        self._openssl("req", "-x509", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority")

    def issue(self, name: str, *, host: str = "") -> tuple[Path, Path]:
        """Return a certificate and its key."""
        files = ("-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name}")
        names = ("-addext", f"subjectAltName={host}") if host else ()
        self._openssl("req", "-x509", *files, *names, "-CA", "ca.crt", "-CAkey", "ca.key")
        return self._folder / f"{name}.crt", self._folder / f"{name}.key"

    def _openssl(self, *command: str) -> None:
        kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1")
        subprocess.run(["openssl", *command, *kind], check=True, capture_output=True, cwd=self._folder)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def tls_cluster(certificates: Certificates, postgres: Cluster) -> Iterator[Cluster]:
    """A server whose certificate is for 127.0.0.1, not for localhost."""
    binaries = find_binaries()
    assert binaries is not None
    certificate, key = certificates.issue("server", host="IP:127.0.0.1")
    with running_cluster(binaries, TlsFiles(certificate, key, certificates.ca)) as cluster:
        yield cluster


async def encrypted(url: str) -> bool:
    """Return whether the connections of a database at this URL are encrypted."""

    def work(connection: Connection) -> bool:
        return bool(connection.scalar(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")))

    database = await open_database(url)
    try:
        return await database.read(work)
    finally:
        await database.close()


@pytest.mark.parametrize(
    ("host", "query", "expected"),
    [
        ("127.0.0.1", "sslmode=disable", False),
        ("127.0.0.1", "sslmode=allow", False),
        ("127.0.0.1", "sslmode=prefer", True),
        ("127.0.0.1", "", True),
        ("127.0.0.1", "sslmode=require", True),
        ("127.0.0.1", "sslmode=require&sslrootcert={ca}", True),
        ("127.0.0.1", "sslmode=verify-ca&sslrootcert={ca}", True),
        ("localhost", "sslmode=verify-ca&sslrootcert={ca}", True),
        ("127.0.0.1", "sslmode=verify-full&sslrootcert={ca}", True),
        ("localhost", "sslmode=verify-full&sslrootcert={ca}", "(?i)hostname mismatch"),
        ("127.0.0.1", "sslmode=verify-full&sslrootcert={stranger}", "certificate verify failed"),
        ("127.0.0.1", "sslmode=verify-ca&sslrootcert={stranger}", "certificate verify failed"),
        ("127.0.0.1", "sslmode=require&sslrootcert={stranger}", "certificate verify failed"),
        ("127.0.0.1", "sslrootcert=system", "certificate verify failed"),
    ],
)
async def test_a_connection_is_as_safe_as_sslmode_demands(
    tls_cluster: Cluster, certificates: Certificates, tmp_path: Path, host: str, query: str, expected: bool | str
) -> None:
    stranger = Certificates(tmp_path / "stranger")
    words = query.format(ca=certificates.ca, stranger=stranger.ca)
    url = f"postgresql://{USER}@{host}:{tls_cluster.port}/postgres?{words}"
    if isinstance(expected, bool):
        assert await encrypted(url) is expected
        return
    with pytest.raises(StorageUnavailable) as refused:
        await encrypted(url)
    assert re.search(expected, str(refused.value.__cause__))


async def test_a_client_shows_its_certificate(tls_cluster: Cluster, certificates: Certificates) -> None:
    tls_cluster.execute("CREATE ROLE certified LOGIN")
    certificate, key = certificates.issue("certified")
    url = f"postgresql://certified@127.0.0.1:{tls_cluster.port}/postgres?sslmode=verify-full&sslrootcert={certificates.ca}"
    assert await encrypted(f"{url}&sslcert={certificate}&sslkey={key}")
    with pytest.raises(StorageError):
        await encrypted(url)


# Poolers


@pytest.fixture(scope="module")
def pgbouncer() -> str:
    program = find_pgbouncer()
    if program is None:
        reason = "PgBouncer is not installed: no pgbouncer on the PATH nor in /usr/sbin"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return program


@pytest_asyncio.fixture
async def pooled(postgres: Cluster, tmp_path: Path) -> AsyncIterator[Callable[[str, str], str]]:
    """Create a database, and return the function that makes its URL at an address."""
    async with aclosing(PostgresBackend(postgres)) as backend, backend.fresh(tmp_path) as store:
        name = parse_postgres_url(store.url).database
        yield lambda address, query: f"postgresql://{USER}@{address}/{name}?{query}"


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_two_servers_share_few_connections_of_a_pooler(
    pgbouncer: str, postgres: Cluster, pooled: Callable[[str, str], str], mode: str
) -> None:
    with running_pgbouncer(pgbouncer, postgres, mode, connections=2 if mode == "transaction" else 40) as address:
        url = pooled(address, "pgbouncer=true")
        async with serving(url) as first, serving(url) as second:
            client = await first.shop()
            other = second.client(client.secret, client.project)
            sent = [(client, other)[number % 2].send(event({"order_total": number})) for number in range(60)]
            receipts = await asyncio.gather(*sent)
            assert sorted(receipt.event.position for receipt in receipts) == list(range(1, 61))
            assert await other.positions() == await client.positions() == list(range(1, 61))


async def test_settings_reach_each_transaction_over_a_pooler(
    pgbouncer: str, postgres: Cluster, pooled: Callable[[str, str], str]
) -> None:
    def work(connection: Connection) -> list[str]:
        names = ("synchronous_commit", "lock_timeout", "application_name", "search_path")
        return [str(connection.scalar(text(f"SELECT current_setting('{name}')"))) for name in names]

    with running_pgbouncer(pgbouncer, postgres) as address:
        database = await open_database(pooled(address, "pgbouncer=true&options=-c search_path=shop"))
        try:
            for access in (database.read, database.write):
                assert await access(work) == ["on", "5s", "signalbox", "shop"]
        finally:
            await database.close()


@pytest.mark.parametrize("ignored", ["", "jit,lock_timeout,synchronous_commit,idle_in_transaction_session_timeout"])
async def test_a_start_through_an_undeclared_pooler_is_refused(
    pgbouncer: str, postgres: Cluster, pooled: Callable[[str, str], str], ignored: str
) -> None:
    with (
        running_pgbouncer(pgbouncer, postgres, ignored=ignored) as address,
        pytest.raises(ValueError, match="pgbouncer=true"),
    ):
        await open_database(pooled(address, ""))


@pytest.mark.parametrize(("hosts", "seconds"), [("a", 10), ("a,b", 3), ("a,b,c", 3)])
def test_a_host_is_given_up_earlier_where_another_can_be_tried(hosts: str, seconds: float) -> None:
    assert parse_postgres_url(f"postgresql://{hosts}/x").connect_timeout == seconds
    assert parse_postgres_url(f"postgresql://{hosts}/x?connect_timeout=7").connect_timeout == 7
