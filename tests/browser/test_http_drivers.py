"""What hosts do with questions to an upstream that hangs, with those of many at once, and with settled patients."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from phr_refresh.adapters.browser import HttpRequest
from support.contract import ADA, DONE, KINDS, Visit, visiting

#: For a thread to get on: far more than it takes.
PATIENCE_SECONDS = 60
AT_ONCE = timedelta(milliseconds=1)


@pytest.fixture(params=KINDS)
def visit(request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A visit to each kind of host in turn, whose refresh has just begun."""
    with visiting(request.param) as opened:
        opened.begin()
        yield opened


@contextmanager
def hanging(visit: Visit) -> Iterator[threading.Semaphore]:
    """The upstream does not answer meanwhile; gives what tells each question's arrival."""
    arrived, goes_on = threading.Semaphore(0), threading.Event()

    def hang() -> None:
        arrived.release()
        goes_on.wait(PATIENCE_SECONDS)

    visit.upstream.before_answer = hang
    try:
        yield arrived
    finally:
        goes_on.set()


def test_an_upstream_that_hangs_holds_up_nobody(visit: Visit) -> None:
    """Whose turn it is gets what is known once the question takes too long; its answer is there for who asks later."""
    visit.serve(longest_ask=AT_ONCE)
    visit.upstream.tells = DONE
    with hanging(visit) as arrived:
        visit.clock.tick(1)
        assert 202 == visit.get().status
        while not arrived.acquire(blocking=False):
            # On asyncio a question that its request no longer waits for goes on while others are answered.
            assert 202 == visit.get().status
        assert [202] * 3 == [visit.get().status for _ in range(3)]
    while visit.get().status == 202:
        pass
    assert (200, 1) == (visit.get().status, visit.upstream.polls)


def test_an_upstream_that_hangs_does_not_prolong_a_wait(visit: Visit) -> None:
    """A request that waits is answered when its time is over, whoever still waits for the upstream."""
    visit.serve(longest_ask=AT_ONCE)
    with hanging(visit):
        assert (202, 3) == (visit.get(prefer="wait=3").status, pytest.approx(visit.seconds))


def test_questions_that_hang_take_no_more_than_their_threads() -> None:
    """Eight of them under way, and the next one is not asked: the answer is what is known."""
    with visiting("threads") as visit:
        visit.begin()
        visit.serve(longest_ask=AT_ONCE)
        with hanging(visit) as arrived:
            for _ in range(8):
                visit.clock.tick(17)
                assert 202 == visit.get().status
                assert arrived.acquire(timeout=PATIENCE_SECONDS)
            for _ in range(3):
                visit.clock.tick(17)
                assert 202 == visit.get().status
        assert 8 == visit.upstream.polls


def test_those_who_ask_at_the_same_moment_share_the_question() -> None:
    """Fifty requests on asyncio when it is time to ask: one question, and everybody gets its answer."""
    with visiting("asyncio") as visit:
        visit.begin()
        visit.serve(longest_ask=timedelta(seconds=PATIENCE_SECONDS))
        visit.upstream.tells = DONE
        visit.clock.tick(1)
        asked: list[object] = []
        status = visit.phr.status

        async def counted(who: object) -> object:
            asked.append(who)
            return await status(who)

        visit.phr.status = counted

        async def everybody() -> list[int]:
            requests = (visit.host.answer(HttpRequest("GET", "status", ADA, True)) for _ in range(50))
            return [answer.status for answer in await asyncio.gather(*requests)]

        assert [200] * 50 == visit.runner.run(everybody())
        assert (50, 1, 1) == (asked.count(ADA.user_id), asked.count(ADA), visit.upstream.polls)


def test_a_request_that_waits_while_the_service_shuts_down_is_answered() -> None:
    """A question that is cancelled by the shutdown does not cancel the request: it is told 500 like any other then."""
    with visiting("asyncio") as visit:
        visit.begin()
        visit.serve(longest_ask=timedelta(seconds=PATIENCE_SECONDS))
        with hanging(visit) as arrived:
            visit.clock.tick(1)

            async def shut_down() -> int:
                request = asyncio.create_task(visit.host.answer(HttpRequest("GET", "status", ADA, True)))
                while not arrived.acquire(blocking=False):
                    await asyncio.sleep(0)
                visit.upstream.close = lambda: None
                closing = asyncio.create_task(visit.phr.close())
                status = (await request).status
                await closing
                return status

            assert 500 == visit.runner.run(shut_down())
            visit._do = lambda *_: None


@pytest.mark.parametrize("path", ["status", "events"])
def test_a_settled_patient_costs_one_look(visit: Visit, path: str) -> None:
    """One round trip to the store and nothing else, with or without a wait."""
    visit.upstream.tells = DONE
    visit.clock.tick(1)
    visit.get()
    looked: list[object] = []
    status = visit.phr.status

    def counted(who: object) -> object:
        looked.append(who)
        return status(who)

    visit.phr.status = counted
    visit.get(path, prefer="wait=9")
    assert [ADA.user_id] == looked
