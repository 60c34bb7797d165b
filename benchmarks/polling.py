"""Polling, compared on paper: how many status calls a refresh costs, and how late its end is seen.

`python -m phr_refresh.benchmarks.polling` compares fixed intervals, growing ones, and a schedule learned from a small
histogram of earlier durations, on the durations that were recorded and on a heavy-tailed set. The learned schedule
minimises calls + price * lag by dynamic programming over the time of the next call; the price is what makes its mean
lag that of the fixed second. It learns from one half of the durations and is judged by the other.

No two calls are closer than `CLOSEST` (rule R6), and nothing is waited for after `DEADLINE`.
"""

import random
import statistics
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from phr_refresh.adapters.simulator.extracts import DURATIONS, START_SPREAD_SECONDS
from phr_refresh.statemachine.policy import Policy

from .place import EXTRACTS

CLOSEST: Final = 1.0
DEADLINE: Final = 300.0
#: Upper ends of the histogram's buckets, in seconds: each a quarter longer than the one before.
BUCKETS: Final = (*(round(0.5 * 1.25**number, 3) for number in range(29)), DEADLINE)

_STEP: Final = 0.2
_FARTHEST: Final = 40.0
_HALVINGS: Final = 24
_SEED: Final = 1

#: When the next call comes, given that of the last one; 0 stands for the kick-off.
Schedule = Callable[[float], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a schedule costs: calls per refresh, and seconds from the end of a refresh until it is seen."""

    calls: float
    mean_lag: float
    p95_lag: float


def recorded(count: int) -> list[float]:
    """Durations of refreshes whose extracts take as long as the recorded ones: the last of the wanted ones counts."""
    dice = random.Random(_SEED)  # noqa: S311
    return [
        max(dice.uniform(0, START_SPREAD_SECONDS) + dice.uniform(*DURATIONS[name]) for name in EXTRACTS)
        for _ in range(count)
    ]


def heavy_tailed(count: int) -> list[float]:
    """Durations of which half are below six seconds and some take minutes, as a first refresh may."""
    dice = random.Random(_SEED)  # noqa: S311
    return [min(dice.lognormvariate(1.8, 1.0), DEADLINE - 1) for _ in range(count)]


def outcome(schedule: Schedule, durations: Sequence[float]) -> Outcome:
    """What `schedule` costs over `durations`."""
    calls = _calls(schedule, max(durations))
    numbers = [bisect_left(calls, duration) for duration in durations]
    lags = [calls[number] - duration for number, duration in zip(numbers, durations, strict=True)]
    return Outcome(
        calls=statistics.fmean(number + 1 for number in numbers),
        mean_lag=statistics.fmean(lags),
        p95_lag=statistics.quantiles(lags, n=20)[-1],
    )


def _calls(schedule: Schedule, until: float) -> list[float]:
    calls = [schedule(0.0)]
    while calls[-1] < until:
        calls.append(schedule(calls[-1]))
    return calls


def fixed(last: float) -> float:
    """Every second."""
    return last + 1.0


def growing() -> Schedule:
    """Two seconds, and each interval 5 % longer: what the portal's web client does."""
    times = list(accumulate(2 * 1.05**number for number in range(60)))
    return lambda last: next(time for time in times if time > last + 1e-9)


def ours(last: float) -> float:
    """What `Policy` says."""
    return last + Policy().poll_interval_after(round(last * 1000)) / 1000


def histogram(durations: Sequence[float]) -> list[int]:
    """How many durations fall into each of `BUCKETS`.

    >>> sum(histogram([0.1, 5.0, 299.0, 1000.0]))
    4
    """
    counts = [0] * len(BUCKETS)
    for duration in durations:
        counts[min(bisect_left(BUCKETS, duration), len(BUCKETS) - 1)] += 1
    return counts


def learned(counts: Sequence[int], *, mean_lag: float) -> Schedule:
    """The schedule with the fewest calls whose mean lag is `mean_lag`, as far as `counts` can tell."""
    spread = _spread(counts)
    low, high = 0.0, 100.0
    for _ in range(_HALVINGS):
        price = (low + high) / 2
        jumps = _best(spread, price)
        if _lag(spread, jumps) > mean_lag:
            low = price
        else:
            high = price
    jumps = _best(spread, high)
    return lambda last: jumps[min(round(last / _STEP), len(jumps) - 1)] * _STEP


def _spread(counts: Sequence[int]) -> list[float]:
    """The chance that a refresh ends in each step of time: evenly over its bucket."""
    chances = [0.0] * (round(DEADLINE / _STEP) + 1)
    total, start = sum(counts), 0
    for count, end in zip(counts, BUCKETS, strict=True):
        stop = max(round(end / _STEP), start + 1)
        for place in range(start + 1, stop + 1):
            chances[place] += count / total / (stop - start)
        start = stop
    return chances


def _best(chances: Sequence[float], price: float) -> list[int]:
    """For each step, at which later step to call next, so that calls + price * lag is least."""
    steps = len(chances)
    ended = list(accumulate(chances))
    moment = list(accumulate(place * _STEP * chance for place, chance in enumerate(chances)))
    cost, jumps = [0.0] * steps, [steps] * steps
    closest, farthest = round(CLOSEST / _STEP), round(_FARTHEST / _STEP)
    for place in range(steps - 2, -1, -1):
        best, jump = float("inf"), place + closest
        for target in range(place + closest, min(place + farthest, steps - 1) + 1):
            lag = target * _STEP * (ended[target] - ended[place]) - (moment[target] - moment[place])
            total = 1 - ended[place] + price * lag + cost[target]
            if total < best:
                best, jump = total, target
        cost[place], jumps[place] = (0.0 if best == float("inf") else best), jump
    jumps[-1] = steps - 1 + closest
    return jumps


def _lag(chances: Sequence[float], jumps: Sequence[int]) -> float:
    lag, place = 0.0, 0
    while place < len(chances) - 1:
        target = min(jumps[place], len(chances) - 1)
        lag += sum((target - between) * _STEP * chances[between] for between in range(place + 1, target + 1))
        place = target
    return lag


def compare(durations: Sequence[float]) -> dict[str, Outcome]:
    """Every schedule on one set of durations."""
    known, judged = durations[::2], durations[1::2]
    second = outcome(fixed, judged)
    return {
        "every second": second,
        "2 s, growing 5 %": outcome(growing(), judged),
        "Policy": outcome(ours, judged),
        "learned, lag of every second": outcome(learned(histogram(known), mean_lag=second.mean_lag), judged),
        "learned, lag of Policy": outcome(learned(histogram(known), mean_lag=outcome(ours, known).mean_lag), judged),
    }


def main() -> None:
    """Print the comparison as Markdown."""
    for name, durations in (("recorded", recorded(2000)), ("heavy-tailed", heavy_tailed(2000))):
        print(f"\n{name}: mean {statistics.fmean(durations):.1f} s, longest {max(durations):.0f} s\n")  # noqa: T201
        print("| schedule | calls per refresh | mean lag, s | 95 % of lags below, s |\n|---|---|---|---|")  # noqa: T201
        for schedule, found in compare(durations).items():
            print(f"| {schedule} | {found.calls:.2f} | {found.mean_lag:.2f} | {found.p95_lag:.2f} |")  # noqa: T201


if __name__ == "__main__":
    main()
