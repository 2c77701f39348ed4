"""The call that the running code serves, for what is written about it: log lines, audit entries, refusals.

    begin_call       a call has arrived: it has a request ID
    authenticated    its key is known
    as_server        in tasks that outlive the call that started them, and in all that no call started

It is inherited by the tasks that a call starts. `server.auth.access` decides what a caller may do.
"""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from itertools import count
from typing import Final, NamedTuple

from server.logs.masking import mask

REQUEST_ID: Final = "x-request-id"
"""The name of the header in which a request ID is sent and answered."""

MAX_REQUEST_ID: Final = 128
"""The most characters of a request ID; they are visible ASCII. In place of any other one, a call is given a new one."""

GRPC: Final = "grpc"
CONNECT: Final = "connect"
REST: Final = "rest"


class CallContext(NamedTuple):
    """A call, and who made it.

    `api` is GRPC, CONNECT or the name of a dialect; it is REST for a request whose dialect is not known, and "server"
    for what the server does by itself. `key_id` is empty for the admin key, and before a key is authenticated;
    `project_id` is empty where there is no project.
    """

    request_id: str
    key_id: str
    project_id: str
    api: str

    @property
    def stored_id(self) -> str:
        """The request ID as it is stored, without an address."""
        return mask(self.request_id)


SERVER: Final = CallContext("", "", "", "server")

_context: ContextVar[CallContext] = ContextVar("call_context", default=SERVER)
_valid_id: Final = re.compile(f"[!-~]{{1,{MAX_REQUEST_ID}}}").fullmatch
_process: Final = os.urandom(8).hex()
_numbers: Final = count(1)


def current() -> CallContext:
    """Return the call that the current task serves, SERVER if none."""
    return _context.get()


def begin_call(given_id: str, api: str) -> str:
    """Begin to serve a call in the current task, and return its request ID: the given one if it is valid."""
    request_id = given_id if given_id and _valid_id(given_id) else f"{_process}-{next(_numbers):06x}"
    _context.set(CallContext(request_id, "", "", api))
    return request_id


def authenticated(key_id: str, project_id: str) -> None:
    """Note the key and the project of the call that the current task serves."""
    call = _context.get()
    _context.set(CallContext(call.request_id, key_id, project_id, call.api))


def set_dialect(dialect: str) -> None:
    """Note the dialect of the request that the current task serves."""
    call = _context.get()
    # Half the time of _replace().
    _context.set(CallContext(call.request_id, call.key_id, call.project_id, dialect))


def as_server() -> None:
    """Count the rest of the current task as work of the server itself."""
    _context.set(SERVER)
