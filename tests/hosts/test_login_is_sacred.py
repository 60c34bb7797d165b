"""Rule R5 on real sockets: whatever the store does, a login returns within its budget, never raises, and tells once."""

import asyncio
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import pytest
from phr_refresh import AsyncPhrRefresh, Fact, Patient, PhrRefresh, Policy, Receipt, open_async_store, open_store
from phr_refresh.statemachine.effects import Refresh
from phr_refresh.unconnected import UnconnectedUpstream
from support.fakes import RecordingWorker
from support.samples import UNHURRIED

ADA = Patient("ada", "1012345678V123456", "12345")
BUDGET = Policy().login_budget.total_seconds()
# What a busy machine adds before a thread is woken up. The median of several logins is judged.
SCHEDULING = 0.03
LOGINS = 9


def closed_port() -> Iterator[str]:
    """Nothing listens."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{probe.getsockname()[1]}"


def black_hole() -> Iterator[str]:
    """Connections are accepted, and never answered."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}"


def unreachable_name() -> Iterator[str]:
    """The name of the server does not resolve."""
    yield "redis://store.invalid:6379"


STORES = {"closed port": closed_port, "black hole": black_hole, "unknown name": unreachable_name}


@pytest.fixture(params=STORES)
def dead_store_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a store that is of no use, in each of several ways."""
    yield from STORES[request.param]()


class SlowProxy:
    """Passes a server's traffic on, each answer `seconds` late."""

    def __init__(self, port: int, seconds: float) -> None:
        self._port, self._seconds = port, seconds
        self._late = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                for source, sink, wait in ((client, server, 0.0), (server, client, self._seconds)):
                    threading.Thread(target=self._pass, args=(source, sink, wait), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, wait: float) -> None:
        with suppress(OSError), source, sink:
            while data := source.recv(65536):
                self._late.wait(wait)
                sink.sendall(data)

    def close(self) -> None:
        """Take no more connections; those that are open end with their peers."""
        self._late.set()
        self._listener.close()


def timed(login: Callable[[], Receipt]) -> tuple[float, Receipt]:
    """How many seconds a login took, and its receipt."""
    began = time.perf_counter()
    receipt = login()
    return time.perf_counter() - began, receipt


def test_a_dead_store_does_not_hold_up_a_login(dead_store_url: str) -> None:
    """With a store that cannot be used every login returns in time, is deferred, and tells one fact."""
    facts: list[Fact] = []
    phr = PhrRefresh(store=open_store(dead_store_url), upstream=UnconnectedUpstream(), observer=facts.append)
    with closing(phr):
        logins = [timed(lambda: phr.login(ADA)) for _ in range(LOGINS)]
    assert ["deferred"] * LOGINS == [receipt.kind for _, receipt in logins]
    assert {"store_unavailable", "over_budget"} >= {receipt.reason for _, receipt in logins}
    assert statistics.median(seconds for seconds, _ in logins) < BUDGET + SCHEDULING
    assert ["login_deferred"] * LOGINS == [fact.name for fact in facts if not fact.is_measurement]


def test_a_dead_store_does_not_hold_up_an_asynchronous_login(dead_store_url: str) -> None:
    """The same under asyncio: in time, deferred, one fact."""
    facts: list[Fact] = []

    async def log_in() -> list[tuple[float, Receipt]]:
        phr = AsyncPhrRefresh(
            store=open_async_store(dead_store_url), upstream=UnconnectedUpstream(), observer=facts.append
        )
        logins = []
        for _ in range(LOGINS):
            began = time.perf_counter()
            receipt = await phr.login(ADA)
            logins.append((time.perf_counter() - began, receipt))
        await phr.close()
        return logins

    logins = asyncio.run(log_in())
    assert ["deferred"] * LOGINS == [receipt.kind for _, receipt in logins]
    assert statistics.median(seconds for seconds, _ in logins) < BUDGET + SCHEDULING
    assert ["login_deferred"] * LOGINS == [fact.name for fact in facts if not fact.is_measurement]


def test_a_slow_store_does_not_hold_up_a_login_that_goes_on_behind_it(shared_server) -> None:
    """With a store that answers too late the login returns in time, tells one fact, and is handed over all the same."""
    facts: list[Fact] = []
    worker = RecordingWorker()

    with closing(SlowProxy(shared_server("valkey").port, seconds=0.15)) as proxy:
        phr = PhrRefresh(
            store=open_store(f"{proxy.url}?socket_timeout=5"),
            upstream=UnconnectedUpstream(),
            observer=facts.append,
            worker=worker,
        )
        with closing(phr):
            seconds, receipt = timed(lambda: phr.login(ADA))
            assert ("deferred", "over_budget") == (receipt.kind, receipt.reason)
            assert seconds < BUDGET + 3 * SCHEDULING
    assert [Refresh(ADA)] == [step for step, _ in worker.taken]
    assert ["login_deferred"] == [fact.name for fact in facts if not fact.is_measurement]


def test_a_burst_of_logins_loses_none() -> None:
    """Of a hundred logins at the same moment every one is handed over, at once or a little later."""
    worker = RecordingWorker()
    people = [Patient(f"user-{number}", f"{number:010}V123456", "12345") for number in range(100)]
    together = threading.Barrier(len(people))
    phr = PhrRefresh(store=open_store("memory://"), upstream=UnconnectedUpstream(), worker=worker)

    def log_in(patient: Patient) -> None:
        together.wait()
        phr.login(patient)

    with closing(phr), ThreadPoolExecutor(len(people)) as pool:
        list(pool.map(log_in, people))
    assert {patient.user_id for patient in people} == {step.patient.user_id for step, _ in worker.taken}


@pytest.mark.parametrize("nobody", [None, "ada", 7, object()])
def test_a_login_of_something_that_is_no_patient_is_deferred(nobody: object) -> None:
    """Even a programming error of the host comes back as a receipt, and as one fact that names the error's type."""
    facts: list[Fact] = []
    with closing(
        PhrRefresh(
            store=open_store("memory://"), upstream=UnconnectedUpstream(), observer=facts.append, policy=UNHURRIED
        )
    ) as phr:
        receipt = phr.login(nobody)
    assert ("deferred", "internal_error") == (receipt.kind, receipt.reason)
    assert ["login_deferred"] == [fact.name for fact in facts if not fact.is_measurement]
    assert "AttributeError" in facts[0].details["error"]
