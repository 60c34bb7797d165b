"""How many round trips each verb costs, counted at the store (DESIGN, section 8)."""

from collections.abc import Iterator

import pytest
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory
from phr_refresh import Patient, PhrRefresh, ReceiptKind, State
from phr_refresh.adapters.stores.memory import MemoryStore
from phr_refresh.adapters.workers.inline import InlineWorker
from support.fakes import ScriptedUpstream, Silent, SteppableStore
from support.samples import ADA, GUEST, NOON, UNHURRIED

START = "2030-01-01T12:00:00Z"


class Portal:
    """A login service on one counting store, whose worker runs when told to."""

    def __init__(self, clock: FrozenDateTimeFactory) -> None:
        self.clock = clock
        self.store = SteppableStore(MemoryStore())
        self.worker = InlineWorker()
        self.upstream = ScriptedUpstream()
        self.phr = PhrRefresh(
            store=self.store, upstream=self.upstream, worker=self.worker, observer=Silent(), policy=UNHURRIED
        )

    def trips(self, verb: object, *arguments: object) -> int:
        """The round trips of one call."""
        before = len(self.store.calls)
        verb(*arguments)  # type: ignore[operator]
        return len(self.store.calls) - before


@pytest.fixture
def portal() -> Iterator[Portal]:
    with freeze_time(START) as clock:
        portal = Portal(clock)
        yield portal
        portal.phr.close()


def complete(portal: Portal) -> None:
    """Take Ada to the end of a refresh."""
    portal.phr.login(ADA)
    portal.clock.tick(1)
    portal.worker.run_later()
    assert State.COMPLETE is portal.phr.status(ADA).state


def test_a_status_of_a_settled_patient_is_one_trip(portal: Portal) -> None:
    """One load, with the patient or by user id."""
    complete(portal)
    assert [1, 1] == [portal.trips(portal.phr.status, who) for who in (ADA, "ada")]


def test_a_status_never_loads_the_token(portal: Portal) -> None:
    """Only `session` asks for it."""
    complete(portal)
    portal.store.calls.clear()
    portal.phr.status(ADA)
    assert ["load"] == portal.store.calls
    portal.phr.session(ADA)
    assert ["load", "load with token"] == portal.store.calls


def test_a_login_of_a_fresh_patient_is_one_trip(portal: Portal) -> None:
    """One load, nothing handed over."""
    complete(portal)
    assert 1 == portal.trips(portal.phr.login, ADA)
    assert [] == portal.worker.later


def test_a_login_that_hands_over_is_one_trip(portal: Portal) -> None:
    """The hook makes one load; the rest is the worker's."""
    portal.worker.start(lambda step: portal.worker.later.append((step, 0.0)))
    assert 1 == portal.trips(portal.phr.login, ADA)
    assert 1 == len(portal.worker.later)


def test_a_login_without_an_mhv_account_is_no_trip(portal: Portal) -> None:
    """Nobody is asked (R8)."""
    assert 0 == portal.trips(portal.phr.login, GUEST)


def test_an_event_that_changes_the_record_is_two_trips(portal: Portal) -> None:
    """A logout is one load and one commit."""
    complete(portal)
    assert 2 == portal.trips(portal.phr.logout, ADA)


def test_a_deadline_that_somebody_notices_is_two_trips(portal: Portal) -> None:
    """The status that finds the window over loads and commits once; the next one loads."""
    complete(portal)
    portal.clock.tick(3600)
    assert [2, 1] == [portal.trips(portal.phr.status, ADA) for _ in range(2)]


def test_an_explanation_is_one_trip(portal: Portal) -> None:
    """It reads and changes nothing."""
    complete(portal)
    assert 1 == portal.trips(portal.phr.explain, ADA)


def test_a_cached_session_is_one_trip(portal: Portal) -> None:
    """The token comes with the record."""
    complete(portal)
    assert 1 == portal.trips(portal.phr.session, ADA)


def test_a_whole_lifecycle_is_seven_trips(portal: Portal) -> None:
    """Login, session, claim, acceptance and one poll that completes: at most seven."""
    assert ReceiptKind.HANDED_OVER is portal.phr.login(ADA).kind
    portal.clock.tick(1)
    portal.worker.run_later()
    assert len(portal.store.calls) <= 7, portal.store.calls
    assert State.COMPLETE is portal.phr.status("ada").state
    assert (1, 1, 1) == (portal.upstream.opened, portal.upstream.kick_offs, portal.upstream.polls)


def test_a_joined_refresh_is_one_trip(portal: Portal) -> None:
    """Who comes second loads and joins."""
    portal.phr.login(ADA)
    assert 1 == portal.trips(portal.phr.refresh, ADA)


def test_the_clock_is_the_stores(portal: Portal) -> None:
    """Frozen time moves everything that is stored."""
    portal.phr.login(ADA)
    assert NOON == round(portal.phr.status("ada").claimed_at.timestamp() * 1000)


def test_a_sweep_is_three_trips_for_hundreds(portal: Portal) -> None:
    """One list, one load and one write for all of them; with nothing to do, one list."""
    everybody(portal, 300)
    portal.clock.tick(3600)
    portal.store.calls.clear()
    assert 300 == portal.phr.sweep().moved
    assert ["due", "load_all", "write_all"] == portal.store.calls
    assert 1 == portal.trips(portal.phr.sweep)


def test_the_statuses_of_hundreds_are_one_trip(portal: Portal) -> None:
    """One load for all, and the upstream is asked nothing."""
    users = everybody(portal, 300)
    polls = portal.upstream.polls
    portal.store.calls.clear()
    assert {State.REFRESHING} == {status.state for status in portal.phr.statuses(users).values()}
    assert (["load_all"], polls) == (portal.store.calls, portal.upstream.polls)


def everybody(portal: Portal, count: int) -> list[str]:
    """Log in so many patients; their user ids."""
    users = [f"user-{number}" for number in range(count)]
    for number, user in enumerate(users):
        portal.phr.login(Patient(user, f"1012345678V{number:06}", "12345"))
    return users
