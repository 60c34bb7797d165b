"""What the flows tell an observer, stepped: whose, why, and whether somebody on call may need to act."""

from collections import deque

import pytest
from phr_refresh import Policy
from phr_refresh.statemachine.effects import (
    UPSTREAM_OVERLOADED,
    AskStatus,
    Commit,
    CouldNotAsk,
    Fact,
    Follow,
    NeverSent,
    Phase,
    Refresh,
    SessionFailed,
    StartRefresh,
    StatusReport,
)
from phr_refresh.statemachine.patient import UserKey
from support.samples import ADA, CURRENT, MARGIN, NOON, SECOND, WINDOW
from support.stepping import GOING_ON, World

DOWN = "the store fake is unavailable (scripted); check that it runs and can be reached."
CORRUPT = "a stored record cannot be read: it is corrupt; restore it, or delete the key once its window has passed."


def warning(name: str, key: UserKey = ADA.key, **details: object) -> Fact:
    """One that somebody on call may need to act on."""
    return Fact(name, key, details=details, is_warning=True)


def running() -> World:
    """A world in which Ada's refresh may be asked about now, and nothing was told yet."""
    world = World()
    world.logged_in()
    world.facts.clear()
    world.now = NOON + SECOND
    return world


def test_why_a_login_was_deferred() -> None:
    """A full worker; a store that is down; a record that cannot be read, which is another problem."""
    full = World(worker_is_full=True)
    down = World(store_failures=1)
    corrupt = running()
    corrupt.rows[ADA.key].value = b"\x00"
    for world in (full, down, corrupt):
        world.run(world.flows.login(ADA))
    assert [warning("login_deferred", reason="worker_full")] == full.facts
    assert [warning("login_deferred", reason="store_unavailable", error=DOWN)] == down.facts
    assert [warning("login_deferred", reason="record_unreadable", error=CORRUPT)] == corrupt.facts


def test_which_step_found_no_worker() -> None:
    """The first of following a refresh, a later one, and a retry."""
    first, later = World(worker_is_full=True), running()
    first.logged_in()
    later.worker_is_full = True
    later.statuses.append(GOING_ON)
    later.run(later.flows.follow(ADA, later.record().refresh_id))
    retry = World(worker_is_full=True, sessions=deque([SessionFailed("http_500")]))
    retry.refresh(wait=False).run()
    for world in (first, later):
        dropped = warning("follow_dropped", refresh_id=world.record().refresh_id, reason="worker_full")
        assert [dropped] == world.told("follow_dropped")
    assert [warning("retry_dropped", reason="worker_full")] == retry.told("retry_dropped")


@pytest.mark.parametrize(
    ("reason", "name", "is_warning"),
    [("http_500", "session_failed", True), (UPSTREAM_OVERLOADED, "session_deferred", False)],
)
def test_why_there_is_no_session(reason: str, name: str, is_warning: bool) -> None:
    """Its code; no room at the upstream is no failure."""
    world = World(sessions=deque([SessionFailed(reason)]))
    world.refresh().run()
    assert [Fact(name, ADA.key, details={"reason": reason}, is_warning=is_warning)] == world.facts


@pytest.mark.parametrize(
    ("reason", "name", "is_warning"),
    [("connection_refused", "kick_off_not_sent", True), (UPSTREAM_OVERLOADED, "kick_off_deferred", False)],
)
def test_why_a_kick_off_was_not_sent(reason: str, name: str, is_warning: bool) -> None:
    """Its code and the refresh; no room at the upstream is no failure."""
    world = World(kick_off_answers=deque([NeverSent(reason)]))
    refresh_id = world.logged_in().refresh_id
    details = {"refresh_id": refresh_id, "reason": reason}
    assert [Fact(name, ADA.key, details=details, is_warning=is_warning)] == world.told(name)


def test_which_answer_could_not_be_recorded() -> None:
    """Each try is told, with the refresh and what the store said."""
    world = World()
    stepper = world.refresh().until(StartRefresh)
    stepper.step()
    world.store_failures = 1
    stepper.run()
    expected = warning("answer_not_recorded", refresh_id=world.record().refresh_id, error=DOWN)
    assert [expected] == world.told("answer_not_recorded")


