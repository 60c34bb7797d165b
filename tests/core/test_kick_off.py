"""What the upstream's answer to a kick-off means to the lifecycle."""

import pytest
from phr_refresh import Policy
from phr_refresh.statemachine.effects import (
    UPSTREAM_OVERLOADED,
    Accepted,
    AnswerLost,
    KickOffAnswer,
    Loaded,
    NeverSent,
    Rejected,
)
from phr_refresh.statemachine.following import deferred, event_of
from phr_refresh.statemachine.record import NEVER_SENT, RefreshRecord
from phr_refresh.statemachine.table import Event, EventName
from support.samples import MINUTE, NOON, SECOND, WINDOW, refreshing

POLICY = Policy(retry_jitter=0)
#: The call took so long, and the window counts from its answer.
AT = NOON + 10 * SECOND
FROM_THE_ANSWER = {"at": AT, "refresh_id": "r1", "window_opens_at": AT + WINDOW}
OPEN_AT_ONCE = {"at": AT, "refresh_id": "r1", "window_opens_at": AT, "name": EventName.REFRESH_FAILED}


@pytest.mark.parametrize(
    ("answer", "event"),
    [
        (Accepted(AT), {"name": EventName.REFRESH_ACCEPTED, "next_poll_at": AT + SECOND} | FROM_THE_ANSWER),
        (
            AnswerLost("timed_out", AT),
            {"name": EventName.ANSWER_LOST, "next_poll_at": AT + SECOND, "code": "timed_out"} | FROM_THE_ANSWER,
        ),
        (Rejected("http_401", AT), {"name": EventName.REFRESH_FAILED, "code": "http_401"} | FROM_THE_ANSWER),
        (
            NeverSent("connection_refused", AT),
            {"code": NEVER_SENT, "retry_at": AT + 8 * SECOND, "failures": 3} | OPEN_AT_ONCE,
        ),
        (
            NeverSent(UPSTREAM_OVERLOADED, AT, 30.0),
            {"code": UPSTREAM_OVERLOADED, "retry_at": AT + 30 * SECOND, "failures": 2, "deferred_since": AT}
            | OPEN_AT_ONCE,
        ),
    ],
)
def test_each_answer_is_one_event(answer: KickOffAnswer, event: dict[str, object]) -> None:
    """All times count from the answer; only a call that never left opens the window, and is worth another try."""
    claimed = Loaded(refreshing(failures=2, retry_at=NOON), "v1", NOON)
    assert Event(**event) == event_of(answer, "r1", claimed=claimed, policy=POLICY)


def test_failures_are_forgotten_once_the_longest_pause_has_passed_too() -> None:
    """A call that never left long after the last one is the first in a row."""
    long_ago = refreshing(failures=2, retry_at=AT - 5 * MINUTE - 1)
    event = event_of(NeverSent("no_route", AT), "r1", claimed=Loaded(long_ago, "v1", NOON), policy=POLICY)
    assert 1 == event.failures


@pytest.mark.parametrize(("lasted", "since"), [(WINDOW - 1, NOON), (WINDOW, 0)])
def test_a_deferral_ends_with_its_window(lasted: int, since: int) -> None:
    """A refresh that was held back for a whole window is held back no more, to the millisecond."""
    assert since == deferred(RefreshRecord(deferred_since=NOON), NOON + lasted, POLICY)
