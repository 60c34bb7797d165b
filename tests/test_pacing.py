"""Check times learned from durations: against every schedule there is, and what holds of all of them."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from phr_refresh.statemachine.pacing import BOUNDS_MS, FEWEST, Durations, Outlook, growing_checks, learned
from phr_refresh.statemachine.policy import Policy, milliseconds
from support.reference_settings import examples

#: A deadline so short that every schedule on the grid can be tried: checks lie a quarter of a second apart.
SHORT = Policy(refresh_deadline=timedelta(seconds=3), poll_interval_max=timedelta(seconds=2))
GRID = range(250, 3001, 250)
#: How finely the oracle cuts time, in milliseconds.
FINE = 1

COUNTS = st.lists(st.tuples(st.integers(0, len(BOUNDS_MS) - 1), st.integers(1, 200)), min_size=1, max_size=8)


def durations_of(some: Sequence[tuple[int, int]]) -> Durations:
    """So many refreshes in each of some buckets."""
    counts = [0] * len(BOUNDS_MS)
    for place, count in some:
        counts[place] += count
    return Durations(tuple(counts))


class Oracle:
    """The costs of any check times, by going through time in small steps: nothing is shared with the library."""

    def __init__(self, durations: Durations) -> None:
        self.chances: list[tuple[float, float]] = []
        prior, start = 1 / len(BOUNDS_MS), 0.0
        for count, end in zip(durations.counts, BOUNDS_MS, strict=True):
            if start >= 3000:
                break
            steps = max(round((end - start) / FINE), 1)
            width, weight = (end - start) / steps, (count + prior) / (durations.total + 1) / steps
            self.chances += [(start + (step + 0.5) * width, weight) for step in range(steps)]
            start = float(end)

    def cost(self, checks: Sequence[int]) -> tuple[float, float]:
        """Mean lag of those that end until the last check, and calls per refresh."""
        seen = [(bisect_left(checks, at), at, weight) for at, weight in self.chances if at <= checks[-1]]
        lag = sum((checks[number] - at) * weight for number, at, weight in seen)
        missed = 1 - sum(weight for _, _, weight in seen)
        return lag, sum((number + 1) * weight for number, _, weight in seen) + missed * len(checks)


def every_schedule(last: int = 0) -> Iterator[tuple[int, ...]]:
    """All check times on the grid that keep their distances, up to the deadline."""
    if last == GRID[-1]:
        yield ()
    for time in GRID:
        furthest = max(1000, min(last // 2, 2000)) if last else 2000
        if 1000 <= time - last <= furthest or (time == GRID[-1] and 0 < time - last < 1000):
            for rest in every_schedule(time):
                yield (time, *rest)


ALL = list(every_schedule())


def best_of(costs: Sequence[tuple[float, float]], lag: float) -> tuple[float, float]:
    """Of the schedules that are cheapest at some price of lag, the one with the most lag that is at most `lag`."""
    corners: list[tuple[float, float]] = []
    for point in sorted(set(costs)):
        while len(corners) > 1 and _turns_up(corners[-2], corners[-1], point):
            corners.pop()
        corners.append(point)
    cheapest = corners.index(min(corners, key=lambda corner: corner[1]))
    return max([corner for corner in corners[: cheapest + 1] if corner[0] <= lag] or corners[:1])


def _turns_up(one: tuple[float, float], two: tuple[float, float], three: tuple[float, float]) -> bool:
    return (two[0] - one[0]) * (three[1] - one[1]) - (two[1] - one[1]) * (three[0] - one[0]) <= 0


def test_durations_are_counted_up_to_their_bound() -> None:
    """A bound belongs to its own bucket; what is longer than all of them counts with the longest."""
    counts = Durations.of([1, 500, 501, 575, 576, BOUNDS_MS[-1], BOUNDS_MS[-1] + 1]).counts
    assert (2, 2, 1) == counts[:3]
    assert 2 == counts[-1]
    assert 7 == sum(counts)


def test_buckets_reach_over_the_longest_window_there_is_by_default() -> None:
    """From half a second to an hour and more, in a number of them that fits into one small value."""
    assert 500 == BOUNDS_MS[0]
    assert milliseconds(Policy().refresh_window) <= BOUNDS_MS[-1]
    assert len(BOUNDS_MS) < 70


@given(COUNTS, st.sampled_from(ALL))
@example([(12, 200)], (2500,))
@examples(60)
def test_costs_are_those_of_going_through_time(some: Sequence[tuple[int, int]], checks: tuple[int, ...]) -> None:
    """Calls and lag agree with an oracle that goes through time in small steps."""
    cost = Outlook(durations_of(some), SHORT).cost(checks)
    lag, calls = Oracle(durations_of(some)).cost(checks)
    assert (lag, calls) == (pytest.approx(cost.lag, abs=20), pytest.approx(cost.calls, abs=0.02))


def test_an_end_may_lie_anywhere_in_its_bucket() -> None:
    """On average in the middle of the part that a call sees; and beyond the last bound none is left to be seen."""
    outlook = Outlook(durations_of([(0, 64)]), Policy())
    first = (64 + 1 / len(BOUNDS_MS)) / (64 + 1)
    assert [first / 2 * 125, first * 250] == pytest.approx([outlook.cost([check]).lag for check in (250, 500)])
    assert 1 == pytest.approx(outlook.cost([2 * BOUNDS_MS[-1], 3 * BOUNDS_MS[-1]]).calls)


@pytest.mark.parametrize("lag", [0, 200, 300, 400, 500, 700, 3000])
@pytest.mark.parametrize(
    "some",
    [
        [(0, 50)],
        [(8, 100)],
        [(3, 70), (10, 30)],
        [(2, 10), (5, 10), (8, 10), (11, 10)],
        [(1, 90), (64, 10)],
        [(12, 1), (40, 99)],
    ],
)
def test_no_schedule_is_better(some: Sequence[tuple[int, int]], lag: int) -> None:
    """Of all schedules that there are, it is the best that some price of lag picks, and is prompt enough."""
    outlook = Outlook(durations_of(some), SHORT)
    costs = [(cost.lag, cost.calls) for cost in map(outlook.cost, ALL)]
    found = outlook.checks(lag)
    assert tuple(found) in ALL
    cost = outlook.cost(found)
    assert best_of(costs, lag) == pytest.approx((cost.lag, cost.calls), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("lag", [600, 900, 1500, 3000])
def test_no_promptness_is_given_away(lag: int) -> None:
    """Where durations are spread there is a schedule for about every lag, and it is found."""
    outlook = Outlook(durations_of([(place, 20) for place in range(50)]), Policy())
    assert lag * 0.98 <= outlook.cost(outlook.checks(lag)).lag <= lag


@pytest.mark.parametrize("lag", [600, 900, 1500, 3000])
def test_just_prompt_enough_is_prompt_enough(lag: int) -> None:
    """Who asks for the very lag of a schedule gets it, and no dearer one."""
    outlook = Outlook(durations_of([(place, 20) for place in range(50)]), Policy())
    found = outlook.checks(lag)
    assert found == outlook.checks(outlook.cost(found).lag)


@given(COUNTS, st.integers(0, 3000))
@examples(60)
def test_nothing_as_prompt_takes_fewer_calls(some: Sequence[tuple[int, int]], lag: int) -> None:
    """Whatever the durations: no schedule of no more lag has fewer calls."""
    outlook = Outlook(durations_of(some), SHORT)
    found = outlook.cost(outlook.checks(lag))
    rivals = [cost.calls for cost in map(outlook.cost, ALL) if cost.lag <= found.lag]
    assert min(rivals) == pytest.approx(found.calls, abs=1e-6)


POLICIES = st.builds(
    Policy,
    poll_interval=st.integers(1, 20_000).map(lambda number: timedelta(milliseconds=number)),
    poll_interval_max=st.integers(1, 60_000).map(lambda number: timedelta(milliseconds=number)),
    refresh_deadline=st.integers(1, 600).map(lambda number: timedelta(seconds=number)),
    poll_growth=st.sampled_from([0, 0.05, 1.0]),
)


@given(COUNTS, POLICIES)
@examples(40)
def test_checks_keep_their_distances(some: Sequence[tuple[int, int]], policy: Policy) -> None:
    """Rising, before the deadline, never closer than `poll_interval`, and followed to the letter by the policy."""
    schedule = learned(durations_of([*some, (10, FEWEST)]), policy)
    closest, deadline = milliseconds(policy.poll_interval), milliseconds(policy.refresh_deadline)
    farthest = max(closest, milliseconds(policy.poll_interval_max))
    taught = replace(policy, poll_schedule_ms=schedule)
    for last, check in pairwise((0, *schedule)):
        # One step of the grid, which is a hundredth of the time, may be longer than what is allowed.
        assert closest <= check - last <= max(farthest, closest + last // 100 + closest // 4 + 1)
        if check - last <= farthest:
            assert check - last == taught.poll_interval_after(last)
    assert all(check < deadline for check in schedule)


@given(COUNTS)
@example([(10, 125), (17, 25), (0, 50)])
@examples(40)
def test_learning_never_costs_calls(some: Sequence[tuple[int, int]]) -> None:
    """By what is known, it takes no more calls than growing intervals; and no more lag, but to save calls."""
    known = durations_of([*some, (10, FEWEST)])
    outlook = Outlook(known, Policy())
    rule, schedule = outlook.cost(growing_checks(Policy())), learned(known, Policy())
    found = outlook.cost([*schedule, 300_000]) if schedule else rule
    assert found.calls <= rule.calls
    # It asks on a grid, which may cost a hundredth.
    assert found.lag <= max(rule.lag, 500) * 1.01


@pytest.mark.parametrize(("growth", "checks"), [(0, [1000, 2000, 3000]), (1, [1000, 3000]), (0.5, [1000, 2500, 4750])])
def test_growing_checks_go_up_to_the_deadline(growth: float, checks: list[int]) -> None:
    """From the first, which no time has gone before, to the one that sees the deadline passed."""
    assert checks == growing_checks(replace(SHORT, poll_growth=growth, poll_interval_max=timedelta(minutes=1)))


def test_where_growing_intervals_are_best_they_stay() -> None:
    """Refreshes that end just before a call of theirs leave nothing to learn."""
    assert () == learned(durations_of([(10, 175), (17, 25), (0, 50)]), Policy())


def test_little_is_taken_for_nothing() -> None:
    """Fewer refreshes than `FEWEST` teach nothing."""
    assert () == learned(Durations.of([5000] * (FEWEST - 1)), Policy())
    assert () != learned(Durations.of([5000] * FEWEST), Policy())


def test_alike_refreshes_are_asked_about_once() -> None:
    """All took five seconds: the first call comes when they have ended, and is mostly the only one."""
    known = Durations.of([5000] * 1000)
    [first, *_] = schedule = learned(known, Policy())
    assert 5000 <= first <= 6000
    assert Outlook(known, Policy()).cost(schedule).calls < 1.6


def test_two_kinds_of_refreshes_are_asked_about_when_they_end() -> None:
    """Half take a second, half a minute: little is asked in between, but something."""
    schedule = learned(Durations.of([1000] * 500 + [60_000] * 500), Policy())
    assert schedule[0] <= 1500
    between = [check for check in schedule if 2000 < check < 50_000]
    assert 4 <= len(between) <= 12


def test_a_slower_upstream_is_noticed_in_proportion() -> None:
    """What takes longer than ever is seen half as much later again, at most."""
    schedule = learned(Durations.of([5000] * 1000), Policy())
    for last, check in pairwise(schedule):
        assert check <= last + max(last / 2, 1000) + last / 100
    assert schedule[-1] > 200_000


@pytest.mark.parametrize(
    ("known", "prompt"),
    [(Durations.of([1000] * 500 + [60_000] * 500), True), (durations_of([(place, 20) for place in range(50)]), False)],
    ids=["two kinds", "spread"],
)
def test_learning_buys_promptness_or_else_saves_calls(known: Durations, prompt: bool) -> None:
    """As prompt as even intervals where calls suffice for that; else as prompt as growing ones, with fewer calls."""
    outlook = Outlook(known, Policy())
    found, growing = outlook.cost([*learned(known, Policy()), 300_000]), outlook.cost(growing_checks(Policy()))
    assert found.calls < growing.calls
    assert prompt == (found.lag <= 500)
    assert found.lag <= growing.lag
