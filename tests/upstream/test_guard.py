"""The guard of the upstream: how many calls at once, when it opens and closes, and who comes again when."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from phr_refresh import PhrRefresh, ReceiptKind, open_store
from phr_refresh.adapters.upstream.guard import GuardedUpstream
from phr_refresh.adapters.upstream.mhv import MhvClient, MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.statemachine.effects import (
    UPSTREAM_OVERLOADED,
    Accepted,
    AnswerLost,
    AskStatus,
    CouldNotAsk,
    KickOffAnswer,
    NeverSent,
    OpenSession,
    ReadRecords,
    Rejected,
    SessionFailed,
    SessionOpened,
    StartRefresh,
)
from phr_refresh.statemachine.errors import ConfigurationError
from support.fakes import RecordingWorker, ScriptedUpstream, Silent
from support.samples import ADA, NOON, token_until

QUESTION = AskStatus(ADA, claimed_at=NOON, answered_at=None, asked_at=NOON)
LIMIT = 60


class Watch:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Rig:
    """A guard that opens at 3 failures of 6 calls, for 30 s, before an upstream by script."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.upstream = ScriptedUpstream()
        self.heard = Silent()
        self.guard = GuardedUpstream(
            self.upstream, concurrency=2, failures=3, open_for=30.0, observer=self.heard, monotonic=self.watch
        )

    def kick_off(self, answer: KickOffAnswer | None = None) -> KickOffAnswer:
        """One kick-off, which the upstream answers so."""
        self.upstream.kick_off_answers.append(answer or Accepted())
        found = self.guard.call(StartRefresh(ADA))
        self.upstream.kick_off_answers.clear()
        return found

    def fail(self, times: int = 3) -> None:
        """So many kick-offs fail."""
        for _ in range(times):
            self.kick_off(Rejected("http_503"))

    def names(self) -> list[str]:
        """The names of the facts that were told."""
        return [fact.name for fact in self.heard.facts]


@pytest.fixture
def rig() -> Rig:
    return Rig()


# When it opens.


@pytest.mark.parametrize(
    "answer",
    [
        Rejected("http_500"),
        Rejected("http_503"),
        AnswerLost("timed_out"),
        AnswerLost("connection_reset"),
        NeverSent("connection_refused"),
        NeverSent("connect_timed_out"),
        NeverSent("dns_failed"),
    ],
)
def test_it_opens_when_calls_fail(rig: Rig, answer: KickOffAnswer) -> None:
    """At the third failure; then nothing is sent, and the answer comes at once."""
    assert [answer] * 3 == [rig.kick_off(answer) for _ in range(3)]
    found = rig.kick_off()
    assert (NeverSent, UPSTREAM_OVERLOADED, 3) == (type(found), found.reason, rig.upstream.kick_offs)
    assert ["upstream_guard_opened"] == rig.names()
    assert rig.heard.facts[0].is_warning


@pytest.mark.parametrize("answer", [Rejected("http_400"), Rejected("http_404"), Rejected("status_not_ok"), Accepted()])
def test_an_answer_is_no_failure(rig: Rig, answer: KickOffAnswer) -> None:
    """Whatever a 4xx says of the patient, it says that the upstream is there."""
    assert [answer] * 10 == [rig.kick_off(answer) for _ in range(10)]
    assert [] == rig.names()


def test_every_call_counts(rig: Rig) -> None:
    """A session, a kick-off and a status call that fail are three failures; each is answered in its own words."""
    rig.upstream.sessions.append(SessionFailed("http_502"))
    rig.upstream.statuses.append(CouldNotAsk("timed_out"))
    rig.guard.call(OpenSession(ADA))
    rig.guard.call(QUESTION)
    rig.fail(1)
    opened, asked, sent = rig.guard.call(OpenSession(ADA)), rig.guard.call(QUESTION), rig.guard.call(StartRefresh(ADA))
    assert (SessionFailed, CouldNotAsk, NeverSent) == (type(opened), type(asked), type(sent))
    assert [UPSTREAM_OVERLOADED] * 3 == [answer.reason for answer in (opened, asked, sent)]
    assert all(30 < answer.retry_after < 60 for answer in (opened, asked, sent))


