"""Connections that read no more of a response than is used.

The library reads ahead of whoever waits for the response: interim responses (1xx), empty lines and the lines between
chunks are parsed as fast as they arrive, in the event loop. A receiver that sends them without an end would hold up
all calls of the server until its timeout.

It also drops a head that arrives in one packet with something invalid: bytes beyond the Content-Length, a body of a
204, a wrong chunk. Receivers send such things, and have answered all the same, so heads are parsed apart from the rest.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    from aiohttp.http import RawResponseMessage

RESPONSE_BYTES: Final = 32 * 1024
"""The most bytes of a response that are received, interim responses before it and framing of its body included."""

_INTERIM: Final = range(102, 200)
_CONTINUE: Final = 100
_HEAD_END: Final = re.compile(rb"\n\r?\n[\r\n]*")
"""A blank line, and those after it: a flood of blank lines is parsed at once."""


class LongHead(aiohttp.ClientError):
    """A response had no status other than those of interim responses, or no end of its headers, in RESPONSE_BYTES."""


class Connector(aiohttp.TCPConnector):
    """Makes connections that are closed once a response has more than RESPONSE_BYTES."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = cast("partial[ResponseHandler]", partial(BoundedConnection, loop=self._loop))


class BoundedConnection(ResponseHandler):
    """A connection that counts the bytes of the current response; `used` once a request is sent on it."""

    used = False
    _left = RESPONSE_BYTES
    _has_head = False
    _before = b""

    def set_response_params(self, **params: Any) -> None:
        """Prepare for the response to the next request."""
        self._left = RESPONSE_BYTES
        self._has_head = False
        self._before = b""
        super().set_response_params(**params)

    def feed_data(self, data: tuple[RawResponseMessage, Any], size: int = 0) -> None:
        """Hand the head of a response to whoever waits for it."""
        status = data[0].code
        self._has_head = self._has_head or not (status == _CONTINUE or status in _INTERIM)
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, as far as it is within the limit; close the connection if there is more."""
        part = data[: self._left]
        self._left -= len(part)
        super().data_received(self._after_heads(part))
        if self.exception() is not None and self._payload is not None:
            # Nobody waits for the rest of a body that cannot be parsed.
            self._payload.set_exception(aiohttp.ClientPayloadError())
        if len(part) < len(data) and self.transport is not None:
            if not self._has_head:
                self.set_exception(LongHead())
            self.transport.close()

    def _after_heads(self, part: bytes) -> bytes:
        """Parse the heads of a response that end in this part. Return the rest."""
        while not self._has_head and self.exception() is None:
            end = _HEAD_END.search(self._before + part)
            if end is None:
                self._before = (self._before + part)[-2:]
                break
            length = end.end() - len(self._before)
            super().data_received(part[:length])
            part, self._before = part[length:], b""
        return part
