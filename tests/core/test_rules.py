"""What each row's action writes into the record, written down here a second time; and guards at their edges."""

from collections.abc import Mapping
from typing import Any

import pytest
from phr_refresh.statemachine.record import TIMED_OUT, Failure, KickOff, RefreshRecord, State
from phr_refresh.statemachine.table import (
    Action,
    Event,
    EventName,
    accept,
    claim,
    complete,
    end_session,
    expire_session,
    fail,
    lose_answer,
    nothing,
    open_session,
    progress,
    resume_timed_out,
    still_running,
    time_out,
)
from support.samples import CURRENT, DEADLINE, HOUR, NOON, RUNNING, SECOND, WINDOW

EARLIER, AT, LATER = NOON, NOON + SECOND, NOON + HOUR
#: Every field says something.
FULL = RefreshRecord(
    state=State.REFRESHING,
    since=EARLIER,
    session_expires_at=EARLIER,
    opening_id="a1",
    opening_until=LATER,
    logouts=3,
    refresh_id="r1",
    claimed_at=EARLIER,
    kick_off=KickOff.ACCEPTED,
    answered_at=EARLIER,
    deadline_at=NOON + DEADLINE,
    window_opens_at=NOON + WINDOW,
    next_poll_at=NOON + 2 * SECOND,
    completed_at=EARLIER,
    as_of=EARLIER,
    extracts=RUNNING,
    failure=Failure(code="http_503", at=EARLIER),
    failures=2,
    retry_at=NOON + 9 * SECOND,
    deferred_since=EARLIER,
)
UNSETTLED = FULL._replace(completed_at=None, failure=None)
SESSION_FAILED = FULL._replace(session_failure=Failure(code="timed_out", at=EARLIER))
OPENED = {"session_expires_at": LATER, "opening_id": None, "opening_until": 0, "session_failure": None}
KEPT = {"failures": 2, "retry_at": NOON + 9 * SECOND}
CLEARED = {"failures": 0, "retry_at": 0}


def event(**fields: Any) -> Event:
    """Something that happened a second after noon."""
    return Event(name=EventName.SESSION_OPENED, at=AT, **fields)


@pytest.mark.parametrize(
    ("action", "record", "fields", "written"),
    [
        # A pause that the session had earned is over with it; one that a kick-off had earned is not.
        (open_session, FULL, {"session_expires_at": LATER}, OPENED | KEPT),
        (open_session, SESSION_FAILED, {"session_expires_at": LATER}, OPENED | CLEARED),
        (resume_timed_out, FULL, {"session_expires_at": LATER}, OPENED | KEPT | {"failure": FULL.failure}),
        (
            resume_timed_out,
            UNSETTLED,
            {"session_expires_at": LATER},
            OPENED | KEPT | {"failure": Failure(code=TIMED_OUT, at=NOON + DEADLINE)},
        ),
        (expire_session, FULL, {}, {"session_expires_at": None}),
        # A step that waits to try again is void after a logout; a pause that a failure earned is not.
        (
            end_session,
            FULL,
            {},
            {"session_expires_at": None, "opening_id": "a1!", "logouts": 4, "retry_at": 0, "deferred_since": 0},
        ),
        (
            end_session,
            FULL._replace(opening_id=None, deferred_since=0),
            {},
            {
                "session_expires_at": None,
                "opening_id": None,
                "logouts": 4,
                "retry_at": NOON + 9 * SECOND,
                "deferred_since": 0,
            },
        ),
        (
            claim,
            FULL,
            {"refresh_id": "r2", "deadline_at": 1, "window_opens_at": 2, "next_poll_at": 3},
            {
                "refresh_id": "r2",
                "claimed_at": AT,
                "kick_off": KickOff.CLAIMED,
                "answered_at": None,
                "deadline_at": 1,
                "window_opens_at": 2,
                "next_poll_at": 3,
                "completed_at": None,
                "extracts": (),
                "failure": None,
            },
        ),
        # The window counts from the answer, be it earlier than the claim allowed for.
        (
            accept,
            FULL,
            {"window_opens_at": NOON + WINDOW - 1, "next_poll_at": AT},
            {
                "kick_off": KickOff.ACCEPTED,
                "deferred_since": 0,
                "answered_at": AT,
                "window_opens_at": NOON + WINDOW - 1,
                "next_poll_at": NOON + 2 * SECOND,
            },
        ),
        (
            lose_answer,
            FULL,
            {"window_opens_at": NOON + WINDOW - 1, "next_poll_at": LATER},
            {
                "kick_off": KickOff.ANSWER_LOST,
                "deferred_since": 0,
                "answered_at": AT,
                "window_opens_at": NOON + WINDOW,
                "next_poll_at": LATER,
            },
        ),
        (progress, FULL, {"extracts": CURRENT}, {"extracts": CURRENT}),
        (
            complete,
            FULL,
            {"extracts": CURRENT, "as_of": AT},
            {"completed_at": AT, "extracts": CURRENT, "as_of": AT, "failure": None, "deferred_since": 0} | CLEARED,
        ),
        (
            complete,
            SESSION_FAILED,
            {"extracts": CURRENT},
            {"completed_at": AT, "extracts": CURRENT, "as_of": EARLIER, "failure": None, "deferred_since": 0},
        ),
        # What never left opens the window, with a pause; it says nothing of the extracts.
        (
            fail,
            FULL,
            {"code": "never_sent", "window_opens_at": AT, "failures": 3, "retry_at": LATER, "deferred_since": AT},
            {
                "failure": Failure(code="never_sent", at=AT),
                "extracts": RUNNING,
                "window_opens_at": AT,
                "deferred_since": AT,
                "failures": 3,
                "retry_at": LATER,
            },
        ),
        (
            fail,
            SESSION_FAILED,
            {"code": "all_extracts_failed", "extracts": CURRENT},
            {
                "failure": Failure(code="all_extracts_failed", at=AT),
                "extracts": CURRENT,
                "window_opens_at": NOON + WINDOW,
                "deferred_since": 0,
            },
        ),
        (time_out, FULL, {}, {"failure": Failure(code=TIMED_OUT, at=NOON + DEADLINE)}),
        (nothing, FULL, {}, {}),
    ],
)
def test_an_action_writes_just_these_fields(
    action: Action, record: RefreshRecord, fields: dict[str, Any], written: Mapping[str, Any]
) -> None:
    """Whatever the record held before."""
    assert written == action(record, event(**fields))


@pytest.mark.parametrize(
    ("changes", "runs"),
    [
        ({}, True),
        ({"completed_at": AT}, False),
        ({"failure": Failure(code="http_503", at=AT)}, False),
        ({"failure": Failure(code=TIMED_OUT, at=AT)}, False),
        ({"deadline_at": AT + 1}, True),
        ({"deadline_at": AT}, False),
        ({"window_opens_at": AT}, False),
        ({"refresh_id": None}, False),
    ],
)
def test_a_refresh_runs_until_it_has_ended_or_run_out(changes: dict[str, Any], runs: bool) -> None:
    """By its deadline and by its window, to the millisecond; a time-out ends it, though it may still complete."""
    assert runs == still_running(UNSETTLED._replace(**changes), event())
