"""What a record says to callers: receipts, statuses, and the sentences of `explain` for each state."""

from collections import deque

import pytest
from phr_refresh.statemachine.effects import AnswerLost, NeverSent, OpenSession, Phase, Rejected, SessionFailed
from phr_refresh.statemachine.effects import StatusReport as Report
from phr_refresh.statemachine.outcomes import Explanation, ExtractStatus, ReceiptKind
from phr_refresh.statemachine.policy import as_datetime
from phr_refresh.statemachine.record import ExtractProgress, ExtractState, Failure, RefreshRecord, State
from phr_refresh.statemachine.table import FINGERPRINT
from phr_refresh.statemachine.views import explanation_of, standing_receipt, status_of
from support.samples import ADA, DEADLINE, MARGIN, NOON, PARTIAL, SECOND, WINDOW, refreshing
from support.stepping import GOING_ON, World


def explained(world: World) -> Explanation:
    """What `explain` says of Ada."""
    found: Explanation = world.run(world.flows.explain(ADA.key))
    return found


def completed(*reports: Report) -> World:
    """A world in which Ada's refresh has been asked about once, a second after noon."""
    world = World(statuses=deque(reports))
    world.logged_in()
    world.now += SECOND
    world.run(world.flows.status(ADA.key, ADA))
    return world


def test_a_stranger_is_explained() -> None:
    """Nobody has seen this patient, and the next login begins."""
    found = explained(World())
    assert (State.NO_SESSION, None, None) == (found.state, found.since, found.next_at)
    assert "Never seen, or forgotten since." == found.why
    assert "The next login opens a session where one is needed, and starts a refresh." == found.next_step


def test_explaining_asks_nobody_and_changes_nothing() -> None:
    """One load, even where something is due."""
    world = World()
    world.logged_in()
    world.now = NOON + WINDOW
    before = (world.trips, world.rows[ADA.key].version)
    assert State.STALE is explained(world).state
    assert (before[0] + 1, before[1]) == (world.trips, world.rows[ADA.key].version)


def test_a_cached_session_is_explained() -> None:
    """Session-created: who claims the refresh, and when the session expires."""
    world = World()
    world.run(world.flows.session(ADA))
    found = explained(world)
    assert "A session is cached; no refresh of this window was kicked off." == found.why
    assert "The worker that opened the session, or the next login, claims the refresh." == found.next_step
    assert as_datetime(NOON + 15 * 60 * SECOND) == found.next_at


def test_a_running_refresh_is_explained() -> None:
    """Refreshing: what is known of the kick-off, how far it is, when it is asked about, when it times out."""
    world = completed(GOING_ON)
    found = explained(world)
    assert "A refresh runs: the upstream accepted its kick-off; 1 of 2 extracts ended." == found.why
    expected = "The next status call may go out at 2030-01-01 12:00:02Z; at 2030-01-01 12:05:00Z it times out."
    assert expected == found.next_step
    assert (as_datetime(NOON), as_datetime(NOON + DEADLINE)) == (found.since, found.next_at)


def test_a_lost_answer_is_explained() -> None:
    """Whoever wonders why nothing is sent again can read it."""
    world = World(kick_off_answers=deque([AnswerLost("timed_out")]))
    world.logged_in()
    expected = "A refresh runs: the answer to its kick-off was lost, so the status decides; 0 of 0 extracts ended."
    assert expected == explained(world).why


def test_a_complete_refresh_is_explained() -> None:
    """Complete: who said so, what is missing, and until when it holds."""
    found = explained(completed(Report(Phase.COMPLETE, PARTIAL, NOON)))
    assert "The upstream reported the end of this window's refresh. These extracts failed: VPR." == found.why
    expected = "At 2030-01-01 13:00:00Z the data count as stale, and the next login refreshes them."
    assert expected == found.next_step


@pytest.mark.parametrize(("failed", "said"), [([], ""), (["VPR", "Allergy"], " These extracts failed: VPR, Allergy.")])
def test_a_complete_refresh_names_what_failed(failed: list[str], said: str) -> None:
    """All of it, or nothing."""
    extracts = tuple(ExtractProgress(name, ExtractState.FAILED) for name in failed)
    record = refreshing(state=State.COMPLETE, extracts=extracts)
    expected = f"The upstream reported the end of this window's refresh.{said}"
    assert explanation_of(record._replace(fingerprint=FINGERPRINT), NOON).why == expected


def test_extracts_that_have_ended_are_counted() -> None:
    """Well or not; and before the call is answered nothing more is known of it."""
    states = [ExtractState.CURRENT, ExtractState.CURRENT, ExtractState.FAILED, ExtractState.IN_PROGRESS]
    extracts = tuple(ExtractProgress(f"E{number}", state) for number, state in enumerate(states))
    found = explanation_of(refreshing(extracts=extracts, fingerprint=FINGERPRINT), NOON).why
    expected = "its kick-off is claimed, and whether it was sent is not recorded yet; 3 of 4 extracts ended."
    assert f"A refresh runs: {expected}" == found


