"""Logging out and sweeping, stepped: the window outlives the session, and one bad record stops nobody."""

from collections import deque

import pytest
from phr_refresh.statemachine.effects import Commit, CommitAll, NeverSent, Phase, Rejected, StatusReport
from phr_refresh.statemachine.outcomes import ReceiptKind, SweepReport
from phr_refresh.statemachine.record import State
from support.samples import ADA, BOB, DEADLINE, HOUR, MINUTE, NOON, SECOND, WINDOW, refreshing
from support.stepping import World
from support.values import replace


def log_out(world: World) -> None:
    """Ada logs out."""
    world.run(world.flows.logout(ADA.key))


def test_a_logout_drops_the_token_and_keeps_the_window() -> None:
    """No session and no token are left; the refresh and its window are."""
    world = World()
    world.logged_in()
    before = world.record()
    log_out(world)
    after = world.record()
    assert (State.NO_SESSION, None, None) == (after.state, after.session_expires_at, world.rows[ADA.key].token)
    assert (before.refresh_id, before.window_opens_at) == (after.refresh_id, after.window_opens_at)


def test_logging_in_again_resumes_a_running_refresh() -> None:
    """Out and in again within the deadline: joined, not sent again."""
    world = World()
    first = world.logged_in()
    log_out(world)
    world.now += MINUTE
    again = world.refresh().run()
    assert (ReceiptKind.JOINED, first.refresh_id) == (again.kind, again.refresh_id)
    assert (State.REFRESHING, [NOON]) == (world.record().state, world.kick_offs)


def test_logging_in_again_resumes_a_completed_refresh() -> None:
    """What completed while nobody was logged in is fresh at the next login."""
    world = World()
    first = world.logged_in()
    log_out(world)
    world.now += SECOND
    world.run(world.flows.follow(ADA, first.refresh_id))
    assert State.NO_SESSION is world.record().state
    assert ReceiptKind.FRESH is world.refresh().run().kind
    assert [NOON] == world.kick_offs


def test_logging_in_again_resumes_a_failed_refresh() -> None:
    """What failed while nobody was logged in is stale at the next login, and its window stays closed."""
    world = World(statuses=deque([StatusReport(Phase.FAILED)]))
    first = world.logged_in()
    log_out(world)
    world.now += SECOND
    world.run(world.flows.follow(ADA, first.refresh_id))
    again = world.refresh().run()
    assert (ReceiptKind.DEFERRED, "window_closed") == (again.kind, again.reason)
    assert (State.STALE, "all_extracts_failed") == (world.record().state, world.record().failure.code)


def test_logging_in_again_resumes_a_rejected_kick_off() -> None:
    """Logging out and in again does not buy a second kick-off after a 503."""
    world = World(kick_off_answers=deque([Rejected("http_503")]))
    world.refresh().run()
    log_out(world)
    again = world.refresh().run()
    assert (ReceiptKind.DEFERRED, "window_closed") == (again.kind, again.reason)
    assert [NOON] == world.kick_offs


def test_logging_in_again_finds_a_refresh_that_ran_out_unseen() -> None:
    """A refresh whose deadline passed while nobody was logged in is stale (timed_out) at the next login."""
    world = World()
    world.logged_in()
    log_out(world)
    world.now = NOON + DEADLINE
    again = world.refresh().run()
    assert (ReceiptKind.DEFERRED, "window_closed") == (again.kind, again.reason)
    record = world.record()
    assert (State.STALE, "timed_out", NOON + DEADLINE) == (record.state, record.failure.code, record.failure.at)


def test_logging_in_again_after_the_window_starts_a_new_refresh() -> None:
    """Once the window is open, the next login starts a refresh as if nothing had been."""
    world = World()
    world.logged_in()
    log_out(world)
    world.now = NOON + WINDOW
    assert ReceiptKind.STARTED is world.refresh().run().kind


def test_a_logout_between_claim_and_answer_loses_nothing() -> None:
    """A kick-off that is answered after the logout is recorded, and the window counts from that answer."""
    world = World()
    kicking = world.refresh().until(Commit, nth=3)
    log_out(world)
    kicking.run()
    record = world.record()
    assert (State.NO_SESSION, NOON + WINDOW) == (record.state, record.window_opens_at)
    assert "accepted" == record.kick_off


def test_a_kick_off_that_never_left_is_recorded_after_a_logout() -> None:
    """The window is not spent by a call that never left, though the patient has logged out meanwhile."""
    world = World(kick_off_answers=deque([NeverSent("connection_refused")]))
    kicking = world.refresh().until(Commit, nth=3)
    log_out(world)
    kicking.run()
    assert "never_sent" == world.record().failure.code
    assert world.record().window_is_open(world.now)


def test_a_logout_makes_the_steps_before_it_void() -> None:
    """Login, logout, and only then the worker runs: nothing is opened for somebody who has left."""
    world = World()
    world.run(world.flows.login(ADA))
    log_out(world)
    step, _ = world.handed.pop()
    world.run(world.flows.step(step))
    assert ([], [], []) == (world.opened, world.kick_offs, world.handed)


