"""The workers: bounded, in order of time, drained when closed, alive after a fork; and the inline one."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.adapters.workers.tasks import TaskWorker
from phr_refresh.adapters.workers.threads import ThreadWorker
from phr_refresh.statemachine.effects import Follow, Refresh, Step
from phr_refresh.statemachine.errors import ConfigurationError
from support.samples import ADA

LONG = 30.0
NEVER = 3600.0


def step(number: int) -> Step:
    """A step that can be told from others."""
    return Follow(ADA, str(number))


class Bench:
    """Runs steps and remembers them in order. While it is held, each step stands still in its thread."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.began = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        self.may_go = threading.Event()
        self.may_go.set()

    def __call__(self, item: Step) -> None:
        self.began.release()
        assert self.may_go.wait(LONG)
        self.done.append(item.refresh_id if isinstance(item, Follow) else "refresh")
        self.ended.release()

    def wait_for(self, signal: threading.Semaphore, times: int) -> None:
        """Until the signal has come so often."""
        for _ in range(times):
            assert signal.acquire(timeout=LONG)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.may_go.set()


def started(bench: Bench, **options: float) -> ThreadWorker:
    """A worker that has one thread unless told otherwise."""
    worker = ThreadWorker(**({"threads": 1} | options))  # type: ignore[arg-type]
    worker.start(bench)
    return worker


def test_it_runs_what_it_is_given(bench: Bench) -> None:
    """A step without delay runs at once, off the caller's thread."""
    worker = started(bench)
    assert worker.hand_over(Refresh(ADA))
    bench.wait_for(bench.ended, 1)
    assert ["refresh"] == bench.done
    assert 0 == worker.close()


def test_its_queue_is_bounded(bench: Bench) -> None:
    """Full is full, delayed steps included: False at once, nothing waits."""
    bench.may_go.clear()
    worker = started(bench, queue_limit=2)
    assert worker.hand_over(step(0))
    bench.wait_for(bench.began, 1)
    assert [True, True, False] == [worker.hand_over(step(n), delay) for n, delay in ((1, 0), (2, NEVER), (3, 0))]
    assert 2 == worker.waiting
    bench.may_go.set()
    assert 1 == worker.close()
    assert ["0", "1"] == bench.done


def test_steps_run_in_the_order_of_their_time(bench: Bench) -> None:
    """What is due earlier runs earlier, whenever it was handed over; equal times keep their order."""
    bench.may_go.clear()
    worker = started(bench)
    worker.hand_over(step(0))
    bench.wait_for(bench.began, 1)
    for number, delay in ((3, 0.002), (4, 0.003), (1, 0.0), (2, 0.0)):
        worker.hand_over(step(number), delay)
    bench.may_go.set()
    bench.wait_for(bench.ended, 5)
    assert ["0", "1", "2", "3", "4"] == bench.done
    worker.close()


def test_a_delayed_step_holds_no_thread(bench: Bench) -> None:
    """One thread, a step an hour away, and the next one runs now."""
    worker = started(bench)
    worker.hand_over(step(1), NEVER)
    worker.hand_over(step(2))
    bench.wait_for(bench.ended, 1)
    assert (["2"], 1) == (bench.done, worker.waiting)
    assert 1 == worker.close()


def test_threads_work_side_by_side() -> None:
    """As many steps at once as there are threads: they meet at a barrier."""
    barrier = threading.Barrier(4)
    worker = ThreadWorker(threads=3)
    worker.start(lambda item: barrier.wait(LONG) and None)
    for _ in range(3):
        worker.hand_over(Refresh(ADA))
    barrier.wait(LONG)
    assert 0 == worker.close()
    assert not barrier.broken


def test_following_never_takes_all_threads() -> None:
    """While status calls hang, half of the threads stay for the kick-offs of who logs in now."""
    hang, begun = threading.Event(), threading.Semaphore(0)
    refreshed = threading.Event()

    def work(item: Step) -> None:
        if isinstance(item, Refresh):
            refreshed.set()
        else:
            begun.release()
            hang.wait(LONG)

    worker = ThreadWorker(threads=2)
    worker.start(work)
    for number in range(5):
        worker.hand_over(step(number))
    assert begun.acquire(timeout=LONG)
    worker.hand_over(Refresh(ADA))
    assert refreshed.wait(LONG)
    assert 4 == worker.waiting
    hang.set()
    assert 0 == worker.close()


