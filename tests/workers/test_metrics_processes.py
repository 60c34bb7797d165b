"""Metrics of a service that forks: whichever process is scraped answers for all of them."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
from phr_refresh.adapters.simulator import Simulator
from support.hosts import PATIENCE_SECONDS, HostUnderTest, RunningHost, environment

SERVICE = HostUnderTest(name="metrics", modules=("gunicorn", "prometheus_client"))
LOGINS = 40
PROCESSES = 2


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningHost]:
    """The login service of `programs/host_metrics.py`, on SQLite and the simulator."""
    (tmp_path / "metrics").mkdir()
    with Simulator(speed=50) as simulator:
        environ = environment(simulator, f"sqlite:///{tmp_path / 'store.db'}") | {
            "PHR_REFRESH_METRICS": "prometheus",
            "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
        }
        with closing(SERVICE.start(environ)) as running:
            yield running


def fetched(service: RunningHost, path: str) -> str:
    """The body of an answer, by a connection of its own: any process may take it."""
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(f"{service.url}{path}", timeout=PATIENCE_SECONDS, headers={"Connection": "close"})
    answer.raise_for_status()
    return answer.text


def scraped(service: RunningHost) -> dict[str, float]:
    """Each sample by its name and labels, as Prometheus reads them."""
    lines = [line for line in fetched(service, "/metrics").splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def eventually(is_so: Callable[[], bool]) -> bool:
    """Whether it is so within the time of patience; each look is a request, which takes its time."""
    return any(is_so() for _ in range(2000))


@pytest.mark.once
def test_any_process_answers_for_all(service: RunningHost) -> None:
    """Logins by two workers add up, and so do their transitions; what a worker has counted outlives it."""
    workers = {fetched(service, f"/login/member-{number}") for number in range(LOGINS)}
    for number in range(LOGINS, 50 * LOGINS):
        if len(workers) == PROCESSES:
            break
        workers.add(fetched(service, f"/login/member-{number}"))
    assert PROCESSES == len(workers)
    completed = (
        'phr_refresh_transitions_total{event="refresh_completed",from_state="refreshing",reason="",to_state="complete"}'
    )
    assert eventually(lambda: scraped(service).get(completed, 0) >= LOGINS)
    before = scraped(service)
    logins = 'phr_refresh_login_seconds_count{kind="handed_over"}'
    claimed = re.compile(r'phr_refresh_transitions_total{event="refresh_claimed",.*}')
    assert before[logins] >= LOGINS
    assert before[logins] == sum(value for name, value in before.items() if claimed.fullmatch(name))
    assert eventually(lambda: scraped(service)["phr_refresh_worker_queue_depth"] == 0)

    os.kill(int(min(workers)), signal.SIGKILL)
    # A login each time: it is the server that paces this.
    assert eventually(lambda: fetched(service, "/login/member-0") not in workers)
    assert before[logins] == scraped(service)[logins]
    assert "member-" not in fetched(service, "/metrics")
