"""ThreadWorker: a bounded pool of threads over heaps of steps; the default worker."""

import heapq
import os
import threading
import time
import weakref
from itertools import count

from ...statemachine.effects import Follow, Refresh, Step
from ...statemachine.errors import ConfigurationError
from ..ports import Runner


class ThreadWorker:
    """Runs steps on `threads` daemon threads, which start with the first step.

    At most `queue_limit` steps of each kind wait, delayed ones included; then `hand_over` says False: a burst of logins
    must not keep what it has started from being followed. A step that waits for its time holds no thread. After a fork
    the child starts with an empty queue and threads of its own. What waits when the process dies is lost: the records
    in the store carry their deadlines, so nothing stays stuck.
    """

    #: See `ports.NeverWaits`.
    never_waits = True

    def __init__(self, *, threads: int = 8, queue_limit: int = 10_000, drain_seconds: float = 5.0) -> None:
        if threads < 1 or queue_limit < 1:
            raise ConfigurationError("ThreadWorker", "threads or queue_limit is below 1", "give at least 1 of each")
        self._size = threads
        self._limit = queue_limit
        self._drain_seconds = drain_seconds
        self._run: Runner | None = None
        self._closed = False
        self._forget_parent()
        forget_parent = weakref.WeakMethod(self._forget_parent)
        os.register_at_fork(after_in_child=lambda: (forget := forget_parent()) and forget())

    def _forget_parent(self) -> None:
        self._changed = threading.Condition()
        self._heaps: dict[type[Step], list[tuple[float, int, Step]]] = {Refresh: [], Follow: []}
        self._order = count()
        self._threads: list[threading.Thread] = []
        self._following = 0

    def start(self, run: Runner) -> None:
        """See `Worker.start`."""
        self._run = run

    @property
    def waiting(self) -> int:
        """How many steps wait, delayed ones included."""
        with self._changed:
            return self._count()

    def _count(self) -> int:
        return sum(len(heap) for heap in self._heaps.values())

    def hand_over(self, step: Step, delay: float = 0.0) -> bool:
        """See `Worker.hand_over`."""
        with self._changed:
            if self._closed or self._run is None or len(self._heaps[type(step)]) >= self._limit:
                return False
            if len(self._threads) < self._size and not self._add_thread():
                return False
            heapq.heappush(self._heaps[type(step)], (time.monotonic() + delay, next(self._order), step))
            self._changed.notify()
        return True

    def _add_thread(self) -> bool:
        """One more thread; whether there is any. The system may refuse one for want of memory or of process ids."""
        thread = threading.Thread(target=self._work, name=f"phr-refresh-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return bool(self._threads)
        self._threads.append(thread)
        return True

    def _work(self) -> None:
        while (step := self._next()) is not None:
            try:
                if self._run is not None:
                    self._run(step)
            finally:
                if isinstance(step, Follow):
                    with self._changed:
                        self._following -= 1
                        self._changed.notify()

    def _next(self) -> Step | None:
        """The next step whose time has come; None when the worker is closed and nothing is due."""
        with self._changed:
            while True:
                now = time.monotonic()
                step = self._due(now)
                if step is not None:
                    return step
                if self._closed:
                    return None
                times = [heap[0][0] - now for heap in self._heaps.values() if heap and heap[0][0] > now]
                self._changed.wait(min(times, default=None))

    def _due(self, now: float) -> Step | None:
        # A few threads follow first, or nothing that a burst of logins starts would be followed before its deadline.
        # And never all threads: a status endpoint that hangs must not keep the kick-offs of who logs in now from being
        # sent.
        few = max(self._size // 4, 1) if self._size > 1 else 0
        for kind, most in ((Follow, few), (Refresh, self._size), (Follow, max(self._size // 2, 1))):
            heap = self._heaps[kind]
            if heap and heap[0][0] <= now and (kind is Refresh or self._following < most):
                self._following += kind is Follow
                return heapq.heappop(heap)[2]
        return None

    def close(self) -> int:
        """See `Worker.close`: waits up to `drain_seconds` for what is due and for what runs."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        ends_at = time.monotonic() + self._drain_seconds
        for thread in self._threads:
            thread.join(max(ends_at - time.monotonic(), 0))
        with self._changed:
            dropped = self._count()
            for heap in self._heaps.values():
                heap.clear()
        return dropped
