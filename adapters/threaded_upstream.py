"""ThreadedUpstream: makes a blocking upstream one that asyncio can await."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from ..statemachine.effects import AskStatus, CouldNotAsk, KickOffAnswer, SessionFailed, SessionOpened, StatusReport
from ..statemachine.patient import Patient
from .ports import Upstream

T = TypeVar("T")


class ThreadedUpstream:
    """Runs each call of `upstream` in one of `threads` threads of its own, so that the loop never blocks.

    A cancelled await does not cancel the call: it has been sent, and its thread sees it to the end.
    """

    def __init__(self, upstream: Upstream, *, threads: int = 16) -> None:
        self._upstream = upstream
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="phr-refresh-upstream")
        self.longest_call = upstream.longest_call

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def open_session(self, patient: Patient) -> SessionOpened | SessionFailed:
        """See `Upstream.open_session`."""
        return await self._call(partial(self._upstream.open_session, patient))

    async def start_refresh(self, patient: Patient) -> KickOffAnswer:
        """See `Upstream.start_refresh`."""
        return await self._call(partial(self._upstream.start_refresh, patient))

    async def ask_status(self, question: AskStatus) -> StatusReport | CouldNotAsk:
        """See `Upstream.ask_status`."""
        return await self._call(partial(self._upstream.ask_status, question))

    async def close(self) -> None:
        """Let go of connections and threads; calls under way end by their own time-outs."""
        await self._call(self._upstream.close)
        self._pool.shutdown(wait=False, cancel_futures=True)
