"""The status and follow flows, stepped: shared polling, honest answers, and nobody stuck (R3, R4, R6)."""

from collections import deque

import pytest
from phr_refresh.statemachine.effects import (
    AnswerLost,
    AskStatus,
    Commit,
    CouldNotAsk,
    Follow,
    Load,
    Phase,
    StatusReport,
)
from phr_refresh.statemachine.outcomes import Status
from phr_refresh.statemachine.policy import Policy, as_datetime, milliseconds
from phr_refresh.statemachine.record import TIMED_OUT, Failure, State
from support.samples import ADA, CURRENT, DEADLINE, GUEST, MINUTE, NOON, PARTIAL, RUNNING, SECOND, UNHURRIED, WINDOW
from support.stepping import DONE, GOING_ON, Stepper, World, explore

CAP = milliseconds(Policy().poll_interval_max)
LATE = milliseconds(Policy().late_poll_interval)


def running(*statuses: StatusReport | CouldNotAsk) -> World:
    """A world in which Ada's refresh was accepted at noon and may be asked about now."""
    world = World(statuses=deque(statuses))
    world.logged_in()
    world.handed.clear()
    world.now = NOON + SECOND
    return world


def status(world: World) -> Status:
    """Ada's status, asked with her identifiers at hand."""
    found: Status = world.run(world.flows.status(ADA.key, ADA))
    return found


def test_nobody_asks_before_the_first_interval_is_over() -> None:
    """The upstream is left alone until a second after the kick-off's answer."""
    world = running()
    world.now -= 1
    assert State.REFRESHING is status(world).state
    assert [] == world.polls
    world.now += 1
    assert State.COMPLETE is status(world).state


def test_however_many_ask_one_call_goes_out_per_interval() -> None:
    """A hundred askers at the same moment make one status call (R6)."""
    world = running(*[GOING_ON] * 100)
    askers = [world.stepper(world.flows.status(ADA.key, ADA)) for _ in range(100)]
    while going := [asker for asker in askers if not asker.is_done]:
        for asker in going:
            asker.step()
    assert [NOON + SECOND] == world.polls
    assert {State.REFRESHING} == {asker.outcome.state for asker in askers}


def test_every_order_of_three_askers_makes_one_call() -> None:
    """However the loads and commits of three askers interleave, the interval is claimed once (R6)."""

    def make() -> tuple[World, list[Stepper]]:
        world = running(*[GOING_ON] * 3)
        return world, [world.stepper(world.flows.status(ADA.key, ADA)) for _ in range(3)]

    for moves, world, _ in explore(make, crashes=1):
        assert len(world.polls) <= 1, moves


def test_no_two_calls_are_closer_than_the_interval() -> None:
    """Asked every 100 ms over the whole window, the upstream hears of it at growing, then slow intervals."""
    world = running(*[GOING_ON] * 1000)
    while world.now < NOON + 10 * MINUTE:
        status(world)
        world.now += 100
    gaps = [later - earlier for earlier, later in zip(world.polls, world.polls[1:], strict=False)]
    assert min(gaps) >= SECOND
    assert sorted(gaps[:40]) == gaps[:40]
    assert max(gaps) <= CAP + 100


def test_who_has_only_the_user_id_asks_nobody() -> None:
    """By key alone, what is known is told."""
    world = running()
    assert State.REFRESHING is world.run(world.flows.status(ADA.key)).state
    assert [] == world.polls


def test_progress_is_recorded_per_extract() -> None:
    """What has ended so far shows in the status; the state stays."""
    world = running(GOING_ON)
    found = status(world)
    assert (State.REFRESHING, [item.name for item in RUNNING]) == (found.state, [item.name for item in found.extracts])


def test_progress_without_news_is_not_committed() -> None:
    """The claim on the poll is the one commit where the upstream says what it said before."""
    world = running(GOING_ON, GOING_ON)
    status(world)
    world.now += 2 * SECOND
    before = world.trips
    status(world)
    assert before + 2 == world.trips


