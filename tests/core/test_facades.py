"""Both public faces run a whole visit over real HTTP, on every store."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from phr_refresh import (
    AsyncPhrRefresh,
    ConfigurationError,
    NotEligible,
    Patient,
    PhrRefresh,
    Policy,
    SessionUnavailable,
    State,
    Status,
    open_async_store,
    open_store,
)
from phr_refresh.adapters.ports import Records, Row
from phr_refresh.adapters.simulator import Fault, Simulator
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.adapters.workers.tasks import TaskWorker
from phr_refresh.statemachine.effects import Step

ADA = Patient("ada", "1012345678V123456", "12345")
OUTSIDER = Patient("eve", "1012345679V123456")
FAST = Policy(poll_interval=timedelta(milliseconds=20), login_budget=timedelta(seconds=5))


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """The upstream, fifty times as fast as recorded."""
    with Simulator(speed=50) as running:
        yield running


@pytest.fixture
def upstream(simulator: Simulator) -> MhvUpstream:
    """The adapter to the simulator."""
    return MhvUpstream(
        MhvSettings(
            base_url=simulator.url,
            app_token=simulator.app_token,
            authorization_key=simulator.authorization_key,
            fhir_url=f"{simulator.url}/fhir",
        )
    )


def followed(phr: PhrRefresh) -> Status:
    """ADA's status once her refresh has ended."""
    while (status := phr.status(ADA)).state not in (State.COMPLETE, State.STALE):
        pass
    return status


def test_a_visit(backend, simulator: Simulator, upstream: MhvUpstream) -> None:
    """Login, refresh, status, session, logout and a second login: one refresh, one session for each login."""
    with PhrRefresh(store=backend.open(), upstream=upstream, policy=FAST) as phr:
        assert "handed_over" == phr.login(ADA).kind
        status = followed(phr)
        assert State.COMPLETE == status.state
        assert not status.partial
        assert "fresh" == phr.login(ADA).kind
        assert phr.session(ADA).reveal() == phr.session(ADA).reveal()
        assert isinstance(phr.records(ADA, "vitals"), Records)
        phr.logout(ADA)
        assert State.NO_SESSION == phr.status("ada").state
        assert ("fresh", status.refresh_id) == (phr.refresh(ADA).kind, phr.refresh(ADA).refresh_id)
        assert State.COMPLETE == phr.explain(ADA).state
        assert 0 == phr.sweep().due
    totals = simulator.calls()["totals"]
    assert (2, 1) == (totals["login"], totals["refresh"])


def test_a_kind_of_records_that_nobody_configured_is_an_error(upstream: MhvUpstream) -> None:
    """The error names the setting and what there is."""
    with PhrRefresh(store=open_store("memory://"), upstream=upstream, policy=FAST) as phr:
        with pytest.raises(ConfigurationError) as caught:
            phr.records(ADA, "x-rays")
    assert "MhvSettings.records: it has no such kind (it has vitals); add it." == str(caught.value)


def test_an_asynchronous_visit(backend, simulator: Simulator, upstream: MhvUpstream, runner: asyncio.Runner) -> None:
    """The same visit with await."""

    async def visit() -> None:
        async with AsyncPhrRefresh(store=backend.open_async(), upstream=upstream, policy=FAST) as phr:
            assert "handed_over" == (await phr.login(ADA)).kind
            while (status := await phr.status(ADA)).state not in (State.COMPLETE, State.STALE):
                await asyncio.sleep(0)
            assert State.COMPLETE == status.state
            assert "fresh" == (await phr.login(ADA)).kind
            tokens = await asyncio.gather(*(phr.session(ADA) for _ in range(5)))
            assert 1 == len({token.reveal() for token in tokens})
            assert isinstance(await phr.records(ADA, "vitals"), Records)
            await phr.logout(ADA)
            receipts = await asyncio.gather(*(phr.refresh(ADA) for _ in range(5)))
            assert {("fresh", status.refresh_id)} == {(receipt.kind, receipt.refresh_id) for receipt in receipts}
            assert State.COMPLETE == (await phr.explain(ADA)).state
            assert 0 == (await phr.sweep()).due

    runner.run(visit())
    totals = simulator.calls()["totals"]
    assert (2, 1, 0) == (totals["login"], totals["refresh"], simulator.calls()["simultaneous_logins"])


