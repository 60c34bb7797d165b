"""Virtual time: a clock that only the test moves, and a worker whose steps run when their time has come."""

import heapq
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final

from phr_refresh.adapters.ports import Runner
from phr_refresh.statemachine.effects import Step
from phr_refresh.statemachine.policy import Instant

#: When every clock begins.
START: Final = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)


class Clock:
    """The store's time. It stands still but for `tick`."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now
        self._workers: list[ClockedWorker] = []

    def __call__(self) -> Instant:
        """Now, in milliseconds since 1970, as stores have it."""
        return round(self.now.timestamp() * 1000)

    def tick(self, **duration: float) -> None:
        """Let time pass, such as ``tick(minutes=5)``: what workers hold runs on the way, each step at its own time."""
        until = self.now + timedelta(**duration)
        while (due := [worker.next_at for worker in self._workers if worker.next_at is not None]) and min(due) <= until:
            self.now = max(self.now, min(due))
            for worker in self._workers:
                worker.run_due()
        self.now = until

    def leap(self, **duration: float) -> None:
        """Let time pass while every worker is dead: what was due is late afterwards."""
        self.now += timedelta(**duration)

    def drives(self, worker: "ClockedWorker") -> None:
        """From now on `tick` runs the steps of `worker`."""
        self._workers.append(worker)


class ClockedWorker:
    """A worker on virtual time. Steps without delay wait for the next `tick` too, as a login's do for a thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[datetime, int, Step]] = []
        self._order = count()
        self._run: Runner | None = None
        #: While it is set, `hand_over` says False, as a full queue does.
        self.is_full = False
        clock.drives(self)

    def start(self, run: Runner) -> None:
        """See `Worker.start`."""
        self._run = run

    def hand_over(self, step: Step, delay: float = 0.0) -> bool:
        """See `Worker.hand_over`."""
        if not self.is_full:
            due_at = self._clock.now + timedelta(seconds=delay)
            heapq.heappush(self._heap, (due_at, next(self._order), step))
        return not self.is_full

    @property
    def waiting(self) -> int:
        """How many steps wait."""
        return len(self._heap)

    @property
    def next_at(self) -> datetime | None:
        """When the next step is due; None while none waits."""
        return self._heap[0][0] if self._heap else None

    def run_due(self) -> None:
        """Run what is due now, and what that hands over for now."""
        while self._heap and self._heap[0][0] <= self._clock.now:
            _, _, step = heapq.heappop(self._heap)
            if self._run is not None:
                self._run(step)

    def die(self) -> int:
        """Lose every step, as a process that is killed does; how many they were."""
        lost = len(self._heap)
        self._heap.clear()
        return lost

    def close(self) -> int:
        """See `Worker.close`."""
        return self.die()
