"""Any store under asyncio, run in threads of its own."""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from ...statemachine.errors import RecordUnreadable
from ...statemachine.patient import UserKey
from ..ports import Change, Row, Store, Written

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

    async def load(self, key: UserKey, *, with_token: bool = False) -> Row:
        """See `Store.load`."""
        return await self._run(partial(self._store.load, key, with_token=with_token))

    async def write(self, change: Change) -> Written | Row:
        """See `Store.write`."""
        return await self._run(partial(self._store.write, change))

    async def load_all(self, keys: Sequence[UserKey]) -> Sequence[Row | RecordUnreadable]:
        """See `Store.load_all`."""
        return await self._run(partial(self._store.load_all, keys))

    async def write_all(self, changes: Sequence[Change]) -> Sequence[Written | Row | RecordUnreadable]:
        """See `Store.write_all`."""
        return await self._run(partial(self._store.write_all, changes))

    async def due(self, limit: int) -> Sequence[UserKey]:
        """See `Store.due`."""
        return await self._run(partial(self._store.due, limit))

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
