"""The session flow, stepped: one creation at a time, shared by all, and nobody goes on without (R2, R8)."""

from collections import deque
from datetime import timedelta

import pytest
from phr_refresh.statemachine.effects import (
    Commit,
    Load,
    Loaded,
    NeverSent,
    OpenSession,
    Pause,
    Refresh,
    SessionFailed,
    StartRefresh,
)
from phr_refresh.statemachine.errors import NotEligible, SessionUnavailable, StoreUnavailable
from phr_refresh.statemachine.outcomes import ReceiptKind
from phr_refresh.statemachine.policy import Policy, as_datetime, milliseconds
from phr_refresh.statemachine.record import State, cancelled
from support.samples import ADA, GUEST, HOUR, MINUTE, NOON, SECOND
from support.stepping import Stepper, World, explore

CALL = milliseconds(Policy().session_claim)
#: Claim and call may each be late by the age of a decision.
CLAIM = CALL + 2 * milliseconds(Policy().decision_age)


def session(world: World) -> Stepper:
    """A process that wants a session for Ada."""
    return world.stepper(world.flows.session(ADA))


def creating(world: World) -> Stepper:
    """A process whose session call the upstream has received and not answered."""
    creator = session(world).until(OpenSession)
    creator.begin()
    return creator


def test_a_session_is_created_once_and_shared() -> None:
    """The first caller creates the session, everybody after that gets the cached token."""
    world = World()
    first = session(world).run()
    assert first == session(world).run()
    assert 1 == len(world.opened)
    assert State.SESSION_CREATED is world.record().state


def test_a_session_made_for_a_reader_starts_the_refresh_too() -> None:
    """A session that was created outside a login hands the refresh to the worker."""
    world = World()
    session(world).run()
    assert [(Refresh(ADA), 0.0)] == world.handed


def test_a_refresh_that_a_reader_asked_for_is_void_after_a_logout() -> None:
    """As one that a login asked for, also where the patient had logged out before."""
    world = World()
    world.run(world.flows.logout(ADA.key))
    session(world).run()
    world.run(world.flows.logout(ADA.key))
    step, _ = world.handed.pop()
    world.run(world.flows.step(step))
    assert (1, 1, []) == (step.logouts, len(world.opened), world.kick_offs)


def test_a_cached_session_costs_one_load() -> None:
    """Whoever finds a valid token makes one round trip and nothing else."""
    world = World()
    session(world).run()
    before = world.trips
    session(world).run()
    assert before + 1 == world.trips


def test_a_session_is_valid_until_the_millisecond_before_it_expires() -> None:
    """The cached token counts until its expiry, and is created again exactly there."""
    world = World()
    session(world).run()
    world.now = NOON + HOUR // 4 - 1
    session(world).run()
    assert 1 == len(world.opened)
    world.now += 1
    session(world).run()
    assert 2 == len(world.opened)


def test_a_waiter_gets_the_token_of_the_one_who_creates_it() -> None:
    """While somebody creates the session, others wait and then share it."""
    world = World()
    creator = creating(world)
    waiter = session(world).until(Pause, nth=3)
    creator.step()
    token = creator.run()
    assert token == waiter.run()
    assert 1 == len(world.opened)


def test_a_waiter_never_goes_on_without_a_session() -> None:
    """Who has waited as long as the policy allows raises `SessionUnavailable`, and has called nobody."""
    world = World(Policy(session_wait=timedelta(seconds=1)))
    creating(world)
    waiter = session(world)
    with pytest.raises(SessionUnavailable) as raised:
        waiter.run()
    assert ("session_being_created", as_datetime(NOON + CLAIM)) == (raised.value.reason, raised.value.retry_at)
    assert 1 == len(world.opened)
    assert NOON + SECOND == world.now


def test_a_waiter_waits_no_less_than_the_policy_says() -> None:
    """In whole intervals."""
    world = World(Policy(session_wait=timedelta(milliseconds=101)))
    creating(world)
    with pytest.raises(SessionUnavailable):
        session(world).run()
    assert NOON + 200 == world.now


def test_a_session_in_hand_is_cached_whatever_has_happened_meanwhile() -> None:
    """The kick-off of the last login never left and earned a pause: the session of this one is kept for after it."""
    world = World(kick_off_answers=deque([NeverSent("connection_refused")]))
    kicking = world.refresh(wait=False).until(StartRefresh)
    world.run(world.flows.logout(ADA.key))
    creator = world.refresh(wait=False).until(Commit, nth=2)
    kicking.run()
    assert (ReceiptKind.DEFERRED, "backoff") == (creator.run().kind, creator.outcome.reason)
    record = world.record()
    assert (State.SESSION_CREATED, None, 2) == (record.state, record.opening_id, len(world.opened))
    assert "jwt-2" == session(world).run().reveal()


