"""Creating a session, stepped: what its claim, its conflicts and its failures leave behind (R2)."""

from collections import deque
from typing import Any

import pytest
from phr_refresh.statemachine.effects import (
    UPSTREAM_OVERLOADED,
    Commit,
    Load,
    OpenSession,
    Pause,
    Refresh,
    SessionFailed,
    SessionOpened,
    StartRefresh,
)
from phr_refresh.statemachine.errors import SessionUnavailable
from phr_refresh.statemachine.outcomes import Receipt, ReceiptKind
from phr_refresh.statemachine.policy import Policy, as_datetime, milliseconds
from phr_refresh.statemachine.record import RefreshRecord, State
from support.samples import ADA, HOUR, NOON, SECOND, WINDOW, refreshing, token_until
from support.stepping import Stepper, World

AGE = milliseconds(Policy().decision_age)
CLAIM = milliseconds(Policy().session_claim) + 2 * AGE
DEFERRED = ReceiptKind.DEFERRED


def session(world: World) -> Stepper:
    """A process that wants a session for Ada."""
    return world.stepper(world.flows.session(ADA))


def with_commits(stepper: Stepper) -> tuple[Any, list[tuple[str, ...]]]:
    """What a process returns, and what each of its commits noted."""
    noted = []
    while stepper.effect is not None:
        if isinstance(stepper.effect, Commit):
            noted.append(stepper.effect.noted)
        stepper.step()
    return stepper.outcome, noted


def claim_standing(world: World) -> tuple[str | None, int]:
    """Who is creating a session, and until when."""
    return world.record().opening_id, world.record().opening_until


# Conflicts and lost answers.


def test_a_conflict_that_leaves_our_claim_costs_no_second_session_call() -> None:
    """Somebody noted something else between our call and its commit: the token in hand is committed then."""
    world = World()
    creator = session(world).until(Commit, nth=2)
    world.put(world.record()._replace(next_poll_at=NOON))
    assert ("jwt-1", 1) == (creator.run().reveal(), len(world.opened))


def test_a_store_that_lost_the_record_meanwhile_gets_a_new_one() -> None:
    """As after a failover: nobody can say whose session it is, so another is created under a claim that stands."""
    world = World()
    creator = session(world).until(Commit, nth=2)
    world.rows.clear()
    assert ("jwt-2", 0) == (creator.run().reveal(), world.overlaps)


def test_what_became_of_a_commit_is_looked_up_past_every_cache() -> None:
    """A kick-off may come next, whose window counts from the clock of this load."""
    world = World()
    stepper = world.refresh().until(Commit)
    world.store_failures = 1
    stepper.step()
    assert Load(ADA.key, with_token=True) == stepper.effect


@pytest.mark.parametrize(("late", "effect"), [(AGE, OpenSession), (AGE + 1, Commit)])
def test_a_claim_that_is_found_again_late_is_claimed_anew(late: int, effect: type) -> None:
    """Its answer was lost. Other processes must see it for as long as the call may take (R2)."""
    world = World()
    stepper = world.refresh().until(Commit)
    world.perform(stepper.effect)
    world.now += late
    world.store_failures = 1
    stepper.step()
    stepper.step()
    assert isinstance(stepper.effect, effect)
    stepper.until(OpenSession)
    assert world.record().opening_until >= world.now + CLAIM - AGE


def test_who_waits_looks_at_the_patient_again() -> None:
    """After each pause."""
    world = World()
    session(world).until(OpenSession).begin()
    waiter = session(world).until(Pause)
    waiter.step()
    assert Load(ADA.key) == waiter.effect


# What a refresh that cannot go on says.


def test_a_refresh_of_who_has_left_is_deferred() -> None:
    """The step was asked for before the logout."""
    world = World()
    world.run(world.flows.logout(ADA.key))
    assert Receipt(kind=DEFERRED, reason="logged_out") == world.run(world.flows.refresh(ADA, logouts=0))


def test_a_refresh_that_does_not_wait_says_until_when_another_may_create() -> None:
    """Then the claim of who creates the session lapses."""
    world = World()
    session(world).until(OpenSession).begin()
    expected = Receipt(kind=DEFERRED, reason="session_being_created", retry_at=as_datetime(NOON + CLAIM))
    assert expected == world.refresh(wait=False).run()


def test_a_cancelled_creation_says_so_of_the_refresh_that_stands() -> None:
    """Its receipt carries the refresh of this window; the claim is given back whoever comes between."""
    world = World()
    refresh_id = world.logged_in().refresh_id
    world.run(world.flows.logout(ADA.key))
    creator = world.refresh(wait=False).until(OpenSession)
    creator.begin()
    world.run(world.flows.logout(ADA.key))
    creator.until(Commit, nth=2)
    assert ("session_claim_cleared",) == creator.effect.noted
    world.put(world.record()._replace(next_poll_at=NOON))
    receipt = creator.run()
    assert (DEFERRED, "logged_out", refresh_id) == (receipt.kind, receipt.reason, receipt.refresh_id)
    assert (None, 0) == claim_standing(world)


