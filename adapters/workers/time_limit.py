"""TimeLimit: runs the login hook's work under a time limit that holds whatever the store does (rule R5)."""

import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

#: That a close waits for logins which go on behind their callers' backs.
DRAIN_SECONDS = 5.0


class TimeLimitExceeded(Exception):
    """The work was not done within its limit. It may still be going on."""


class TimeLimit:
    """Runs work on `threads` threads; at most `queue_limit` more pieces wait. Beyond that nothing is even waited for.

    A socket time-out alone would not do: it does not bound name resolution, nor the sum of connect, TLS handshake,
    greeting and answer. Work that is not done in time goes on behind its caller's back, so a login that was slow, or
    waited in a burst of others, is still handed over.
    """

    def __init__(self, *, threads: int = 8, queue_limit: int = 1000) -> None:
        self._threads = threads
        self._places = threads + queue_limit
        self._forget_parent()
        forget_parent = weakref.WeakMethod(self._forget_parent)
        os.register_at_fork(after_in_child=lambda: (forget := forget_parent()) and forget())

    def _forget_parent(self) -> None:
        self._free = threading.BoundedSemaphore(self._places)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="phr-refresh-login")

    def call(self, work: Callable[[], T], *, seconds: float) -> T:
        """The result of `work`. Raises `TimeLimitExceeded` after `seconds`, and what `work` raises."""
        free = self._free
        if not free.acquire(blocking=False):
            raise TimeLimitExceeded
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
            raise TimeLimitExceeded from error

    def close(self) -> None:
        """Wait a few seconds for what still goes on, so that a slow login is handed over."""
        ends_at = time.monotonic() + DRAIN_SECONDS
        taken = [self._free.acquire(timeout=max(ends_at - time.monotonic(), 0)) for _ in range(self._places)]
        self._pool.shutdown(wait=False, cancel_futures=True)
        if any(taken):
            self._free.release(sum(taken))
