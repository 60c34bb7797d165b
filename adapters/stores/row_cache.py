"""Rows that were read before, for as long as the server is known to tell of every change to them.

Nothing here talks to a server. `redis_listener` says what changed and when it last heard so, `redis_tracked` brings
rows. Three things must hold before a row is answered from here:

- The listener's connection was heard within `TRUST`: an answer to what it asked then comes behind every change before.
- So was the connection that the row was read over: a server says nothing of what a closed connection has read, and a
  connection that still answers has been open all the time. So each of them asks the server once in a while.
- The row is younger than `LIFE`. That is for what no server tells of, such as SWAPDB, or not at once, such as a key
  whose time is over and that it has not removed yet; and for clocks that are set.

So an answer is behind the store by at most `TRUST` and one round trip, whatever breaks. What is decided on it is
committed with compare-and-set: a row that has aged decides nothing.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Event, Lock
from typing import Final

from ...statemachine.patient import UserKey
from ..ports import Row

#: Seconds for which a connection that was heard counts as one that hears.
TRUST: Final = 2.0
#: Seconds for which a row may be answered.
LIFE: Final = 60.0
# Milliseconds counted for each second since a row came: two clocks that are slewed to the right time may differ by a
# thousandth, and no answer may be ahead of the store's clock.
_MILLISECONDS: Final = 999
# Rows that are over are removed as new ones come, so many for each: nobody waits for a long sweep.
_REMOVED: Final = 2
_NEVER: Final = float("-inf")


class Listening:
    """One life of the listener's connection. `number`: what the server calls it; `heard_at`: all before it is known."""

    __slots__ = ("heard_at", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.heard_at = _NEVER


class Source:
    """One life of a connection whose reads the server tracks for `listening`; at `heard_at` it was open."""

    __slots__ = ("heard_at", "listening")

    def __init__(self, listening: Listening) -> None:
        self.listening = listening
        self.heard_at = _NEVER


class Ticket:
    """A row on its way from the server; `source` is what it was read over, None where that is not tracked."""

    __slots__ = ("asked_at", "key", "listening", "source")

    def __init__(self, key: UserKey, listening: Listening, asked_at: float) -> None:
        self.key = key
        self.listening = listening
        self.asked_at = asked_at
        self.source: Source | None = None


class RowCache:
    """The rows of at most `most` patients, the oldest of which gives way. Thread-safe; for one process.

    `hits`, `misses` and `flushes` count since the start; threads may lose a count now and then.
    """

    def __init__(self, most: int, monotonic: Callable[[], float] = lambda: time.monotonic()) -> None:
        self._most = most
        self._monotonic = monotonic
        self._lock = Lock()
        self._listening: Listening | None = None
        # In the order in which they came, which is the one in which they are over. Read without the lock.
        self._entries: OrderedDict[UserKey, tuple[Row, float, Source]] = OrderedDict()
        self._tickets: dict[UserKey, Ticket] = {}
        self.ended = Event()
        self.hits = self.misses = self.flushes = 0

    @property
    def is_told(self) -> bool:
        """Whether changes are being told of."""
        listening = self._listening
        return listening is not None and 0 <= self._monotonic() - listening.heard_at < TRUST

    def get(self, key: UserKey) -> Row | None:
        """The patient's row as the server has it, `now` carried forward; None if it has to be read."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        row, came_at, source = entry
        now = self._monotonic()
        elapsed = now - came_at
        # From 0 on: a clock that tests freeze or let go may jump, and then proves nothing.
        if not (
            0 <= elapsed < LIFE and 0 <= now - source.heard_at < TRUST and 0 <= now - source.listening.heard_at < TRUST
        ):
            return None
        self.hits += 1
        return Row(row.value, row.version, row.now + int(elapsed * _MILLISECONDS))

    # Filling. A change may be told of before the reply that it makes outdated was read here: then the ticket is gone.

    def ticket(self, key: UserKey) -> Ticket | None:
        """What lets a row that is read from now on come in; None while nobody listens."""
        with self._lock:
            self.misses += 1
            if self._listening is None:
                return None
            ticket = self._tickets[key] = Ticket(key, self._listening, self._monotonic())
        return ticket

    def fill(self, ticket: Ticket, row: Row) -> None:
        """Take `row`, unless it may have changed since `ticket` was drawn, or nobody will tell of changes to it."""
        key, source = ticket.key, ticket.source
        with self._lock:
            if source is not None:
                source.heard_at = max(source.heard_at, ticket.asked_at)
            if self._tickets.get(key) is not ticket:
                return
            del self._tickets[key]
            self._entries.pop(key, None)
            if source is not None:
                now = self._monotonic()
                self._entries[key] = (row, now, source)
                self._make_room(now)

    def drop(self, key: UserKey) -> None:
        """Forget the patient's row, and one that is on its way."""
        with self._lock:
            self._entries.pop(key, None)
            self._tickets.pop(key, None)

    def flush(self) -> None:
        """Forget every row, and all that are on their way."""
        with self._lock:
            self._flush()

    # The listener.

    def listen(self, listening: Listening | None) -> None:
        """From now on changes are told over `listening`, a connection just opened; over none if None."""
        with self._lock:
            self._listening = listening
            self._flush()

    def clock(self) -> float:
        """Now, in seconds from anywhen: what `Listening.heard_at` is told by."""
        return self._monotonic()

    def close(self) -> None:
        """Let the listener end."""
        self.ended.set()
        self.listen(None)

    def _flush(self) -> None:
        self._entries.clear()
        self._tickets.clear()
        self.flushes += 1

    def _make_room(self, now: float) -> None:
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)
        for _ in range(_REMOVED):
            # One is there, that just came.
            _, came_at, _ = next(iter(self._entries.values()))
            if 0 <= now - came_at < LIFE:
                return
            self._entries.popitem(last=False)
