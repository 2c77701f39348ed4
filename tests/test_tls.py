"""TLS, which both ports speak with the same files."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import grpc
import httpx
import pytest
from grpc import StatusCode
from structlog.testing import capture_logs

from server.cli.main import run
from server.settings import Tls
from signalbox.v1 import projects_pb2
from tests.support.authority import Authority
from tests.support.service import ADMIN_KEY, Service, serving

if TYPE_CHECKING:
    from pathlib import Path

NATIVE_KEY = ("--key", "sb_any")

both_transports = pytest.mark.parametrize("transport", ["grpc", "http"])


async def reaches(service: Service, transport: str, trusted: str, shown: Authority | None = None) -> bool:
    """Return whether a call succeeds over its own connection, trusting one certificate and showing another."""
    return await (_over_grpc if transport == "grpc" else _over_http)(service, trusted, shown)


async def _over_grpc(service: Service, trusted: str, shown: Authority | None) -> bool:
    pair = (shown.key.read_bytes(), shown.certificate.read_bytes()) if shown else (None, None)
    credentials = grpc.ssl_channel_credentials(trusted.encode(), *pair)
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = (
        grpc.aio.secure_channel(service.address, credentials, options)
        if trusted
        else grpc.aio.insecure_channel(service.address, options)
    )
    async with channel:
        client = Service(service.address, channel).admin
        outcome = client.projects.ListProjects(projects_pb2.ListProjectsRequest(), timeout=5)
        code = await outcome.code()
        assert code in (StatusCode.OK, StatusCode.UNAVAILABLE)
        return code is StatusCode.OK


async def _over_http(service: Service, trusted: str, shown: Authority | None) -> bool:
    context = ssl.create_default_context(cadata=trusted or None)
    if shown:
        context.load_cert_chain(shown.certificate, shown.key)
    scheme = "https" if trusted else "http"
    async with httpx.AsyncClient(verify=context) as client:
        try:
            return (await client.get(f"{scheme}://{service.http_address}/healthz")).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def host(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "host")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/signalbox.db"


@both_transports
async def test_tls_rejects_clients_that_speak_plainly_or_trust_another(
    host: Authority, url: str, tmp_path: Path, transport: str
) -> None:
    other = Authority(tmp_path / "other")
    async with serving(url, tls=Tls(host.certificate, host.key)) as service:
        assert await reaches(service, transport, host.trust())
        assert not await reaches(service, transport, other.trust())
        assert not await reaches(service, transport, "")


@both_transports
async def test_mtls_rejects_clients_that_show_no_certificate_or_a_strangers(
    host: Authority, url: str, tmp_path: Path, transport: str
) -> None:
    friend, stranger = Authority(tmp_path / "friend"), Authority(tmp_path / "stranger")
    async with serving(url, tls=Tls(host.certificate, host.key, friend.certificate)) as service:
        assert await reaches(service, transport, host.trust(), friend)
        assert not await reaches(service, transport, host.trust(), stranger)
        assert not await reaches(service, transport, host.trust())


@both_transports
async def test_a_renewed_certificate_is_shown_from_the_next_connection_on(
    host: Authority, url: str, transport: str
) -> None:
    async with serving(url, tls=Tls(host.certificate, host.key)) as service:
        old = host.trust()
        with capture_logs() as logs:
            assert await reaches(service, transport, old)
            host.renew()
            assert await reaches(service, transport, host.trust())
            assert not await reaches(service, transport, old)
    assert [entry["event"] for entry in logs if "certificate" in entry["event"]] == ["certificate_reloaded"]


@both_transports
async def test_a_certificate_that_goes_missing_leaves_the_old_one_in_use(
    host: Authority, url: str, transport: str
) -> None:
    async with serving(url, tls=Tls(host.certificate, host.key)) as service:
        old = host.trust()
        host.certificate.unlink()
        assert await reaches(service, transport, old)


async def test_a_server_without_its_certificate_does_not_start(url: str, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.pem"
    with pytest.raises(FileNotFoundError):
        async with serving(url, tls=Tls(nothing, nothing)):
            pass


def cli_failure(
    capsys: pytest.CaptureFixture[str], server: str, authority: Authority | None = None, shown: Authority | None = None
) -> str:
    """Run a command against a server and return its error without the address and the file."""
    trusting = ["--tls-ca", str(authority.certificate)] if authority else []
    trusting += ["--tls-cert", str(shown.certificate), "--tls-key", str(shown.key)] if shown else []
    assert run(("event", "list", "--server", server, *trusting, *NATIVE_KEY)) == 1
    error = capsys.readouterr().err.splitlines()[-1].removeprefix("error: ").replace(server, "SERVER")
    return error.replace(str(authority.certificate), "FILE") if authority else error


async def test_the_command_line_names_what_is_wrong_with_a_tls_connection(
    host: Authority, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def failure(server: str, authority: Authority | None = None, shown: Authority | None = None) -> str:
        return await asyncio.to_thread(cli_failure, capsys, server, authority, shown)

    other = Authority(tmp_path / "other")
    async with serving(url, tls=Tls(host.certificate, host.key)) as service:
        assert await failure(service.address) == (
            "SERVER uses TLS (name the authority that signed its certificate: --tls-ca FILE, or --tls)"
        )
        assert await failure(service.address, other) == (
            "the certificate of SERVER was not accepted: it has expired, or FILE did not sign it "
            "(name the authority that signed it: --tls-ca FILE)"
        )
        assert await failure(service.address.replace("127.0.0.1", "localhost"), host) == (
            "the certificate of SERVER is for another name (use that name in --server)"
        )
    async with serving(url, tls=Tls(host.certificate, host.key, other.certificate)) as service:
        assert await failure(service.address, host) == (
            "SERVER requires a client certificate (show yours: --tls-cert FILE --tls-key FILE)"
        )
        assert (await failure(service.address, host, host)).startswith("SERVER did not accept the client certificate ")
    async with serving(url) as service:
        assert await failure(service.address, host) == "SERVER does not use TLS (leave out --tls-ca)"
        assert await failure(service.http_address) == (
            "SERVER is not a gRPC port: `signalbox serve` prints the right one as grpc=HOST:PORT"
        )


@pytest.mark.parametrize("authorities", ["file", "system"])
async def test_the_command_line_shows_a_certificate_and_trusts_a_file_or_the_system(
    host: Authority,
    url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    authorities: str,
) -> None:
    friend = Authority(tmp_path / "friend")
    monkeypatch.setenv("SSL_CERT_FILE", str(host.certificate))
    trusting = ("--tls",) if authorities == "system" else ("--tls-ca", str(host.certificate))
    showing = ("--tls-cert", str(friend.certificate), "--tls-key", str(friend.key))
    async with serving(url, tls=Tls(host.certificate, host.key, friend.certificate)) as service:
        command = ("project", "list", "--server", service.address, "--key", ADMIN_KEY, *trusting, *showing)
        assert await asyncio.to_thread(run, command) == 0
    assert "NAME  ID" in capsys.readouterr().out


def test_a_client_certificate_without_its_key_is_refused(host: Authority, capsys: pytest.CaptureFixture[str]) -> None:
    for given, message in {
        ("--tls-cert", str(host.certificate)): "a client certificate needs both --tls-cert and --tls-key",
        ("--tls-cert", str(host.certificate), "--tls-key", str(host.certificate)): "are not a certificate and its",
    }.items():
        assert run(("event", "list", *NATIVE_KEY, *given)) == 1
        assert message in capsys.readouterr().err
