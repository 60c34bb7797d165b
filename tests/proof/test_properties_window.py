"""The window to the millisecond, under the default policy on every store and under any policy."""

from collections import deque
from contextlib import closing, nullcontext
from datetime import timedelta
from typing import Any

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st
from phr_refresh.statemachine.effects import Accepted, AnswerLost, KickOffAnswer, Rejected, SessionFailed, StartRefresh
from phr_refresh.statemachine.outcomes import ReceiptKind
from phr_refresh.statemachine.policy import Policy, milliseconds
from support.reference import Script
from support.reference_settings import examples
from support.reference_world import two_hosts
from support.samples import MARGIN, SECOND, WINDOW
from support.stepping import World

#: From the claim on, how long the window stays closed, where the kick-off's answer takes 15 seconds.
CLOSED_FOR = {
    "accepted": 15 * SECOND + WINDOW,
    "rejected": 15 * SECOND + WINDOW,
    "lost": WINDOW + MARGIN,
    "dies": WINDOW + MARGIN,
}


@pytest.mark.parametrize("kick_off", CLOSED_FOR)
def test_the_window_opens_to_the_millisecond(backend: Any, kick_off: str) -> None:
    """3600 s after the kick-off's answer, or 3660 s after a claim without one, a refresh starts; 1 ms before, none."""
    with freeze_time("2005-05-14") as clock, closing(two_hosts(backend, clock)) as pair:
        patient = pair.begin()
        pair.upstream.script = Script(kick_off=kick_off, takes=15 * SECOND)
        first = pytest.raises(SystemExit) if kick_off == "dies" else nullcontext()
        with first:
            # The session takes as long as the kick-off: the claim comes after it.
            pair.hosts[0].refresh(patient)
        pair.wait(CLOSED_FOR[kick_off] - 15 * SECOND - 1)
        pair.upstream.script = Script()
        early = [host.refresh(patient).kind for host in pair.hosts]
        assert 1 == pair.upstream.kick_offs
        pair.wait(1)
        assert ReceiptKind.STARTED is pair.hosts[1].refresh(patient).kind
        assert ReceiptKind.JOINED is pair.hosts[0].refresh(patient).kind
        assert ([ReceiptKind.DEFERRED] * 2, 2) == (early, pair.upstream.kick_offs)


# Any policy.

SPANS = st.integers(1_000, 10**8).map(lambda span: timedelta(milliseconds=span))
FRACTIONS = st.sampled_from([0, 1, 999]).map(lambda part: timedelta(microseconds=part))
ANSWERS = st.sampled_from([Accepted(), Rejected("http_503"), AnswerLost("timed_out"), None])


@given(SPANS, FRACTIONS, SPANS, ANSWERS, st.floats(0, 1))
@examples(100)
def test_under_any_policy_the_window_counts_from_the_answer(
    window: timedelta, fraction: timedelta, margin: timedelta, answer: KickOffAnswer | None, share: float
) -> None:
    """The window opens that long after the answer, in whole milliseconds; without one, the margin after the claim's."""
    policy = Policy(refresh_window=window + fraction, unanswered_margin=margin, refresh_deadline=window)
    world = World(policy)
    kicking = world.refresh().until(StartRefresh)
    kicking.begin()
    claimed_at = world.now
    # No call outlasts the margin, which is what it is for, nor a refresh.
    world.now += int(share * (min(milliseconds(margin), milliseconds(window)) - 1))
    opens_at = world.now + milliseconds(window)
    if answer is None:
        kicking.crash()
    else:
        world.kick_off_answers.append(answer)
        kicking.run()
    if answer is None or isinstance(answer, AnswerLost):
        opens_at = max(opens_at if answer else 0, claimed_at + milliseconds(window) + milliseconds(margin))
    world.now = opens_at - 1
    assert world.refresh().run().kind is not ReceiptKind.STARTED
    world.now = opens_at
    assert ReceiptKind.STARTED is world.refresh().run().kind
    assert [claimed_at, opens_at] == world.kick_offs


POLICIES = st.builds(
    Policy,
    poll_interval=SPANS,
    poll_interval_max=SPANS,
    poll_growth=st.floats(0, 100),
    retry_backoff=st.integers(1, 10**8).map(lambda span: timedelta(milliseconds=span)),
    retry_backoff_max=SPANS,
)


@given(POLICIES, st.integers(0, 10**12))
@examples(100)
def test_under_any_policy_no_poll_comes_early_or_never(policy: Policy, running: int) -> None:
    """An interval is at least `poll_interval`, and at most the greater of it and its cap (R6, R4)."""
    shortest, cap = milliseconds(policy.poll_interval), milliseconds(policy.poll_interval_max)
    interval = policy.poll_interval_after(running)
    assert shortest <= interval <= max(shortest, cap)
    # A clock that was set back has run for less than nothing.
    assert policy.poll_interval_after(0) == policy.poll_interval_after(-running)


@given(POLICIES, st.integers(1, 40))
@examples(100)
def test_under_any_policy_a_pause_doubles_until_its_cap(policy: Policy, failures: int) -> None:
    """Each pause is twice the one before or the cap, and no pause is shorter than the first."""
    cap = milliseconds(policy.retry_backoff_max)
    pause, doubled = policy.backoff_after(failures), policy.backoff_after(failures + 1)
    assert min(milliseconds(policy.retry_backoff), cap) <= pause <= doubled <= cap
    # From a millisecond, twenty doublings are a quarter of an hour: then it is long enough.
    assert doubled in (2 * pause, cap) or failures > 20


def test_failures_are_forgotten_a_millisecond_after_their_longest_pause() -> None:
    """A failure within `retry_backoff_max` of the last pause's end doubles the pause; a later one starts anew."""
    longest = milliseconds(Policy().retry_backoff_max)
    pauses = []
    for late in (longest, longest + 1):
        world = World(sessions=deque([SessionFailed("http_500")] * 2))
        world.refresh().run()
        world.now += 2 * SECOND + late
        world.refresh().run()
        pauses.append(world.record().retry_at - world.now)
    assert [4 * SECOND, 2 * SECOND] == pauses