@pytest.mark.parametrize(
    ("changes", "wait", "handed"),
    [
        ({"failures": 4}, False, [0.001]),
        ({"failures": 5}, False, []),
        ({"failures": 4}, True, []),
        ({"failures": 4, "window_opens_at": NOON + WINDOW}, False, []),
    ],
    ids=["may try", "tried too often", "is waited for", "window closed"],
)
def test_a_step_that_comes_a_moment_before_the_pause_is_over(
    changes: dict[str, int], wait: bool, handed: list[float]
) -> None:
    """It is handed over for when it is, if a worker runs it, and failures in a row are within the limit."""
    world = World()
    world.put(refreshing(**{"state": State.STALE, "window_opens_at": NOON, "retry_at": NOON + 1} | changes))
    assert DEFERRED is world.refresh(wait=wait).run().kind
    assert handed == [delay for _, delay in world.handed]


# Failures.


def test_a_session_call_that_fails_gives_its_claim_back() -> None:
    """Nothing is said to be under way then, and the record says what was noted."""
    world = World(sessions=deque([SessionFailed("http_500")]))
    _, noted = with_commits(world.refresh())
    assert [("session_claim",), ("session_failure",)] == noted
    assert (None, 0) == claim_standing(world)
    assert not world.run(world.flows.status(ADA.key)).under_way


def test_a_creation_that_is_cancelled_gives_its_claim_back() -> None:
    """So that a status says that nothing is under way."""
    world = World()
    creator = session(world).until(OpenSession)
    world.run(world.flows.logout(ADA.key))
    with pytest.raises(SessionUnavailable):
        creator.run()
    assert (None, 0) == claim_standing(world)


@pytest.mark.parametrize(("lasts", "reason"), [(0, "token_expired"), (1, None)])
def test_a_token_that_is_expired_when_it_comes_is_a_failure(lasts: int, reason: str | None) -> None:
    """To the millisecond."""
    world = World(sessions=deque([SessionOpened(token_until(NOON + lasts))]))
    creator = session(world)
    if reason is None:
        assert NOON + lasts == creator.run().expires_at
    else:
        with pytest.raises(SessionUnavailable) as raised:
            creator.run()
        assert reason == raised.value.reason


def test_a_token_that_expires_before_its_commit_claims_no_kick_off() -> None:
    """Somebody else's commit came between, and it took until then: the patient gets another session first."""
    world = World(sessions=deque([SessionOpened(token_until(NOON + 1)), SessionOpened(token_until(NOON + HOUR))]))
    refresh = world.refresh().until(Commit, nth=2)
    world.now += SECOND
    world.put(world.record()._replace(next_poll_at=NOON))
    assert (ReceiptKind.STARTED, 2, 0) == (refresh.run().kind, len(world.opened), world.overlaps)


def test_who_asks_during_the_pause_hears_when_it_is_over() -> None:
    """And why there is one."""
    world = World(sessions=deque([SessionFailed("http_500")]))
    for _ in range(2):
        with pytest.raises(SessionUnavailable) as raised:
            session(world).run()
        assert ("http_500", as_datetime(NOON + 2 * SECOND)) == (raised.value.reason, raised.value.retry_at)
    assert 1 == len(world.opened)


def test_a_pause_that_a_kick_off_has_earned_keeps_nobody_from_a_session() -> None:
    """Records can be shown, though no refresh may start yet."""
    world = World()
    world.put(RefreshRecord(since=NOON, failures=1, retry_at=NOON + HOUR // 6))
    assert "jwt-1" == session(world).run().reveal()


def test_a_call_that_fails_after_its_claim_has_lapsed_is_tried_again() -> None:
    """Another process creates the session now; what that one does is left alone."""
    world = World(sessions=deque([SessionFailed("http_500")]))
    slow = world.refresh(wait=False).until(OpenSession)
    slow.begin()
    world.now += CLAIM
    session(world).until(OpenSession)
    before = world.record()
    slow.run()
    assert (before, [(Refresh(ADA), 2.0)]) == (world.record(), world.handed)


def test_a_reader_without_room_leaves_the_deferral_to_the_worker() -> None:
    """The refresh that a worker holds back stays under way."""
    world = World(sessions=deque([SessionFailed(UPSTREAM_OVERLOADED, retry_after=30.0)] * 2))
    world.refresh(wait=False).run()
    world.now = world.record().retry_at
    with pytest.raises(SessionUnavailable):
        session(world).run()
    assert NOON == world.record().deferred_since


# The claim on the kick-off.


def test_a_claim_keeps_status_calls_off_until_its_answer_may_be_there() -> None:
    """Whoever asks while the kick-off is on its way waits for the first interval."""
    world = World()
    world.refresh().until(StartRefresh)
    assert NOON + SECOND == world.record().next_poll_at


def test_a_record_without_a_session_has_none_whatever_else_it_says() -> None:
    """One that some other program has changed: a session is created, as for anybody."""
    world = World()
    world.put(RefreshRecord(state=State.NO_SESSION, since=NOON, session_expires_at=NOON + HOUR))
    assert (ReceiptKind.STARTED, 1) == (world.refresh().run().kind, len(world.opened))
