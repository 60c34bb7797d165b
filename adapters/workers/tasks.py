"""TaskWorker: steps as asyncio tasks, for `AsyncPhrRefresh`."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context

from ...statemachine.effects import Step
from ...statemachine.errors import ConfigurationError

AsyncRunner = Callable[[Step], Awaitable[None]]


class TaskWorker:
    """Runs each step as a task of the running loop; at most `concurrency` at once.

    At most `queue_limit` steps wait, delayed ones included; then `hand_over` says False.
    """

    #: See `ports.NeverWaits`.
    never_waits = True

    def __init__(self, *, concurrency: int = 64, queue_limit: int = 10_000, drain_seconds: float = 5.0) -> None:
        if concurrency < 1 or queue_limit < 1:
            raise ConfigurationError("TaskWorker", "concurrency or queue_limit is below 1", "give at least 1 of each")
        self._slots = asyncio.Semaphore(concurrency)
        self._limit = queue_limit
        self._drain_seconds = drain_seconds
        self._run: AsyncRunner | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = 0
        self._delayed: set[asyncio.Task[None]] = set()
        self._closed = False

    def start(self, run: AsyncRunner) -> None:
        """Called once, before the first step."""
        self._run = run

    @property
    def waiting(self) -> int:
        """How many steps wait, delayed ones included."""
        return len(self._tasks) - self._running

    def hand_over(self, step: Step, delay: float = 0.0) -> bool:
        """See `Worker.hand_over`. Must be called in the loop."""
        if self._closed or self._run is None or self.waiting >= self._limit:
            return False
        # In a context of its own: that of the login would put the host's user into every later log event.
        task = asyncio.get_running_loop().create_task(self._later(self._run, step, delay), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if delay > 0:
            self._delayed.add(task)
            task.add_done_callback(self._delayed.discard)
        return True

    async def _later(self, run: AsyncRunner, step: Step, delay: float) -> None:
        if delay > 0:
            await asyncio.sleep(delay)
            task = asyncio.current_task()
            if task is not None:
                self._delayed.discard(task)
        async with self._slots:
            self._running += 1
            try:
                await run(step)
            finally:
                self._running -= 1

    async def close(self) -> int:
        """Lets go of what waits for its time, and waits up to `drain_seconds` for the rest."""
        self._closed = True
        dropped = len(self._delayed)
        for task in tuple(self._delayed):
            task.cancel()
        running = tuple(self._tasks)
        if running:
            _, late = await asyncio.wait(running, timeout=self._drain_seconds)
            for task in late:
                task.cancel()
            dropped += len(late)
        return dropped
