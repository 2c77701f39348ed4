"""The admin key of a server of this machine, with which commands call it unless they are given a key.

It opens every project, so it goes to its own server alone: over the loopback interface, past any proxy, or by TLS.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from server.cli.failures import Failure
from server.cli.kinds import is_loopback, secret
from server.settings import admin_key_file

if TYPE_CHECKING:
    from server.cli.options import Connection

VARIABLE = "SIGNALBOX_ADMIN_KEY"


def local_admin_key(connection: Connection) -> str:
    """Return the admin key that the variable holds, or the file beside the database. Raise Failure if there is none.

    Raise Failure too if the call would carry it to another machine in clear.
    """
    if not is_loopback(connection.server) and connection.tls_ca is None:
        raise Failure(
            f"the admin key of this machine is not sent to {connection.server} in clear: give --key for that server, "
            "talk TLS with --tls-ca, or name a server of this machine by its loopback address (127.0.0.1, [::1])"
        )
    return _checked(os.environ[VARIABLE], VARIABLE) if os.environ.get(VARIABLE) else _read(connection)


def local_admin_key_source(connection: Connection) -> str:
    """Return where the admin key comes from, as a user would find it."""
    return VARIABLE if os.environ.get(VARIABLE) else str(admin_key_file(connection.database))


def _read(connection: Connection) -> str:
    path = admin_key_file(connection.database)
    try:
        return _checked(path.read_text().strip(), str(path))
    except FileNotFoundError:
        raise Failure(
            f"no key: give --key, set SIGNALBOX_KEY, or say with --database whose admin key to use; there is no {path}"
        ) from None
    except OSError as error:
        raise Failure(f"the admin key cannot be read: {path}: {error.strerror}") from error
    except ValueError:
        raise Failure(f"{path} is not an admin key: it is not text") from None


def _checked(key: str, source: str) -> str:
    try:
        checked = secret(key)
    except click.BadParameter as error:
        raise Failure(f"{source} is not an admin key: {error.message}") from None
    if not checked:
        raise Failure(f"{source} is empty: delete it and start the server to have a new admin key made, or give --key")
    return checked
