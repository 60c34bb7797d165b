"""A store whose clock leaps: what holds by true time, and until when (R1, R4).

Leaps back cost waiting, never a second kick-off. A leap forward opens the window as much too early, since the store's
clock is the only one that all hosts share. Nobody stays `refreshing` for longer than four refresh deadlines.
"""

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from phr_refresh.statemachine.outcomes import ReceiptKind
from phr_refresh.statemachine.policy import milliseconds
from phr_refresh.statemachine.record import State
from support.reference import Script
from support.reference_leaps import Leaping
from support.reference_settings import examples
from support.samples import DEADLINE, HOUR, MARGIN, MINUTE, SECOND, WINDOW

DAY = 24 * HOUR
YEAR = milliseconds(timedelta(days=365))
LONGEST_LIFE = 2 * HOUR
#: A deadline further ahead than this is one of a clock that was set back since.
REACH = 4 * DEADLINE
SIZES = st.sampled_from([1, SECOND, 6 * SECOND, 3 * MINUTE, REACH, HOUR, HOUR + 1, 5 * HOUR, DAY, 3 * DAY])
BACK = SIZES.map(lambda size: -size)
SCRIPTS = st.builds(
    Script,
    session_life=st.sampled_from([15 * MINUTE, LONGEST_LIFE, None]),
    kick_off=st.sampled_from(["accepted", "accepted", "rejected", "lost", "never_sent", "dies"]),
    status=st.sampled_from(["in_progress", "complete", "failed", "not_asked"]),
    takes=st.sampled_from([0, SECOND, 15 * SECOND]),
)
WAITS = st.sampled_from([1, SECOND, 3 * SECOND, MINUTE, DEADLINE, 15 * MINUTE, WINDOW - 1, WINDOW, WINDOW + MARGIN])
VERBS = st.sampled_from(["refresh", "refresh", "status", "session", "logout"])
Move = tuple[str, int, Script, list[int]]


def moves(leaps: st.SearchStrategy[int]) -> st.SearchStrategy[list[Move]]:
    """Waits, leaps, and verbs with up to three leaps between their effects."""
    waits = st.tuples(st.just("wait"), WAITS, st.just(Script()), st.just([]))
    between = st.tuples(st.just("leap"), leaps, st.just(Script()), st.just([]))
    verbs = st.tuples(VERBS, st.just(0), SCRIPTS, st.just([]) | st.lists(leaps | st.just(0), max_size=4))
    return st.lists(waits | between | verbs | verbs, max_size=30)


def played(story: list[Move]) -> Leaping:
    """A host after all of `story`."""
    host = Leaping()
    for kind, amount, script, leaps in story:
        host.leaps.extend(leaps)
        match kind:
            case "wait":
                host.wait(amount)
            case "leap":
                host.leap(amount)
            case "refresh":
                host.refresh(script)
            case "status":
                host.status(script)
            case "session":
                host.session(script)
            case "logout":
                host.logout()
        host.leaps.clear()
    return host


def gaps(host: Leaping) -> list[tuple[int, int]]:
    """Between one kick-off's answer and the next kick-off: the true time, and the store's clock's leaps forward."""
    both = pairwise(zip(host.upstream.sent, host.forwards, strict=True))
    return [(began - answered, after - before) for ((_, answered), (before, _)), ((began, _), (_, after)) in both]


@given(moves(BACK))
@examples(100)
def test_leaps_back_never_bring_a_second_kick_off_within_the_window(story: list[Move]) -> None:
    """Wherever the store's clock is set back, between or within verbs, kick-offs stay 60 true minutes apart (R1)."""
    gone = [gap for gap, _ in gaps(played(story))]
    assert [gap for gap in gone if gap < WINDOW] == []


@given(moves(BACK | SIZES))
@examples(100)
def test_leaps_forward_open_the_window_by_no_more_than_themselves(story: list[Move]) -> None:
    """Whatever leaps, kick-offs are 60 true minutes apart but for what the store's clock was set forward meanwhile."""
    assert [(gap, forward) for gap, forward in gaps(played(story)) if gap < WINDOW - forward] == []


