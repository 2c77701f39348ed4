"""Database URLs of PostgreSQL in libpq's form, translated to arguments of asyncpg.

    postgresql://USER:PASSWORD@HOST:PORT,HOST:PORT/NAME?PARAMETER=VALUE&...

A parameter is one of libpq's, or `pgbouncer`. One that would be ignored or mean something else is refused by name: a
server that silently drops `channel_binding=require` is less safe than its configuration says.
"""

from __future__ import annotations

import os
import re
import shlex
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, unquote, urlencode

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECT_TIMEOUT_S = 10.0
HOST_TIMEOUT_S = 3.0
"""The timeout for each of several hosts: one without power does not refuse a connection, it does not respond."""

_DEFAULT_PORT = 5432
_FORM = "postgresql://USER:PASSWORD@HOST:PORT/NAME"
_ENCODED = 'a "/", "?" or "@" in a password is written %2F, %3F or %40'
_URL = re.compile(
    r"postgres(?:ql)?://(?:(?P<user>[^:@/?]*)(?::(?P<password>[^/?]*))?@)?(?P<hosts>[^/?@]*)"
    r"(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_HOST = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*)(?::(?P<port>.*))?", re.DOTALL)
_SETTING = re.compile(r"(?P<name>[A-Za-z_][\w.-]*)=(?P<value>.*)", re.DOTALL)

_PLACE = ("host", "port", "dbname", "user", "password")
"""Parameters for the parts of the URL before the question mark, which they override."""

_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")

_DRIVER = (
    "sslmode",
    *_FILES,
    "sslpassword",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "target_session_attrs",
    "krbsrvname",
    "gsslib",
)
"""Parameters that asyncpg reads from a URL as libpq does."""

_OWN = ("connect_timeout", "application_name", "fallback_application_name", "options", "pgbouncer")
"""Parameters that are translated here."""

_VALUES: Final[dict[str, tuple[str, ...]]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
    "ssl_max_protocol_version": ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
    # Signalbox needs a server that accepts writes.
    "target_session_attrs": ("any", "read-write", "primary"),
    "pgbouncer": ("true", "false"),
    # The following values are how asyncpg connects in any case.
    "channel_binding": ("disable", "prefer"),
    "client_encoding": ("utf8", "UTF8", "UTF-8", "utf-8", "auto"),
    "gssencmode": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "sslcompression": ("0",),
    "sslsni": ("1",),
}

_ADVICE = {
    "channel_binding": "the driver does not support channel binding; leave it out, and verify the server with "
    "sslmode=verify-full and sslrootcert",
    "target_session_attrs": "Signalbox writes, so a standby cannot serve it",
}

_KNOWN = (*_PLACE, *_DRIVER, *_OWN, *(word for word in _VALUES if word not in _DRIVER + _OWN))