def test_a_waiter_fails_with_the_creator() -> None:
    """When the creation fails, who waits for it does not call in its place at once."""
    world = World(sessions=deque([SessionFailed("http_500")]))
    creator = creating(world)
    waiter = session(world).until(Pause)
    with pytest.raises(SessionUnavailable):
        creator.run()
    with pytest.raises(SessionUnavailable) as raised:
        waiter.run()
    assert "http_500" == raised.value.reason
    assert 1 == len(world.opened)


def test_who_refreshes_waits_too_unless_told_not_to() -> None:
    """As for a session; then the refresh is started with the one that another has created."""
    world = World()
    creator = creating(world)
    refreshing = world.refresh().until(Pause)
    creator.run()
    assert ReceiptKind.STARTED is refreshing.run().kind
    assert 1 == len(world.opened)


def test_a_session_outlives_the_refresh_that_opened_it() -> None:
    """Claiming, sending and following a refresh leave the token where it is."""
    world = World()
    refresh_id = world.logged_in().refresh_id
    world.now += SECOND
    world.run(world.flows.follow(ADA, refresh_id))
    assert "jwt-1" == session(world).run().reveal()


def test_a_crashed_creators_claim_lapses_by_itself() -> None:
    """Nobody creates a session until the claim of the one that died has lapsed, and then somebody does."""
    world = World()
    creating(world).crash()
    world.now = NOON + CLAIM - 100
    waiter = session(world).until(Pause)
    assert 1 == len(world.opened)
    waiter.run()
    assert [NOON, NOON + CLAIM] == world.opened


def test_a_waiter_outlasts_a_crashed_creator() -> None:
    """Under the default policy, who waits for a creator that died gets a session in the end."""
    world = World()
    creating(world).crash()
    assert "jwt-1" == session(world).run().reveal()


def test_a_creator_whose_claim_lapsed_drops_its_token() -> None:
    """A call that took longer than its claim gives its token to nobody: the session of who came after it counts."""
    world = World()
    slow = creating(world)
    world.now += CLAIM
    second = session(world).run()
    assert second == slow.run()
    assert second == session(world).run()


def test_claim_and_call_do_not_outlast_the_claim_that_others_see() -> None:
    """A claim committed late and sent late, by the longest pauses allowed, ends before another may claim (R2)."""
    world = World()
    age = milliseconds(Policy().decision_age)
    slow = session(world).until(Commit)
    world.now += age
    slow.until(OpenSession)
    world.now += age
    slow.begin()
    # The longest call that the facade's check of Policy.session_claim lets pass.
    world.now += CALL - 1
    assert isinstance(session(world).until(Pause).effect, Pause)


def test_a_failed_session_call_backs_off_and_doubles() -> None:
    """Each failure in a row doubles the pause; nobody calls before it is over."""
    world = World(sessions=deque([SessionFailed("http_500")] * 3))
    for pause in (2, 4, 8):
        before = world.now
        with pytest.raises(SessionUnavailable) as raised:
            session(world).run()
        assert ("http_500", as_datetime(before + pause * SECOND)) == (raised.value.reason, raised.value.retry_at)
        world.now = before + pause * SECOND - 1
        with pytest.raises(SessionUnavailable):
            session(world).run()
        world.now += 1
    session(world).run()
    assert 4 == len(world.opened)
    assert (0, None) == (world.record().failures, world.record().session_failure)
    assert ["http_500"] * 3 == [fact.details["reason"] for fact in world.told("session_failed")]


def test_a_worker_retries_a_failed_session_up_to_the_limit() -> None:
    """The worker's step is handed over again after each pause, `retry_limit - 1` times, then never by itself."""
    world = World(sessions=deque([SessionFailed("http_500")] * 9))
    world.handed.append((Refresh(ADA), 0.0))
    delays = []
    while world.handed:
        step, delay = world.handed.pop()
        world.now += int(delay * 1000)
        delays.append(delay)
        world.run(world.flows.step(step))
    assert [0.0, 2.0, 4.0, 8.0, 16.0] == delays
    assert 5 == len(world.opened)
    world.now += 5 * MINUTE
    world.run(world.flows.step(Refresh(ADA)))
    assert 6 == len(world.opened)


def test_a_worker_hands_its_step_over_while_another_creates_the_session() -> None:
    """A worker holds no thread while it waits: its step comes back in a second."""
    world = World()
    creating(world)
    world.run(world.flows.step(Refresh(ADA)))
    assert [(Refresh(ADA), 1.0)] == world.handed


@pytest.mark.parametrize("lost", ["evicted", "unsealable"])
def test_a_token_that_is_gone_is_told_and_created_again(lost: str) -> None:
    """A session whose token the store lost, or that no key opens, is as good as expired, and that is told."""
    world = World()
    session(world).run()
    world.rows[ADA.key].token = None
    again = session(world).run()
    assert "jwt-2" == again.reveal(), lost
    assert 1 == len(world.told("token_missing"))
    assert again == session(world).run()


