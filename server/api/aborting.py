"""Ends a call with the status of an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from server.rpc.rich_status import rich_status
from server.status import code_of, message_of

if TYPE_CHECKING:
    import grpc

STATUS_KEY = "grpc-status-details-bin"


async def abort(
    context: grpc.aio.ServicerContext[Any, Any], error: Exception, metadata: tuple[tuple[str, str], ...] = ()
) -> None:
    """End a call with the status of an error, and with further trailing metadata. Raise AbortError, always."""
    status = rich_status(error)
    trailing = ((STATUS_KEY, status.SerializeToString()), *metadata)
    await context.abort(code_of(error), message_of(error), trailing)
