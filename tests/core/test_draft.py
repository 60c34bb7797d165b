"""Drafts: what a flow decided, on its way to one commit."""

import pytest
from phr_refresh import Policy
from phr_refresh.statemachine.draft import Draft
from phr_refresh.statemachine.effects import UPSTREAM_OVERLOADED, Committed, Fact, Loaded, TokenChange
from phr_refresh.statemachine.errors import EventRefused
from phr_refresh.statemachine.policy import milliseconds
from phr_refresh.statemachine.record import RefreshRecord, Refusal, State
from phr_refresh.statemachine.table import Event, EventName
from support.samples import ADA, DEADLINE, HOUR, MINUTE, NOON, SECOND, refreshing, token_until
from support.values import replace

POLICY = Policy()
LATEST = NOON + 7 * MINUTE
KEPT = milliseconds(POLICY.retention)


def draft(record: RefreshRecord | None = None) -> Draft:
    """A draft of Ada's record, loaded at noon."""
    return Draft(ADA.key, Loaded(record, "v1" if record else "", NOON), POLICY)


@pytest.mark.parametrize("last", ["window_opens_at", "session_expires_at", "opening_until", "retry_at"])
def test_a_record_is_kept_past_all_that_it_stands_for(last: str) -> None:
    """Past its window, its session, the claim on one, and its pause, whichever ends last."""
    record = RefreshRecord(state=State.STALE, since=NOON - HOUR)._replace(**{last: LATEST})
    assert LATEST + KEPT == draft(record).commit().keep_until


def test_a_record_of_the_past_is_kept_from_now_on() -> None:
    """Retention counts from the commit at the earliest."""
    assert NOON + KEPT == draft(RefreshRecord(since=NOON - HOUR)).commit().keep_until


def test_an_event_that_is_ignored_leaves_nothing_to_commit() -> None:
    """Nothing is told of it either."""
    it = draft(refreshing(state=State.COMPLETE, completed_at=NOON))
    it.take(Event(name=EventName.REFRESH_COMPLETED, at=NOON, refresh_id="r1"))
    assert (False, ()) == (it.changed, it.commit().told)


def test_a_patient_never_seen_has_been_in_no_state_before() -> None:
    """The time in the state before the first counts from the load."""
    it = draft()
    it.take(Event(name=EventName.SESSION_OPENED, at=NOON + SECOND, session_expires_at=NOON + HOUR))
    details = {"seconds_in_state": 1.0}
    told = Fact("session_opened", ADA.key, source="no_session", target="session_created", details=details)
    assert (told,) == it.commit().told


def test_a_refusal_is_noted_as_such() -> None:
    """The record keeps what was refused, where and by which guards; the commit says that it does."""
    it = draft(refreshing())
    it.note_refusal(EventRefused("refresh_claimed", "refreshing", ("window_open",)))
    refusal = Refusal(event="refresh_claimed", state="refreshing", guards=("window_open",), at=NOON)
    assert (("refusal",), refusal) == (it.commit().noted, it.commit().record.refusal)


AHEAD = ("deadline_at", "next_poll_at", "opening_until", "retry_at")


@pytest.mark.parametrize("name", AHEAD)
def test_what_no_policy_can_have_set_counts_as_due(name: str) -> None:
    """A clock that was set back leaves such times; every other time of the record stays (R4)."""
    reach = NOON + 4 * DEADLINE
    record = RefreshRecord(state=State.NO_SESSION, since=NOON)._replace(**dict.fromkeys(AHEAD, reach))
    assert record == draft(record).record
    assert record._replace(**{name: NOON}) == draft(record._replace(**{name: reach + 1})).record


def test_the_token_is_kept_unless_the_draft_says_otherwise() -> None:
    """Put, dropped, or left as it is; the last word counts."""
    token = token_until(NOON + HOUR)
    kept, put, dropped = draft(), draft(), draft()
    put.put_token(token)
    dropped.put_token(token)
    dropped.drop_token()
    expected = [(TokenChange.KEEP, None), (TokenChange.PUT, token), (TokenChange.DROP, None)]
    assert expected == [(it.commit().token_change, it.commit().token) for it in (kept, put, dropped)]


def test_a_draft_is_on_no_replica_before_its_commit() -> None:
    """Afterwards it is where the store says."""
    it = draft(refreshing())
    before = it.is_replicated
    it.committed(Committed("v2", NOON))
    assert [False, True] == [before, it.is_replicated]


# What observers are told.

RUNNING = refreshing(NOON - 10 * SECOND)
ENDED = {"seconds_in_state": 10.0, "refresh_id": "r1", "refresh_seconds": 10.0}
FAILED = Event(name=EventName.REFRESH_FAILED, at=NOON, refresh_id="r1", code="http_503")
TO_STALE = {"name": "refresh_failed", "source": "refreshing", "target": "stale"}


@pytest.mark.parametrize(
    ("record", "event", "told"),
    [
        (
            RUNNING,
            Event(name=EventName.REFRESH_COMPLETED, at=NOON, refresh_id="r1"),
            {"name": "refresh_completed", "source": "refreshing", "target": "complete", "details": ENDED},
        ),
        (
            RUNNING,
            Event(name=EventName.REFRESH_COMPLETED, at=NOON, refresh_id="r1", ended_at=NOON - 2 * SECOND),
            {
                "name": "refresh_completed",
                "source": "refreshing",
                "target": "complete",
                "details": ENDED | {"upstream_seconds": 8.0},
            },
        ),
        (RUNNING, FAILED, TO_STALE | {"details": ENDED | {"reason": "http_503"}, "is_warning": True}),
        (
            RUNNING,
            replace(FAILED, code=UPSTREAM_OVERLOADED),
            TO_STALE | {"details": ENDED | {"reason": UPSTREAM_OVERLOADED}},
        ),
        (
            RUNNING,
            Event(name=EventName.ANSWER_LOST, at=NOON, refresh_id="r1", code="timed_out"),
            {
                "name": "answer_lost",
                "source": "refreshing",
                "target": "refreshing",
                "details": {"seconds_in_state": 10.0, "refresh_id": "r1", "reason": "timed_out"},
                "is_warning": True,
            },
        ),
    ],
    ids=["completed", "seen late", "failed", "deferred", "lost"],
)
def test_a_step_is_told_with_ids_codes_and_durations(
    record: RefreshRecord, event: Event, told: dict[str, object]
) -> None:
    """Durations are in seconds; a refresh that ended says how long it ran; a failure is a warning, a deferral none."""
    it = draft(record)
    it.take(event)
    assert (Fact(key=ADA.key, **told),) == it.commit().told


def test_what_was_due_is_told_as_of_its_deadline() -> None:
    """A refresh that timed out hours ago ran until its deadline; it is a warning."""
    it = draft(refreshing(NOON - HOUR, window_opens_at=NOON + 1))
    seconds = DEADLINE / 1000
    details = {"seconds_in_state": seconds, "refresh_id": "r1", "refresh_seconds": seconds}
    told = Fact("refresh_timed_out", ADA.key, source="refreshing", target="stale", details=details, is_warning=True)
    assert (told,) == it.commit().told


def test_a_session_that_expires_is_told_without_the_refresh() -> None:
    """It has nothing to do with a refresh of an earlier window."""
    it = draft(refreshing(state=State.SESSION_CREATED, since=NOON - SECOND, session_expires_at=NOON))
    details = {"seconds_in_state": 1.0}
    told = Fact("session_expired", ADA.key, source="session_created", target="no_session", details=details)
    assert (told,) == it.commit().told
