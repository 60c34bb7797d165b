"""The parts of the soak that are processes of their own. Argument: which, and the name of this one.

`upstream`: the simulator, which is never killed; a line on its standard input asks for what it has seen. `login`: logs
patients in, reads statuses, logs out, without end. `sweep`: what `phr-refresh sweep --every 1s` does, on the recorded
store.
"""

import json
import random
import signal
import sys
import time
from contextlib import closing, suppress
from typing import Any

from phr_refresh import PhrRefresh, Receipt, StoreError
from phr_refresh.adapters.simulator import Fault, Simulator
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.testing.history import HistoryFile
from phr_refresh.unconnected import UnconnectedUpstream
from support.soak_host import SESSION_SECONDS, WINDOW_SECONDS, SoakHost, by_id

SPEED = 4
SWEEP_SECONDS = 1


def upstream() -> None:
    """Print the address and the keys, then the whole truth for each line that comes in."""
    with Simulator(speed=SPEED, session_seconds=SESSION_SECONDS, window_seconds=WINDOW_SECONDS) as simulator:
        # Time for a kill to come between.
        for endpoint in ("login", "refresh", "status"):
            simulator.script(Fault(endpoint, "latency", seconds=0.1))
        keys = {"app_token": simulator.app_token, "authorization_key": simulator.authorization_key}
        print(json.dumps({"upstream": simulator.url, **keys}), flush=True)
        for line in sys.stdin:
            users = json.loads(line)
            print(json.dumps({user: _seen(simulator, user) for user in users}), flush=True)


def _seen(simulator: Simulator, user: str) -> dict[str, Any]:
    """One patient's kick-offs, in epoch milliseconds, and the end of the last refresh that brought data."""
    patient = by_id(user)
    assert patient is not None
    pseudonym = simulator.pseudonym(patient.icn)
    calls = [call for call in simulator.history() if call.patient == pseudonym]
    feed = simulator._patients.feed(patient.icn, now=round(time.time() * 1000))
    return {
        "kick_offs": [call.arrived_at for call in calls if call.endpoint == "refresh"],
        "logins": sum(call.endpoint == "login" for call in calls),
        "simultaneous": sum(call.outcome == "simultaneous" for call in calls),
        "polls": [call.arrived_at for call in calls if call.endpoint == "status"],
        "fed_at": feed.fed_at if feed else None,
        "feeds": feed.number if feed else 0,
    }


def login(name: str) -> None:
    """Log in, read and log out until killed or terminated; note what was told.

    Nobody reads the status of every other patient: what becomes of their refreshes is the workers' doing alone.
    """
    host = SoakHost.from_env()
    dice = random.Random(f"{host.seed} {name} {time.time_ns()}")
    note = HistoryFile(host.receipts)
    stop = _Stop()
    with host.embedding(worker=host.app()).open() as phr, closing(note):
        people = host.people()
        while not stop.wanted:
            patient = dice.choice(people)
            is_read = people.index(patient) % 2
            verb = dice.choices(["login", "status", "ask", "logout"], [70, 12 * is_read, 13 * is_read, 5])[0]
            note({"name": name, "user": patient.user_id, **_visit(phr, verb, patient)})
            time.sleep(dice.uniform(0.02, 0.1))


def _visit(phr: PhrRefresh, verb: str, patient: Any) -> dict[str, Any]:
    began = time.time()
    line: dict[str, Any] = {"verb": verb, "began": began}
    try:
        match verb:
            case "login":
                line |= _told(phr.login(patient))
            case "logout":
                phr.logout(patient)
            case _:
                status = phr.status(patient if verb == "ask" else patient.user_id)
                line |= {"state": status.state.value, "refresh_id": status.refresh_id}
    except StoreError as error:
        line["error"] = type(error).__name__
    return line | {"seconds": time.time() - began}


def _told(receipt: Receipt) -> dict[str, Any]:
    return {
        "kind": receipt.kind.value,
        "reason": receipt.reason,
        "refresh_id": receipt.refresh_id,
        "claimed_at": receipt.claimed_at and round(receipt.claimed_at.timestamp() * 1000),
        "deadline_at": receipt.deadline_at and round(receipt.deadline_at.timestamp() * 1000),
    }


def sweep(name: str) -> None:
    """Sweep until killed or terminated."""
    host = SoakHost.from_env()
    policy = host.embedding().policy
    stop = _Stop()
    with PhrRefresh(
        store=host.open_store(), upstream=UnconnectedUpstream(), worker=InlineWorker(), policy=policy
    ) as phr:
        while not stop.wanted:
            with suppress(StoreError):
                phr.sweep(1000)
            time.sleep(SWEEP_SECONDS)


class _Stop:
    """Whether SIGTERM has come."""

    def __init__(self) -> None:
        self.wanted = False
        signal.signal(signal.SIGTERM, self._want)

    def _want(self, *_: object) -> None:
        self.wanted = True


if __name__ == "__main__":
    part, *rest = sys.argv[1:]
    {"upstream": upstream, "login": login, "sweep": sweep}[part](*rest)