def test_an_end_without_news_of_any_extract_is_an_end() -> None:
    """What counts is the upstream's word on the whole."""
    world = running(GOING_ON, StatusReport(Phase.COMPLETE, RUNNING, NOON))
    status(world)
    world.now += 2 * SECOND
    assert State.COMPLETE is status(world).state


def test_completion_gives_the_age_of_the_data() -> None:
    """`as_of` is the oldest success that the upstream reported."""
    found = status(running(StatusReport(Phase.COMPLETE, CURRENT, NOON - MINUTE)))
    assert (State.COMPLETE, as_datetime(NOON - MINUTE), False) == (found.state, found.as_of, found.partial)


def test_completion_without_some_extracts_is_partial() -> None:
    """Complete, and the status says that something is missing."""
    assert status(running(StatusReport(Phase.COMPLETE, PARTIAL, NOON))).partial


def test_a_reported_failure_is_stale_and_keeps_the_window() -> None:
    """Failed is a state that ends every spinner, with a code and the time of the next chance."""
    world = running(StatusReport(Phase.FAILED, PARTIAL))
    found = status(world)
    expected = (State.STALE, "all_extracts_failed", as_datetime(NOON + WINDOW))
    assert expected == (found.state, found.failure.code, found.failure.retry_at)
    assert found.next_check_at is None


def test_a_status_call_that_fails_leaves_the_state() -> None:
    """A failing status call is no failed refresh; it is told."""
    world = running(CouldNotAsk("http_500"))
    assert State.REFRESHING is status(world).state
    assert ["http_500"] == [fact.details["reason"] for fact in world.told("status_not_asked")]
    assert world.record().failure is None


@pytest.mark.parametrize(
    ("asked_for", "pause"),
    [(None, SECOND), (0.0, SECOND), (-5.0, SECOND), (0.5, SECOND), (10.0, 10 * SECOND), (30.0, CAP), (1e9, CAP)],
)
def test_retry_after_is_respected_up_to_the_cap(asked_for: float | None, pause: int) -> None:
    """The next call waits as long as the upstream asked, never less than our interval, never more than the cap."""
    world = running(CouldNotAsk("http_503", asked_for), GOING_ON)
    status(world)
    interval = UNHURRIED.poll_interval_after(SECOND) if pause == SECOND else pause
    world.now = NOON + SECOND + interval - 1
    status(world)
    assert 1 == len(world.polls)
    world.now += 1
    status(world)
    assert 2 == len(world.polls)


def test_to_wait_as_long_as_one_would_anyway_is_not_committed() -> None:
    """A `Retry-After` that ends when the next poll is due changes nothing; a millisecond more is noted as such."""
    for more, noted in ((0, []), (1, [("poll_claim",), ("poll_held_off",)])):
        interval = UNHURRIED.poll_interval_after(SECOND) + more
        world = running(CouldNotAsk("http_503", interval / 1000))
        asking, seen = world.stepper(world.flows.status(ADA.key, ADA)), []
        while asking.effect is not None:
            seen += [asking.effect.noted] if isinstance(asking.effect, Commit) else []
            asking.step()
        assert (noted or [("poll_claim",)]) == seen
        assert NOON + SECOND + interval == world.record().next_poll_at


def test_who_comes_between_knows_better_than_retry_after() -> None:
    """The patient logs out while the upstream asks us to wait: the status says so."""
    world = running(CouldNotAsk("http_503", 10.0))
    asking = world.stepper(world.flows.status(ADA.key, ADA)).until(Commit, nth=2)
    world.run(world.flows.logout(ADA.key))
    assert State.NO_SESSION is asking.run().state
    assert NOON + 10 * SECOND > world.record().next_poll_at


