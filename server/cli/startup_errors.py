"""Errors at the start of a server or a migration, as one line with the next step and without passwords."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from server.cli.errors import Failure
from server.cli.urls import without_password
from server.errors import StorageBusy, StorageError, StorageReadOnly

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def clear_start_failures(database: str) -> Iterator[None]:
    """Turn errors of starting a server or opening a database into Failure."""
    try:
        yield
    except StorageError as error:
        raise Failure(without_password(_storage_message(error, database))) from error
    except OSError as error:
        raise Failure(_os_message(error)) from error
    except (ValueError, SQLAlchemyError) as error:
        # What is wrong with an option begins with it, and has nothing to do with the database.
        about = "" if database in str(error) or str(error).startswith("--") else f"{database}: "
        raise Failure(without_password(about + str(error))) from error


def _storage_message(error: StorageError, database: str) -> str:
    if isinstance(error, StorageBusy):
        return f"another server or process holds {database}: stop it, or name another database with --database"
    if isinstance(error, StorageReadOnly):
        if not database.startswith("sqlite:"):
            return f"{database} cannot be written: its servers are standbys or read-only; name the primary or all hosts"
        return f"{database} cannot be written: check who may write the file and its folder"
    return f"{database} cannot be used: {_cause(error)}"


def _cause(error: StorageError) -> str:
    cause = error.__cause__
    if isinstance(cause, DBAPIError) and cause.orig is not None:
        cause = cause.orig.__cause__ or cause.orig
    if isinstance(cause, OSError) and not isinstance(cause, TimeoutError):
        return _os_message(cause)
    if isinstance(cause, TimeoutError):
        return "it did not answer in time"
    return str(cause or error).partition("\n")[0] or type(cause).__name__


def _os_message(error: OSError) -> str:
    if error.strerror and error.filename:
        target = f" to {error.filename2}" if error.filename2 else ""
        return f"{error.filename}{target}: {error.strerror}"
    return error.strerror or str(error)
