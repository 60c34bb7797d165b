"""TimeLimit: a time limit that holds whatever the work does."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest
from phr_refresh.adapters.workers.time_limit import TimeLimit, TimeLimitExceeded

LONG = 30.0


@pytest.fixture
def released() -> threading.Event:
    """Set at the end of the test: what is stuck waits for it."""
    event = threading.Event()
    yield event
    event.set()


def stuck(gate: TimeLimit, released: threading.Event) -> None:
    """Give the gate work that does not end before the test does."""
    with pytest.raises(TimeLimitExceeded):
        gate.call(lambda: released.wait(LONG), seconds=0.001)


def test_it_gives_the_result() -> None:
    """What the work returns comes back."""
    assert "done" == TimeLimit().call(lambda: "done", seconds=LONG)


def test_it_runs_in_another_thread() -> None:
    """The caller's thread is never the one that could be stuck."""
    assert threading.get_ident() != TimeLimit().call(threading.get_ident, seconds=LONG)


@pytest.mark.parametrize("error", [ValueError("v"), KeyError("k"), TimeoutError("its own"), OSError("o")])
def test_it_raises_what_the_work_raises(error: Exception) -> None:
    """The very same exception, a `TimeoutError` of the work's own included."""

    def work() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        TimeLimit().call(work, seconds=LONG)
    assert error is raised.value


def test_work_that_is_not_done_in_time_goes_on(released: threading.Event) -> None:
    """`TimeLimitExceeded`, and the work ends behind it."""
    gate, ended = TimeLimit(), threading.Event()

    def work() -> None:
        released.wait(LONG)
        ended.set()

    with pytest.raises(TimeLimitExceeded):
        gate.call(work, seconds=0.001)
    assert not ended.is_set()
    released.set()
    assert ended.wait(LONG)


def test_when_all_threads_are_stuck_the_next_call_does_not_wait(released: threading.Event) -> None:
    """Its limit is 30 seconds, and it is refused without a wait: the work is not even begun."""
    gate = TimeLimit(threads=2, queue_limit=0)
    stuck(gate, released)
    stuck(gate, released)
    begun = threading.Event()
    with pytest.raises(TimeLimitExceeded) as raised:
        gate.call(begun.set, seconds=LONG)
    assert raised.value.__cause__ is None
    assert not begun.is_set()


def test_a_thread_that_gets_free_is_used_again(released: threading.Event) -> None:
    """Stuck work that ends gives its place back."""
    gate = TimeLimit(threads=1, queue_limit=0)
    free = gate._free
    stuck(gate, released)
    released.set()
    assert free.acquire(timeout=LONG)
    free.release()
    assert 7 == gate.call(lambda: 7, seconds=LONG)


def test_failed_work_gives_its_place_back() -> None:
    """More failures than threads, and the gate still works."""
    gate = TimeLimit(threads=1, queue_limit=0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            gate.call(lambda: 1 // 0, seconds=LONG)
        assert gate._free.acquire(timeout=LONG)
        gate._free.release()
    assert 7 == gate.call(lambda: 7, seconds=LONG)


def test_a_result_that_comes_at_the_last_moment_is_no_error_of_the_work() -> None:
    """The limit and the end of the work coincide: the result, or `TimeLimitExceeded`, and no bare `TimeoutError`."""

    class Coincidence(Future[str]):
        def result(self, timeout: float | None = None) -> str:
            if self.done():
                return super().result()
            self.set_result("just in time")
            raise TimeoutError

    class Pool:
        def submit(self, work: Callable[[], str]) -> Future[str]:
            return Coincidence()

    gate = TimeLimit()
    gate._pool = Pool()  # type: ignore[assignment]
    try:
        assert "just in time" == gate.call(lambda: "", seconds=LONG)
    except TimeLimitExceeded:
        return


def test_a_closed_gate_raises_and_keeps_its_places() -> None:
    """After `close`, calls raise; each gives its place back."""
    gate = TimeLimit(threads=1, queue_limit=0)
    gate.close()
    for _ in range(3):
        with pytest.raises(RuntimeError):
            gate.call(lambda: 7, seconds=LONG)


def test_closing_waits_for_what_still_goes_on(released: threading.Event) -> None:
    """A slow login whose caller has gone on is seen to its end before `close` returns."""
    gate, begun, ended = TimeLimit(threads=1, queue_limit=0), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        released.wait(LONG)
        ended.set()

    with pytest.raises(TimeLimitExceeded):
        gate.call(work, seconds=0.001)
    assert begun.wait(LONG)
    closing = threading.Thread(target=gate.close)
    closing.start()
    released.set()
    closing.join(LONG)
    assert (False, True) == (closing.is_alive(), ended.is_set())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_has_a_gate_of_its_own(released: threading.Event) -> None:
    """After a fork the child's gate is free though all of the parent's threads are stuck."""
    gate = TimeLimit(threads=1, queue_limit=0)
    stuck(gate, released)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if gate.call(lambda: 7, seconds=LONG) == 7 else 2
        finally:
            os._exit(code)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
