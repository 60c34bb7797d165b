"""The table against DESIGN.md, section 2, written down here a second time; and the checks that guard it."""

from itertools import product

import pytest
from phr_refresh.statemachine.errors import EventRefused
from phr_refresh.statemachine.lifecycle import prospects, step
from phr_refresh.statemachine.record import TIMED_OUT, Failure, RefreshRecord, State
from phr_refresh.statemachine.table import (
    FINGERPRINT,
    TABLE,
    WAITING,
    Event,
    EventName,
    Kind,
    Rule,
    check,
    complete,
    same_refresh,
    same_window,
    session_valid,
    window_open,
)
from support.samples import HOUR, MINUTE, NOON, WINDOW, refreshing
from support.values import replace

N, S, R, C, T = State
OPEN = {"window_opens_at": NOON - 1}
CLOSED = {"window_opens_at": NOON + WINDOW}
SESSION = {"session_expires_at": NOON + HOUR}
OVER = {"session_expires_at": NOON}
DONE = {"completed_at": NOON - 1}
FAILED = {"failure": Failure(code="http_503", at=NOON - 1)}
LATE = {"failure": Failure(code=TIMED_OUT, at=NOON - 1)}
DUE = {"deadline_at": NOON}
HELD = {"retry_at": NOON + 1}

# (event, state, what the record holds, and what follows: the target of a move, "stays", "ignored", or the guards
# that say no)
EXPECTED = [
    *(("session_opened", state, CLOSED, R) for state in (N, T)),
    *(("session_opened", state, CLOSED | DONE, C) for state in (N, T)),
    ("session_opened", N, CLOSED | FAILED, T),
    ("session_opened", T, CLOSED | FAILED, "stays"),
    ("session_opened", N, CLOSED | DUE, T),
    *(("session_opened", state, OPEN, S) for state in (N, T)),
    *(("session_opened", state, CLOSED, "stays") for state in (S, R, C)),
    ("session_expired", S, OVER, N),
    ("session_expired", S, SESSION, ("session_over",)),
    *(("session_expired", state, OVER, "ignored") for state in (N, R, C, T)),
    ("session_ended", N, CLOSED, "stays"),
    *(("session_ended", state, CLOSED, N) for state in (S, R, C, T)),
    *(("refresh_claimed", state, OPEN | SESSION, R) for state in (S, T)),
    *(("refresh_claimed", state, CLOSED | SESSION, ("window_open",)) for state in (S, T)),
    *(("refresh_claimed", state, OPEN | OVER, ("session_valid",)) for state in (S, T)),
    *(("refresh_claimed", state, OPEN | SESSION | HELD, ("backoff_over",)) for state in (S, T)),
    ("refresh_claimed", S, CLOSED | OVER | HELD, ("window_open", "session_valid", "backoff_over")),
    *(("refresh_claimed", state, OPEN | SESSION, ()) for state in (N, R, C)),
    *((event, state, CLOSED, "stays") for event in ("refresh_accepted", "answer_lost") for state in (N, R, C, T)),
    *((event, state, OPEN, ("same_window",)) for event in ("refresh_accepted", "answer_lost") for state in (N, R)),
    *((event, S, CLOSED, ()) for event in ("refresh_accepted", "answer_lost")),
    ("progress_reported", R, CLOSED, "stays"),
    *(("progress_reported", state, CLOSED, "ignored") for state in (N, C, T)),
    ("progress_reported", S, CLOSED, ()),
    ("refresh_completed", R, CLOSED, C),
    ("refresh_completed", T, CLOSED | LATE, C),
    ("refresh_completed", T, CLOSED | FAILED, ("timed_out",)),
    ("refresh_completed", T, OPEN | LATE, ("same_window",)),
    ("refresh_completed", T, OPEN, ("same_window", "timed_out")),
    ("refresh_completed", N, CLOSED, "stays"),
    ("refresh_completed", N, CLOSED | LATE, "stays"),
    ("refresh_completed", N, CLOSED | FAILED, ("not_settled",)),
    ("refresh_completed", N, OPEN, ("same_window",)),
    ("refresh_completed", C, CLOSED | DONE, "ignored"),
    ("refresh_completed", S, CLOSED, ()),
    ("refresh_failed", R, CLOSED, T),
    ("refresh_failed", N, CLOSED, "stays"),
    ("refresh_failed", N, CLOSED | DONE, ("not_settled",)),
    *(("refresh_failed", state, CLOSED, "ignored") for state in (C, T)),
    ("refresh_failed", S, CLOSED, ()),
    ("refresh_timed_out", R, DUE, T),
    ("refresh_timed_out", R, CLOSED, ("deadline_passed",)),
    *(("refresh_timed_out", state, DUE, "ignored") for state in (N, S, C, T)),
    ("freshness_expired", C, OPEN, T),
    ("freshness_expired", C, CLOSED, ("window_open",)),
    *(("freshness_expired", state, OPEN, "ignored") for state in (N, S, R, T)),
]
FENCED = ["refresh_accepted", "answer_lost", "progress_reported", "refresh_completed", "refresh_failed"]