def test_seldom_failures_do_not_open_it(rig: Rig) -> None:
    """One failure in three calls is below a half, for however long it goes on."""
    for _ in range(20):
        rig.fail(1)
        rig.kick_off()
        rig.kick_off()
    assert [] == rig.names()


def test_records_go_past_it(rig: Rig) -> None:
    """The FHIR server is another system."""
    rig.fail()
    assert 0 == rig.guard.call(ReadRecords("vitals", token_until(NOON))).total


# When it closes.


def test_one_call_tries_and_closes_it(rig: Rig) -> None:
    """After `open_for` the next call goes through; it succeeds, and so may everybody."""
    rig.fail()
    rig.watch.seconds += 29.9
    assert UPSTREAM_OVERLOADED == rig.kick_off().reason
    rig.watch.seconds += 0.1
    assert [Accepted(), Accepted()] == [rig.kick_off() for _ in range(2)]
    assert ["upstream_guard_opened", "upstream_guard_closed"] == rig.names()
    assert 30.0 == pytest.approx(rig.heard.facts[1].details["open_seconds"])


def test_while_one_call_tries_the_others_wait(rig: Rig) -> None:
    """An upstream that comes back is not met by everybody at once."""
    rig.fail()
    rig.watch.seconds += 30
    during: list[KickOffAnswer] = []

    class Probed(ScriptedUpstream):
        def call(self, request: Any) -> Any:
            if not isinstance(request, StartRefresh):
                return super().call(request)
            during.append(rig.guard.call(StartRefresh(ADA)))
            return Accepted()

    calm = rig.upstream
    rig.guard.upstream = Probed()
    assert Accepted() == rig.guard.call(StartRefresh(ADA))
    rig.guard.upstream = calm
    assert [UPSTREAM_OVERLOADED] == [answer.reason for answer in during]
    assert Accepted() == rig.kick_off()


def test_each_try_that_fails_doubles_the_time_up_to_eightfold(rig: Rig) -> None:
    """30 s, 60 s, 120 s, 240 s, 240 s; one success starts over."""
    rig.fail()
    for seconds in (30, 60, 120, 240, 240):
        rig.watch.seconds += seconds - 1
        assert UPSTREAM_OVERLOADED == rig.kick_off().reason
        rig.watch.seconds += 1
        assert Rejected("http_503") == rig.kick_off(Rejected("http_503"))
    rig.watch.seconds += 240
    assert Accepted() == rig.kick_off()
    rig.fail()
    rig.watch.seconds += 30
    assert Accepted() == rig.kick_off()


def test_what_was_under_way_when_it_opened_neither_closes_nor_prolongs_it(rig: Rig) -> None:
    """Only the call that tries decides."""

    class Slow(ScriptedUpstream):
        def call(self, request: Any) -> Any:
            if not isinstance(request, OpenSession):
                return super().call(request)
            self.kick_off_answers.extend([Rejected("http_503")] * 3)
            for _ in range(3):
                rig.guard.call(StartRefresh(ADA))
            return super().call(request)

    rig.guard.upstream = Slow()
    assert isinstance(rig.guard.call(OpenSession(ADA)), SessionOpened)
    assert ["upstream_guard_opened"] == rig.names()
    assert UPSTREAM_OVERLOADED == rig.kick_off().reason


def test_an_upstream_that_raises_has_failed_and_holds_no_place(rig: Rig) -> None:
    """What an adapter should not do does not wear out the guard."""

    class Broken(ScriptedUpstream):
        def call(self, request: Any) -> Any:
            if not isinstance(request, StartRefresh):
                return super().call(request)
            raise ZeroDivisionError

    rig.guard.upstream = Broken()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            rig.guard.call(StartRefresh(ADA))
    assert UPSTREAM_OVERLOADED == rig.guard.call(StartRefresh(ADA)).reason


