"""The comparison of polling schedules: what is counted, and that a learned schedule is worth its name."""

import pytest
from phr_refresh.benchmarks import polling
from phr_refresh.benchmarks.polling import (
    BUCKETS,
    CLOSEST,
    DEADLINE,
    fixed,
    growing,
    histogram,
    learned,
    outcome,
    recorded,
)
from phr_refresh.statemachine.policy import Policy

pytestmark = pytest.mark.once


def test_every_second_is_counted_exactly() -> None:
    """A refresh of 2.5 seconds is seen by the third call, half a second late; one of 1 second by the first, at once."""
    found = outcome(fixed, [2.5, 1.0])
    assert (2.0, 0.25) == (found.calls, found.mean_lag)


def test_growing_intervals() -> None:
    """2 s, then 2.1 s, then 2.205 s."""
    schedule = growing()
    first = schedule(0.0)
    second = schedule(first)
    assert [2.0, 4.1, 6.305] == pytest.approx([first, second, schedule(second)])


def test_ours_is_what_the_policy_says() -> None:
    """The comparison cannot drift away from the library."""
    assert 10.0 + Policy().poll_interval_after(10_000) / 1000 == polling.ours(10.0)


def test_the_recorded_durations_are_those_of_the_last_wanted_extract() -> None:
    """VPR takes 4.1 s at least, imaging 6.3 s at most."""
    durations = recorded(500)
    assert min(durations) >= 4.1
    assert max(durations) <= 6.34


def test_the_histogram_forgets_nothing() -> None:
    """What is longer than the deadline counts with the longest."""
    counts = histogram([0.1, 0.5, 0.51, DEADLINE * 2])
    assert (2, 1, 1) == (counts[0], counts[1], counts[-1])
    assert len(BUCKETS) == len(counts)


def test_a_learned_schedule_calls_when_refreshes_end() -> None:
    """All of them took about five seconds: nobody is asked before."""
    schedule = learned(histogram([5.0] * 100), mean_lag=0.5)
    assert schedule(0.0) > 3.0


def test_no_two_calls_are_too_close() -> None:
    """Rule R6 holds whatever is learned."""
    schedule = learned(histogram(recorded(200)), mean_lag=0.1)
    call = 0.0
    while call < DEADLINE:
        following = schedule(call)
        assert following >= call + CLOSEST - 1e-9
        call = following


def test_the_target_is_met_on_the_recorded_durations() -> None:
    """At most four calls per refresh, at no more mean lag than every second has; on durations that are new to it."""
    found = polling.compare(recorded(1000))
    second, best = found["every second"], found["learned, lag of every second"]
    assert best.calls <= 4
    assert best.mean_lag <= second.mean_lag + 0.01
