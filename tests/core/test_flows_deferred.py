"""Refreshes that an overloaded upstream has no room for: deferred in the record, resumed by the worker, no herd."""

from collections import Counter, deque
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from phr_refresh import Patient, PhrRefresh, Policy, ReceiptKind, SessionUnavailable, State
from phr_refresh.adapters.stores.memory import MemoryStore
from phr_refresh.adapters.upstream.guard import GuardedUpstream
from phr_refresh.statemachine.effects import (
    UPSTREAM_OVERLOADED,
    CouldNotAsk,
    NeverSent,
    OpenSession,
    Refresh,
    Rejected,
    SessionFailed,
)
from phr_refresh.statemachine.flows import Flows
from phr_refresh.statemachine.policy import as_datetime
from phr_refresh.statemachine.record import RefreshRecord
from phr_refresh.statemachine.views import explanation_of
from phr_refresh.testing import Clock, ClockedWorker, Rules, ScriptedUpstream
from support.fakes import Silent
from support.samples import ADA, HOUR, MINUTE, NOON, SECOND, WINDOW
from support.stepping import World

NO_ROOM = SessionFailed(UPSTREAM_OVERLOADED, retry_after=30.0)
NOT_SENT = NeverSent(UPSTREAM_OVERLOADED, retry_after=30.0)
AFTER = NOON + 30 * SECOND


def test_its_reason_is_a_word_that_hosts_read() -> None:
    """In receipts and statuses."""
    assert "upstream_overloaded" == UPSTREAM_OVERLOADED


def world(*, session: int = 0, kick_off: int = 0) -> World:
    """A world whose upstream has no room for so many sessions and kick-offs."""
    return World(sessions=deque([NO_ROOM] * session), kick_off_answers=deque([NOT_SENT] * kick_off))


BOTH = pytest.mark.parametrize("where", [{"session": 1}, {"kick_off": 1}], ids=["session", "kick-off"])


@BOTH
def test_a_refresh_is_deferred_in_its_record(where: dict[str, int]) -> None:
    """It says until when, is no failure that counts, and the worker has the step for just then."""
    it = world(**where)
    receipt = it.refresh(wait=False).run()
    expected = (ReceiptKind.DEFERRED, UPSTREAM_OVERLOADED, as_datetime(AFTER))
    assert expected == (receipt.kind, receipt.reason, receipt.retry_at)
    record = it.record()
    assert (0, NOON, AFTER) == (record.failures, record.deferred_since, record.retry_at)
    assert [(Refresh(ADA), 30.0)] == it.handed
    assert record.window_is_open(NOON)


@BOTH
def test_logins_and_statuses_meanwhile_say_so(where: dict[str, int]) -> None:
    """A login starts nothing and hands nothing over; a browser that asks is told when to come again."""
    it = world(**where)
    it.refresh(wait=False).run()
    it.handed.clear()
    it.now += 10 * SECOND
    receipt = it.run(it.flows.login(ADA))
    expected = (ReceiptKind.DEFERRED, UPSTREAM_OVERLOADED, as_datetime(AFTER))
    assert expected == (receipt.kind, receipt.reason, receipt.retry_at)
    status = it.run(it.flows.status(ADA.key, ADA))
    assert (True, as_datetime(AFTER), UPSTREAM_OVERLOADED) == (
        status.under_way,
        status.next_check_at,
        status.failure.code,
    )
    assert ([], []) == (it.handed, it.polls)
    told = explanation_of(it.record(), it.now).next_step
    assert "The upstream has no room for calls; a worker tries again at 2030-01-01 12:00:30Z." == told


@BOTH
def test_the_worker_resumes_it(where: dict[str, int]) -> None:
    """At its time the step goes on where it was; then nothing of the deferral is left."""
    it = world(**where)
    it.refresh(wait=False).run()
    step, _ = it.handed.pop()
    it.now = AFTER
    it.run(it.flows.step(step))
    assert (State.REFRESHING, 0, "accepted") == (it.record().state, it.record().deferred_since, it.record().kick_off)
    assert [AFTER] == it.kick_offs[-1:]
    assert not it.run(it.flows.status(ADA.key)).failure


def test_a_worker_that_wakes_up_early_keeps_the_step() -> None:
    """However many failures the record had counted before."""
    it = world(session=1)
    it.put(RefreshRecord(since=NOON, failures=99))
    it.refresh(wait=False).run()
    it.handed.clear()
    it.now = AFTER - 1
    it.run(it.flows.step(Refresh(ADA)))
    assert [(Refresh(ADA), 0.001)] == it.handed


