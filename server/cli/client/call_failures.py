"""Failures of calls: gRPC errors as messages of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from registry.errors import Violation
from server.cli.client.connection_faults import connection_fault
from server.cli.client.local_admin_key import local_admin_key_source
from server.cli.errors import Failure, ServerAway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from grpc.aio import AioRpcError

    from server.cli.arguments.options import Connection

_STATUS_KEY = "grpc-status-details-bin"

_COMMAND_LINE_MESSAGES = {
    "PROJECT_REQUIRED": "name the project with --project",
    "API_KEY_EXPIRED": "the key has expired",
    "API_KEY_INVALID": "the key is unknown to the server, or revoked",
}


def failure_of(error: AioRpcError, connection: Connection) -> Failure:
    """Return the failure for an error of gRPC, with one detail for each invalid field."""
    status = _status(error)
    reason = _reason(status)
    message = (
        _unknown_admin_key(reason, connection)
        or _COMMAND_LINE_MESSAGES.get(reason)
        or error.details()
        or f"the server returned {error.code().name}"
    )
    unavailable = error.code() is StatusCode.UNAVAILABLE
    if unavailable and not reason and (fault := connection_fault(message, connection)):
        return Failure(fault)
    if not reason:
        message = _transport_message(error, message, connection)
    kind = ServerAway if unavailable else Failure
    violations = list(_violations(status))
    details = [one.path if one.message == message else f"{one.path}: {one.message}" for one in violations]
    return kind(message, details, reason, violations)


def _unknown_admin_key(reason: str, connection: Connection) -> str:
    """Return why a server may reject the admin key of this machine; empty for any other error."""
    if reason != "API_KEY_INVALID" or connection.key:
        return ""
    source = local_admin_key_source(connection)
    return (
        f"{connection.server} does not know the admin key in {source}: it serves another database (name its database "
        "with --database), or was given another key (give it with --key)"
    )


def _transport_message(error: AioRpcError, message: str, connection: Connection) -> str:
    """Return a message with the next step for an error that gRPC itself reports."""
    server = connection.server
    if error.code() is StatusCode.DEADLINE_EXCEEDED:
        return f"{server} did not answer within {connection.timeout:g} s (give it more with --timeout)"
    if error.code() is not StatusCode.UNAVAILABLE:
        return message
    return f"no Signalbox server answers at {server} (start one with: signalbox serve)"


def _status(error: AioRpcError) -> Status:
    for name, value in error.trailing_metadata() or ():
        if name == _STATUS_KEY:
            return Status.FromString(value)
    return Status()


def _reason(status: Status) -> str:
    info = ErrorInfo()
    return next((info.reason for detail in status.details if detail.Unpack(info)), "")


def _violations(status: Status) -> Iterator[Violation]:
    bad = BadRequest()
    for detail in status.details:
        if detail.Unpack(bad):
            for one in bad.field_violations:
                yield Violation(one.field, one.reason, one.description)
