"""One step of the lifecycle is a pure function; what is due happens at its deadline, and missed ones coalesce."""

import copy
import logging

import pytest
from phr_refresh.statemachine import lifecycle
from phr_refresh.statemachine.errors import EventRefused
from phr_refresh.statemachine.lifecycle import catch_up, deadline_of, step
from phr_refresh.statemachine.record import TIMED_OUT, Failure, KickOff, RefreshRecord, State
from phr_refresh.statemachine.table import FINGERPRINT, Event, EventName, Kind
from support.samples import CURRENT, DEADLINE, HOUR, MINUTE, NOON, RUNNING, SECOND, WINDOW, refreshing

CREATED = RefreshRecord(state=State.SESSION_CREATED, since=NOON, session_expires_at=NOON + HOUR)
COMPLETE = refreshing(state=State.COMPLETE, completed_at=NOON + MINUTE, as_of=NOON)


def event(name: EventName, at: int = NOON + SECOND, **fields: object) -> Event:
    """An event of refresh "r1"."""
    return Event(name=name, at=at, **({"refresh_id": "r1"} | fields))


def test_a_step_changes_neither_record_nor_event() -> None:
    """What goes in comes out unchanged, and the same again gives the same."""
    record, completed = refreshing(), event(EventName.REFRESH_COMPLETED, extracts=CURRENT)
    before = copy.deepcopy((record, completed))
    first, second = step(record, completed), step(record, completed)
    assert before == (record, completed)
    assert first == second


def test_a_move_sets_state_since_and_fingerprint() -> None:
    """`since` is the time of the event that moved."""
    taken = step(refreshing(), event(EventName.REFRESH_COMPLETED))
    assert (State.COMPLETE, NOON + SECOND, FINGERPRINT) == (
        taken.after.state,
        taken.after.since,
        taken.after.fingerprint,
    )


def test_an_event_that_stays_keeps_since() -> None:
    """Progress is no new state."""
    taken = step(refreshing(), event(EventName.PROGRESS_REPORTED, extracts=RUNNING))
    assert (Kind.STAYS, NOON, RUNNING) == (taken.kind, taken.after.since, taken.after.extracts)


def test_an_ignored_event_changes_nothing_at_all() -> None:
    """The very same record, down to its fingerprint."""
    record, completed = COMPLETE, event(EventName.REFRESH_COMPLETED)
    taken = step(record, completed)
    assert lifecycle.Step(completed, Kind.IGNORED, record, record) == taken
    assert record is taken.after


def test_a_refused_event_says_which_guards_said_no() -> None:
    """Event, state and guards, in one exact sentence."""
    record = refreshing(state=State.STALE, session_expires_at=NOON)
    with pytest.raises(EventRefused) as raised:
        step(record, event(EventName.REFRESH_CLAIMED))
    expected = "refresh_claimed is refused in stale: not window_open and not session_valid. Nothing was changed."
    assert expected == str(raised.value)


def test_a_claim_begins_a_new_window() -> None:
    """Everything of the last refresh is gone but the age of the data."""
    stale = COMPLETE._replace(state=State.STALE, extracts=CURRENT, failure=Failure(code="x", at=NOON))
    record = stale._replace(session_expires_at=NOON + 2 * HOUR)
    times = {"deadline_at": 1, "window_opens_at": 2, "next_poll_at": 3}
    claimed = step(record, event(EventName.REFRESH_CLAIMED, NOON + WINDOW, refresh_id="r2", **times)).after
    assert ("r2", NOON + WINDOW) == (claimed.refresh_id, claimed.claimed_at)
    assert (1, 2, 3) == (claimed.deadline_at, claimed.window_opens_at, claimed.next_poll_at)
    assert (None, (), None, NOON) == (claimed.completed_at, claimed.extracts, claimed.failure, claimed.as_of)
    assert KickOff.CLAIMED is claimed.kick_off


def test_an_acceptance_ends_the_margin_of_an_unanswered_claim() -> None:
    """The window counts from the answer, once there is one."""
    claimed = refreshing(window_opens_at=NOON + WINDOW + MINUTE)
    taken = step(claimed, event(EventName.REFRESH_ACCEPTED, window_opens_at=NOON + WINDOW + 1))
    assert (NOON + WINDOW + 1, KickOff.ACCEPTED) == (taken.after.window_opens_at, taken.after.kick_off)


