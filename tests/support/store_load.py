"""A load on a store: threads that add one to numbers in records, and a count of what they were told."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from phr_refresh.adapters.ports import Change, Row, Store, Written
from phr_refresh.statemachine.effects import Load as ReadOne
from phr_refresh.statemachine.errors import StoreUnavailable
from phr_refresh.statemachine.patient import UserKey, key_of

MINUTE = 60_000
#: How long a reader must go on before it may be taken for stuck.
PATIENCE_SECONDS = 60.0


@dataclass
class Tally:
    """What the callers were told. `slowest`: the longest call, in seconds."""

    written: Counter[UserKey] = field(default_factory=Counter)
    conflicts: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    #: Writes that ended in an error: whether they took effect is unknown.
    open_writes: Counter[UserKey] = field(default_factory=Counter)
    slowest: float = 0.0

    @property
    def calls(self) -> int:
        """Writes that were answered."""
        return self.written.total() + self.conflicts


def next_number(key: UserKey, row: Row, **fields: object) -> Change:
    """The change that adds one to what `row` holds, and to its token, which is due at once."""
    return Change(
        key=key,
        value=b"%d" % (int(row.value or 0) + 1),
        expected_version=row.version,
        decided_at=row.now,
        max_age=10 * MINUTE,
        due_at=row.now,
        keep_until=row.now + 60 * MINUTE,
        **fields,
    )


class Crowd:
    """Threads that go on until `stop`. Each ends soon after the event `_ends`."""

    def __init__(self, runs: Sequence[Callable[[], None]]) -> None:
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=run) for run in runs]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, after what is under way."""
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _wait_for(self, more: int, count: Callable[[], int], *, seconds: float) -> None:
        """Come back when `count` has grown by so many."""
        goal, ends_at = count() + more, time.monotonic() + seconds
        while count() < goal:
            assert time.monotonic() < ends_at, f"stuck: {count()} of {goal}"
            time.sleep(0.002)


class Load(Crowd):
    """`threads` threads on one store, each on all of `keys`, until `stop`. `tally` is theirs together."""

    def __init__(self, store: Store, keys: Sequence[UserKey], *, threads: int, pause: float = 0.0) -> None:
        super().__init__([partial(self._run, number) for number in range(threads)])
        self.tally = Tally()
        self._store, self._keys, self._pause = store, keys, pause

    def wait_for(self, more: int) -> None:
        """Come back when so many more writes were answered."""
        self._wait_for(more, lambda: self.tally.calls, seconds=PATIENCE_SECONDS)

    def _run(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self._ends.is_set():
            self._add_one(chance.choice(self._keys))
            self._ends.wait(self._pause)

    def _add_one(self, key: UserKey) -> None:
        started = time.perf_counter()
        wrote = False
        try:
            row = self._store.call(ReadOne(key))
            wrote = True
            answer: Written | Row | str = self._store.call(next_number(key, row))
        except StoreUnavailable as error:
            answer = error.reason
        took = time.perf_counter() - started
        with self._lock:
            self.tally.slowest = max(self.tally.slowest, took)
            if isinstance(answer, Written):
                self.tally.written[key] += 1
            elif isinstance(answer, Row):
                self.tally.conflicts += 1
            else:
                self.tally.errors[answer] += 1
                self.tally.open_writes[key] += wrote


@contextmanager
def under_load(store: Store, keys: Sequence[UserKey], *, threads: int, pause: float = 0.0) -> Iterator[Load]:
    """A load that runs meanwhile."""
    load = Load(store, keys, threads=threads, pause=pause)
    load.start()
    try:
        yield load
    finally:
        load.stop()


def some_keys(number: int) -> list[UserKey]:
    """Keys of so many patients."""
    return [key_of(f"user {place}") for place in range(number)]
