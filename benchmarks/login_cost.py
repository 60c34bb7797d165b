"""What a login with one status poll costs this process, and how much of that is the talk with the upstream.

`python -m benchmarks.login_cost [logins]`. It is processor time: the simulator of the upstream runs in another process.
Beside it stand calls of the same bytes over one bare `http.client` connection: what any client has to pay.
"""

import http.client
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from statistics import median
from typing import Final
from urllib.parse import urlsplit

from phr_refresh import Patient, PhrRefresh, Policy, open_store
from phr_refresh.adapters.session_creation.mhv import MhvSessions
from phr_refresh.adapters.simulator import Simulator
from phr_refresh.adapters.status_polling.phrmgr import PhrManager
from phr_refresh.adapters.upstream.http_client import HttpClient
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.statemachine.effects import AskStatus

_ROUNDS: Final = 7
_POLL_SECONDS: Final = 0.5
_POLICY: Final = Policy(
    login_budget=timedelta(seconds=10), poll_interval=timedelta(seconds=_POLL_SECONDS), poll_schedule=()
)
_LOGIN: Final = {"appId": "103", "userType": "PATIENT", "authParams": {"PATIENT_SUBJECT_ID_TYPE": "ICN"}}


def whole(settings: MhvSettings, patients: list[Patient]) -> None:
    """Log each patient in, which opens a session and starts the refresh, and poll once: it has ended by then."""
    worker = InlineWorker()
    with PhrRefresh(
        store=open_store("memory://"), upstream=MhvUpstream(settings), worker=worker, policy=_POLICY
    ) as phr:
        for patient in patients:
            phr.login(patient)
        # No processor time: until each of them is due.
        time.sleep(_POLL_SECONDS)
        worker.run_later()
        missed = sum(phr.status(patient.user_id).state.label != "complete" for patient in patients)
        if missed:
            raise SystemExit(f"{missed} of {len(patients)} refreshes did not end with their first poll")


def calls(settings: MhvSettings, patients: list[Patient]) -> None:
    """The same three calls for each patient, without the lifecycle."""
    seconds = settings.read_timeout.total_seconds()
    http = HttpClient(connect_seconds=seconds, read_seconds=seconds, pool_size=10, verify=True)
    with closing(http):
        sessions, manager = MhvSessions(settings, http), PhrManager(settings, http)
        for patient in patients:
            now = round(time.time() * 1000)
            sessions.open_session(patient)
            manager.start_refresh(patient)
            manager.ask_status(AskStatus(patient, now, now, now))


def bare(settings: MhvSettings, patients: list[Patient]) -> None:
    """Calls of the same bytes without requests, urllib3, time limits or a look at the answers."""
    place = urlsplit(settings.base_url)
    headers = settings.common_headers() | {"X-Authorization-Key": settings.authorization_key}
    with closing(http.client.HTTPConnection(place.hostname or "", place.port)) as connection:
        for patient in patients:
            login = _LOGIN | {"appToken": settings.app_token, "subject": patient.icn}
            for method, path, body in (
                ("POST", "/v1/security/login", json.dumps(login)),
                ("POST", f"/v2/phrmgr/refresh/{patient.icn}", "{}"),
                ("GET", f"/v2/phrmgr/status/{patient.icn}", None),
            ):
                connection.request(method, path, body, headers)
                connection.getresponse().read()


def measure(logins: int) -> dict[str, float]:
    """Milliseconds of processor time per login, by what they were spent on; the median of a few rounds in turn."""
    works = {"login, kick-off and one poll": whole, "of which calls to the upstream": calls, "bare http.client": bare}
    found: dict[str, list[float]] = {name: [] for name in works}
    with _simulator() as settings:
        for turn in range(_ROUNDS + 1):
            for place, (name, work) in enumerate(works.items()):
                first = (turn * len(works) + place) * logins
                patients = [Patient(f"u{n}", f"{n:010}V000000", f"c{n}") for n in range(first, first + logins)]
                began = time.process_time()
                work(settings, patients)
                found[name].append((time.process_time() - began) * 1000 / logins)
    return {name: median(costs[1:]) for name, costs in found.items()}


@contextmanager
def _simulator() -> Iterator[MhvSettings]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_simulate, args=(theirs,), daemon=True)
    process.start()
    url, app_token, authorization_key = ours.recv()
    yield MhvSettings(base_url=url, app_token=app_token, authorization_key=authorization_key)
    ours.send("over")
    process.join()


def _simulate(pipe: Connection) -> None:
    with Simulator(speed=1000, login_seconds=0) as simulator:
        pipe.send((simulator.url, simulator.app_token, simulator.authorization_key))
        pipe.recv()


def main() -> None:
    """Print the costs."""
    for name, cost in measure(int(sys.argv[1]) if sys.argv[1:] else 200).items():
        print(f"{cost:6.2f} ms  {name}")  # noqa: T201


if __name__ == "__main__":
    main()
