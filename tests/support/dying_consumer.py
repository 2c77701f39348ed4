"""A consumer of two deliveries whose process is killed while it holds them.

python -m tests.support.dying_consumer ADDRESS KEY
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from tests.support.consumers import Engine
from tests.support.service import connected


async def main() -> None:
    async with connected(sys.argv[1]) as service:
        engine = await Engine.open(service.client(sys.argv[2]), consumer_id="worker")
        await engine.deliveries(2)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main())
