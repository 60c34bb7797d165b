"""Polling, compared on paper: how many status calls a refresh costs, and how late its end is seen.

`python -m phr_refresh.benchmarks.polling` compares fixed intervals, growing ones, and what the library learns
(`statemachine.pacing`), on the durations that were recorded and on a heavy-tailed set. What learns does so from one
half of the durations and is judged by the other.
"""

import random
import statistics
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import log, sqrt
from typing import Final

from phr_refresh.adapters.simulator.extracts import DURATIONS, START_SPREAD_SECONDS
from phr_refresh.statemachine.pacing import Durations, learned
from phr_refresh.statemachine.policy import Policy

from .place import EXTRACTS

DEADLINE: Final = Policy().refresh_deadline.total_seconds()
_SEED: Final = 1
# Of the logarithms of the heavy-tailed durations.
_MEAN_LOG: Final = 1.8
_SPREAD_LOG: Final = 1.0
_STEP: Final = 0.01

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
    return [min(dice.lognormvariate(_MEAN_LOG, _SPREAD_LOG), DEADLINE - 1) for _ in range(count)]


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


def ours(policy: Policy) -> Schedule:
    """What `policy` says."""
    return lambda last: last + policy.poll_interval_after(round(last * 1000)) / 1000


def learning(durations: Sequence[float]) -> Policy:
    """The policy of a library that has seen refreshes of these `durations`."""
    known = Durations.of(round(duration * 1000) for duration in durations)
    return replace(Policy(), poll_schedule_ms=learned(known, Policy()))


def fewest_calls(mean_lag: float) -> float:
    """Calls per refresh that any schedule needs on the heavy-tailed set for a mean lag of so many seconds, about.

    With r calls a second, f the density of ends and S the share of refreshes still running, calls are the integral of
    r * S and the lag is that of f / 2r; by Cauchy and Schwarz their product is at least half the square of the integral
    of sqrt(f * S), whatever r is.
    """
    normal = statistics.NormalDist()
    total = 0.0
    for place in range(round(DEADLINE / _STEP)):
        time = (place + 0.5) * _STEP
        scaled = (log(time) - _MEAN_LOG) / _SPREAD_LOG
        density = normal.pdf(scaled) / _SPREAD_LOG / time
        total += sqrt(density * normal.cdf(-scaled)) * _STEP
    return total**2 / 2 / mean_lag


def compare(durations: Sequence[float]) -> dict[str, Outcome]:
    """Every schedule on one set of durations."""
    known, judged = durations[::2], durations[1::2]
    return {
        "every second": outcome(fixed, judged),
        "2 s, growing 5 %": outcome(growing(), judged),
        "`Policy` as it is": outcome(ours(Policy()), judged),
        "learned from 50": outcome(ours(learning(known[:50])), judged),
        "learned": outcome(ours(learning(known)), judged),
    }


def main() -> None:
    """Print the comparison as Markdown."""
    for name, durations in (("recorded", recorded(4000)), ("heavy-tailed", heavy_tailed(4000))):
        print(f"\n{name}: mean {statistics.fmean(durations):.1f} s, longest {max(durations):.0f} s\n")  # noqa: T201
        print("| schedule | calls per refresh | mean lag, s | 95 % of lags below, s |\n|---|---|---|---|")  # noqa: T201
        for schedule, found in compare(durations).items():
            print(f"| {schedule} | {found.calls:.2f} | {found.mean_lag:.2f} | {found.p95_lag:.2f} |")  # noqa: T201
    lags = (0.5, 0.75, 1.25)
    least = ", ".join(f"{fewest_calls(lag):.1f} at {lag} s" for lag in lags)
    print(f"\nheavy-tailed: whatever the schedule, calls per refresh at a mean lag: {least}")  # noqa: T201


if __name__ == "__main__":
    main()