def test_a_burst_of_logins_leaves_room_for_following(bench: Bench) -> None:
    """With as many refreshes waiting as may, a step of following is taken, and it is run before they are all done."""
    bench.may_go.clear()
    worker = started(bench, threads=2, queue_limit=50)
    taken = [worker.hand_over(Refresh(ADA)) for _ in range(60)]
    assert 50 <= taken.count(True) < 60
    assert worker.hand_over(step(1))
    bench.may_go.set()
    assert 0 == worker.close()
    assert "1" in bench.done[:10]


def test_a_thread_that_cannot_be_started_loses_no_step(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    """Where the system refuses threads the answer is False and no exception; once it gives them, steps run."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    worker = started(bench)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert not worker.hand_over(step(1))
    assert worker.hand_over(step(2))
    bench.wait_for(bench.ended, 1)
    assert ["2"] == bench.done


def test_closing_finishes_what_is_due_and_drops_the_rest(bench: Bench) -> None:
    """Steps whose time has come run, delayed ones are let go of and counted."""
    bench.may_go.clear()
    worker = started(bench)
    for number in range(3):
        worker.hand_over(step(number))
    for number in range(3, 8):
        worker.hand_over(step(number), NEVER)
    bench.may_go.set()
    assert 5 == worker.close()
    assert ["0", "1", "2"] == bench.done


def test_closing_waits_no_longer_than_it_may(bench: Bench) -> None:
    """A step that is stuck does not keep the process: what waits behind it is dropped and counted."""
    bench.may_go.clear()
    worker = started(bench, drain_seconds=0.01)
    for number in range(3):
        worker.hand_over(step(number))
    bench.wait_for(bench.began, 1)
    assert 2 == worker.close()


def test_a_closed_worker_takes_nothing(bench: Bench) -> None:
    """False, before `start` and after `close`."""
    worker = ThreadWorker()
    assert not worker.hand_over(step(1))
    worker.start(bench)
    worker.close()
    assert not worker.hand_over(step(2))
    assert [] == bench.done


@pytest.mark.parametrize("make", [ThreadWorker, TaskWorker])
@pytest.mark.parametrize("options", [{"queue_limit": 0}, {"queue_limit": -1}])
def test_a_queue_of_nothing_is_rejected(make: Callable[..., object], options: dict[str, int]) -> None:
    """At least one of each."""
    with pytest.raises(ConfigurationError):
        make(**options)


def test_no_workers_are_rejected() -> None:
    """Zero threads or tasks would take steps and run none."""
    with pytest.raises(ConfigurationError):
        ThreadWorker(threads=0)
    with pytest.raises(ConfigurationError):
        TaskWorker(concurrency=0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_works_on_its_own(bench: Bench) -> None:
    """After a fork the child has threads of its own and none of the parent's steps."""
    worker = started(bench)
    worker.hand_over(step(1), NEVER)
    worker.hand_over(step(2))
    bench.wait_for(bench.ended, 1)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert worker.waiting == 0
            assert worker.hand_over(step(3))
            code = 0 if bench.ended.acquire(timeout=LONG) and bench.done == ["2", "3"] else 2
        finally:
            os._exit(code)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert (1, ["2"]) == (worker.close(), bench.done)


# asyncio.


def in_loop(work: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine; one that hangs fails."""

    async def bounded() -> None:
        await asyncio.wait_for(work(), LONG)

    asyncio.run(bounded())


class AsyncBench:
    """Runs steps as coroutines and remembers them."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.running = 0
        self.most = 0
        self.may_go = asyncio.Event()
        self.may_go.set()

    async def __call__(self, item: Step) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        await self.may_go.wait()
        await asyncio.sleep(0)
        self.running -= 1
        self.done.append(item.refresh_id if isinstance(item, Follow) else "refresh")


def task_worker(bench: AsyncBench, **options: float) -> TaskWorker:
    """A started worker."""
    worker = TaskWorker(**options)  # type: ignore[arg-type]
    worker.start(bench)
    return worker


def test_tasks_run_what_they_are_given_within_their_bound() -> None:
    """At most `concurrency` at once, all of them in the end, none dropped."""

    async def work() -> None:
        bench = AsyncBench()
        worker = task_worker(bench, concurrency=2)
        assert all(worker.hand_over(step(number)) for number in range(5))
        assert 0 == await worker.close()
        assert (2, 5) == (bench.most, len(bench.done))

    in_loop(work)


def test_tasks_are_bounded() -> None:
    """Full is full, delayed ones included."""

    async def work() -> None:
        bench = AsyncBench()
        bench.may_go.clear()
        worker = task_worker(bench, queue_limit=2)
        assert [True, True, False] == [worker.hand_over(step(n), d) for n, d in ((1, 0), (2, NEVER), (3, 0))]
        assert 2 == worker.waiting
        bench.may_go.set()
        await asyncio.sleep(0)
        assert 1 == await worker.close()
        assert ["1"] == bench.done

    in_loop(work)


def test_a_running_task_leaves_room_for_its_successor() -> None:
    """A step that hands over the next one while it runs is not in its way."""

    async def work() -> None:
        worker = TaskWorker(queue_limit=1)
        room: list[bool] = []

        async def run(item: Step) -> None:
            room.append(worker.hand_over(item, NEVER))

        worker.start(run)
        worker.hand_over(step(1))
        while not room:
            await asyncio.sleep(0)
        assert [True] == room
        assert 1 == await worker.close()

    in_loop(work)


def test_delayed_tasks_take_no_slot() -> None:
    """One slot, a step an hour away, and the next one runs now."""

    async def work() -> None:
        bench = AsyncBench()
        worker = task_worker(bench, concurrency=1)
        worker.hand_over(step(1), NEVER)
        worker.hand_over(step(2))
        while not bench.done:
            await asyncio.sleep(0)
        assert ["2"] == bench.done
        assert 1 == await worker.close()

    in_loop(work)


def test_delayed_tasks_run_in_the_order_of_their_time() -> None:
    """What is due earlier runs earlier."""

    async def work() -> None:
        bench = AsyncBench()
        worker = task_worker(bench, concurrency=1)
        for number, delay in ((3, 0.02), (2, 0.01), (1, 0.0)):
            worker.hand_over(step(number), delay)
        while len(bench.done) < 3:
            await asyncio.sleep(0.001)
        assert ["1", "2", "3"] == bench.done

    in_loop(work)


def test_closing_drops_a_step_that_was_delayed_just_now() -> None:
    """A delayed step that the loop has not yet begun is let go of like any other, without waiting for it."""

    async def work() -> None:
        worker = task_worker(AsyncBench(), drain_seconds=LONG)
        worker.hand_over(step(1), NEVER)
        async with asyncio.timeout(1):
            assert 1 == await worker.close()

    in_loop(work)


def test_closing_cancels_a_task_that_is_stuck() -> None:
    """After `drain_seconds` it is cancelled and counted."""

    async def work() -> None:
        bench = AsyncBench()
        bench.may_go.clear()
        worker = task_worker(bench, drain_seconds=0.01)
        worker.hand_over(step(1))
        assert 1 == await worker.close()
        assert [] == bench.done

    in_loop(work)


def test_a_closed_task_worker_takes_nothing() -> None:
    """False, before `start` and after `close`."""

    async def work() -> None:
        worker = TaskWorker()
        assert not worker.hand_over(step(1))
        worker.start(AsyncBench())
        assert 0 == await worker.close()
        assert not worker.hand_over(step(2))

    in_loop(work)


# In the caller's thread.


def test_the_inline_worker_keeps_delayed_steps() -> None:
    """Steps without delay run inside `hand_over`; delayed ones when told, in order, or are dropped and counted."""
    done: list[Step] = []
    worker = InlineWorker()
    worker.start(done.append)
    assert all(worker.hand_over(step(number), delay) for number, delay in ((1, 0), (2, 5), (3, 1)))
    assert [step(1)] == done
    assert 2 == worker.run_later()
    assert [step(1), step(2), step(3)] == done
    worker.hand_over(step(4), NEVER)
    assert (1, 0) == (worker.close(), worker.close())


def test_the_inline_worker_runs_what_a_step_hands_over_the_next_time() -> None:
    """A step that hands over its successor does not run for ever."""
    worker = InlineWorker()
    worker.start(partial(worker.hand_over, delay=1.0))
    worker.hand_over(step(1), 1.0)
    assert [1, 1] == [worker.run_later() for _ in range(2)]
