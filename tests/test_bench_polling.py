"""The comparison of polling schedules: what is counted, and that a learned schedule is worth its name."""

import pytest
from phr_refresh.benchmarks import polling
from phr_refresh.benchmarks.polling import (
    DEADLINE,
    fewest_calls,
    fixed,
    growing,
    heavy_tailed,
    learning,
    ours,
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
    assert 10.0 + Policy().poll_interval_after(10_000) / 1000 == ours(Policy())(10.0)


def test_the_recorded_durations_are_those_of_the_last_wanted_extract() -> None:
    """VPR takes 4.1 s at least, imaging 6.3 s at most."""
    durations = recorded(500)
    assert min(durations) >= 4.1
    assert max(durations) <= 6.34


def test_calls_come_when_refreshes_end() -> None:
    """All of them took about five seconds: nobody is asked before."""
    assert ours(learning([5.0] * 100))(0.0) > 4.0


def test_no_two_calls_are_too_close() -> None:
    """Rule R6 holds whatever is learned."""
    policy = learning(recorded(200))
    closest = policy.poll_interval.total_seconds()
    schedule = ours(policy)
    call = 0.0
    while call < DEADLINE:
        following = schedule(call)
        assert following >= call + closest - 1e-9
        call = following


@pytest.mark.parametrize("name", ["learned from 50", "learned"])
def test_the_target_is_met_on_the_recorded_durations(name: str) -> None:
    """At most four calls per refresh, at no more mean lag than every second has; on durations that are new to it."""
    found = polling.compare(recorded(1000))
    assert found[name].calls <= 4
    assert found[name].mean_lag <= found["every second"].mean_lag


def test_what_can_be_had_on_the_heavy_tailed_durations() -> None:
    """Fewer calls than the growing intervals at their lag, within a call of what any schedule needs at least."""
    found = polling.compare(heavy_tailed(4000))
    rule, best = found["`Policy` as it is"], found["learned"]
    assert best.calls < rule.calls
    assert best.mean_lag <= rule.mean_lag * 1.05
    assert fewest_calls(best.mean_lag) <= best.calls <= fewest_calls(best.mean_lag) + 1


def test_the_target_cannot_be_met_on_the_heavy_tailed_durations() -> None:
    """Whatever is asked when: at the lag of every second it takes more than four calls."""
    assert fewest_calls(polling.compare(heavy_tailed(1000))["every second"].mean_lag) > 4