def test_the_deadline_makes_it_stale_to_the_millisecond() -> None:
    """Refreshing until a millisecond before, stale (timed_out) from the deadline on, since the deadline (R4)."""
    world = running(*[GOING_ON] * 9)
    world.now = NOON + DEADLINE - 1
    assert State.REFRESHING is status(world).state
    world.now += MINUTE
    found = status(world)
    deadline = as_datetime(NOON + DEADLINE)
    assert (State.STALE, "timed_out", deadline, deadline) == (
        found.state,
        found.failure.code,
        found.failure.at,
        found.since,
    )


def test_a_late_completion_is_still_the_truth() -> None:
    """A refresh that timed out is asked about at a slow pace, and completes when the upstream says so."""
    world = running(GOING_ON, GOING_ON, DONE)
    world.now = NOON + DEADLINE
    assert State.STALE is status(world).state
    world.now += LATE - 1
    assert State.STALE is status(world).state
    assert 1 == len(world.polls)
    world.now += 1
    status(world)
    world.now += LATE
    found = status(world)
    assert (State.COMPLETE, None) == (found.state, found.failure)


def test_nobody_asks_once_the_window_is_over() -> None:
    """A refresh that never ended is asked about until its window ends, and not after."""
    world = running(*[GOING_ON] * 9)
    world.now = NOON + WINDOW
    found = status(world)
    assert (State.STALE, [], None) == (found.state, world.polls, found.next_check_at)


def test_a_completion_that_arrives_after_the_deadline_counts() -> None:
    """Asked just before the deadline, answered just after it: complete, and never lost."""
    world = running(DONE)
    world.now = NOON + DEADLINE - 1
    asking = world.stepper(world.flows.status(ADA.key, ADA)).until(AskStatus)
    asking.begin()
    world.now += 2 * SECOND
    assert State.COMPLETE is asking.run().state


def test_a_completion_that_arrives_after_the_window_is_refused() -> None:
    """An answer that took longer than the rest of the window completes nothing (R3)."""
    world = running(DONE)
    world.now = NOON + WINDOW - 1
    asking = world.stepper(world.flows.status(ADA.key, ADA)).until(AskStatus)
    asking.begin()
    world.now += 2
    assert State.STALE is asking.run().state
    assert ("same_window",) == world.record().refusal.guards


def test_the_answer_of_the_kick_off_may_come_after_that_of_the_status() -> None:
    """A status call that overtakes a slow kick-off completes it; the window still counts from the later answer."""
    world = World(statuses=deque([DONE]))
    slow = world.refresh()
    while not world.kick_offs:
        slow.move()
    world.now += 2 * SECOND
    assert State.COMPLETE is status(world).state
    slow.run()
    record = world.record()
    assert (State.COMPLETE, NOON + 2 * SECOND + WINDOW) == (record.state, record.window_opens_at)


def test_what_is_asked_tells_an_earlier_refresh_from_this_one() -> None:
    """The question carries the claim, the answer's time only if there was one, and the time of asking."""
    world = running()
    question = world.stepper(world.flows.status(ADA.key, ADA)).until(AskStatus).effect
    times = {"claimed_at": NOON, "asked_at": NOON + SECOND, "turn_ends_at": NOON + 2 * SECOND + 50}
    assert AskStatus(ADA, answered_at=NOON, **times) == question
    world = World(kick_off_answers=deque([AnswerLost("timed_out")]))
    world.logged_in()
    world.now += SECOND
    question = world.stepper(world.flows.status(ADA.key, ADA)).until(AskStatus).effect
    assert AskStatus(ADA, answered_at=None, **times) == question


def test_following_asks_once_per_step_and_hands_over_the_next() -> None:
    """Each step holds no thread: one call, then the next step with the interval as its delay, until the end."""
    world = World(statuses=deque([GOING_ON, GOING_ON, DONE]))
    refresh_id = world.logged_in().refresh_id
    delays = []
    while world.handed:
        step, delay = world.handed.pop()
        assert Follow(ADA, refresh_id) == step
        delays.append(delay)
        world.now += round(delay * 1000)
        world.run(world.flows.step(step))
    assert ([1.0, 1.05, 1.102], 3) == (delays, len(world.polls))
    assert State.COMPLETE is world.record().state


