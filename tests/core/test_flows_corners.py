"""Corners of the flows, stepped: full workers, stores that fail twice, claims that lapse, records that nobody wrote."""

from collections import deque
from datetime import timedelta

import pytest
from phr_refresh import ConfigurationError, Policy, ReceiptKind, State, StoreUnavailable
from phr_refresh.statemachine.effects import (
    Commit,
    HandOver,
    Load,
    NeverSent,
    OpenSession,
    Pause,
    SessionFailed,
    StartRefresh,
    Tell,
)
from phr_refresh.statemachine.policy import as_datetime
from phr_refresh.statemachine.record import KickOff
from support.samples import ADA, MARGIN, MINUTE, NOON, SECOND, WINDOW, refreshing
from support.stepping import GOING_ON, World


def test_a_worker_that_is_full_drops_the_following() -> None:
    """The poll is made and told; who follows next is whoever reads the status."""
    world = World()
    receipt = world.logged_in()
    world.now += SECOND
    world.statuses.append(GOING_ON)
    world.worker_is_full = True
    assert State.REFRESHING is world.run(world.flows.follow(ADA, receipt.refresh_id)).state
    assert [receipt.refresh_id] == [fact.details["refresh_id"] for fact in world.told("follow_dropped")]


def test_a_worker_that_is_full_drops_the_retry() -> None:
    """The pause stands in the record; the next login after it starts anew."""
    world = World(sessions=deque([SessionFailed("http_500")]), worker_is_full=True)
    assert "http_500" == world.refresh(wait=False).run().reason
    assert ["worker_full"] == [fact.details["reason"] for fact in world.told("retry_dropped")]


def test_a_call_that_never_left_and_cannot_be_recorded_leaves_its_claim() -> None:
    """Nobody can take the claim back: the receipt says when the window opens, and the store is tried three times."""
    world = World(kick_off_answers=deque([NeverSent("connection_refused")]))
    stepper = world.refresh(wait=False).until(StartRefresh)
    world.store_failures = 100
    receipt = stepper.run()
    expected = (ReceiptKind.DEFERRED, "never_sent", as_datetime(NOON + WINDOW + MARGIN))
    assert expected == (receipt.kind, receipt.reason, receipt.retry_at)
    assert ([], KickOff.CLAIMED) == (world.handed, world.record().kick_off)
    assert (3, 95) == (len(world.told("answer_not_recorded")), world.store_failures)


def test_an_answer_is_recorded_once_the_store_is_back() -> None:
    """The first commit fails, and the load after it; the second load shows how things stand."""
    world = World()
    stepper = world.refresh(wait=False).until(StartRefresh)
    stepper.step()
    world.store_failures = 2
    assert ReceiptKind.STARTED is stepper.run().kind
    assert KickOff.ACCEPTED is world.record().kick_off


def test_between_two_tries_to_record_an_answer_it_waits_and_looks() -> None:
    """The store is not hammered, and what happened meanwhile is not overwritten."""
    world = World()
    stepper = world.refresh(wait=False).until(StartRefresh)
    stepper.step()
    world.store_failures = 1
    effects = []
    while not isinstance(stepper.effect, HandOver):
        effects.append(stepper.effect)
        stepper.step()
    kinds = [Commit, Tell, Pause, Load, Commit]
    assert kinds == [type(effect) for effect in effects]
    assert [Pause(0.1), Load(ADA.key)] == effects[2:4]


def test_a_status_that_cannot_be_recorded_is_told_as_it_was() -> None:
    """The record could be read: the caller gets it, and one warning tells."""
    world = World()
    world.logged_in()
    world.now += SECOND
    stepper = world.stepper(world.flows.status(ADA.key, ADA)).until(Commit, nth=2)
    world.store_failures = 1
    assert State.REFRESHING is stepper.run().state
    assert 1 == len(world.told("status_not_committed"))


def test_a_claim_is_tried_to_be_committed_three_times() -> None:
    """A store that loses the answer to each of them is down: then the caller hears so."""
    world = World()
    stepper = world.refresh().until(Commit)
    for _ in range(2):
        world.store_failures = 1
        stepper.step()
        stepper.until(Commit)
    world.store_failures = 1
    with pytest.raises(StoreUnavailable):
        stepper.run()
    assert ([], {}) == (world.opened, world.rows)


def test_a_failure_of_a_creator_whose_claim_lapsed_changes_nothing() -> None:
    """Another has the claim by then: its record stays as it is, and the failure stays with who met it."""
    world = World(sessions=deque([SessionFailed("timed_out")]))
    slow = world.refresh(wait=False).until(OpenSession)
    slow.begin()
    world.now += MINUTE
    other = world.refresh(wait=False).until(OpenSession)
    before = world.record()
    receipt = slow.run()
    assert (ReceiptKind.DEFERRED, "timed_out") == (receipt.kind, receipt.reason)
    assert before == world.record()
    world.opening = 0
    assert ReceiptKind.STARTED is other.run().kind


def test_a_failure_is_noted_over_what_came_between() -> None:
    """A commit of somebody else between claim and failure is no reason to forget the failure."""
    world = World(sessions=deque([SessionFailed("http_500")]))
    stepper = world.refresh(wait=False).until(OpenSession)
    stepper.step()
    stepper.until(Commit)
    world.put(world.record()._replace(logouts=0, as_of=NOON))
    stepper.run()
    assert ("http_500", NOON, 1) == (world.record().session_failure.code, world.record().as_of, world.record().failures)


def test_a_record_without_the_time_of_its_claim_asks_nobody() -> None:
    """Nobody of us writes one; the upstream's answer could not be told from one of an earlier refresh."""
    world = World()
    world.put(refreshing(claimed_at=None))
    world.now += SECOND
    assert State.REFRESHING is world.run(world.flows.status(ADA.key, ADA)).state
    assert [] == world.polls


def test_a_login_that_cannot_load_ends_there() -> None:
    """One try, one fact."""
    world = World(store_failures=1)
    stepper = world.stepper(world.flows.login(ADA)).until(Load)
    assert "store_unavailable" == stepper.run().reason
    assert 1 == world.trips


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"decision_age": timedelta(milliseconds=99)},
            "Policy.decision_age: a round trip to the store may take longer",
        ),
        ({"retention": timedelta(days=367)}, "Policy.retention: it is longer than a year"),
    ],
)
def test_a_policy_beyond_reason_is_refused(fields: dict[str, timedelta], message: str) -> None:
    """The error names the field and what is wrong with it."""
    with pytest.raises(ConfigurationError, match=message):
        Policy(**fields)


def test_decisions_may_be_short_lived_where_no_replica_is_waited_for() -> None:
    """The wait for replicas bounds them only where there is one."""
    short = timedelta(milliseconds=200)
    assert short == Policy(decision_age=short).decision_age
    with pytest.raises(ConfigurationError, match="claim_replicas_wait"):
        Policy(decision_age=short, claim_replicas=1)
