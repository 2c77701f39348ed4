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
    await context.abort(code_of(error), message_of(error), _trailing(error, metadata))


def set_status(
    context: grpc.aio.ServicerContext[Any, Any], error: Exception, metadata: tuple[tuple[str, str], ...] = ()
) -> None:
    """Set the status of an error for a call with one response, whose handler returns without one.

    The error with which `abort` ends a handler refers to its frames, which lead back to it: 46 objects of each refused
    event were left to the garbage collection, which stopped the server for 50 ms after 5,000 of them.
    """
    context.set_code(code_of(error))
    context.set_details(message_of(error))
    context.set_trailing_metadata(_trailing(error, metadata))


def _trailing(error: Exception, metadata: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str | bytes], ...]:
    return ((STATUS_KEY, rich_status(error).SerializeToString()), *metadata)
