"""Several flows against each other, in every order, with every crash and lost answer (R1, R2, R4, R6)."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from phr_refresh.statemachine.errors import SessionUnavailable
from phr_refresh.statemachine.outcomes import Receipt, ReceiptKind
from phr_refresh.statemachine.policy import Policy
from phr_refresh.statemachine.record import State
from support.samples import ADA, MARGIN, MINUTE, NOON, SECOND, WINDOW
from support.stepping import Moves, Scene, Stepper, World, explore

pytestmark = pytest.mark.once

IMPATIENT = Policy(session_wait=timedelta(milliseconds=100))


def two_refreshes() -> Scene:
    """Two processes about to refresh the same patient, whom nobody has seen yet."""
    world = World(IMPATIENT)
    return world, [world.refresh(), world.refresh()]


def two_refreshes_over_a_session() -> Scene:
    """Two processes about to refresh the same patient, whose session is cached and whose window has passed."""
    world = World(IMPATIENT)
    world.logged_in()
    world.kick_offs.clear()
    world.now = NOON + WINDOW
    world.run(world.flows.session(ADA))
    world.handed.clear()
    return world, [world.refresh(), world.refresh()]


def refresh_and_logout() -> Scene:
    """One worker refreshes while the patient logs out and another worker refreshes after a new login."""
    world = World(IMPATIENT)
    logout = world.stepper(world.flows.logout(ADA.key))
    return world, [world.refresh(wait=False), logout, world.refresh(wait=False)]


def refresh_and_session() -> Scene:
    """One process refreshes while another wants a session."""
    world = World(IMPATIENT)
    return world, [world.refresh(), world.stepper(world.flows.session(ADA))]


SCENES = [two_refreshes, two_refreshes_over_a_session, refresh_and_logout, refresh_and_session]


def never_twice(moves: Moves, world: World, steppers: list[Stepper]) -> None:
    """R1 and R2, of one end of an exploration; nobody ends with an error but for want of a session."""
    assert len(world.kick_offs) <= 1, f"two kick-offs after {moves}"
    assert world.overlaps == 0, f"two session creations at once after {moves}"
    for stepper in steppers:
        assert isinstance(stepper.error, SessionUnavailable | None), moves


@pytest.mark.parametrize("scene", SCENES)
def test_every_order_sends_one_kick_off_and_overlaps_no_session_creation(scene: Callable[[], Scene]) -> None:
    """Whatever the order of their effects, no two processes send two kick-offs or create two sessions at once."""
    ends = 0
    for moves, world, steppers in explore(scene):
        ends += 1
        never_twice(moves, world, steppers)
    assert ends > 1


@pytest.mark.parametrize("scene", SCENES)
def test_every_order_with_a_crash_sends_at_most_one_kick_off(scene: Callable[[], Scene]) -> None:
    """A process that dies between any two effects leaves nothing that makes another one send a second kick-off."""
    for moves, world, steppers in explore(scene, crashes=1):
        never_twice(moves, world, steppers)


@pytest.mark.parametrize("scene", [two_refreshes, two_refreshes_over_a_session])
def test_every_order_gives_winner_and_loser_the_same_refresh_id(scene: Callable[[], Scene]) -> None:
    """One of two racing refreshes starts, and both receipts carry its refresh id, unless the loser would not wait."""
    for moves, world, steppers in explore(scene):
        receipts: list[Receipt] = [stepper.outcome for stepper in steppers]
        assert len(world.kick_offs) == 1, moves
        assert sum(receipt.kind is ReceiptKind.STARTED for receipt in receipts) == 1, moves
        ids = {receipt.refresh_id for receipt in receipts if receipt.reason != "session_being_created"}
        assert {world.record().refresh_id} == ids, moves


def test_every_crash_leaves_a_patient_who_gets_a_refresh_in_bounded_time() -> None:
    """Wherever one of two processes dies: a window later the next login's refresh is started (R4)."""
    for moves, world, _ in explore(two_refreshes, crashes=2):
        world.now += WINDOW + MARGIN + MINUTE
        world.opening = 0
        before = len(world.kick_offs)
        assert ReceiptKind.STARTED is world.refresh().run().kind, moves
        assert before + 1 == len(world.kick_offs), moves


@pytest.mark.parametrize("scene", [two_refreshes, two_refreshes_over_a_session, refresh_and_session])
def test_every_order_with_lost_commit_answers_sends_at_most_one_kick_off(scene: Callable[[], Scene]) -> None:
    """Two commits anywhere take effect while their flows hear of conflicts: still never twice, and never stuck."""
    for moves, world, steppers in explore(scene, losses=2):
        never_twice(moves, world, steppers)


@pytest.mark.parametrize("scene", [two_refreshes, two_refreshes_over_a_session])
def test_every_order_with_a_lost_commit_answer_still_refreshes(scene: Callable[[], Scene]) -> None:
    """One lost answer, nobody dead: the one kick-off goes out, and its acceptance is recorded."""
    for moves, world, _ in explore(scene, losses=1):
        assert 1 == len(world.kick_offs), moves
        assert (State.REFRESHING, "accepted") == (world.record().state, world.record().kick_off), moves


def test_every_order_of_logout_and_askers_is_survived() -> None:
    """A refresh that two tabs ask about while a third logs out: one status call, and its end is not lost (R6)."""

    def make() -> Scene:
        world = World()
        world.logged_in()
        world.now = NOON + SECOND
        askers = [world.stepper(world.flows.status(ADA.key, ADA)) for _ in range(2)]
        return world, [*askers, world.stepper(world.flows.logout(ADA.key))]

    for moves, world, steppers in explore(make):
        assert [NOON + SECOND] == world.polls, moves
        assert State.NO_SESSION is world.record().state, moves
        assert world.record().completed_at is not None, moves
        assert [None] * 3 == [stepper.error for stepper in steppers], moves


def test_every_order_of_a_kick_off_and_its_askers_agrees_with_both() -> None:
    """A status call may overtake the kick-off's answer: its completion stays, and the window counts (R3)."""

    def make() -> Scene:
        world = World()
        kicking = world.refresh()
        while not world.kick_offs:
            kicking.move()
        world.now += SECOND
        return world, [kicking, world.stepper(world.flows.status(ADA.key, ADA))]

    for moves, world, _ in explore(make):
        record = world.record()
        # An acceptance that comes first puts the next status call off.
        expected = State.COMPLETE if world.polls else State.REFRESHING
        assert (expected, "accepted") == (record.state, record.kick_off), moves
        assert NOON + SECOND + WINDOW == record.window_opens_at, moves
