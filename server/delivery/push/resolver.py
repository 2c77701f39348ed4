"""Resolves the hosts of receivers to addresses that the server may connect to.

The system's resolver takes as long as the name servers of a host do, and a thread meanwhile. So it has threads of its
own, of which a project uses a share: names that nobody answers for do not hold up those of others.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from server.delivery.push.networks import RefusedAddress, refusal
from server.process.futures import mark_retrieved
from server.sharing.current_project import current_project
from server.sharing.fair_budget import FairBudget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.delivery.push.networks import PushNetworks

RESOLVING_THREADS: Final = 16


def system_lookup(host: str) -> list[str]:
    """Return the addresses that the system has for a host, the best first; in a thread. Raise OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Resolver:
    """Resolves hosts, and drops the addresses that the server may not connect to."""

    def __init__(self, networks: PushNetworks) -> None:
        self.networks = networks
        self._threads = ThreadPoolExecutor(RESOLVING_THREADS, "resolve-host")
        self._shares = FairBudget(RESOLVING_THREADS)

    async def resolve(self, host: str) -> list[str]:
        """Return the allowed addresses of a host, which may be an address itself.

        Raise RefusedAddress if it has no allowed address, and another OSError if it has none at all.
        """
        addresses = [host] if is_address(host) else await self._look_up(host)
        allowed = [address for address in addresses if self.networks.allows(address)]
        if not allowed:
            raise RefusedAddress(refusal(addresses))
        return allowed

    def close(self) -> None:
        """Start no more look-ups."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _look_up(self, host: str) -> Sequence[str]:
        project_pk = current_project()
        await self._shares.acquire(project_pk)
        found = asyncio.get_running_loop().run_in_executor(self._threads, system_lookup, host)
        # The thread works on, even if nobody waits for it any more.
        found.add_done_callback(partial(self._end, project_pk))
        return await asyncio.shield(found)

    def _end(self, project_pk: int | None, done: asyncio.Future[Sequence[str]]) -> None:
        self._shares.give(project_pk)
        mark_retrieved(done)


def is_address(host: str) -> bool:
    """Return whether a host is an IP address rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