@given(moves(BACK | SIZES))
@examples(100)
def test_nobody_stays_refreshing(story: list[Move]) -> None:
    """After any leaps, a refresh has ended within four deadlines of true time after the first look at it (R4)."""
    host = played(story)
    host.status()
    host.wait(REACH)
    assert host.status().state is not State.REFRESHING


@given(moves(BACK | SIZES))
@examples(100)
def test_everybody_gets_a_refresh_once_the_clock_has_come_round(story: list[Move]) -> None:
    """When the store's clock is a window and its margin past all that it has ever shown, the next refresh starts."""
    host = played(story)
    host.wait(host.highest + WINDOW + MARGIN - host.store_now)
    receipt = host.refresh()
    assert receipt is not None
    assert ReceiptKind.STARTED is receipt.kind


@given(moves(BACK | SIZES))
@examples(100)
def test_no_session_outlives_the_clock_that_has_come_round(story: list[Move]) -> None:
    """`session_created` ends when the store's clock is a session's life past all that it has ever shown (R4)."""
    host = played(story)
    host.wait(host.highest + LONGEST_LIFE - host.store_now)
    assert host.status().state is not State.SESSION_CREATED


@pytest.mark.parametrize("back", [1, SECOND, HOUR, DAY, YEAR])
def test_a_clock_set_back_opens_the_window_as_much_later(back: int) -> None:
    """The window waits for the clock to come round, to the millisecond: there waiting is the safe side (R1)."""
    host = Leaping()
    host.refresh()
    host.status(Script())
    host.leap(-back)
    host.wait(WINDOW + back - 1)
    closed = host.refresh()
    host.wait(1)
    opened = host.refresh()
    assert closed is not None
    assert opened is not None
    assert (ReceiptKind.DEFERRED, ReceiptKind.STARTED) == (closed.kind, opened.kind)
    assert [(WINDOW + back, 0)] == gaps(host)


@pytest.mark.parametrize("back", [1, HOUR, DAY])
def test_a_clock_set_back_and_forth_changes_nothing(back: int) -> None:
    """A clock that is set back and comes right again opens the window when it would have: not a millisecond earlier."""
    host = Leaping()
    host.refresh()
    host.leap(-back)
    host.wait(WINDOW - 1)
    host.leap(back)
    closed = host.refresh()
    host.wait(1)
    opened = host.refresh()
    assert closed is not None
    assert opened is not None
    assert (ReceiptKind.DEFERRED, ReceiptKind.STARTED) == (closed.kind, opened.kind)


@pytest.mark.parametrize(
    ("back", "state"),
    [(1, State.REFRESHING), (REACH - DEADLINE, State.REFRESHING), (REACH - DEADLINE + 1, State.STALE)],
)
def test_a_deadline_out_of_reach_has_passed(back: int, state: State) -> None:
    """A refresh waits for its deadline by a clock set back, up to four deadlines; beyond that it ends at once (R4)."""
    host = Leaping()
    host.refresh()
    host.leap(-back)
    assert state is host.status().state
    if state is State.REFRESHING:
        host.wait(DEADLINE + back - 1)
        assert State.REFRESHING is host.status().state
        host.wait(1)
    ended = host.status()
    assert ended.failure is not None
    assert (State.STALE, "timed_out") == (ended.state, ended.failure.code)


@pytest.mark.parametrize("back", [HOUR, DAY, YEAR])
def test_a_clock_set_back_lets_a_session_that_waits_go_on(back: int) -> None:
    """A patient in `session_created` whose clock is set back is not stuck: their next login's refresh starts."""
    host = Leaping()
    host.session(Script())
    host.leap(-back)
    assert State.SESSION_CREATED is host.status().state
    receipt = host.refresh()
    assert receipt is not None
    assert ReceiptKind.STARTED is receipt.kind


@pytest.mark.parametrize("back", [HOUR, DAY, YEAR])
def test_a_clock_set_back_prolongs_no_backoff(back: int) -> None:
    """A pause after a failed session call that lies out of reach is over."""
    host = Leaping()
    host.refresh(Script(session_life=None))
    host.leap(-back)
    receipt = host.refresh()
    assert receipt is not None
    assert ReceiptKind.STARTED is receipt.kind