class Host(NamedTuple):
    """Where one server listens: a host name, an address or the folder of a socket, and a port.

    A URL may name the port alone; then the name is empty, and libpq's variables and defaults apply.
    """

    name: str
    port: int


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """A parsed URL. `hosts` is empty if it names none; for None, libpq's variables and defaults apply.

    `driver` has the parameters that asyncpg reads itself, `settings` the settings of a session that the URL asks for.
    `connect_timeout` is that of one host. With `pooled`, a pooler may give every transaction another session.
    """

    hosts: tuple[Host, ...]
    user: str | None
    password: str | None
    database: str | None
    driver: dict[str, str]
    settings: dict[str, str]
    connect_timeout: float
    pooled: bool

    def connect_args(self, settings: Mapping[str, str]) -> dict[str, Any]:
        """Return the arguments with which SQLAlchemy's asyncpg dialect connects, given the server's own settings."""
        driver = dict(self.driver)
        arguments: dict[str, Any] = {"timeout": self.connect_timeout}
        if "target_session_attrs" not in driver and "PGTARGETSESSIONATTRS" not in os.environ:
            driver["target_session_attrs"] = "read-write"
        if driver.get("sslrootcert") == "system":
            arguments["ssl"] = _system_trust(driver)
        if self.hosts:
            arguments["port"] = [host.port for host in self.hosts]
        if all(host.name for host in self.hosts):
            arguments["host"] = [host.name for host in self.hosts] or None
        arguments |= {
            name: value
            for name, value in (("user", self.user), ("password", self.password), ("database", self.database))
            if value is not None
        }
        arguments["dsn"] = f"postgresql://?{urlencode(driver, quote_via=quote)}"
        every = self.session_settings(settings)
        if not self.pooled:
            return arguments | {"server_settings": every}
        # A pooler passes on the application name only, and a prepared statement may reach another session.
        return arguments | {
            "server_settings": {"application_name": every["application_name"]} if "application_name" in every else {},
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": str,
        }

    def session_settings(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Return the settings of a session: the server's own, and those of the URL.

        Raises ValueError if the URL contradicts the server's own; the application's name is free.
        """
        for name, value in self.settings.items():
            if name != "application_name" and settings.get(name, value) != value:
                raise ValueError(f"options sets {name}, which Signalbox sets itself: {name}={settings[name]}")
        return {**settings, **self.settings}

    def connection_string(self) -> str:
        """Return the connection string of libpq for PostgreSQL's own programs, without the password."""
        settings = {name: value for name, value in self.settings.items() if name != "application_name"}
        words = {
            "host": ",".join(host.name for host in self.hosts),
            "port": ",".join(str(host.port) for host in self.hosts),
            "user": self.user,
            "dbname": self.database,
            **self.driver,
            "application_name": self.settings.get("application_name"),
            "connect_timeout": str(round(self.connect_timeout)),
            "options": " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings.items()),
        }
        return " ".join(f"{name}={_escaped(value)}" for name, value in words.items() if value)

    def transaction_settings(self, settings: Mapping[str, str]) -> str:
        """Return the statement with which each transaction begins, empty if the session has the settings."""
        every = {name: value for name, value in self.session_settings(settings).items() if name != "application_name"}
        if not self.pooled or not every:
            return ""
        return (
            f"SELECT {', '.join(f'set_config({_quoted(name)}, {_quoted(each)}, true)' for name, each in every.items())}"
        )


def parse_postgres_url(url: str) -> PostgresUrl:
    """Parse a URL and check that its files can be read. Raises ValueError, which shows no password."""
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError(f"It is no URL of the form {_FORM}; {_ENCODED}")
    words = _words(match["query"] or "")
    for word, value in words.items():
        _check_word(word, value)
    parts = (("user", "user"), ("password", "password"), ("dbname", "database"))
    user, password, database = (words.get(word) or unquote(match[group] or "") or None for word, group in parts)
    hosts = _hosts(words.get("host") or match["hosts"], words.get("port", ""))
    patience = HOST_TIMEOUT_S if len(hosts) > 1 else CONNECT_TIMEOUT_S
    return PostgresUrl(
        hosts=hosts,
        user=user,
        password=password,
        database=database,
        driver=_driver_words(words),
        settings=_settings(words),
        connect_timeout=_seconds(words["connect_timeout"]) if "connect_timeout" in words else patience,
        pooled=words.get("pgbouncer") == "true",
    )


def _words(query: str) -> dict[str, str]:
    words: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, equals, value = pair.partition("=")
        word = unquote(name)
        if not equals or not word:
            raise ValueError(
                f"The part of the URL after the question mark must be PARAMETER=VALUE, joined by &; {_ENCODED}"
            )
        if word == "ssl" and value == "true":
            # As JDBC writes it; libpq takes it too.
            word, value = "sslmode", "require"
        if word in words:
            raise ValueError(f"The URL has {word} twice")
        words[word] = unquote(value)
    return words


def _check_word(word: str, value: str) -> None:
    if word not in _KNOWN:
        raise ValueError(f"{word} is not supported in a database URL; supported are {', '.join(sorted(_KNOWN))}")
    if word in _VALUES and value not in _VALUES[word]:
        advice = f"; {_ADVICE[word]}" if word in _ADVICE else ""
        raise ValueError(f'{word} is {" or ".join(_VALUES[word])}, not "{value}"{advice}')
    if word in _FILES and (word, value) != ("sslrootcert", "system"):
        _check_file(word, value)


def _check_file(word: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ValueError(f"{word}: {path}: {error.strerror}") from error


def _hosts(names: str, ports: str) -> tuple[Host, ...]:
    """Pair hosts with ports: those beside the names, else one port for all, or one for each."""
    if not names and not ports:
        return ()
    separate = ports.split(",")
    matches = [_HOST.fullmatch(each) for each in names.split(",")]
    if len(separate) not in {1, len(matches)}:
        raise ValueError(f"The URL names {len(matches)} hosts and {len(separate)} ports")
    separate = separate * len(matches) if len(separate) == 1 else separate
    hosts = []
    for match, port in zip(matches, separate, strict=True):
        name = unquote(match["host"]).strip("[]") if match else ""
        if match is None or (not name and len(matches) > 1):
            raise ValueError("The URL has a host without a name; several hosts are written a:5432,b:5432")
        hosts.append(Host(name, _port(match["port"] or port)))
    return tuple(hosts)


def _port(text: str) -> int:
    if not text:
        return _DEFAULT_PORT
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65_535:
        # The text may be a part of a password.
        raise ValueError(f"A port in the URL is a number from 1 to 65535; {_ENCODED}")
    return int(text)


def _driver_words(words: Mapping[str, str]) -> dict[str, str]:
    driver = {word: words[word] for word in _DRIVER if word in words}
    if driver.get("sslrootcert") == "system" and driver.setdefault("sslmode", "verify-full") != "verify-full":
        raise ValueError(f"sslrootcert=system needs sslmode=verify-full, not {driver['sslmode']}")
    return driver


def _settings(words: Mapping[str, str]) -> dict[str, str]:
    settings = _options(words.get("options", ""))
    if name := words.get("application_name") or words.get("fallback_application_name"):
        settings["application_name"] = name
    return settings


def _options(text: str) -> dict[str, str]:
    """Parse the options of a session: `-c NAME=VALUE` or `--NAME=VALUE`, any number of them."""
    try:
        words = iter(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"options cannot be read: {error}") from error
    settings = {}
    for word in words:
        setting = next(words, "") if word == "-c" else word.removeprefix("--" if word.startswith("--") else "-c")
        match = _SETTING.fullmatch(setting)
        if match is None or not word.startswith(("-c", "--")):
            raise ValueError(f'options holds "{word}"; supported are -c NAME=VALUE and --NAME=VALUE')
        settings[match["name"].replace("-", "_")] = match["value"]
    return settings


def _seconds(text: str) -> float:
    if not re.fullmatch("[0-9]{1,6}", text) or int(text) < 1:
        raise ValueError(f'connect_timeout is a whole number of seconds, at least 1, not "{text}"')
    return float(text)


def _system_trust(driver: dict[str, str]) -> ssl.SSLContext:
    """Return a context that trusts the system's authorities, and remove the parameters for it from the driver's."""
    del driver["sslrootcert"], driver["sslmode"]
    context = ssl.create_default_context()
    certificate, key = driver.pop("sslcert", None), driver.pop("sslkey", None)
    if certificate:
        context.load_cert_chain(certificate, key, driver.pop("sslpassword", None))
    return context


def _escaped(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _quoted(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