def test_two_who_miss_the_same_token_create_one() -> None:
    """Two processes that both find the token gone create one session between them, in every order."""

    def make() -> tuple[World, list[Stepper]]:
        world = World(Policy(session_wait=timedelta(milliseconds=100)))
        session(world).run()
        world.rows[ADA.key].token = None
        return world, [session(world), session(world)]

    for moves, world, steppers in explore(make):
        assert 0 == world.overlaps, moves
        assert 2 == len(world.opened), moves
        assert all(isinstance(item.error, SessionUnavailable | None) for item in steppers), moves


def test_a_token_missing_during_a_refresh_leaves_it_running() -> None:
    """Creating the session again touches neither the refresh nor its window."""
    world = World()
    world.logged_in()
    world.rows[ADA.key].token = None
    world.handed.clear()
    before = world.record()
    session(world).run()
    after = world.record()
    assert [] == world.handed
    assert before._replace(session_expires_at=after.session_expires_at) == after


def test_a_logout_during_creation_gives_the_session_to_nobody() -> None:
    """The creator sees that it was cancelled: no token is stored, the claim is cleared, the caller gets none."""
    world = World()
    creator = creating(world)
    world.run(world.flows.logout(ADA.key))
    with pytest.raises(SessionUnavailable) as raised:
        creator.run()
    assert "logged_out" == raised.value.reason
    record = world.record()
    assert (State.NO_SESSION, None, None) == (record.state, record.opening_id, world.rows[ADA.key].token)


def test_a_logout_during_creation_allows_no_second_creation_beside_it() -> None:
    """Who logs in again waits until the cancelled creation is over (R2)."""
    world = World()
    creator = creating(world)
    world.run(world.flows.logout(ADA.key))
    waiter = session(world).until(Pause)
    assert 1 == len(world.opened)
    with pytest.raises(SessionUnavailable):
        creator.run()
    waiter.run()
    assert (2, 0) == (len(world.opened), world.overlaps)


def test_a_cancelled_creation_that_fails_clears_its_claim_too() -> None:
    """The call is over, so who logs in again need not wait for the claim to lapse."""
    world = World(sessions=deque([SessionFailed("http_500")]))
    creator = world.refresh(wait=False).until(OpenSession)
    creator.begin()
    world.run(world.flows.logout(ADA.key))
    creator.run()
    assert world.record().opening_id is None


def test_a_cancelled_creation_that_fails_is_not_retried() -> None:
    """The patient has left: no step for another session call is handed over."""
    world = World(sessions=deque([SessionFailed("http_500")]))
    creator = world.refresh(wait=False).until(OpenSession)
    creator.begin()
    world.run(world.flows.logout(ADA.key))
    creator.run()
    assert [] == world.handed


def test_a_cancelled_id_stays_cancelled() -> None:
    """Cancelling twice is cancelling once, and no cancelled id is one that a process would take for its own."""
    assert cancelled("a") == cancelled(cancelled("a")) != "a"


def test_a_lost_answer_of_the_token_commit_gives_the_stored_token() -> None:
    """The token is in the store though the flow heard of a conflict: it is loaded, not created again."""
    world = World()
    creator = session(world).until(Commit, nth=2)
    creator.step(lose_answer=True)
    assert "jwt-1" == creator.run().reveal()
    assert 1 == len(world.opened)


def test_who_has_no_mhv_account_gets_no_session() -> None:
    """`NotEligible`, before anything is loaded (R8)."""
    world = World()
    with pytest.raises(NotEligible):
        world.run(world.flows.session(GUEST))
    assert (0, []) == (world.trips, world.opened)


def test_a_store_that_is_down_raises() -> None:
    """`session` does not go on without the store: another process might be creating."""
    world = World(store_failures=1)
    with pytest.raises(StoreUnavailable):
        session(world).run()
    assert [] == world.opened


def test_a_refresh_that_cannot_get_a_session_says_why() -> None:
    """The receipt carries the code of the failed call and the end of the pause."""
    world = World(sessions=deque([SessionFailed("timed_out")]))
    receipt = world.refresh().run()
    expected = (ReceiptKind.DEFERRED, "timed_out", as_datetime(NOON + 2 * SECOND))
    assert expected == (receipt.kind, receipt.reason, receipt.retry_at)


def test_no_answer_of_the_store_shows_the_token() -> None:
    """`repr` and `str` of everything that carries a token withhold it (R7)."""
    world = World()
    token = session(world).run()
    loaded = Loaded(world.record(), "v1", NOON, token)
    for shown in (repr(token), str(token), f"{token}", repr(loaded), repr(Load(ADA.key))):
        assert token.reveal() not in shown
    assert {"Authorization": "Bearer jwt-1"} == token.headers()