@pytest.mark.parametrize("opens_at", [NOON + WINDOW - 1, NOON + WINDOW + 1])
def test_a_lost_answer_never_shortens_the_window(opens_at: int) -> None:
    """The call may be under way still: the later of claim with margin and answer counts."""
    taken = step(refreshing(), event(EventName.ANSWER_LOST, window_opens_at=opens_at))
    expected = (max(opens_at, NOON + WINDOW), KickOff.ANSWER_LOST)
    assert expected == (taken.after.window_opens_at, taken.after.kick_off)


def test_a_completion_without_age_keeps_the_last_one() -> None:
    """An upstream that does not say how old the data are does not make them ageless."""
    taken = step(refreshing(as_of=NOON - HOUR), event(EventName.REFRESH_COMPLETED))
    assert NOON - HOUR == taken.after.as_of


def test_a_late_completion_ends_the_failure() -> None:
    """After a time-out, `complete` without a failure."""
    late = refreshing(state=State.STALE, failure=Failure(code=TIMED_OUT, at=NOON))
    assert step(late, event(EventName.REFRESH_COMPLETED)).after.failure is None


def test_a_session_that_ends_keeps_the_refresh() -> None:
    """All but the session's own fields are as before, and the logout is counted."""
    record = refreshing(opening_id="a", opening_until=NOON + 1)
    after = step(record, event(EventName.SESSION_ENDED)).after
    expected = record._replace(
        state=State.NO_SESSION,
        since=NOON + SECOND,
        session_expires_at=None,
        opening_id="a!",
        logouts=1,
        fingerprint=FINGERPRINT,
    )
    assert expected == after


@pytest.mark.parametrize(
    ("record", "deadline", "target", "name"),
    [
        (CREATED, NOON + HOUR, State.NO_SESSION, EventName.SESSION_EXPIRED),
        (CREATED._replace(session_expires_at=None), NOON, State.NO_SESSION, EventName.SESSION_EXPIRED),
        (refreshing(), NOON + DEADLINE, State.STALE, EventName.REFRESH_TIMED_OUT),
        (COMPLETE, NOON + WINDOW, State.STALE, EventName.FRESHNESS_EXPIRED),
    ],
)
@pytest.mark.parametrize("late", [0, 1, 10 * WINDOW])
def test_each_deadline_is_applied_once_however_late_somebody_looks(
    record: RefreshRecord, deadline: int, target: State, name: EventName, late: int
) -> None:
    """One step, at the deadline and not at the time of looking; nothing a millisecond before; nothing after it."""
    assert deadline == deadline_of(record)
    assert () == catch_up(record, deadline - 1)
    (taken,) = catch_up(record, deadline + late)
    assert (name, deadline) == (taken.event.name, taken.event.at)
    assert (target, deadline) == (taken.after.state, taken.after.since)
    assert () == catch_up(taken.after, deadline + late)


@pytest.mark.parametrize("state", [State.NO_SESSION, State.STALE])
def test_a_state_that_never_leaves_by_itself_has_no_deadline(state: State) -> None:
    """No session and stale data wait for somebody to come."""
    record = refreshing(state=state)
    assert deadline_of(record) is None
    assert () == catch_up(record, NOON + 1000 * HOUR)


def test_a_time_out_is_a_failure_at_the_deadline() -> None:
    """The failure's time is the deadline, whoever noticed it when."""
    (taken,) = catch_up(refreshing(), NOON + HOUR)
    assert Failure(code=TIMED_OUT, at=NOON + DEADLINE) == taken.after.failure


def test_a_window_that_passes_is_no_failure() -> None:
    """Stale by age alone."""
    (taken,) = catch_up(COMPLETE, NOON + HOUR)
    assert taken.after.failure is None


def test_every_event_has_a_trigger_in_the_machine() -> None:
    """The machine knows the states and events of the table and no others, in particular none to jump anywhere."""
    assert [state.value for state in State] == list(lifecycle._MACHINE.states)
    assert {name.value for name in EventName} == set(lifecycle._MACHINE.events)


def test_the_machine_holds_no_model() -> None:
    """Models are forgotten after each step: a registered one would be held for ever."""
    step(refreshing(), event(EventName.REFRESH_COMPLETED))
    assert [] == lifecycle._MACHINE.models


def test_what_the_machine_logs_holds_nothing_of_the_record(caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG it logs its callbacks and states; no field of the record is among them (R7)."""
    with caplog.at_level(logging.DEBUG):
        step(refreshing(refresh_id="secret-id"), event(EventName.REFRESH_COMPLETED, refresh_id="secret-id"))
    assert caplog.records
    assert "secret-id" not in caplog.text
