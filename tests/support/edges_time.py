"""Time in steps: a clock that can be moved, stores that go by it, and workers that run a step when they are told to."""

import time
from collections.abc import Callable
from typing import Any

from phr_refresh.adapters.ports import AsyncStore, Change, Store
from phr_refresh.statemachine.effects import Step

from .values import replace


class Clock:
    """This host's clock, which can be moved ahead: what the store and the upstream go by."""

    def __init__(self) -> None:
        self.offset = 0

    def now(self) -> int:
        """Epoch milliseconds."""
        return round(time.time() * 1000) + self.offset

    def ahead(self, seconds: float) -> None:
        """Move on."""
        self.offset += round(seconds * 1000)


class ShiftedStore:
    """A store whose own clock is as far ahead as `clock`: a window passes without anybody waiting for it."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def call(self, request: Any) -> Any:
        return _later(self._store.call(_earlier(request, self._clock.offset)), self._clock.offset)

    def close(self) -> None:
        self._store.close()


class AsyncShiftedStore:
    """The same, to be awaited."""

    def __init__(self, store: AsyncStore, clock: Clock) -> None:
        self._store, self._clock = store, clock

    async def call(self, request: Any) -> Any:
        return _later(await self._store.call(_earlier(request, self._clock.offset)), self._clock.offset)

    async def close(self) -> None:
        await self._store.close()


def _later(answer: Any, offset: int) -> Any:
    return answer if isinstance(answer, tuple) else replace(answer, now=answer.now + offset)


def _earlier(change: Any, offset: int) -> Any:
    if not isinstance(change, Change):
        return change
    return replace(
        change,
        decided_at=change.decided_at - offset,
        due_at=None if change.due_at is None else change.due_at - offset,
        keep_until=change.keep_until - offset,
        token_expires_at=change.token_expires_at - offset,
    )


class SteppedWorker:
    """Takes every step and runs none by itself. `waiting` holds each with the instant it is due, by `clock`."""

    def __init__(self, clock: Clock) -> None:
        self.waiting: list[tuple[int, Step]] = []
        self.run: Callable[[Step], Any] | None = None
        self._clock = clock

    def start(self, run: Callable[[Step], Any]) -> None:
        self.run = run

    def hand_over(self, step: Step, delay: float = 0.0) -> bool:
        self.waiting.append((self._clock.now() + round(delay * 1000), step))
        return True

    def take_due(self) -> list[Step]:
        """The steps whose time has come; they wait no more."""
        due = [item for item in self.waiting if item[0] <= self._clock.now()]
        self.waiting = [item for item in self.waiting if item not in due]
        return [step for _, step in due]

    def close(self) -> int:
        return 0


class AwaitedWorker(SteppedWorker):
    """The same for `AsyncPhrRefresh`."""

    async def close(self) -> int:
        return 0
