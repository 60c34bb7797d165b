"""The refresh flow, stepped: once per window whatever crashes and whatever answers get lost (R1, R3, R4)."""

from collections import deque

import pytest
from phr_refresh.statemachine.effects import (
    AnswerLost,
    Commit,
    Follow,
    NeverSent,
    OpenSession,
    Refresh,
    Rejected,
    SessionOpened,
    StartRefresh,
)
from phr_refresh.statemachine.outcomes import Receipt, ReceiptKind
from phr_refresh.statemachine.policy import as_datetime
from phr_refresh.statemachine.record import KickOff, State
from support.samples import ADA, DEADLINE, GUEST, MARGIN, MINUTE, NOON, SECOND, WINDOW, token_until
from support.stepping import World


def test_a_crash_before_the_claim_costs_no_window() -> None:
    """A process that dies before it has claimed anything keeps nobody from refreshing."""
    world = World()
    world.refresh().until(Commit).crash()
    assert ReceiptKind.STARTED is world.refresh().run().kind


def test_a_crash_between_claim_and_call_is_never_sent_again_and_times_out() -> None:
    """Where the claim stands and nobody knows whether the call left, it is not sent; the deadline ends it (R1, R4)."""
    world = World()
    world.refresh().until(StartRefresh).crash()
    world.now += MINUTE
    joined = world.refresh().run()
    assert ReceiptKind.JOINED is joined.kind
    world.now = NOON + DEADLINE
    status = world.run(world.flows.status(ADA.key))
    assert (status.state, status.failure.code) == (State.STALE, "timed_out")
    assert world.kick_offs == []


def test_a_crash_after_the_call_is_settled_by_asking() -> None:
    """A kick-off whose answer died with its process is found out about by the next status call."""
    world = World()
    kicking = world.refresh().until(StartRefresh)
    kicking.begin()
    kicking.crash()
    world.now += 2 * SECOND
    status = world.run(world.flows.status(ADA.key, ADA))
    assert State.COMPLETE is status.state
    assert world.kick_offs == [NOON]


def test_a_claim_whose_commit_answer_was_lost_is_acted_on_once() -> None:
    """The store has the claim but says conflict: the flow finds its own id there and sends the one kick-off."""
    world = World()
    kicking = world.refresh().until(Commit, nth=2)
    kicking.step(lose_answer=True)
    assert isinstance(kicking.effect, StartRefresh)
    assert ReceiptKind.STARTED is kicking.run().kind
    assert world.kick_offs == [NOON]


def test_a_session_claim_whose_commit_answer_was_lost_is_acted_on() -> None:
    """The store has our claim on the session but says conflict: the flow goes on and creates it, once."""
    world = World()
    opening = world.refresh().until(Commit)
    opening.step(lose_answer=True)
    assert isinstance(opening.effect, OpenSession)
    opening.run()
    assert len(world.opened) == 1


def test_a_late_answer_of_an_earlier_refresh_changes_nothing_and_is_noted() -> None:
    """The answer to refresh 1's kick-off that arrives during refresh 2 is refused, kept and told (R3)."""
    world = World()
    late = world.refresh().until(StartRefresh)
    late.begin()
    world.now += WINDOW + MARGIN
    second = world.refresh().run()
    before = world.record()
    late.step()
    late.run()
    after = world.record()
    assert before._replace(refusal=after.refusal, fingerprint=after.fingerprint) == after
    assert second.refresh_id == after.refresh_id
    assert (after.refusal.event, after.refusal.guards) == ("refresh_accepted", ("same_refresh",))
    assert [fact.details["refused"] for fact in world.told("event_refused")] == ["refresh_accepted"]


def test_a_late_completion_of_an_earlier_refresh_does_not_complete_the_next_one() -> None:
    """A status answer for refresh 1 that comes in during refresh 2 leaves refresh 2 running (R3)."""
    world = World()
    world.logged_in()
    world.now += 50 * MINUTE
    asking = world.stepper(world.flows.status(ADA.key, ADA))
    while not asking.is_done and not world.polls:
        asking.move()
    world.now = NOON + WINDOW
    world.refresh().run()
    asking.run()
    assert State.REFRESHING is world.record().state
    assert "same_refresh" in world.record().refusal.guards