@pytest.mark.parametrize(
    ("state", "next_step"),
    [
        (State.NO_SESSION, "The next login opens a session where one is needed, and starts a refresh."),
        (State.SESSION_CREATED, "The worker that opened the session, or the next login, claims the refresh."),
    ],
)
def test_a_pause_ends_to_the_millisecond(state: State, next_step: str) -> None:
    """Before, nothing is tried; then the next step is what it would have been."""
    record = refreshing(state=state, window_opens_at=NOON - 1, retry_at=NOON, failures=2)
    held_back = "Nothing is tried before 2030-01-01 12:00:00Z, after 2 failures in a row."
    assert [held_back, next_step] == [explanation_of(record, now).next_step for now in (NOON - 1, NOON)]


def test_data_that_have_aged_are_explained() -> None:
    """Stale without failure."""
    world = completed()
    world.now = NOON + WINDOW
    found = explained(world)
    assert "The window of the last refresh has passed; the data may be out of date." == found.why
    assert "The next login opens a session where one is needed, and starts a refresh." == found.next_step


def test_a_failed_refresh_is_explained() -> None:
    """Stale with a failure: its code, its time, and when the window opens."""
    world = World(kick_off_answers=deque([Rejected("http_503")]))
    world.logged_in()
    found = explained(world)
    assert "The last refresh failed at 2030-01-01 12:00:00Z (http_503)." == found.why
    assert "At 2030-01-01 13:00:00Z the window opens, and the next login refreshes." == found.next_step


def test_a_refresh_that_timed_out_is_explained() -> None:
    """Stale by time-out: it is still asked about."""
    world = World()
    world.logged_in()
    world.now = NOON + DEADLINE
    found = explained(world)
    assert "The last refresh failed at 2030-01-01 12:05:00Z (timed_out)." == found.why
    assert (
        "At 2030-01-01 13:00:00Z the window opens, and the next login refreshes. "
        "Until then whoever reads the status makes us ask again, at a slow pace."
    ) == found.next_step


def test_a_backoff_is_explained() -> None:
    """Nothing is tried before its end."""
    world = World(kick_off_answers=deque([NeverSent("connection_refused")]))
    world.logged_in()
    expected = "Nothing is tried before 2030-01-01 12:00:02Z, after 1 failures in a row."
    assert expected == explained(world).next_step


def test_a_failed_session_call_is_explained() -> None:
    """No-session with a failure: somebody who was seen is not called a stranger."""
    world = World(sessions=deque([SessionFailed("http_500")]))
    world.logged_in()
    found = explained(world)
    assert (
        "No session is cached: it ended, expired, or could not be created. "
        "The last session call failed at 2030-01-01 12:00:00Z (http_500)."
    ) == found.why
    assert ("http_500", as_datetime(NOON + 2 * SECOND)) == (found.status.failure.code, found.status.failure.retry_at)


def test_a_session_being_created_is_no_stranger() -> None:
    """While the first session of a patient is created, `explain` does not say that nobody has seen them."""
    world = World()
    world.refresh().until(OpenSession)
    assert "Never seen" not in explained(world).why


def test_the_last_refusal_is_explained() -> None:
    """Which event was refused, when, in which state and by which guard."""
    world = World()
    late = world.refresh()
    while not world.kick_offs:
        late.move()
    world.now += WINDOW + MARGIN
    world.refresh().run()
    late.run()
    expected = "2030-01-01 13:01:00Z: refresh_accepted is refused in refreshing: not same_refresh. Nothing was changed."
    assert expected == explained(world).last_refused


def test_every_event_is_in_the_explanation() -> None:
    """For each of the eleven events: what it would do now, and which guards stand against it."""
    events = {item.event: item for item in explained(completed()).events}
    assert 11 == len(events)
    assert ("moves", State.NO_SESSION, ()) == tuple(
        getattr(events["session_ended"], name) for name in ("effect", "target", "refused_by")
    )
    assert ("window_open",) == events["freshness_expired"].refused_by
    assert ("refused", None, ()) == tuple(
        getattr(events["refresh_claimed"], name) for name in ("effect", "target", "refused_by")
    )


def test_a_record_of_another_lifecycle_is_marked() -> None:
    """Who runs two versions at once can see it."""
    why = explanation_of(refreshing(fingerprint="deadbeef"), NOON).why
    assert why.endswith("Written by another definition of the lifecycle (deadbeef).")


@pytest.mark.parametrize("state", list(State))
def test_every_state_has_its_sentences(state: State) -> None:
    """No state is without a why and a next step."""
    found = explanation_of(refreshing(state=state), NOON)
    assert found.why.endswith(".")
    assert found.next_step.endswith(".")


def test_a_status_has_aware_times_and_extracts() -> None:
    """What was stored in milliseconds is told in aware datetimes."""
    found = status_of(refreshing(extracts=PARTIAL, as_of=NOON), NOON)
    assert as_datetime(NOON) == found.since == found.claimed_at == found.as_of
    assert "r1" == found.refresh_id
    assert as_datetime(NOON + SECOND) == found.next_check_at
    expected = ExtractStatus("Allergy", ExtractState.CURRENT, as_datetime(NOON))
    assert expected == found.extracts[0]
    assert not found.partial


