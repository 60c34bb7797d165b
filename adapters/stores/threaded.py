"""Any store under asyncio, run in threads of its own."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from ..ports import Store, StoreReply, StoreRequest

T = TypeVar("T")


class ThreadedStore:
    """Makes a `Store` an `AsyncStore`. The event loop never waits for it; any number of loops may share it.

    It has a few threads of its own, so that a store that hangs for its time-out does not use up the loop's
    default threads. A call that is cancelled still runs to its end in its thread: a write then may have taken effect.
    """

    def __init__(self, store: Store, *, threads: int = 4) -> None:
        self._store = store
        self._threads = threads
        self._pid = os.getpid()
        self._pool = self._new_pool()

    async def call(self, request: StoreRequest) -> StoreReply:
        """See `Store.call`."""
        return await self._run(partial(self._store.call, request))

    async def close(self) -> None:
        """Wait for the calls that run, then close the store and end the threads."""
        await self._run(self._store.close)
        self._pool.shutdown(wait=False)

    async def _run(self, call: Callable[[], T]) -> T:
        if self._pid != os.getpid():
            # Threads do not survive a fork: a pool from before it would take calls and never run them.
            self._pool, self._pid = self._new_pool(), os.getpid()
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def _new_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="phr-refresh-store")