def test_deferrals_do_not_count_towards_the_retry_limit() -> None:
    """After more of them than failures are allowed the step is still handed over, and a real failure is the first."""
    it = world(session=20)
    it.refresh(wait=False).run()
    for _ in range(19):
        step, delay = it.handed.pop()
        it.now += round(delay * 1000)
        it.run(it.flows.step(step))
        assert 1 == len(it.handed)
    assert 0 == it.record().failures
    it.sessions.append(SessionFailed("http_500"))
    it.now = it.record().retry_at
    it.refresh(wait=False).run()
    assert (1, 0) == (it.record().failures, it.record().deferred_since)


@BOTH
def test_after_a_whole_window_nobody_waits_any_more(where: dict[str, int]) -> None:
    """An outage of hours does not keep a worker busy with patients who have left; the next login starts anew."""
    it = world(**dict.fromkeys(where, 1000))
    it.refresh(wait=False).run()
    while it.handed:
        step, delay = it.handed.pop()
        it.now += round(delay * 1000)
        it.run(it.flows.step(step))
    assert NOON + WINDOW <= it.now < NOON + WINDOW + MINUTE
    assert (0, False) == (it.record().deferred_since, it.run(it.flows.status(ADA.key)).under_way)
    it.now = it.record().retry_at
    assert ReceiptKind.HANDED_OVER is it.run(it.flows.login(ADA)).kind


@BOTH
def test_a_logout_ends_it(where: dict[str, int]) -> None:
    """The step is void then; the next login must not wait for a step that nobody runs."""
    it = world(**where)
    it.refresh(wait=False).run()
    step, _ = it.handed.pop()
    it.run(it.flows.logout(ADA.key))
    assert not it.run(it.flows.status(ADA.key)).under_way
    assert ReceiptKind.HANDED_OVER is it.run(it.flows.login(ADA)).kind
    again, _ = it.handed.pop()
    it.run(it.flows.step(step))
    assert [] == it.kick_offs[1 if "kick_off" in where else 0 :]
    it.run(it.flows.step(again))
    assert State.REFRESHING is it.record().state


def test_a_caller_who_wants_a_session_is_told_when() -> None:
    """`session` raises with the time; no worker has the step, so nothing is said to be under way."""
    it = world(session=1)
    with pytest.raises(SessionUnavailable) as raised:
        it.run(it.flows.session(ADA))
    assert (UPSTREAM_OVERLOADED, as_datetime(AFTER)) == (raised.value.reason, raised.value.retry_at)
    assert ([], False) == (it.handed, it.run(it.flows.status(ADA.key)).under_way)


def test_a_definite_answer_still_closes_the_window() -> None:
    """A 503 to a kick-off did arrive: it is not deferred, and not sent again in its window."""
    it = World(kick_off_answers=deque([Rejected("http_503")]))
    receipt = it.refresh(wait=False).run()
    assert (ReceiptKind.DEFERRED, "http_503") == (receipt.kind, receipt.reason)
    assert (0, []) == (it.record().deferred_since, it.handed)
    assert not it.record().window_is_open(NOON + WINDOW - 1)


def test_a_status_without_room_comes_again() -> None:
    """A poll that was turned away says nothing about the refresh, and no warning is told of it."""
    it = World(statuses=deque([CouldNotAsk(UPSTREAM_OVERLOADED, 7.0)]))
    it.logged_in()
    it.now += SECOND
    status = it.run(it.flows.status(ADA.key, ADA))
    assert (State.REFRESHING, as_datetime(it.now + 7 * SECOND)) == (status.state, status.next_check_at)
    assert [False] == [fact.is_warning for fact in it.told("status_not_asked")]


@BOTH
def test_a_deferral_is_told_and_is_no_warning(where: dict[str, int]) -> None:
    """Tens of thousands of them are one outage, of which the guard tells once."""
    it = world(**where)
    it.refresh(wait=False).run()
    assert 1 == len(it.told("session_deferred") + it.told("kick_off_deferred"))
    assert [] == [fact.name for fact in it.facts if fact.is_warning]


@pytest.mark.parametrize(
    ("retry_after", "pause"), [(None, 2 * SECOND), (0.0, 0), (-5.0, 0), (299.0, 299 * SECOND), (1e9, 300 * SECOND)]
)
def test_the_pause_is_what_the_guard_says_within_bounds(retry_after: float | None, pause: int) -> None:
    """Never longer than the longest backoff, and never in the past."""
    for script in (
        {"sessions": deque([SessionFailed(UPSTREAM_OVERLOADED, retry_after=retry_after)])},
        {"kick_off_answers": deque([NeverSent(UPSTREAM_OVERLOADED, retry_after=retry_after)])},
    ):
        it = World(**script)
        it.refresh(wait=False).run()
        assert (NOON + pause, [pause / 1000]) == (it.record().retry_at, [delay for _, delay in it.handed])


