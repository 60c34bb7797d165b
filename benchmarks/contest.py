"""The contest: every work by every contestant, run by run in turn, and what is counted of each."""

import gc
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final

import redis

from .contestants import Entry
from .counting import Traffic, counting
from .place import Place, Upstream
from .running import Runs, opened
from .works import Load, Work

Progress = Callable[[str], None]
_SEED: Final = 20_300_101
#: The round that is not counted is this much of one.
_WARM_UP: Final = 0.1
#: By so many patients the counts are taken, after as many that are not counted: the first of them connects.
_COUNTED: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """How long a contestant took for a work, as a multiple of the floor in the same round.

    `median`, and the quartiles `low` and `high` around it; `microseconds` is the median time per operation.
    """

    work: Work
    contestant: str
    median: float
    low: float
    high: float
    microseconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What one operation of a work costs, counted. `upstream`: calls for sessions, kick-offs and statuses.
    `sent` and `received` are bytes. What a contestant does in a database of its own is not seen.
    """

    work: Work
    contestant: str
    upstream: tuple[float, float, float]
    round_trips: float
    sent: float
    received: float


@dataclass(frozen=True, slots=True)
class Missing:
    """A contestant that could not be opened, for want of a package."""

    contestant: str
    package: str


@dataclass(slots=True)
class Contest:
    """Contestants at one server. `missing` are those that could not be opened, by the package they want."""

    url: str
    entries: Sequence[Entry]
    progress: Progress
    missing: dict[str, str] = field(default_factory=dict)
    _users: Iterator[int] = field(default_factory=count, repr=False)
    _dice: random.Random = field(default_factory=lambda: random.Random(_SEED), repr=False)  # noqa: S311

    def timed(self, load: Load) -> list[Figure]:
        """The figures of one work. The first round is not counted."""
        self._flush()
        with ExitStack() as stack:
            runs = [(entry, one) for entry in self.entries if (one := self._opened(entry, load, self.url, stack)[0])]
            seconds: dict[str, list[float]] = {entry.name: [] for entry, _ in runs}
            # The libraries of all contestants are no garbage: to look at them each time would take longer than a run.
            gc.freeze()
            stack.callback(gc.unfreeze)
            for turn in range(load.rounds + 1):
                self.progress(f"{load.work.value}: round {turn} of {load.rounds}")
                for entry, one in self._dice.sample(runs, len(runs)):
                    taken = self._timed_once(one, _part(load, entry.share if turn else _WARM_UP))
                    if turn:
                        seconds[entry.name].append(taken)
        return _figures(load, [entry for entry, _ in runs], seconds)

    def counted(self, load: Load) -> list[Count]:
        """What one operation of a work costs in round trips, bytes and upstream calls: by a proxy at the server."""
        self._flush()
        small = replace(load, patients=min(load.patients, _COUNTED), repeats=1)
        found = []
        for entry in self.entries:
            with ExitStack() as stack:
                proxy = stack.enter_context(counting(self.url))
                one, upstream = self._opened(entry, load, proxy.url, stack)
                if one is None:
                    continue
                self._once(one, small)
                users = self._prepared(one, small)
                before = upstream.calls
                proxy.take()
                one.perform(small, users)
                found.append(_count(entry, small, proxy.take(), before, upstream.calls))
        return found

    def _opened(self, entry: Entry, load: Load, url: str, stack: ExitStack) -> tuple[Runs | None, Upstream]:
        upstream = Upstream(load.session_seconds)
        if load.work not in entry.works or entry.name in self.missing:
            return None, upstream
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        try:
            one = opened(entry, Place(url, folder, upstream, load.is_concurrent))
        except ImportError as error:
            if (error.name or "").startswith("phr_refresh"):
                raise
            self.missing[entry.name] = error.name or "a package"
            return None, upstream
        return stack.enter_context(closing(one)), upstream

    def _prepared(self, one: Runs, load: Load) -> list[str]:
        users = [f"user-{next(self._users)}" for _ in range(load.patients)]
        one.prepare(load, users)
        return users

    def _timed_once(self, one: Runs, load: Load) -> float:
        users = self._prepared(one, load)
        # Nobody pays for another's garbage.
        gc.collect()
        gc.disable()
        try:
            seconds = one.perform(load, users)
        finally:
            gc.enable()
        one.check(load, users)
        return seconds / load.operations

    def _once(self, one: Runs, load: Load) -> None:
        one.perform(load, self._prepared(one, load))

    def _flush(self) -> None:
        with closing(redis.Redis.from_url(self.url, protocol=2)) as client:
            client.flushall()


def _part(load: Load, share: float) -> Load:
    """So much of a run, and at least one patient for each client."""
    return replace(load, patients=max(round(load.patients * share), min(load.patients, load.clients)))


def _figures(load: Load, entries: Sequence[Entry], seconds: Mapping[str, Sequence[float]]) -> list[Figure]:
    found = []
    for entry in entries:
        own = seconds[entry.name]
        # Without its floor in the contest, a contestant is its own.
        floor = seconds.get(entry.floor, own)
        low, median, high = quartiles([mine / its for mine, its in zip(own, floor, strict=True)])
        microseconds = statistics.median(own) * 1e6
        figure = Figure(
            work=load.work, contestant=entry.name, median=median, low=low, high=high, microseconds=microseconds
        )
        found.append(figure)
    return found


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile.

    >>> quartiles([1, 2, 3, 4, 5])
    (2.0, 3.0, 4.0)
    """
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def _count(
    entry: Entry, load: Load, traffic: Traffic, before: tuple[int, int, int], after: tuple[int, int, int]
) -> Count:
    each = load.operations
    sessions, kick_offs, polls = (now - then for then, now in zip(before, after, strict=True))
    return Count(
        work=load.work,
        contestant=entry.name,
        upstream=(sessions / each, kick_offs / each, polls / each),
        round_trips=traffic.round_trips / each,
        sent=traffic.sent / each,
        received=traffic.received / each,
    )