@pytest.mark.parametrize("code", ["http_503", "http_401", "http_500"])
def test_a_rejected_kick_off_is_stale_and_not_sent_again_in_its_window(code: str) -> None:
    """A definite no is not marked done; the window is spent, and the receipt says when it opens."""
    world = World(kick_off_answers=deque([Rejected(code)]))
    receipt = world.refresh().run()
    opens_at = as_datetime(NOON + WINDOW)
    assert (ReceiptKind.DEFERRED, code, opens_at) == (receipt.kind, receipt.reason, receipt.retry_at)
    assert State.STALE is world.record().state
    world.now = NOON + WINDOW - 1
    again = world.refresh().run()
    assert (ReceiptKind.DEFERRED, "window_closed", opens_at) == (again.kind, again.reason, again.retry_at)
    assert world.kick_offs == [NOON]
    world.now += 1
    assert ReceiptKind.STARTED is world.refresh().run().kind


def test_a_kick_off_that_never_left_is_retried_under_a_new_id_with_growing_pauses() -> None:
    """Connection refused spends no window: the step is handed over again after 2, 4, 8 ... seconds."""
    world = World(kick_off_answers=deque([NeverSent("connection_refused")] * 3))
    ids, delays = [], []
    receipt = world.refresh().run()
    for _ in range(3):
        ids.append(receipt.refresh_id)
        assert (receipt.kind, receipt.reason) == (ReceiptKind.DEFERRED, "never_sent")
        step, delay = world.handed.pop()
        assert Refresh(ADA) == step
        delays.append(delay)
        world.now += int(delay * 1000)
        receipt = world.refresh().run()
    assert delays == [2.0, 4.0, 8.0]
    assert (receipt.kind, len({*ids, receipt.refresh_id})) == (ReceiptKind.STARTED, 4)
    assert len(world.opened) == 1


def test_a_kick_off_that_never_left_is_not_retried_before_its_pause() -> None:
    """Whoever asks during the backoff is told to come back, and nothing is sent."""
    world = World(kick_off_answers=deque([NeverSent("connection_refused")]))
    world.refresh().run()
    world.now += 2 * SECOND - 1
    receipt = world.refresh().run()
    assert (receipt.kind, receipt.reason) == (ReceiptKind.DEFERRED, "backoff")
    assert len(world.kick_offs) == 1


def test_retries_on_its_own_end_at_the_retry_limit() -> None:
    """After `retry_limit` failures in a row no step is handed over; a login later still tries."""
    world = World(kick_off_answers=deque([NeverSent("connection_refused")] * 6))
    for _ in range(4):
        world.refresh().run()
        world.now += int(world.handed.pop()[1] * 1000)
    world.refresh().run()
    assert world.handed == []
    world.now += 5 * MINUTE
    world.refresh().run()
    assert len(world.kick_offs) == 6


def test_a_retry_that_wakes_up_a_moment_early_is_not_lost() -> None:
    """A worker whose clock runs a millisecond ahead of the store's hands its step over again instead of dropping it."""
    world = World(kick_off_answers=deque([NeverSent("connection_refused")]))
    world.refresh().run()
    step, delay = world.handed.pop()
    world.now += int(delay * 1000) - 1
    world.run(world.flows.step(step))
    assert [step] == [handed for handed, _ in world.handed]


def test_a_lost_answer_counts_as_sent_and_is_settled_by_the_status() -> None:
    """A time-out after sending is no failure: the refresh is followed, and completes by what the status says."""
    world = World(kick_off_answers=deque([AnswerLost("timed_out")]))
    receipt = world.refresh().run()
    assert ReceiptKind.STARTED is receipt.kind
    assert KickOff.ANSWER_LOST is world.record().kick_off
    assert [(Follow(ADA, receipt.refresh_id), 1.0)] == world.handed
    world.now += SECOND
    world.run(world.flows.follow(ADA, receipt.refresh_id))
    assert State.COMPLETE is world.record().state
    assert world.kick_offs == [NOON]


def test_the_window_counts_from_the_answer() -> None:
    """A kick-off that took 15 seconds to be answered may have arrived at their end: the window starts there."""
    world = World()
    slow = world.refresh().until(StartRefresh)
    slow.begin()
    world.now += 15 * SECOND
    slow.run()
    assert world.record().window_opens_at == NOON + 15 * SECOND + WINDOW


