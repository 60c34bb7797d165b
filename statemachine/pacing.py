"""Pacing: when to ask how a refresh stands, learned from how long earlier ones took. No I/O.

Durations are counted in buckets, `BOUNDS_MS`, and say nothing about whose they were. `learned` makes of the counts the
check times with the fewest expected calls for a given mean lag, which is the time from the end of a refresh until a
call sees it. It minimises calls + price * lag by dynamic programming over the time of the next call, and looks for the
lowest price at which the mean lag is short enough. A duration may lie anywhere in its bucket; and one refresh that none
was like is counted too, evenly over all buckets (Perks' prior), so that no stretch of time is left out.

Not guaranteed: that there is much to learn. Where a refresh is as likely to end in the next second however long it has
run, nothing beats even intervals.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

from .policy import Policy, milliseconds

#: Upper ends of the buckets: each 15 % longer than the one before, from half a second to an hour and more.
BOUNDS_MS: Final = tuple(round(500 * 1.15**number) for number in range(65))
#: From fewer refreshes than this nothing is learned.
FEWEST: Final = 50

# Checks lie on a grid: its steps are a quarter of the poll interval, and later a hundredth of the time that is past.
_STEPS: Final = 4
_FINENESS: Final = 100
# Prices are powers of two, in calls per poll interval of lag: exponents up to this, found by so many halvings.
_EXPONENT: Final = 10.0
_HALVINGS: Final = 14


@dataclass(frozen=True, slots=True)
class Durations:
    """How many refreshes took how long: a number for each of `BOUNDS_MS`. What is longer counts with the longest."""

    counts: tuple[int, ...] = (0,) * len(BOUNDS_MS)

    @classmethod
    def of(cls, durations: Iterable[int]) -> "Durations":
        """`durations`, in milliseconds, counted.

        >>> Durations.of([500, 501, 10**9]).counts[:3], Durations.of([10**9]).counts[-1]
        ((1, 1, 0), 1)
        """
        counts = [0] * len(BOUNDS_MS)
        for duration in durations:
            counts[min(bisect_left(BOUNDS_MS, duration), len(BOUNDS_MS) - 1)] += 1
        return cls(tuple(counts))

    @property
    def total(self) -> int:
        """How many refreshes."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Cost:
    """What check times cost per refresh, by what is known: expected calls, and the mean lag in milliseconds."""

    calls: float
    lag: float


def learned(durations: Durations, policy: Policy) -> tuple[int, ...]:
    """The check times for `Policy.poll_schedule_ms`, up to the refresh's deadline.

    None, where too little is known, or nothing is better than the growing intervals of `policy`. Their lag is that of
    asking at every `poll_interval`, half of it on average; or, where that takes more calls than the growing intervals,
    the lag of those. So learning costs no calls.

    No two checks are closer than `poll_interval`, or further apart than `poll_interval_max`; nor, but for the first,
    than half of the time that is past: an upstream that has become slower is noticed in proportion.
    """
    if durations.total < FEWEST:
        return ()
    outlook = Outlook(durations, policy)
    growing = outlook.cost(growing_checks(policy))
    for lag in (milliseconds(policy.poll_interval) / 2, growing.lag):
        checks = outlook.checks(lag)
        if outlook.cost(checks).calls <= growing.calls:
            # At the deadline it has timed out, seen or not.
            return tuple(checks[:-1])
    return ()


def growing_checks(policy: Policy) -> list[int]:
    """The check times of `policy` until the refresh's deadline."""
    checks = [policy.poll_interval_after(0)]
    while checks[-1] < milliseconds(policy.refresh_deadline):
        checks.append(checks[-1] + policy.poll_interval_after(checks[-1]))
    return checks


class Outlook:
    """When a refresh ends, by `durations`, and what it costs to find out."""

    def __init__(self, durations: Durations, policy: Policy) -> None:
        share = 1 / len(BOUNDS_MS)
        chances = [(count + share) / (durations.total + 1) for count in durations.counts]
        self._bounds = (0, *BOUNDS_MS)
        middles = [(start + end) / 2 for start, end in pairwise(self._bounds)]
        # Up to each bound: the chance of an end, and the mean time of such an end, weighted with that chance.
        self._ended = [0.0, *accumulate(chances)]
        self._moments = [0.0, *accumulate(chance * at for chance, at in zip(chances, middles, strict=True))]
        self._closest = milliseconds(policy.poll_interval)
        self._farthest = max(self._closest, milliseconds(policy.poll_interval_max))
        self._grid = _grid(self._closest, milliseconds(policy.refresh_deadline))
        self._ended_by_grid = [self._until(time)[0] for time in self._grid]
        self._windows = [self._window(time) for time in self._grid]

    def cost(self, checks: Sequence[int]) -> Cost:
        """What `checks` cost, in rising order. Who has not ended by the last of them is waited for no longer."""
        calls = lag = ended = moment = 0.0
        for check in checks:
            calls += 1 - ended
            ended_by, moment_by = self._until(check)
            lag += check * (ended_by - ended) - (moment_by - moment)
            ended, moment = ended_by, moment_by
        return Cost(calls, lag)

    def checks(self, lag: float) -> list[int]:
        """The check times with the fewest calls whose mean lag is at most `lag`, or else as short as can be."""
        low, high = -_EXPONENT, _EXPONENT
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self.cost(self._cheapest(middle)).lag > lag:
                low = middle
            else:
                high = middle
        return self._cheapest(high)

    def _until(self, time: int) -> tuple[float, float]:
        place = min(max(bisect_left(self._bounds, time), 1), len(BOUNDS_MS))
        start, end = self._bounds[place - 1], self._bounds[place]
        part = min((time - start) / (end - start), 1.0)
        chance = (self._ended[place] - self._ended[place - 1]) * part
        middle = start + part * (end - start) / 2
        return self._ended[place - 1] + chance, self._moments[place - 1] + chance * middle

    def _window(self, time: int) -> tuple[int, int]:
        """Where on the grid the check after one at `time` may lie: at the first place, up to before the second."""
        farthest = min(max(time // 2, self._closest), self._farthest) if time else self._farthest
        last = len(self._grid) - 1
        start = min(bisect_left(self._grid, time + self._closest), last)
        # One step at least, however coarse the grid.
        return start, max(bisect_right(self._grid, time + farthest), start + 1)

    def _cheapest(self, exponent: float) -> list[int]:
        """The check times that minimise calls + price * lag, found from the deadline backwards."""
        price = 2**exponent / self._closest
        # What the future costs after a check at each place, plus price * chance * time of all that have ended by then:
        # of those that the check before has seen, it is subtracted below. Left out is what all schedules have in
        # common: the mean time of an end, and what is counted after the last place, where each of them ends.
        costs, following = [0.0] * len(self._grid), [0] * len(self._grid)
        for place in reversed(range(len(self._grid))):
            weight = price * self._ended_by_grid[place]
            start, stop = self._windows[place]
            options = [
                cost - weight * time for cost, time in zip(costs[start:stop], self._grid[start:stop], strict=True)
            ]
            best = min(options)
            following[place] = start + options.index(best)
            costs[place] = best + 1 - self._ended_by_grid[place] + weight * self._grid[place]
        return self._walk(following)

    def _walk(self, following: Sequence[int]) -> list[int]:
        checks, place = [], 0
        while place < len(self._grid) - 1:
            place = following[place]
            checks.append(self._grid[place])
        return checks


def _grid(closest: int, deadline: int) -> list[int]:
    times = [0]
    while times[-1] < deadline:
        times.append(min(times[-1] + max(closest // _STEPS, times[-1] // _FINENESS, 1), deadline))
    return times