def test_following_ends_at_the_deadline() -> None:
    """The last step comes no later than the deadline, makes the refresh stale, and hands over nothing."""
    world = World(statuses=deque([GOING_ON] * 500))
    world.logged_in()
    while world.handed:
        step, delay = world.handed.pop()
        world.now += round(delay * 1000)
        world.run(world.flows.step(step))
    assert (State.STALE, NOON + DEADLINE) == (world.record().state, world.now)


@pytest.mark.parametrize(("early", "delay"), [(0, 1.0), (1, 0.001)])
def test_a_poll_that_could_not_be_claimed_is_made_up_for_at_an_interval(early: int, delay: float) -> None:
    """A step that came in time and could not commit does not hammer the store; one that came early waits for it."""
    world = running(GOING_ON)
    world.now -= early
    world.statuses.clear()
    step = world.stepper(world.flows.follow(ADA, world.record().refresh_id))
    step.step()
    world.store_failures = 1
    step.run()
    assert ([], [delay]) == (world.polls, [delay for _, delay in world.handed])


def test_following_ends_at_the_deadline_after_a_logout_too() -> None:
    """A refresh that ran out unseen is followed no further."""
    world = running(GOING_ON)
    world.run(world.flows.logout(ADA.key))
    world.now = NOON + DEADLINE
    world.run(world.flows.follow(ADA, world.record().refresh_id))
    assert [] == world.handed


def test_a_clock_that_is_set_back_resumes_no_following() -> None:
    """What has timed out is stale, whatever the clock says now; only whoever reads the status asks."""
    world = running(GOING_ON)
    world.put(world.record()._replace(state=State.STALE, failure=Failure(code=TIMED_OUT, at=NOON + DEADLINE)))
    world.run(world.flows.follow(ADA, world.record().refresh_id))
    assert [] == world.handed


def test_following_an_earlier_refresh_ends() -> None:
    """A step for a refresh that is no longer the patient's hands over nothing."""
    world = running(GOING_ON)
    world.run(world.flows.follow(ADA, "another"))
    assert [] == world.handed


def test_following_goes_on_after_a_logout() -> None:
    """The refresh runs on without a session, and is followed to its end."""
    world = running(GOING_ON, DONE)
    world.run(world.flows.logout(ADA.key))
    world.run(world.flows.follow(ADA, world.record().refresh_id))
    step, delay = world.handed.pop()
    world.now += round(delay * 1000)
    world.run(world.flows.step(step))
    assert world.record().completed_at is not None
    world.run(world.flows.step(step))
    assert [] == world.handed


def test_a_store_that_fails_does_not_end_the_following() -> None:
    """The step is handed over again with a pause."""
    world = running()
    refresh_id = world.record().refresh_id
    world.store_failures = 1
    world.run(world.flows.step(Follow(ADA, refresh_id)))
    assert [(Follow(ADA, refresh_id, tries=1), 2.0)] == world.handed


def test_a_settled_patient_costs_one_load() -> None:
    """Complete, or stale with the window over: one load, no commit."""
    world = running(DONE)
    status(world)
    flow = world.stepper(world.flows.status(ADA.key, ADA))
    assert Load(ADA.key) == flow.effect
    flow.step()
    assert flow.is_done


def test_somebody_without_an_mhv_account_is_not_eligible() -> None:
    """The status says so without a round trip (R8)."""
    world = World()
    assert Status(state=State.NO_SESSION, eligible=False) == world.run(world.flows.status(GUEST.key, GUEST))
    assert 0 == world.trips


def test_somebody_never_seen_has_no_session() -> None:
    """The status of a stranger claims nothing."""
    assert Status(state=State.NO_SESSION, read_at=as_datetime(NOON)) == status(World())
