"""The command `serve`."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from server.cli.arguments.config_file import config_option
from server.cli.arguments.options import database_option, debug_option, option
from server.cli.arguments.value_parsers import (
    Seconds,
    WholeNumber,
    address,
    call_sampling,
    is_loopback,
    networks,
    origins,
    retention,
    secret,
)
from server.cli.errors import INTERRUPTED, Failure
from server.cli.output.streams import announce
from server.cli.program import neighbour, program
from server.logs import structlog
from server.logs.output import LEVELS, configure_logs
from server.process import runtime
from server.settings import DEFAULT_GRPC, DEFAULT_HTTP, Settings, Tls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_DEFAULTS = Settings()
MAX_QUEUE_EVENTS: Final = 1_000_000
MAX_QUARANTINE_EVENTS: Final = 10_000_000
MAX_QUARANTINE_BYTES: Final = 1024**4
MAX_CONNECTIONS: Final = 1_000_000
"""No server comes near these numbers: a larger one is a typing error, which would switch the limit off."""

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

log = structlog.get_logger()


@click.command()
@config_option()
@option(
    "--dev",
    envvar="SIGNALBOX_DEV",
    is_flag=True,
    help="Create a demo project with publicly known keys; listens on the loopback interface only.",
)
@option(
    "--grpc",
    envvar="SIGNALBOX_GRPC",
    type=address,
    metavar="HOST:PORT",
    default=DEFAULT_GRPC,
    show_default=True,
    help="Address of the gRPC server; port 0 for any free port.",
)
@option(
    "--http",
    envvar="SIGNALBOX_HTTP",
    type=address,
    metavar="HOST:PORT",
    default=DEFAULT_HTTP,
    show_default=True,
    help="Address of the HTTP port: REST, Connect, health and metrics; port 0 for any free port.",
)
@option(
    "--metrics",
    envvar="SIGNALBOX_METRICS",
    type=address,
    metavar="HOST:PORT",
    help="Address that serves /metrics with the series of each project, without a key; none by default.",
)
@database_option
@debug_option
@option(
    "--migrate/--no-migrate",
    envvar="SIGNALBOX_MIGRATE",
    default=True,
    show_default=True,
    help="Migrate the database at the start, or refuse to start if it lacks migrations.",
)
@option(
    "--admin-key",
    envvar="SIGNALBOX_ADMIN_KEY",
    type=secret,
    metavar="SECRET",
    default="",
    help="The admin key; by default one is created and stored beside the database, with mode 0600.",
)
@option(
    "--drain",
    "drain_seconds",
    envvar="SIGNALBOX_DRAIN",
    type=Seconds(),
    metavar="SECONDS",
    default=_DEFAULTS.drain_seconds,
    show_default=True,
    help="Time after SIGTERM in which the server still serves but reports unready, so that load balancers "
    "send no more calls; not after Ctrl-C or with --dev.",
)
@option(
    "--grace",
    "grace_seconds",
    envvar="SIGNALBOX_GRACE",
    type=Seconds(),
    metavar="SECONDS",
    default=_DEFAULTS.grace_seconds,
    show_default=True,
    help="Time limit for calls in progress after SIGTERM.",
)
@option(
    "--queue-events",
    envvar="SIGNALBOX_QUEUE_EVENTS",
    type=WholeNumber(1, MAX_QUEUE_EVENTS),
    metavar="N",
    default=_DEFAULTS.queue_events,
    show_default=True,
    help="Maximum number of events of a project waiting to be stored, fewer while several send; more are refused.",
)
@option(
    "--match-retention",
    "match_retention_seconds",
    envvar="SIGNALBOX_MATCH_RETENTION",
    type=retention,
    metavar="TIME",
    help="Delete matches of this age, such as 12h or 30d, once every subscription has settled them; never by default.",
)
@option(
    "--audit-retention",
    "audit_retention_seconds",
    envvar="SIGNALBOX_AUDIT_RETENTION",
    type=retention,
    metavar="TIME",
    default="400d",
    show_default=True,
    help="Delete entries of the audit log of this age.",
)
@option(
    "--quarantine-retention",
    "quarantine_retention_seconds",
    envvar="SIGNALBOX_QUARANTINE_RETENTION",
    type=retention,
    metavar="TIME",
    default="30d",
    show_default=True,
    help="Delete refused events that were in quarantine for this time, such as 12h or 30d.",
)
@option(
    "--quarantine-events",
    envvar="SIGNALBOX_QUARANTINE_EVENTS",
    type=WholeNumber(1, MAX_QUARANTINE_EVENTS),
    metavar="N",
    default=_DEFAULTS.quarantine_events,
    show_default=True,
    help="Maximum number of refused events that a project keeps in quarantine; further ones are only counted.",
)
@option(
    "--quarantine-bytes",
    envvar="SIGNALBOX_QUARANTINE_BYTES",
    type=WholeNumber(1_024, MAX_QUARANTINE_BYTES),
    metavar="N",
    default=_DEFAULTS.quarantine_bytes,
    show_default=True,
    help="Maximum size of the refused events that a project keeps in quarantine, in bytes.",
)
@option(
    "--rate-limits",
    envvar="SIGNALBOX_RATE_LIMITS",
    type=click.Choice(("on", "off")),
    default="off",
    show_default=True,
    help="Enforce the rate limits per key that the dialects document.",
)
@option(
    "--http-body-bytes",
    envvar="SIGNALBOX_HTTP_BODY_BYTES",
    type=WholeNumber(min=1_024, max=16 * 1024 * 1024),
    metavar="N",
    default=_DEFAULTS.http_body_bytes,
    show_default=True,
    help="Maximum size of a request body over HTTP, in bytes; of one in Protocol Buffers it is 16 MiB.",
)
@option(
    "--http-connections",
    envvar="SIGNALBOX_HTTP_CONNECTIONS",
    type=WholeNumber(1, MAX_CONNECTIONS),
    metavar="N",
    help="Maximum number of HTTP connections; by default half of the file descriptors, at most 10,000.",
)
@option(
    "--http-address-connections",
    envvar="SIGNALBOX_HTTP_ADDRESS_CONNECTIONS",
    type=WholeNumber(1, MAX_CONNECTIONS),
    metavar="N",
    help="Maximum number of HTTP connections from one address; by default half of --http-connections.",
)
@option(
    "--cors-origins",
    envvar="SIGNALBOX_CORS_ORIGINS",
    type=origins,
    metavar="ORIGIN,...",
    default="",
    help="Origins whose web pages may call the HTTP port from a browser, such as https://app.example.com, or *.",
)
@option(
    "--push-networks",
    envvar="SIGNALBOX_PUSH_NETWORKS",
    type=networks,
    metavar="NETWORK,...",
    default="",
    help="Networks to which subscriptions may push beside public addresses, such as 10.1.0.0/16,127.0.0.0/8.",
)
@option("--tls-cert", envvar="SIGNALBOX_TLS_CERT", type=_FILE, help="Certificate of the server; enables TLS.")
@option("--tls-key", envvar="SIGNALBOX_TLS_KEY", type=_FILE, help="Private key of the certificate.")
@option(
    "--tls-client-ca",
    envvar="SIGNALBOX_TLS_CLIENT_CA",
    type=_FILE,
    help="Require client certificates issued by this CA.",
)
@option(
    "--log-level",
    envvar="SIGNALBOX_LOG_LEVEL",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="info",
    show_default=True,
    help="Minimum level of the logs on stderr.",
)
@option(
    "--log-calls",
    envvar="SIGNALBOX_LOG_CALLS",
    type=call_sampling,
    metavar="none|all|1/N",
    default="none",
    show_default=True,
    help="Log calls that neither fail nor are slow nor change anything, too: all, or one of N.",
)
@option(
    "--otel",
    envvar="SIGNALBOX_OTEL",
    is_flag=True,
    help="Export traces by OpenTelemetry, as set by the standard variables OTEL_*; needs the extra `otel`.",
)
@click.pass_obj
def serve(
    options: dict[str, str],
    /,
    dev: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    log_level: str,
    rate_limits: str,
    **settings: Any,
) -> None:
    """Run a server until SIGTERM or Ctrl-C; a second one ends it at once.

    When the server is ready for calls, it prints one line on stdout: signalbox ready grpc=HOST:PORT
    http=HOST:PORT, and metrics=HOST:PORT with --metrics.
    """
    tls = _tls(tls_cert, tls_key, tls_client_ca)
    if dev:
        for listening in filter(None, (settings["grpc"], settings["http"], settings["metrics"])):
            _refuse_public_demo(listening, tls=tls is not None)
    configure_logs(log_level)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        limited = rate_limits == "on"
        runner.run(_serve(Settings(database=options["database"], demo=dev, tls=tls, rate_limits=limited, **settings)))


async def _serve(settings: Settings) -> None:
    # Importing the server takes longer than all the rest of `serve --help`.
    from server.app import running
    from server.background.freed_memory import FreedMemory
    from server.cli.startup_errors import clear_start_failures

    stop = _first_signal()
    async with AsyncExitStack() as stack:
        with clear_start_failures(settings.database):
            server = await _unless_stopped(stop, stack.enter_async_context(running(settings)))
        if server is None:
            log.info("stopped")
            return
        runtime.collect_garbage_rarely()
        memory = FreedMemory()
        memory.start()
        stack.push_async_callback(memory.close)
        metrics = f" metrics={server.metrics_address}" if server.metrics_address else ""
        announce(f"signalbox ready grpc={server.grpc_address} http={server.http_address}{metrics}")
        if server.demo is not None:
            from server.cli.output.demo_commands import demo_commands

            announce(demo_commands(program(), neighbour("buf"), server))
        if await stop is signal.SIGTERM and not settings.demo:
            await server.leave()
            await asyncio.sleep(settings.drain_seconds)
    log.info("stopped")


async def _unless_stopped(stop: asyncio.Future[signal.Signals], start: Awaitable[T]) -> T | None:
    """Return what was started; None if the server is to stop before, then what had started is closed again.

    The start may wait for a database or a migration for as long as those take. It stays in this task, because the
    same one must close what it opens.
    """
    task, starting = asyncio.current_task(), True
    assert task is not None

    def cancel(_stop: object) -> None:
        if starting:
            task.cancel()

    stop.add_done_callback(cancel)
    try:
        return await start
    except asyncio.CancelledError:
        if not stop.done():
            raise
        task.uncancel()
        return None
    finally:
        starting = False


def _first_signal() -> asyncio.Future[signal.Signals]:
    """Return a future of the first SIGTERM or SIGINT; the second one ends the process at once."""
    stop: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()

    def on_signal(number: signal.Signals) -> None:
        if stop.done():
            os._exit(INTERRUPTED)
        log.info("stopping", signal=number.name)
        stop.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return stop


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _refuse_public_demo(listening: str, *, tls: bool) -> None:
    if not is_loopback(listening):
        raise click.UsageError(f"--dev has publicly known keys: it listens on 127.0.0.1 or [::1], not on {listening}")
    if tls:
        raise click.UsageError("--dev prints commands for a server without TLS: leave out --tls-cert")


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise click.UsageError("TLS needs both --tls-cert and --tls-key")
    try:
        # A server has no terminal to ask for the password of an encrypted key.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:
        why = str(error.strerror).partition(" (_ssl")[0]
        raise Failure(f"{certificate} and {key} are not a certificate and its private key: {why}") from error
    return Tls(certificate, key, client_ca)