def test_a_cancelled_waiter_harms_nobody(simulator: Simulator, upstream: MhvUpstream, runner: asyncio.Runner) -> None:
    """Of two requests for one session the one that creates it is cancelled; the other gets that very session."""
    simulator.script(Fault("login", "latency", seconds=0.2, times=1))

    async def visit() -> str:
        async with AsyncPhrRefresh(store=open_async_store("memory://"), upstream=upstream, policy=FAST) as phr:
            first = asyncio.create_task(phr.session(ADA))
            while not simulator.calls()["totals"]["login"]:
                await asyncio.sleep(0)
            second = asyncio.create_task(phr.session(ADA))
            first.cancel()
            await asyncio.wait({first})
            assert first.cancelled()
            return (await second).subject_id

    assert runner.run(visit())
    assert (1, 0) == (simulator.calls()["totals"]["login"], simulator.calls()["simultaneous_logins"])


class NobodyFollows(TaskWorker):
    """A worker that is always full."""

    def hand_over(self, step: Step, delay: float = 0.0) -> bool:
        return False


def test_a_cancelled_reader_harms_nobody(simulator: Simulator, upstream: MhvUpstream, runner: asyncio.Runner) -> None:
    """A browser that gives up while the upstream is asked for it does not undo the answer: the record says complete."""

    def asked() -> int:
        polls: int = simulator.calls()["totals"]["status"]
        return polls

    async def visit() -> tuple[int, State]:
        async with AsyncPhrRefresh(
            store=open_async_store("memory://"), upstream=upstream, policy=FAST, worker=NobodyFollows()
        ) as phr:
            await phr.refresh(ADA)
            simulator.completed_earlier(ADA.icn, seconds_ago=0)
            simulator.script(Fault("status", "latency", seconds=0.2))
            while not asked():
                reader = asyncio.create_task(phr.status(ADA))
                while not (asked() or reader.done()):
                    await asyncio.sleep(0)
            reader.cancel()
            await asyncio.wait({reader})
            assert reader.cancelled()
            while (status := await phr.status("ada")).state is State.REFRESHING:
                await asyncio.sleep(0)
            return asked(), status.state

    assert (1, State.COMPLETE) == runner.run(visit())


def test_what_is_closed_says_so(upstream: MhvUpstream, runner: asyncio.Runner) -> None:
    """After `close` a login is deferred and everything else is an error of the caller's, sync and async alike."""
    phr = PhrRefresh(store=open_store("memory://"), upstream=upstream)
    phr.close()
    assert ("deferred", "closed") == (phr.login(ADA).kind, phr.login(ADA).reason)
    with pytest.raises(ConfigurationError, match="PhrRefresh: it is closed; make another one"):
        phr.status(ADA)

    async def visit() -> None:
        phr = AsyncPhrRefresh(store=open_async_store("memory://"), upstream=upstream)
        await phr.close()
        assert "closed" == (await phr.login(ADA)).reason
        with pytest.raises(ConfigurationError, match="AsyncPhrRefresh: it is closed"):
            await phr.status(ADA)

    runner.run(visit())