def record_in(state: State, holds: dict[str, object]) -> RefreshRecord:
    """A record in `state` whose refresh "r1" was claimed a minute before noon."""
    return refreshing(NOON - MINUTE, **({"state": state} | holds))


def event(name: str, refresh_id: str | None = "r1", at: int = NOON) -> Event:
    """An event at noon with all that any action reads."""
    return Event(
        name=EventName(name),
        at=at,
        refresh_id=refresh_id,
        session_expires_at=at + HOUR,
        deadline_at=at + MINUTE,
        window_opens_at=at + WINDOW,
        next_poll_at=at + 1,
        code="http_503",
    )


def case_name(value: object) -> str:
    """How a case is called."""
    return "+".join(value) if isinstance(value, dict | tuple) else str(value)


@pytest.mark.parametrize(("name", "state", "holds", "follows"), EXPECTED, ids=case_name)
def test_the_table_does_what_the_design_says(
    name: str, state: State, holds: dict[str, object], follows: State | str | tuple[str, ...]
) -> None:
    """Each event does in each state what section 2 of the design says, under each of its conditions."""
    record = record_in(state, holds)
    if isinstance(follows, tuple):
        with pytest.raises(EventRefused) as raised:
            step(record, event(name))
        assert (name, state, follows) == (raised.value.event, raised.value.state, raised.value.guards)
    else:
        taken = step(record, event(name))
        expected_kind = Kind(follows) if follows in ("stays", "ignored") else Kind.MOVES
        expected_state = state if expected_kind is not Kind.MOVES else follows
        assert (expected_kind, expected_state) == (taken.kind, taken.after.state)


def test_every_pair_is_in_the_expectation() -> None:
    """The expectation above leaves out no (state, event) pair."""
    assert set(product(EventName, State)) == {(EventName(name), state) for name, state, _, _ in EXPECTED}


ALLOWED = {(row.event, row.source) for row in TABLE if row.kind is not Kind.REFUSED}
REFUSED = [pair for pair in product(EventName, State) if pair not in ALLOWED]


@pytest.mark.parametrize(("name", "state"), REFUSED)
@pytest.mark.parametrize("holds", [OPEN | SESSION, CLOSED | OVER, CLOSED | DONE, CLOSED | LATE])
def test_a_pair_outside_the_table_is_refused(name: EventName, state: State, holds: dict[str, object]) -> None:
    """Whatever the record holds: the error names event and state, no guard, and the record is as it was."""
    record = record_in(state, holds)
    before = tuple(record)
    with pytest.raises(EventRefused) as raised:
        step(record, event(name))
    expected = f"{name} is refused in {state}: the table has no such move. Nothing was changed."
    assert expected == str(raised.value)
    assert before == tuple(record)


def test_the_design_refuses_these_pairs() -> None:
    """A claim where there is no session or a refresh already, and answers where no refresh of this window is."""
    expected = {("refresh_claimed", state) for state in (N, R, C)} | {(name, S) for name in FENCED}
    assert expected == {(name.value, state) for name, state in REFUSED}


@pytest.mark.parametrize(("name", "state"), list(product(FENCED, (N, R, C, T))))
@pytest.mark.parametrize("refresh_id", ["r0", "", None])
def test_an_answer_of_another_refresh_is_refused(name: str, state: State, refresh_id: str | None) -> None:
    """The fence holds in every state: an older id, an empty one or none at all (R3)."""
    with pytest.raises(EventRefused) as raised:
        step(record_in(state, CLOSED), event(name, refresh_id))
    assert "same_refresh" in raised.value.guards


def test_an_answer_without_id_does_not_pass_a_record_without_refresh() -> None:
    """None is no id: two of them are not equal."""
    with pytest.raises(EventRefused):
        step(RefreshRecord(window_opens_at=NOON + 1), event("refresh_completed", None))


@pytest.mark.parametrize(("name", "state", "holds", "follows"), EXPECTED, ids=case_name)
def test_prospects_say_what_a_step_would_do(name: str, state: State, holds: dict[str, object], follows: object) -> None:
    """What `explain` shows of an event is what taking it does."""
    found = next(item for item in prospects(record_in(state, holds), NOON) if item.event == name)
    if isinstance(follows, tuple):
        assert (Kind.REFUSED, None, follows) == (found.kind, found.target, found.refused_by)
    else:
        taken = step(record_in(state, holds), event(name))
        assert (taken.kind, taken.after.state, ()) == (found.kind, found.target, found.refused_by)


def rule(name: EventName, source: State, position: int = 0) -> Rule:
    """The row at that position for the pair."""
    return [row for row in TABLE if (row.event, row.source) == (name, source)][position]