def test_an_observer_that_raises_does_not_reach_the_caller() -> None:
    """Nor one that there is not."""

    def raising(_: object) -> None:
        raise ZeroDivisionError

    for observer in (raising, None):
        upstream = ScriptedUpstream()
        upstream.kick_off_answers.append(Rejected("http_500"))
        guard = GuardedUpstream(upstream, failures=1, observer=observer)
        assert Rejected("http_500") == guard.call(StartRefresh(ADA))
        assert UPSTREAM_OVERLOADED == guard.call(StartRefresh(ADA)).reason


# How many at once.


class Crowd(ScriptedUpstream):
    """Counts the calls that are in it at once, and holds each until so many have come."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.barrier = threading.Barrier(size)
        self.lock = threading.Lock()
        self.inside = self.most = 0

    def call(self, request: Any) -> Any:
        if not isinstance(request, StartRefresh):
            return super().call(request)
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.barrier.wait(timeout=LIMIT)
        with self.lock:
            self.inside -= 1
        return Accepted()


def test_never_more_calls_at_once_than_the_limit() -> None:
    """Of threads that call at once as many get through as there is room for; the others know so at once."""
    # The barrier stands for a slow upstream: its three guests leave when the test, the fourth, has seen enough.
    crowd = Crowd(4)
    guard = GuardedUpstream(crowd, concurrency=3)
    with ThreadPoolExecutor(12) as pool:
        calls = [pool.submit(guard.call, StartRefresh(ADA)) for _ in range(12)]
        while sum(call.done() for call in calls) < 9:
            threading.Event().wait(0.001)
        crowd.barrier.wait(timeout=LIMIT)
        answers = [call.result(timeout=LIMIT) for call in calls]
    assert (3, 3) == (crowd.most, answers.count(Accepted()))
    assert {UPSTREAM_OVERLOADED} == {answer.reason for answer in answers if isinstance(answer, NeverSent)}


def test_a_full_house_is_no_failure(rig: Rig) -> None:
    """Being turned away opens nothing: the upstream is fine."""

    class Nested(ScriptedUpstream):
        depth = 0

        def call(self, request: Any) -> Any:
            if not isinstance(request, StartRefresh):
                return super().call(request)
            self.depth += 1
            answers = [rig.guard.call(StartRefresh(ADA)) for _ in range(10)] if self.depth <= 2 else []
            refused.extend(answer for answer in answers if isinstance(answer, NeverSent))
            return Accepted()

    refused: list[NeverSent] = []
    rig.guard.upstream = Nested()
    assert Accepted() == rig.guard.call(StartRefresh(ADA))
    assert len(refused) >= 10
    assert [] == rig.names()


# Who comes again when.


def test_each_who_is_turned_away_gets_a_turn_of_its_own(rig: Rig) -> None:
    """After the guard may be closed again, and evenly spaced: nobody at the same time as another."""
    rig.fail()
    turns = [rig.kick_off().retry_after for _ in range(200)]
    gaps = [later - earlier for earlier, later in pairwise(turns)]
    assert 30 < turns[0] < 32
    assert min(gaps) == pytest.approx(max(gaps))
    assert min(gaps) > 0


def test_turns_go_four_minutes_ahead_and_begin_again(rig: Rig) -> None:
    """However many are turned away, nobody is sent away for the day."""
    rig.fail()
    turns = [rig.kick_off().retry_after for _ in range(5000)]
    assert max(turns) < 30 + 240 + 1
    assert min(turns[1000:]) < 32


def test_turns_of_long_ago_are_forgotten(rig: Rig) -> None:
    """The second outage begins its turns at its own end."""
    rig.fail()
    rig.kick_off()
    rig.watch.seconds += 1000
    rig.kick_off()
    rig.fail()
    assert 30 < rig.kick_off().retry_after < 32


def test_turns_are_as_far_apart_as_the_upstream_needs() -> None:
    """Three calls of 4 s, 2 at once: a patient every 6 s."""
    rig = Rig()

    class Slow(ScriptedUpstream):
        def call(self, request: Any) -> Any:
            if not isinstance(request, StartRefresh):
                return super().call(request)
            rig.watch.seconds += 4
            return super().call(request)

    rig.guard.upstream = slow = Slow()
    for _ in range(100):
        rig.guard.call(StartRefresh(ADA))
    slow.kick_off_answers.extend([Rejected("http_503")] * 3)
    for _ in range(3):
        rig.guard.call(StartRefresh(ADA))
    first, second = (rig.guard.call(StartRefresh(ADA)).retry_after for _ in range(2))
    assert 6 == pytest.approx(second - first, rel=0.01)


# Settings.


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"failures": 0}, {"open_for": 0.0}, {"open_for": float("nan")}])
def test_a_limit_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    """The error names what is wrong."""
    with pytest.raises(ConfigurationError, match="the guard of the upstream"):
        GuardedUpstream(ScriptedUpstream(), **wrong)


ENVIRON = {
    "PHR_REFRESH_MHV_URL": "http://127.0.0.1:9",
    "PHR_REFRESH_APP_TOKEN": "synthetic",
    "PHR_REFRESH_AUTHORIZATION_KEY": "synthetic",
}


@pytest.fixture
def mhv() -> Iterator[MhvUpstream]:
    """The real upstream, to which nobody listens, with a guard that opens at the first failure."""
    upstream = MhvUpstream(MhvSettings.from_env(ENVIRON | {"PHR_REFRESH_GUARD_FAILURES": "1"}))
    yield upstream
    upstream.close()


def test_it_is_on_by_default(mhv: MhvUpstream) -> None:
    """20 calls at once, half of 20 calls, 30 s; each has a variable."""
    defaults = MhvSettings.from_env(ENVIRON)
    assert (20, 10, 30) == (defaults.concurrency, defaults.guard_failures, defaults.guard_open_for.total_seconds())
    given = ENVIRON | {"PHR_REFRESH_CONCURRENCY": "3", "PHR_REFRESH_GUARD_OPEN_SECONDS": "1.5"}
    settings = MhvSettings.from_env(given)
    assert (3, 1.5) == (settings.concurrency, settings.guard_open_for.total_seconds())
    assert MhvClient(defaults).longest_call == mhv.longest_call
    assert "connection_refused" == mhv.call(OpenSession(ADA)).reason
    assert UPSTREAM_OVERLOADED == mhv.call(OpenSession(ADA)).reason


def test_it_tells_the_observer_of_whom_it_serves(mhv: MhvUpstream) -> None:
    """An upstream that was given no observer of its own tells that of its `PhrRefresh`."""
    heard = Silent()
    with PhrRefresh(store=open_store("memory://"), upstream=mhv, worker=RecordingWorker(), observer=heard) as phr:
        assert ReceiptKind.DEFERRED is phr.refresh(ADA).kind
    assert 1 == len(heard.told("upstream_guard_opened"))


def test_an_observer_of_its_own_is_kept() -> None:
    """Who makes the upstream may have its guard tell somebody else."""
    own, heard = Silent(), Silent()
    settings = MhvSettings.from_env(ENVIRON | {"PHR_REFRESH_GUARD_FAILURES": "1"})
    upstream = MhvUpstream(settings, observer=own)
    with PhrRefresh(store=open_store("memory://"), upstream=upstream, worker=RecordingWorker(), observer=heard) as phr:
        phr.refresh(ADA)
    assert (1, 0) == (len(own.told("upstream_guard_opened")), len(heard.told("upstream_guard_opened")))


def test_closing_it_closes_the_upstream(rig: Rig) -> None:
    """It owns what it is given."""
    closed: list[bool] = []

    class Closing(ScriptedUpstream):
        def close(self) -> None:
            closed.append(True)

    rig.guard.upstream = Closing()
    rig.guard.close()
    assert [True] == closed