def test_a_login_under_way_survives_close(
    upstream: MhvUpstream, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An asynchronous login whose store hangs while the service shuts down gets a receipt, no cancellation."""
    monkeypatch.setattr("phr_refresh.asynchronous.DRAIN_SECONDS", 0)

    async def visit() -> str | None:
        store = open_async_store("memory://")
        hang = asyncio.Event()

        async def call(request: object) -> Row:
            await hang.wait()
            raise AssertionError("never comes back")

        store.call = call
        phr = AsyncPhrRefresh(store=store, upstream=upstream, policy=FAST)
        login = asyncio.create_task(phr.login(ADA))
        await asyncio.sleep(0)
        await phr.close()
        return (await login).reason

    assert "closed" == runner.run(visit())


def test_a_login_goes_on_when_the_browser_is_gone(
    upstream: MhvUpstream, simulator: Simulator, runner: asyncio.Runner
) -> None:
    """Its caller is cancelled while the store is read: the refresh is started all the same."""

    async def visit() -> None:
        store, answers = open_async_store("memory://"), asyncio.Event()
        call = store.call

        async def slow(request: Any) -> Any:
            await answers.wait()
            return await call(request)

        store.call = slow
        async with AsyncPhrRefresh(store=store, upstream=upstream, policy=FAST) as phr:
            login = asyncio.create_task(phr.login(ADA))
            await asyncio.sleep(0)
            login.cancel()
            await asyncio.wait({login})
            assert login.cancelled()
            answers.set()

    runner.run(visit())
    assert 1 == simulator.calls()["totals"]["refresh"]


def test_who_waits_while_it_is_closed_is_told(
    upstream: MhvUpstream, simulator: Simulator, runner: asyncio.Runner
) -> None:
    """Nobody who was not cancelled gets a cancellation, which a host would take for its own."""
    simulator.script(Fault("login", "latency", seconds=0.2, times=1))

    async def visit() -> None:
        phr = AsyncPhrRefresh(store=open_async_store("memory://"), upstream=upstream, policy=FAST)
        waiting = asyncio.create_task(phr.session(ADA))
        while not simulator.calls()["totals"]["login"]:
            await asyncio.sleep(0)
        await phr.close()
        with pytest.raises(ConfigurationError, match="AsyncPhrRefresh: it is closed"):
            await waiting

    runner.run(visit())


def test_a_slow_login_is_handed_over_before_close(
    upstream: MhvUpstream, simulator: Simulator, runner: asyncio.Runner
) -> None:
    """Its budget is over, its store answers while the service shuts down: the refresh is started all the same."""

    async def visit() -> str | None:
        store, answers = open_async_store("memory://"), asyncio.Event()
        call = store.call

        async def slow(request: Any) -> Any:
            await answers.wait()
            return await call(request)

        store.call = slow
        policy = Policy(login_budget=timedelta(milliseconds=1))
        phr = AsyncPhrRefresh(store=store, upstream=upstream, policy=policy)
        receipt = await phr.login(ADA)
        closing = asyncio.create_task(phr.close())
        await asyncio.sleep(0)
        answers.set()
        await closing
        return receipt.reason

    assert "over_budget" == runner.run(visit())
    assert 1 == simulator.calls()["totals"]["refresh"]


def test_nobody_without_an_account_gets_a_session(upstream: MhvUpstream, simulator: Simulator) -> None:
    """Somebody without an MHV account is not eligible anywhere, and no call is made for them."""
    with closing(PhrRefresh(store=open_store("memory://"), upstream=upstream, policy=FAST)) as phr:
        assert ["not_eligible"] * 2 == [phr.login(OUTSIDER).kind, phr.refresh(OUTSIDER).kind]
        assert not phr.status(OUTSIDER).eligible
        with pytest.raises(NotEligible):
            phr.session(OUTSIDER)
    assert {"login": 0, "refresh": 0, "status": 0, "fhir": 0} == simulator.calls()["totals"]


def test_an_upstream_that_cannot_open_a_session_is_said(upstream: MhvUpstream, simulator: Simulator) -> None:
    """`session` raises with the reason and the time of the next try, and does not call again before it."""
    simulator.script(Fault("login", "http_error", status=500))
    with closing(PhrRefresh(store=open_store("memory://"), upstream=upstream, policy=FAST)) as phr:
        for _ in range(2):
            with pytest.raises(SessionUnavailable, match=r"no upstream session \(http_500\); try again after 20"):
                phr.session(ADA)
        assert ("deferred", "backoff") == (phr.login(ADA).kind, phr.login(ADA).reason)
    assert 1 == simulator.calls()["totals"]["login"]


@pytest.mark.parametrize("name", ["session_claim", "unanswered_margin"])
def test_a_claim_shorter_than_the_call_is_refused(upstream: MhvUpstream, name: str) -> None:
    """A policy whose claim could lapse while its call is under way is a configuration error."""
    with pytest.raises(ConfigurationError, match=rf"Policy.{name}: a call can take 25 s, .* make it longer"):
        PhrRefresh(store=open_store("memory://"), upstream=upstream, policy=Policy(**{name: timedelta(seconds=25)}))