@pytest.mark.parametrize(("second", "expected"), [(NOON - SECOND, NOON - 2 * SECOND), (None, None)])
def test_before_any_refresh_of_ours_the_upstream_may_have_had_data(second: int | None, expected: int | None) -> None:
    """They are as old as the oldest part's success; where a part never succeeded nobody can say."""
    extracts = (
        ExtractProgress("VPR", ExtractState.FAILED, NOON - 2 * SECOND),
        ExtractProgress("Allergy", ExtractState.FAILED, second),
    )
    found = status_of(refreshing(extracts=extracts), NOON)
    assert (None if expected is None else as_datetime(expected)) == found.as_of


def test_a_refresh_that_runs_is_asked_about_in_its_own_time() -> None:
    """Even where its kick-off was held back before, and the answer to it is not known yet."""
    record = refreshing(deferred_since=NOON, retry_at=NOON + 9 * SECOND)
    assert as_datetime(NOON + SECOND) == status_of(record, NOON).next_check_at


@pytest.mark.parametrize(
    ("state", "session_failed_at", "code", "retry_at"),
    [
        # Where no session is needed now, what became of an earlier call for one is nobody's business.
        *((state, NOON + SECOND, "http_503", NOON + WINDOW) for state in (State.SESSION_CREATED, State.COMPLETE)),
        *((state, NOON + SECOND, "timed_out", None) for state in (State.NO_SESSION, State.STALE)),
        (State.STALE, NOON, "timed_out", None),
        (State.STALE, NOON - 1, "http_503", NOON + WINDOW),
    ],
)
def test_the_last_failure_is_told(state: State, session_failed_at: int, code: str, retry_at: int | None) -> None:
    """The refresh's, or that of a later session call, which no window holds back."""
    failure = Failure(code="http_503", at=NOON)
    session_failure = Failure(code="timed_out", at=session_failed_at)
    found = status_of(refreshing(state=state, failure=failure, session_failure=session_failure), NOON + SECOND).failure
    assert found is not None
    assert (code, None if retry_at is None else as_datetime(retry_at)) == (found.code, found.retry_at)


def test_who_has_a_status_is_eligible() -> None:
    """Only for who has no MHV account there is another one, and that is the facade's."""
    assert status_of(refreshing(), NOON).eligible


def test_the_next_check_is_never_in_the_past() -> None:
    """An overdue poll is due now."""
    assert as_datetime(NOON + DEADLINE) == status_of(refreshing(), NOON + DEADLINE).next_check_at


def test_a_stranger_has_no_since() -> None:
    """Who was never seen has been nowhere since anything."""
    assert status_of(RefreshRecord(since=NOON), NOON).since is None


def test_a_refresh_that_runs_is_under_way() -> None:
    """From the claim to the end, and not a moment longer."""
    record = refreshing()
    assert [True, False] == [status_of(item, NOON).under_way for item in (record, record._replace(state=State.STALE))]


def test_a_session_that_is_being_created_for_a_refresh_is_under_way() -> None:
    """While the claim on it lasts, and only where a refresh is to follow: not inside a closed window."""
    opening = RefreshRecord(opening_id="o1", opening_until=NOON + SECOND)
    in_closed_window = opening._replace(window_opens_at=NOON + WINDOW)
    found = [
        status_of(opening, NOON),
        status_of(opening, NOON + SECOND),
        status_of(in_closed_window, NOON),
    ]
    assert [True, False, False] == [status.under_way for status in found]


def test_a_status_tells_when_it_was_read() -> None:
    """By the store's clock, so that its other times can be judged by it."""
    assert as_datetime(NOON) == status_of(refreshing(), NOON).read_at


def test_a_fresh_receipt_tells_when_the_window_opens() -> None:
    """Who asks too early learns when to come back."""
    record = refreshing(state=State.COMPLETE)
    receipt = standing_receipt(record, NOON, ReceiptKind.JOINED)
    assert receipt is not None
    assert (ReceiptKind.FRESH, as_datetime(record.window_opens_at)) == (receipt.kind, receipt.retry_at)


@pytest.mark.parametrize(
    ("now", "under_way"),
    [(NOON, True), (NOON + 9 * SECOND, True), (NOON + 14 * SECOND - 1, True), (NOON + 14 * SECOND, False)],
)
def test_a_deferred_refresh_is_under_way_until_its_worker_must_have_woken(now: int, under_way: bool) -> None:
    """Five seconds after its time at the latest; from then on it counts as lost."""
    record = RefreshRecord(deferred_since=NOON, retry_at=NOON + 9 * SECOND)
    assert under_way == status_of(record, now).under_way


def test_a_pause_after_a_failure_is_not_under_way() -> None:
    """No worker holds that refresh back."""
    assert not status_of(RefreshRecord(failures=1, retry_at=NOON + 9 * SECOND), NOON).under_way
