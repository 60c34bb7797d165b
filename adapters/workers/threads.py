"""ThreadWorker: a bounded pool of threads over one heap of steps; the default worker."""

import heapq
import os
import threading
import time
import weakref
from itertools import count

from ...statemachine.effects import Step
from ...statemachine.errors import ConfigurationError
from ..ports import Runner


class ThreadWorker:
    """Runs steps on `threads` daemon threads, which start with the first step.

    At most `queue_limit` steps wait, delayed ones included; then `hand_over` says False. A step that waits for its time
    holds no thread. After a fork the child starts with an empty queue and threads of its own. What waits when the
    process dies is lost: the records in the store carry their deadlines, so nothing stays stuck.
    """

    def __init__(self, *, threads: int = 8, queue_limit: int = 10_000, drain_seconds: float = 5.0) -> None:
        if threads < 1 or queue_limit < 1:
            raise ConfigurationError("ThreadWorker", "threads or queue_limit is below 1", "give at least 1 of each")
        self._size = threads
        self._limit = queue_limit
        self._drain_seconds = drain_seconds
        self._run: Runner | None = None
        self._forget_parent()
        forget_parent = weakref.WeakMethod(self._forget_parent)
        os.register_at_fork(after_in_child=lambda: (forget := forget_parent()) and forget())

    def _forget_parent(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Step]] = []
        self._order = count()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def start(self, run: Runner) -> None:
        """See `Worker.start`."""
        self._run = run

    @property
    def waiting(self) -> int:
        """How many steps wait, delayed ones included."""
        with self._changed:
            return len(self._heap)

    def hand_over(self, step: Step, delay: float = 0.0) -> bool:
        """See `Worker.hand_over`."""
        with self._changed:
            if self._closed or self._run is None or len(self._heap) >= self._limit:
                return False
            heapq.heappush(self._heap, (time.monotonic() + delay, next(self._order), step))
            if len(self._threads) < self._size:
                self._add_thread()
            self._changed.notify()
        return True

    def _add_thread(self) -> None:
        name = f"phr-refresh-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (step := self._next()) is not None:
            if self._run is not None:
                self._run(step)

    def _next(self) -> Step | None:
        """The next step whose time has come; None when the worker is closed and nothing is due."""
        with self._changed:
            while True:
                wait = self._heap[0][0] - time.monotonic() if self._heap else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._heap)[2]
                if self._closed:
                    return None
                self._changed.wait(wait)

    def close(self) -> int:
        """See `Worker.close`: waits up to `drain_seconds` for what is due and for what runs."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        ends_at = time.monotonic() + self._drain_seconds
        for thread in self._threads:
            thread.join(max(ends_at - time.monotonic(), 0))
        with self._changed:
            dropped = len(self._heap)
            self._heap.clear()
        return dropped