def test_a_step_that_is_tried_again_is_void_too() -> None:
    """The store failed, the patient left, and then the step comes again."""
    world = World()
    world.run(world.flows.logout(ADA.key))
    world.run(world.flows.login(ADA))
    world.store_failures = 9
    world.run(world.flows.step(world.handed.pop()[0]))
    world.store_failures = 0
    log_out(world)
    step, _ = world.handed.pop()
    world.run(world.flows.step(step))
    assert (1, []) == (step.logouts, world.opened)


def test_a_step_is_void_though_it_left_out_what_the_login_saw() -> None:
    """A step that goes to another process carries the count of logouts, and not the record."""
    world = World()
    world.logged_in()
    log_out(world)
    world.handed.clear()
    world.run(world.flows.login(ADA))
    log_out(world)
    step, _ = world.handed.pop()
    world.run(world.flows.step(replace(step, seen=None)))
    assert (1, [NOON]) == (step.logouts, world.opened)


def test_a_login_after_the_logout_counts() -> None:
    """Login, logout, login, and then both steps run in either order: one refresh, by the second login."""
    for order in ((0, 1), (1, 0)):
        world = World()
        world.run(world.flows.login(ADA))
        log_out(world)
        world.run(world.flows.login(ADA))
        steps, world.handed = [step for step, _ in world.handed], []
        for number in order:
            world.run(world.flows.step(steps[number]))
        assert ([NOON], [NOON]) == (world.opened, world.kick_offs)


def test_a_second_logout_changes_nothing_else() -> None:
    """Two tabs log out: but for the count, the record is the same."""
    world = World()
    world.logged_in()
    log_out(world)
    before = world.record()
    log_out(world)
    after = world.record()
    assert (1, 2) == (before.logouts, after.logouts)
    assert before._replace(logouts=2) == after


def test_a_logout_that_loses_its_commit_tries_again() -> None:
    """Whoever comes between load and commit does not keep the session alive."""
    world = World()
    world.logged_in()
    leaving = world.stepper(world.flows.logout(ADA.key)).until(Commit)
    world.now += SECOND
    world.run(world.flows.status(ADA.key, ADA))
    leaving.run()
    assert State.NO_SESSION is world.record().state
    assert world.record().completed_at is not None


def test_a_sweep_moves_who_is_due_and_counts_them() -> None:
    """Each patient whose deadline has passed is moved once; the report says how many."""
    world = World()
    world.logged_in(ADA)
    world.logged_in(BOB)
    world.now = NOON + DEADLINE
    moves = {"refreshing -> stale": 2}
    assert SweepReport(due=2, moved=2, conflicts=0, unreadable=0, moves=moves) == world.run(world.flows.sweep(10))
    assert (State.STALE, State.STALE) == (world.record(ADA).state, world.record(BOB).state)
    assert SweepReport(due=0, moved=0, conflicts=0, unreadable=0) == world.run(world.flows.sweep(10))


def test_a_sweep_takes_no_more_than_its_limit() -> None:
    """The limit bounds the work of one sweep; the longest overdue come first."""
    world = World()
    world.logged_in(ADA)
    world.now += SECOND
    world.logged_in(BOB)
    world.now = NOON + HOUR
    assert 1 == world.run(world.flows.sweep(1)).moved
    assert (State.STALE, State.REFRESHING) == (world.record(ADA).state, world.record(BOB).state)


def test_a_sweep_that_comes_second_counts_a_conflict() -> None:
    """Who was moved by somebody else between the list and the commit is counted as that, and left alone."""
    world = World()
    world.logged_in()
    world.now = NOON + DEADLINE
    sweeping = world.stepper(world.flows.sweep(10)).until(CommitAll)
    world.run(world.flows.status(ADA.key, ADA))
    before = world.record()
    assert SweepReport(due=1, moved=0, conflicts=1, unreadable=0) == sweeping.run()
    assert before == world.record()


@pytest.mark.parametrize("value", [b"", b"\xff", b"[]", b'{"v":99}'])
def test_an_unreadable_record_does_not_stop_the_sweep(value: bytes) -> None:
    """One bad record is told and counted, is left as it is, and everybody after it is moved."""
    world = World()
    world.logged_in(ADA)
    world.logged_in(BOB)
    world.now = NOON + DEADLINE
    first = min(ADA, BOB, key=lambda patient: (world.rows[patient.key].due_at, patient.key))
    world.rows[first.key].value = value
    moves = {"refreshing -> stale": 1}
    expected = SweepReport(due=2, moved=1, conflicts=0, unreadable=1, moves=moves)
    assert expected == world.run(world.flows.sweep(10))
    assert value == world.rows[first.key].value
    assert 1 == len(world.told("record_unreadable"))


def test_a_sweep_asks_the_upstream_nothing() -> None:
    """Sweeping is between us and the store."""
    world = World()
    world.put(refreshing())
    world.rows[ADA.key].due_at = NOON + DEADLINE
    world.now = NOON + HOUR
    world.run(world.flows.sweep(10))
    assert ([], [], []) == (world.polls, world.opened, world.kick_offs)