def test_what_a_completion_tells() -> None:
    """No reason, as for a failure, but how long the refresh took, and how much of that at the upstream."""
    world = running()
    world.statuses.append(StatusReport(Phase.COMPLETE, CURRENT, NOON, ended_at=NOON + 400))
    world.run(world.flows.status(ADA.key, ADA))
    details = {"seconds_in_state": 1.0, "refresh_seconds": 1.0, "upstream_seconds": 0.4}
    details["refresh_id"] = world.record().refresh_id
    told = Fact("refresh_completed", ADA.key, source="refreshing", target="complete", details=details)
    assert [told] == world.facts


def test_which_event_was_refused() -> None:
    """The event, and the guards that said no."""
    world = running()
    world.now = NOON + WINDOW - 1
    asking = world.stepper(world.flows.status(ADA.key, ADA)).until(AskStatus)
    asking.begin()
    world.now += 2
    asking.run()
    assert [warning("event_refused", refused="refresh_completed", guards="same_window")] == world.told("event_refused")


def test_all_guards_of_a_refusal_are_told() -> None:
    """An answer that comes in the window after next is that of another refresh, and of another window."""
    world = World()
    slow = world.refresh().until(StartRefresh)
    slow.begin()
    world.now += WINDOW + MARGIN
    world.logged_in()
    world.now += WINDOW
    slow.run()
    expected = warning("event_refused", refused="refresh_accepted", guards="same_refresh same_window")
    assert [expected] == world.told("event_refused")


@pytest.mark.parametrize("nth", [1, 2])
def test_that_a_status_could_not_be_committed(nth: int) -> None:
    """The claim on a poll, and what it found."""
    world = running()
    asking = world.stepper(world.flows.status(ADA.key, ADA)).until(Commit, nth=nth)
    world.store_failures = 1
    asking.run()
    assert [warning("status_not_committed", error=DOWN)] == world.facts


@pytest.mark.parametrize(("reason", "is_warning"), [("http_500", True), (UPSTREAM_OVERLOADED, False)])
def test_why_a_status_was_not_asked(reason: str, is_warning: bool) -> None:
    """Its code and the refresh; no room at the upstream is no failure."""
    world = running()
    world.statuses.append(CouldNotAsk(reason))
    world.run(world.flows.status(ADA.key, ADA))
    details = {"reason": reason, "refresh_id": world.record().refresh_id}
    assert [Fact("status_not_asked", ADA.key, details=details, is_warning=is_warning)] == world.facts


def test_that_a_token_is_missing() -> None:
    """The store lost it, or no key opens it any more."""
    world = running()
    world.rows[ADA.key].token = None
    world.run(world.flows.session(ADA))
    assert [warning("token_missing")] == world.told("token_missing")


@pytest.mark.parametrize(
    ("step", "name"), [(Refresh(ADA), "Refresh"), (Follow(ADA, "id1"), "Follow")], ids=["refresh", "follow"]
)
@pytest.mark.parametrize(("is_full", "again"), [(False, True), (True, False)])
def test_which_step_failed_and_whether_it_is_tried_again(
    step: Refresh | Follow, name: str, is_full: bool, again: bool
) -> None:
    """What kind of step, what the store said, and whether a worker has it."""
    world = World(store_failures=1, worker_is_full=is_full)
    world.run(world.flows.step(step))
    assert [warning("step_failed", step=name, error=DOWN, again=again)] == world.facts


def test_a_step_is_given_up_at_the_limit() -> None:
    """After so many tries it is not handed over again, and that is told."""
    world = World(policy=Policy(retry_limit=2), store_failures=9)
    world.handed.append((Refresh(ADA), 0.0))
    while world.handed:
        world.run(world.flows.step(world.handed.pop()[0]))
    assert [True, True, False] == [fact.details["again"] for fact in world.told("step_failed")]


def test_which_record_the_sweep_cannot_read() -> None:
    """One warning for it, with what is wrong."""
    world = running()
    world.rows[ADA.key].value = b"\x00"
    world.rows[ADA.key].due_at = NOON
    world.run(world.flows.sweep(10))
    assert [warning("record_unreadable", error=CORRUPT)] == world.facts


def test_what_flows_tell_is_no_measurement() -> None:
    """Logs leave measurements out, and each fact of a refresh is worth a line."""
    world = World()
    world.logged_in()
    assert [False] * len(world.facts) == [fact.is_measurement for fact in world.facts]
    assert "refresh_claimed" in [fact.name for fact in world.facts]