def without(*rows: Rule) -> tuple[Rule, ...]:
    """The table without these rows."""
    return tuple(row for row in TABLE if row not in rows)


def test_the_table_itself_passes() -> None:
    """The checks accept the table that this version runs on."""
    check(TABLE, WAITING)


@pytest.mark.parametrize("pair", list(product(EventName, State)), ids=case_name)
def test_a_missing_cell_is_rejected(pair: tuple[EventName, State]) -> None:
    """A table that is silent on any pair does not pass."""
    rows = tuple(row for row in TABLE if (row.event, row.source) != pair)
    with pytest.raises(ValueError, match=rf"^the table does not say what {pair[0]} does in {pair[1]}$"):
        check(rows, WAITING)


CLAIMS = rule(EventName.REFRESH_CLAIMED, S)
COMPLETES = rule(EventName.REFRESH_COMPLETED, R)
FALLS_STALE = rule(EventName.FRESHNESS_EXPIRED, C)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.event}-{row.source}")
def test_a_duplicate_row_is_rejected(row: Rule) -> None:
    """No row may stand twice: `transitions` would take the first and say nothing."""
    with pytest.raises(ValueError, match=f"{row.event} in {row.source}"):
        check((*TABLE, row), WAITING)


def test_a_row_with_the_same_guards_in_another_order_is_rejected() -> None:
    """Two rows that agree to the same records are two rows for one thing, however their guards are ordered."""
    row = Rule(CLAIMS.event, S, Kind.MOVES, T, tuple(reversed(CLAIMS.guards)))
    with pytest.raises(ValueError, match="refresh_claimed in session_created"):
        check((*TABLE, row), WAITING)


def test_a_row_that_an_earlier_one_always_preempts_is_rejected() -> None:
    """A row that demands all that an earlier one demands, and more, can never fire."""
    row = Rule(COMPLETES.event, R, Kind.MOVES, T, (same_refresh, same_window), complete)
    with pytest.raises(ValueError, match="refresh_completed in refreshing"):
        check((*TABLE, row), WAITING)


def test_a_row_after_one_without_guards_is_rejected() -> None:
    """What comes after a row that always agrees can never be reached."""
    row = Rule(EventName.SESSION_OPENED, C, Kind.MOVES, T, (session_valid,))
    with pytest.raises(
        ValueError, match=r"^the table has a row for session_opened in complete that can never be reached$"
    ):
        check((*TABLE, row), WAITING)


def test_a_pair_that_is_both_refused_and_allowed_is_rejected() -> None:
    """A refusal is for the whole pair."""
    row = Rule(EventName.REFRESH_CLAIMED, N, Kind.MOVES, R, (window_open,))
    with pytest.raises(ValueError, match=r"^the table both refuses and allows refresh_claimed in no_session$"):
        check((*TABLE, row), WAITING)


def test_an_unreachable_state_is_rejected() -> None:
    """A state to which no event leads is no state."""
    rows = tuple(replace(row, target=R) if row.target is C and row.source is not C else row for row in TABLE)
    with pytest.raises(ValueError, match=r"^no event ever leads to complete$"):
        check(rows, WAITING)


def test_a_table_that_nobody_enters_is_rejected() -> None:
    """Everybody begins in no-session: where no event leads out of it, all others are out of reach."""
    rows = tuple(replace(row, target=N) if row.source is N else row for row in TABLE)
    with pytest.raises(ValueError, match=r"^no event ever leads to complete, refreshing, session_created, stale$"):
        check(rows, WAITING)


@pytest.mark.parametrize("state", [S, R, C])
def test_a_waiting_state_without_deadline_is_rejected(state: State) -> None:
    """Whatever is left by time needs a stored deadline (R4)."""
    waiting = {key: value for key, value in WAITING.items() if key is not state}
    with pytest.raises(ValueError, match=f"^{state} is left by [a-z_]+, but has no deadline$"):
        check(TABLE, waiting)


def test_a_deadline_that_leads_nowhere_is_rejected() -> None:
    """A state whose deadline moves nothing would be caught up with for ever."""
    rows = (*without(FALLS_STALE), replace(FALLS_STALE, kind=Kind.IGNORED, target=C))
    with pytest.raises(ValueError, match=r"^complete has a deadline, but freshness_expired does not leave it$"):
        check(rows, WAITING)


def test_the_waiting_states_are_those_of_the_design() -> None:
    """No-session and stale never leave by themselves, the others do, each by its event."""
    expected = {S: "session_expired", R: "refresh_timed_out", C: "freshness_expired"}
    assert expected == {state: waiting.event for state, waiting in WAITING.items()}


def test_the_fingerprint_is_short() -> None:
    """Eight hex digits, stored with each record."""
    assert 8 == len(FINGERPRINT)
    assert int(FINGERPRINT, 16) >= 0
