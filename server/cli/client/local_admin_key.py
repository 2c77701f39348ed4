"""The admin key of this machine, which commands use unless they are given a key.

It gives access to every project, so it is sent only to a loopback address, without a proxy, or over TLS.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from server.auth import admin_key
from server.cli.arguments.value_parsers import is_loopback, secret
from server.cli.errors import Failure

if TYPE_CHECKING:
    from server.cli.arguments.options import Connection

VARIABLE = "SIGNALBOX_ADMIN_KEY"


def local_admin_key(connection: Connection) -> str:
    """Return the admin key in the environment variable, or in the file beside the database.

    Raise Failure if there is none, or if it would be sent to another machine in clear.
    """
    if not is_loopback(connection.server) and not connection.secure:
        raise Failure(
            f"the admin key of this machine is not sent to {connection.server} in clear: give --key for that server, "
            "use TLS (--tls, --tls-ca), or name a server of this machine by its loopback address (127.0.0.1, [::1])"
        )
    return _checked(os.environ[VARIABLE], VARIABLE) if os.environ.get(VARIABLE) else _read(connection)


def local_admin_key_source(connection: Connection) -> str:
    """Return the variable or the file that the admin key comes from."""
    return VARIABLE if os.environ.get(VARIABLE) else str(admin_key.file_of(connection.database))


def _read(connection: Connection) -> str:
    path = admin_key.file_of(connection.database)
    try:
        return _checked(path.read_text().strip(), str(path))
    except FileNotFoundError:
        raise Failure(
            "no key: give --key, set SIGNALBOX_KEY, or name the database of the admin key with --database; "
            f"{path} does not exist"
        ) from None
    except OSError as error:
        raise Failure(f"the admin key cannot be read: {path}: {error.strerror}") from error
    except ValueError:
        raise Failure(f"{path} is not an admin key: the file is not text") from None


def _checked(key: str, source: str) -> str:
    try:
        checked = secret(key)
    except click.BadParameter as error:
        raise Failure(f"{source} is not an admin key: {error.message}") from None
    if not checked:
        raise Failure(f"{source} is empty: delete it and start the server, which makes a new admin key, or give --key")
    return checked
