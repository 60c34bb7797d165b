"""LoginGate: runs the login hook's work under a time limit that holds whatever the store does (rule R5)."""

import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_DRAIN_SECONDS = 5.0


class GateTimeout(Exception):
    """The work was not done within its limit. It may still be going on."""


class LoginGate:
    """At most `threads` pieces of work at once; when all are stuck, the next one is not waited for at all.

    A socket time-out alone would not do: it does not bound name resolution, nor the sum of connect, TLS handshake,
    greeting and answer. Work that is not done in time goes on in its thread, so a slow login is still handed over.
    """

    def __init__(self, *, threads: int = 8) -> None:
        self._size = threads
        self._forget_parent()
        forget_parent = weakref.WeakMethod(self._forget_parent)
        os.register_at_fork(after_in_child=lambda: (forget := forget_parent()) and forget())

    def _forget_parent(self) -> None:
        self._free = threading.BoundedSemaphore(self._size)
        self._pool = ThreadPoolExecutor(self._size, thread_name_prefix="phr-refresh-login")

    def call(self, work: Callable[[], T], *, seconds: float) -> T:
        """The result of `work`. Raises `GateTimeout` after `seconds`, and what `work` raises."""
        free = self._free
        if not free.acquire(blocking=False):
            raise GateTimeout
        try:
            future: Future[T] = self._pool.submit(work)
        except BaseException:
            free.release()
            raise
        future.add_done_callback(lambda _: free.release())
        try:
            return future.result(seconds)
        except TimeoutError as error:
            # Done after all: at the last moment, or with a TimeoutError of its own.
            if future.done():
                return future.result()
            raise GateTimeout from error

    def close(self) -> None:
        """Wait a few seconds for what still goes on, so that a slow login is handed over."""
        ends_at = time.monotonic() + _DRAIN_SECONDS
        taken = [self._free.acquire(timeout=max(ends_at - time.monotonic(), 0)) for _ in range(self._size)]
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._free.release(sum(taken))
