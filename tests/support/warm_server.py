"""What a server does once in its process, done before servers are forked from this one.

Such are the statements that SQLAlchemy compiles, the grammar of conditions, and modules that are imported late.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import AsyncExitStack
from tempfile import TemporaryDirectory

from structlog.testing import capture_logs

from server.app.background import background_work
from server.app.delivery import delivering
from server.app.ingestion import ingesting
from server.app.management import managing
from server.app.measures import measuring
from server.app.storage import storing
from server.process.shutdown import Shutdown
from server.settings import Settings
from server.sharing.loop_time import LoopTime

END_SECONDS = 5


def warm_up() -> None:
    """Start and stop the parts of a server over SQLite, but not gRPC: it must not have been used before a fork."""
    with TemporaryDirectory() as folder, capture_logs():
        asyncio.run(_start_and_stop(f"sqlite:///{folder}/signalbox.db"))
    # Threads of a server end when nothing refers to it. A fork would not have them, but the locks that they hold.
    gc.collect()
    for thread in set(threading.enumerate()) - {threading.main_thread()}:
        thread.join(END_SECONDS)
        assert not thread.is_alive(), thread


async def _start_and_stop(url: str) -> None:
    settings = Settings(database=url, demo=True)
    loop_time = LoopTime()
    shutdown = Shutdown(asyncio.Event(), settings.grace_seconds)
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(storing(settings))
        measures = await stack.enter_async_context(measuring(settings))
        management = await stack.enter_async_context(managing(settings, storage, measures.metrics))
        ingestion = await stack.enter_async_context(ingesting(settings, storage, management, measures, loop_time))
        await stack.enter_async_context(
            delivering(settings, storage, management, measures, ingestion, shutdown, loop_time)
        )
        await stack.enter_async_context(
            background_work(settings, storage, management, measures.metrics, ingestion.notifier)
        )