def test_a_late_send_and_a_crash_do_not_bring_two_kick_offs_into_one_window() -> None:
    """A claim may be sent `decision_age` late; if its process then dies, the next one keeps the distance (R1)."""
    world = World()
    paused = world.refresh().until(StartRefresh)
    world.now += 4 * SECOND
    paused.begin()
    paused.crash()
    world.now = NOON + WINDOW
    world.run(world.flows.refresh(ADA))
    world.now = NOON + WINDOW + MARGIN
    world.run(world.flows.refresh(ADA))
    first, second = world.kick_offs
    assert second - first >= WINDOW


def test_an_answer_that_the_store_does_not_take_is_told_and_followed() -> None:
    """The store fails just after the kick-off: the claim stands, the receipt is honest, and following goes on."""
    world = World()
    kicking = world.refresh().until(StartRefresh)
    kicking.step()
    world.store_failures = 1
    receipt = kicking.run()
    assert ReceiptKind.STARTED is receipt.kind
    assert len(world.told("answer_not_recorded")) == 1
    assert [Follow(ADA, receipt.refresh_id)] == [step for step, _ in world.handed]


def test_a_worker_too_full_to_follow_is_told() -> None:
    """A refresh that nobody will follow is started all the same, and one fact says so."""
    world = World(worker_is_full=True)
    assert ReceiptKind.STARTED is world.refresh().run().kind
    assert len(world.told("follow_dropped")) == 1


def test_a_refresh_within_its_window_is_fresh() -> None:
    """A completed refresh answers `fresh` until a millisecond before its window ends; then a new one starts."""
    world = World()
    first = world.logged_in()
    world.now += SECOND
    world.run(world.flows.follow(ADA, first.refresh_id))
    world.now = NOON + WINDOW - 1
    assert ReceiptKind.FRESH is world.refresh().run().kind
    world.now += 1
    assert ReceiptKind.STARTED is world.refresh().run().kind


def test_somebody_without_an_mhv_account_costs_no_effect_at_all() -> None:
    """Not eligible: no store call, no session, no kick-off, no fact (R8)."""
    world = World()
    assert Receipt(kind=ReceiptKind.NOT_ELIGIBLE) == world.refresh(GUEST).run()
    assert (world.trips, world.opened, world.kick_offs, world.facts) == (0, [], [], [])


def test_what_the_login_saw_saves_a_load() -> None:
    """The record that the login loaded is used while it is still true."""
    world = World()
    seen = world._loaded(ADA.key)
    assert isinstance(world.refresh(seen=seen).effect, Commit)


def test_what_the_login_saw_is_not_believed_once_it_has_aged() -> None:
    """A step that waited ten minutes in the queue looks again before it does anything."""
    world = World()
    seen = world._loaded(ADA.key)
    first = world.logged_in()
    world.now += 10 * MINUTE
    receipt = world.refresh(seen=seen).run()
    assert (ReceiptKind.DEFERRED, "window_closed", first.refresh_id) == (
        receipt.kind,
        receipt.reason,
        receipt.refresh_id,
    )
    assert len(world.kick_offs) == 1


def test_a_token_that_is_over_by_the_stores_clock_raises_nothing() -> None:
    """A host whose clock is behind the store's gets a token that has expired there: deferred, not an exception."""
    world = World(sessions=deque([SessionOpened(token_until(NOON - 1))]))
    receipt = world.refresh().run()
    assert ReceiptKind.DEFERRED is receipt.kind
    assert world.kick_offs == []


def test_a_step_that_fails_because_the_store_does_is_tried_again_a_bounded_number_of_times() -> None:
    """Each try is told, each next one comes later, and after `retry_limit` tries nothing is handed over."""
    world = World(store_failures=100)
    delays = []
    world.run(world.flows.step(Refresh(ADA)))
    while world.handed:
        step, delay = world.handed.pop()
        delays.append(delay)
        world.run(world.flows.step(step))
    assert delays == [2.0, 4.0, 8.0, 16.0, 32.0]
    assert [fact.details["again"] for fact in world.told("step_failed")] == [True] * 5 + [False]


def test_a_retry_after_a_logout_opens_no_session_for_who_has_left() -> None:
    """A step that waited out its backoff does nothing for a patient who has logged out meanwhile."""
    world = World(kick_off_answers=deque([NeverSent("connection_refused")]))
    world.refresh().run()
    step, delay = world.handed.pop()
    world.run(world.flows.logout(ADA.key))
    world.now += int(delay * 1000)
    world.run(world.flows.step(step))
    assert len(world.opened) == 1
