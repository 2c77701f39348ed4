"""Closing the connections of a port, and no others."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from server.api.connections import close_connections


class Port:
    """A listening socket with a connection that it has accepted."""

    def __init__(self, stack: ExitStack, family: socket.AddressFamily, host: str) -> None:
        self.listening = stack.enter_context(socket.create_server((host, 0), family=family))
        self.number: int = self.listening.getsockname()[1]
        self.client, self.accepted = self.connect(stack)

    def connect(self, stack: ExitStack) -> tuple[socket.socket, socket.socket]:
        client = stack.enter_context(socket.create_connection(self.listening.getsockname()[:2], timeout=5))
        accepted, _ = self.listening.accept()
        return client, stack.enter_context(accepted)


def is_open(one: socket.socket, other: socket.socket) -> bool:
    """Return whether what one end sends reaches the other one."""
    one.settimeout(5)
    try:
        other.sendall(b"x")
    except OSError:
        return False
    return one.recv(1) == b"x"


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_accepted_connections_of_a_port_are_closed_and_it_goes_on_listening(
    family: socket.AddressFamily, host: str
) -> None:
    with ExitStack() as stack:
        try:
            mine, other = Port(stack, family, host), Port(stack, family, host)
        except OSError:
            pytest.skip(f"There is no address {host} here")
        pair = [stack.enter_context(each) for each in socket.socketpair()]
        mine.accepted.sendall(b"last words")
        close_connections(mine.number)
        assert mine.client.recv(100) == b"last words"
        assert mine.client.recv(100) == b""
        assert not is_open(mine.client, mine.accepted)
        assert is_open(other.client, other.accepted)
        assert is_open(pair[0], pair[1])
        assert is_open(*mine.connect(stack))