# Nobody comes as a herd.


def test_pauses_have_a_jitter_that_is_the_same_for_the_same_attempt() -> None:
    """Up to a half longer, spread evenly over the ids of attempts, and no chance is in it."""
    policy = Policy()
    pauses = [policy.spread(1000, f"id-{number}") for number in range(10_000)]
    tenths = Counter((pause - 1000) // 50 for pause in pauses)
    assert list(range(10)) == sorted(tenths)
    assert 900 < min(tenths.values()) <= max(tenths.values()) < 1100
    assert pauses[7] == policy.spread(1000, "id-7")


@pytest.mark.parametrize(
    "script",
    [{"sessions": [SessionFailed("http_500")]}, {"kick_off_answers": [NeverSent("connection_refused")]}],
    ids=["session", "kick-off"],
)
def test_ordinary_backoff_has_it_too(script: dict[str, list[SessionFailed | NeverSent]]) -> None:
    """Whom the same outage met at the same moment come back at different ones, within a half of the pause."""
    delays = []
    for number in range(50):
        it = World(policy=Policy(), **{name: deque(answers) for name, answers in script.items()})
        it.flows = Flows(it.policy, new_id=lambda number=number: f"attempt-{number}")
        it.refresh(wait=False).run()
        delays += [delay for _, delay in it.handed]
    assert 50 == len(set(delays))
    assert 2.0 <= min(delays) < 2.2 < 2.8 < max(delays) < 3.0


CALL = 0.1
PATIENTS = 400


class Town:
    """Many patients, one worker and one upstream of which a call takes a tenth of a second; virtual time."""

    def __init__(self) -> None:
        self.clock, self.heard = Clock(), Silent()
        self.policy = Policy(login_budget=timedelta(seconds=30))
        self.began: list[float] = []
        self.is_down = False
        self.upstream = town = Rules(self._upstream(), clock=self.clock, policy=self.policy, observer=self.heard)
        self.rules = town
        guard = GuardedUpstream(
            town, concurrency=1, failures=3, open_for=30.0, observer=self.heard, monotonic=self.seconds
        )
        self.worker = ClockedWorker(self.clock)
        store = MemoryStore(clock=self.clock)
        self.phr = PhrRefresh(store=store, upstream=guard, worker=self.worker, policy=self.policy, observer=town)

    def seconds(self) -> float:
        """Since the beginning."""
        return (self.clock() - NOON) / 1000

    def _upstream(self) -> ScriptedUpstream:
        town = self

        class Slow(ScriptedUpstream):
            def call(self, request: Any) -> Any:
                if not isinstance(request, OpenSession):
                    return super().call(request)
                town.clock.leap(seconds=CALL)
                if town.is_down:
                    return SessionFailed("http_503")
                town.began.append(town.seconds())
                return super().call(request)

        return Slow(session_lasts=timedelta(days=30_000))

    def log_in(self) -> None:
        """All of them, at once."""
        for number in range(PATIENTS):
            self.phr.login(Patient(f"user-{number}", f"1012345678V{number:06}", "12345"))


def test_whom_a_brown_out_turned_away_comes_back_spread_over_time() -> None:
    """As fast as the upstream can take them and no faster: the histogram is flat, and everybody is there."""
    town = Town()
    town.is_down = True
    town.log_in()
    town.clock.tick(seconds=20)
    assert town.began == []
    town.is_down = False
    town.clock.tick(seconds=1200)
    assert PATIENTS == len(town.began)
    lasts = town.began[-1] - town.began[0]
    bins = Counter(int((at - town.began[0]) / lasts * 10) for at in town.began[:-1])
    # An even spread, give or take: no tenth of the time has twice its share, none but the last ones has none.
    assert max(bins.values()) < 2 * PATIENTS / 10, bins
    # Never more than one at a time, which is the guard's concurrency here.
    assert all(later - earlier >= CALL * 0.99 for earlier, later in pairwise(town.began))
    users = [f"user-{number}" for number in range(PATIENTS)]
    assert {State.COMPLETE} == {status.state for status in town.phr.statuses(users).values()}
    assert [] == town.rules.broken
    assert 1 <= len(town.heard.told("upstream_guard_opened")) <= 2
    assert 1 == len(town.heard.told("upstream_guard_closed"))
    assert NOON + HOUR > town.clock()
