"""A store that fails in the middle, and clocks that jump: nothing is lost for an hour, nobody waits for ever."""

from collections import deque
from typing import Any

import pytest
from phr_refresh.statemachine.draft import Flow
from phr_refresh.statemachine.effects import Commit, NeverSent, Refresh, SessionFailed
from phr_refresh.statemachine.errors import StoreUnavailable
from phr_refresh.statemachine.outcomes import ReceiptKind
from phr_refresh.statemachine.policy import Policy, milliseconds
from phr_refresh.statemachine.record import Failure, RefreshRecord, State
from support.samples import ADA, HOUR, MINUTE, NOON, SECOND
from support.stepping import World

AGE = milliseconds(Policy().decision_age)


def with_lost_commit(world: World, flow: Flow[Any], *, nth: int, takes: int = 0) -> Any:
    """What `flow` returns when its nth commit takes effect, but its answer is lost, after `takes` milliseconds."""
    answer: Any = None
    error: StoreUnavailable | None = None
    commits = 0
    while True:
        try:
            effect = flow.send(answer) if error is None else flow.throw(error)
        except StopIteration as stop:
            return stop.value
        answer, error = None, None
        world.arrives(effect)
        answer = world.perform(effect)
        if isinstance(effect, Commit):
            commits += 1
            if commits == nth:
                world.now += takes
                error = StoreUnavailable("fake", "timed_out")


def test_a_claim_whose_answer_was_lost_is_found_and_sent() -> None:
    """One answer of the store that gets lost does not cost the patient this hour's refresh."""
    world = World()
    receipt = with_lost_commit(world, world.flows.refresh(ADA), nth=2)
    assert (ReceiptKind.STARTED, 1) == (receipt.kind, len(world.kick_offs))
    assert State.REFRESHING is world.record().state


def test_a_claim_that_is_found_too_late_is_given_back() -> None:
    """A claim that took longer to find again than decisions last is not sent; its window is not spent (R1)."""
    world = World()
    receipt = with_lost_commit(world, world.flows.refresh(ADA), nth=2, takes=AGE + 1)
    assert (ReceiptKind.DEFERRED, "never_sent", 0) == (receipt.kind, receipt.reason, len(world.kick_offs))
    assert world.record().window_is_open(world.now)
    assert ["too_late"] == [fact.details["reason"] for fact in world.told("kick_off_not_sent")]
    step, delay = world.handed.pop()
    world.now += int(delay * 1000)
    world.run(world.flows.step(step))
    assert 1 == len(world.kick_offs)


def test_a_claim_that_is_found_just_in_time_is_sent() -> None:
    """A decision lasts to the millisecond."""
    world = World()
    assert ReceiptKind.STARTED is with_lost_commit(world, world.flows.refresh(ADA), nth=2, takes=AGE).kind


def test_a_session_claim_whose_answer_was_lost_is_used() -> None:
    """It is known by its id: the session is created under it, and nobody waits for it to lapse."""
    world = World()
    assert ReceiptKind.STARTED is with_lost_commit(world, world.flows.refresh(ADA), nth=1).kind
    assert (1, 0) == (len(world.opened), world.overlaps)


def test_a_store_that_stays_away_ends_the_step_and_it_comes_again() -> None:
    """After a few tries the step fails, is told, and is handed over again."""
    world = World()
    world.store_failures = 100
    world.run(world.flows.step(Refresh(ADA)))
    assert [Refresh(ADA, tries=1)] == [step for step, _ in world.handed]
    assert 1 == len(world.told("step_failed"))


def test_a_call_that_never_left_is_recorded_though_the_store_stumbles() -> None:
    """The window is given back at the second try, and the receipt says when the call is tried again."""
    world = World(kick_off_answers=deque([NeverSent("connection_refused")]))
    receipt = with_lost_commit(world, world.flows.refresh(ADA), nth=3)
    assert (ReceiptKind.DEFERRED, "never_sent") == (receipt.kind, receipt.reason)
    assert world.record().window_is_open(world.now)
    assert 1 == len(world.handed)


def test_a_status_is_told_though_nothing_can_be_written() -> None:
    """A record that could be read is an answer: the deadline is applied in what is told, if not in the store."""
    world = World()
    world.logged_in()
    world.now += 10 * MINUTE
    reading = world.stepper(world.flows.status(ADA.key)).until(Commit)
    world.store_failures = 1
    assert State.STALE is reading.run().state
    assert 1 == len(world.told("status_not_committed"))


@pytest.mark.parametrize("back", [6 * HOUR, 30 * 24 * HOUR])
def test_a_clock_set_back_lets_nobody_wait_for_it_to_come_round(back: int) -> None:
    """What lies further ahead than any policy sets it counts as due (R4); the window stays closed (R1)."""
    world = World()
    world.logged_in()
    world.now -= back
    assert State.STALE is world.run(world.flows.status(ADA.key)).state
    assert "window_closed" == world.run(world.flows.refresh(ADA)).reason
    assert 1 == len(world.kick_offs)


def test_a_creators_claim_does_not_outlast_a_clock_set_back() -> None:
    """The claim of a creator that died lapses although the clock says that it was made tomorrow."""
    world = World()
    world.put(RefreshRecord(since=NOON, opening_id="dead", opening_until=NOON + 50 * SECOND, fingerprint="f"))
    world.now -= 6 * HOUR
    assert ReceiptKind.STARTED is world.run(world.flows.refresh(ADA)).kind


def test_failures_of_long_ago_are_forgotten() -> None:
    """Once the longest pause has passed since, a failure is the first one again."""
    world = World(sessions=deque([SessionFailed("http_500")]))
    world.put(
        RefreshRecord(since=NOON, failures=5, retry_at=NOON, fingerprint="f"),
    )
    world.now += 10 * HOUR
    receipt = world.run(world.flows.refresh(ADA))
    assert (1, 2 * SECOND) == (world.record().failures, world.record().retry_at - world.now)
    assert [(Refresh(ADA), 2.0)] == world.handed
    assert "http_500" == receipt.reason


def test_a_session_that_failed_does_not_spoil_a_complete_refresh() -> None:
    """The data are current whether or not a session could be opened later: the status shows no failure."""
    world = World()
    failure = Failure(code="http_500", at=NOON)
    complete = RefreshRecord(
        state=State.COMPLETE,
        since=NOON,
        refresh_id="r",
        claimed_at=NOON,
        completed_at=NOON,
        window_opens_at=NOON + HOUR,
        session_failure=failure,
        fingerprint="f",
    )
    world.put(complete)
    assert world.run(world.flows.status(ADA.key)).failure is None
    world.put(complete._replace(state=State.NO_SESSION))
    assert "http_500" == world.run(world.flows.status(ADA.key)).failure.code
