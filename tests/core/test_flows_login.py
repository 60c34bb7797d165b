"""The login flow, stepped: one load, at most one hand-over, and never an exception (R5, R8)."""

from collections import deque

import pytest
from phr_refresh.statemachine.effects import HandOver, Load, NeverSent, Refresh, Rejected
from phr_refresh.statemachine.outcomes import Receipt, ReceiptKind
from phr_refresh.statemachine.policy import as_datetime
from support.samples import ADA, DEADLINE, GUEST, HOUR, NOON, SECOND, WINDOW
from support.stepping import World


def login(world: World, patient: object = ADA) -> Receipt:
    """The receipt of a login that nobody interferes with."""
    receipt: Receipt = world.run(world.flows.login(patient))
    return receipt


def test_a_first_login_hands_over_what_it_saw() -> None:
    """Somebody never seen: one load, one hand-over without delay, nothing else."""
    world = World()
    flow = world.stepper(world.flows.login(ADA))
    assert Load(ADA.key) == flow.effect
    flow.step()
    assert HandOver(Refresh(ADA)) == flow.effect
    assert flow.effect.step.seen is not None
    flow.step()
    assert (Receipt(kind=ReceiptKind.HANDED_OVER), True) == (flow.outcome, flow.is_done)


def test_a_login_during_a_refresh_hands_over_nothing() -> None:
    """In progress, with the refresh's id, claim and deadline."""
    world = World()
    started = world.logged_in()
    world.handed.clear()
    expected = Receipt(
        kind=ReceiptKind.IN_PROGRESS,
        refresh_id=started.refresh_id,
        claimed_at=as_datetime(NOON),
        deadline_at=as_datetime(NOON + DEADLINE),
    )
    assert expected == login(world)
    assert [] == world.handed


def test_a_login_of_a_fresh_patient_hands_over_nothing() -> None:
    """Fresh: one round trip."""
    world = World()
    started = world.logged_in()
    world.now += SECOND
    world.run(world.flows.follow(ADA, started.refresh_id))
    world.handed.clear()
    before = world.trips
    assert ReceiptKind.FRESH is login(world).kind
    assert (before + 1, []) == (world.trips, world.handed)


@pytest.mark.parametrize(("since", "kind"), [(WINDOW - 1, ReceiptKind.DEFERRED), (WINDOW, ReceiptKind.HANDED_OVER)])
def test_a_login_after_a_failed_refresh_waits_for_the_window(since: int, kind: ReceiptKind) -> None:
    """Deferred until the window opens, and told when; handed over from then on."""
    world = World(kick_off_answers=deque([Rejected("http_503")]))
    world.logged_in()
    world.now = NOON + since
    receipt = login(world)
    assert kind is receipt.kind
    if kind is ReceiptKind.DEFERRED:
        assert ("window_closed", as_datetime(NOON + WINDOW)) == (receipt.reason, receipt.retry_at)


def test_a_login_after_a_refresh_that_timed_out_is_deferred() -> None:
    """What is due is applied before the login decides: past its deadline nothing is in progress."""
    world = World()
    world.logged_in()
    world.now = NOON + DEADLINE
    assert (ReceiptKind.DEFERRED, "window_closed") == (login(world).kind, login(world).reason)


def test_a_login_during_a_backoff_is_deferred() -> None:
    """A kick-off that never left: the login says when the next try may go out."""
    world = World(kick_off_answers=deque([NeverSent("connection_refused")]))
    world.logged_in()
    world.handed.clear()
    receipt = login(world)
    expected = (ReceiptKind.DEFERRED, "backoff", as_datetime(NOON + 2 * SECOND))
    assert expected == (receipt.kind, receipt.reason, receipt.retry_at)
    assert [] == world.handed


def test_a_login_after_a_logout_within_the_window_is_handed_over() -> None:
    """A session is wanted again, so the worker gets the step; whether a refresh runs it finds out itself."""
    world = World()
    world.logged_in()
    world.run(world.flows.logout(ADA.key))
    assert ReceiptKind.HANDED_OVER is login(world).kind


def test_a_full_worker_defers_the_login_and_is_told() -> None:
    """The login goes on; one fact says that it was deferred and why."""
    world = World(worker_is_full=True)
    receipt = login(world)
    assert (ReceiptKind.DEFERRED, "worker_full") == (receipt.kind, receipt.reason)
    assert ["worker_full"] == [fact.details["reason"] for fact in world.told("login_deferred")]


def test_a_store_that_is_down_defers_the_login_and_is_told() -> None:
    """No exception, no hand-over, one fact."""
    world = World(store_failures=1)
    assert Receipt(kind=ReceiptKind.DEFERRED, reason="store_unavailable") == login(world)
    assert ["store_unavailable"] == [fact.details["reason"] for fact in world.told("login_deferred")]
    assert [] == world.handed


@pytest.mark.parametrize("value", [b"\x00", b'{"v":2}', b'{"v":1,"t":0,"s":"no_session","b":[]}'])
def test_an_unreadable_record_defers_the_login_and_stays(value: bytes) -> None:
    """The login goes on, and the record is left as it is."""
    world = World()
    world.logged_in()
    world.rows[ADA.key].value = value
    assert Receipt(kind=ReceiptKind.DEFERRED, reason="record_unreadable") == login(world)
    assert value == world.rows[ADA.key].value


def test_a_login_without_an_mhv_account_costs_nothing() -> None:
    """Not eligible, without a round trip (R8)."""
    world = World()
    assert Receipt(kind=ReceiptKind.NOT_ELIGIBLE) == login(world, GUEST)
    assert (0, [], []) == (world.trips, world.handed, world.facts)


def test_a_login_commits_nothing_even_when_something_is_due() -> None:
    """At most one store round trip, whatever the record holds."""
    world = World()
    world.logged_in()
    world.now = NOON + 10 * HOUR
    before = (world.trips, world.rows[ADA.key].version)
    login(world)
    assert (before[0] + 1, before[1]) == (world.trips, world.rows[ADA.key].version)


def test_the_step_that_a_login_hands_over_starts_the_refresh() -> None:
    """What the worker runs takes the patient through session and kick-off."""
    world = World()
    login(world)
    step, _ = world.handed.pop()
    world.run(world.flows.step(step))
    assert ([NOON], [NOON]) == (world.opened, world.kick_offs)


def test_a_hundred_logins_start_one_refresh() -> None:
    """Every login before the first step runs is handed over, and all those steps send one kick-off."""
    world = World()
    for _ in range(100):
        assert ReceiptKind.HANDED_OVER is login(world).kind
    for step, _ in list(world.handed):
        world.run(world.flows.step(step))
    assert ([NOON], [NOON]) == (world.opened, world.kick_offs)
