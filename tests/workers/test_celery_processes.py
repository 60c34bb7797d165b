"""Real Celery workers and a real beat on a real broker: work done, workers that die, messages that come twice."""

import base64
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from phr_refresh import Patient, PhrRefresh, State
from phr_refresh.adapters.simulator import Fault, Simulator
from phr_refresh.adapters.workers.celery import CeleryWorker
from phr_refresh.embedding import Embedding
from phr_refresh.statemachine.codec import decode
from phr_refresh.statemachine.effects import Follow, Load
from support.celery_host import CORRELATION_ID, QUEUES, QUICK, CeleryProcess, beat, by_id, environment, make_app, worker
from support.fleet import eventually
from support.samples import ICN

pytestmark = pytest.mark.once


def patient(user: str) -> Patient:
    """Somebody whom the directory knows."""
    found = by_id(user)
    assert found is not None
    return found


class Fleet:
    """A broker that is the store, too, an upstream, and a login service in this process."""

    def __init__(self, server: Any, simulator: Simulator, **settings: Any) -> None:
        self.server, self.simulator = server, simulator
        self.broker, self.store = f"{server.url}/1", f"{server.url}/0"
        self.environ = environment(simulator, broker=self.broker, store=self.store, **settings)
        self.block = {"patient_of": by_id, "policy": QUICK}
        self.app = make_app(self.broker, self.block, **settings)
        embedding = Embedding.of({**self.block, "worker": self.app}, self.environ)
        self.phr: PhrRefresh = embedding.open()

    def state(self, user: str) -> State | None:
        """The state as it lies in the store: nothing is applied, and nobody is asked."""
        row = self.phr._store.call(Load(patient(user).key))
        return None if row.value is None else decode(row.value).state

    def until(self, user: str, state: State) -> None:
        """Wait for the workers to bring `user` there."""
        eventually(lambda: self.state(user) is state)

    def kick_offs(self, user: str) -> int:
        """How many the upstream got."""
        return self.calls(user).get("refresh", 0)

    def calls(self, user: str) -> dict[str, int]:
        """The upstream's counts for one patient."""
        found: dict[str, int] = self.simulator.calls()["patients"].get(self.simulator.pseudonym(patient(user).icn), {})
        return found

    def left(self) -> int:
        """How many messages lie in the broker, those in the hands of workers included."""
        with closing(self.server.client()) as client:
            client.execute_command("SELECT", 1)
            waiting = sum(int(client.llen(queue)) for queue in QUEUES.split(","))
            return waiting + int(client.hlen("unacked"))


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """The upstream, fast."""
    with Simulator(speed=20) as running:
        yield running


@pytest.fixture
def fleet(shared_server: Callable[..., Any], simulator: Simulator) -> Iterator[Fleet]:
    """On a real Valkey."""
    made = Fleet(shared_server("valkey"), simulator)
    with closing(made.phr):
        yield made


def test_a_login_is_worked_off_by_a_worker(fleet: Fleet) -> None:
    """Logins hand over here; sessions, kick-offs and polls are the worker's, and no message is left at the end."""
    users = [f"user-{number}" for number in range(5)]
    with worker(fleet.environ):
        assert ["handed_over"] * 5 == [fleet.phr.login(patient(user)).kind for user in users]
        for user in users:
            fleet.until(user, State.COMPLETE)
        assert [1] * 5 == [fleet.kick_offs(user) for user in users]
        eventually(lambda: fleet.left() == 0)


def held_kick_off(fleet: Fleet) -> None:
    """Let the upstream take its time with the answer to a kick-off: a worker is in the middle of a step then."""
    fleet.simulator.script(Fault("refresh", "latency", seconds=2, times=1))


def test_a_pool_process_that_dies_gives_its_message_back(fleet: Fleet) -> None:
    """SIGKILL in the middle of the kick-off: the message comes again, nothing is sent twice, the refresh completes."""
    held_kick_off(fleet)
    with worker(fleet.environ, processes=1) as run:
        fleet.phr.login(patient("user-1"))
        eventually(lambda: fleet.kick_offs("user-1"))
        os.kill(run.children()[0], signal.SIGKILL)
        fleet.until("user-1", State.COMPLETE)
        assert 1 == fleet.kick_offs("user-1")


def test_a_worker_that_dies_is_made_up_for_by_another(fleet: Fleet) -> None:
    """SIGKILL to all of a worker: after the visibility time-out another has its message, and sees the refresh through.

    Nobody reads the status meanwhile, and nothing is sent twice.
    """
    held_kick_off(fleet)
    with worker(fleet.environ, processes=1) as first, worker(fleet.environ, processes=1) as second:
        fleet.phr.login(patient("user-1"))
        eventually(lambda: fleet.kick_offs("user-1"))
        busy = next(run for run in (first, second) if "Task phr_refresh.refresh[" in run.log())
        busy.kill()
        fleet.until("user-1", State.COMPLETE)
    assert 1 == fleet.kick_offs("user-1")


def test_messages_that_come_twice_multiply_nothing(fleet: Fleet) -> None:
    """Twenty copies of one step of following make no more polls than one, and all of them end with the refresh."""
    fleet.simulator.script(Fault("status", "http_error", times=8))
    with worker(fleet.environ, processes=4):
        fleet.phr.login(patient("user-1"))
        eventually(lambda: fleet.kick_offs("user-1"))
        refresh_id = eventually(lambda: fleet.phr.status("user-1").refresh_id)
        with closing(CeleryWorker(fleet.app)) as sender:
            copies = [sender.hand_over(Follow(patient("user-1"), refresh_id), 0.2) for _ in range(20)]
        assert [True] * 20 == copies
        fleet.until("user-1", State.COMPLETE)
        eventually(lambda: fleet.left() == 0)
    status = fleet.phr.status("user-1")
    assert status.claimed_at is not None
    assert status.since is not None
    most = (status.since - status.claimed_at) / timedelta(seconds=QUICK["poll_interval"]) + 1
    assert 9 <= fleet.calls("user-1")["status"] <= most


def test_an_old_message_starts_nothing(fleet: Fleet) -> None:
    """A refresh that waited for longer than its expiry is dropped by the worker that gets it."""
    with closing(fleet.server.client()) as client:
        client.execute_command("SELECT", 1)
        fleet.phr.login(patient("user-1"))
        raw = json.loads(client.rpop("phr_refresh"))
        raw["headers"]["expires"] = "2020-01-01T00:00:00+00:00"
        client.lpush("phr_refresh", json.dumps(raw))
    fleet.phr.login(patient("user-2"))
    with worker(fleet.environ, processes=1):
        fleet.until("user-2", State.COMPLETE)
        eventually(lambda: fleet.left() == 0)
    assert (0, None) == (fleet.kick_offs("user-1"), fleet.state("user-1"))


def test_beat_sweeps(shared_server: Callable[..., Any], simulator: Simulator, tmp_path: Path) -> None:
    """A refresh that nobody follows and nobody reads is stale in the store soon after its deadline."""
    fleet = Fleet(shared_server("valkey"), simulator, sweep_every=0.5)
    simulator.script(Fault("status", "http_error"))
    abandoned = Embedding.of({**fleet.block, "policy": {"refresh_deadline": 0.5}, "worker": fleet.app}, fleet.environ)
    with closing(fleet.phr), closing(abandoned.open()) as phr:
        # Its first step of following lies in a queue that no worker reads.
        fleet.app.tasks["phr_refresh.follow"].destination = "nobody's"
        phr.refresh(patient("user-1"))
        assert State.REFRESHING is fleet.state("user-1")
        with worker(fleet.environ, processes=1), beat(fleet.environ, tmp_path):
            fleet.until("user-1", State.STALE)


def test_queues_are_kept_apart(fleet: Fleet) -> None:
    """A worker on the host's queue leaves our messages alone, and ours does not take the host's."""
    fleet.phr.login(patient("user-1"))
    with worker(fleet.environ, queues="celery", processes=1) as theirs:
        fleet.app.send_task("portal.ping")
        eventually(lambda: "portal.ping" in theirs.log() and "succeeded" in theirs.log())
        assert 1 == fleet.left()
    fleet.app.send_task("portal.ping")
    with worker(fleet.environ, processes=1) as ours:
        fleet.until("user-1", State.COMPLETE)
        assert "Task portal.ping" not in ours.log()


def test_a_worker_shows_no_identifier(fleet: Fleet) -> None:
    """At DEBUG, with a message that comes again and an upstream that fails, Celery shows the opaque user id at most."""
    fleet.simulator.script(Fault("login", "http_error", status=500, times=1))
    fleet.simulator.script(Fault("status", "garbage", times=1))
    with worker(fleet.environ, level="DEBUG", processes=1) as run:
        fleet.phr.login(patient("canary-user"))
        fleet.until("canary-user", State.COMPLETE)
        fleet.phr.login(Patient("guest", ICN, CORRELATION_ID))
        eventually(lambda: "step_dropped" in run.log())
        log = run.log()
    assert "phr_refresh.refresh_completed" in log
    secrets = (ICN, ICN.lower(), CORRELATION_ID, fleet.simulator.app_token, fleet.simulator.authorization_key, "eyJ")
    assert [] == [secret for secret in secrets if secret in log]
    received = [line for line in log.splitlines() if "INFO" in line or "WARNING" in line]
    assert [] == [line for line in received if "canary-user" in line]


def test_what_travels_is_the_opaque_user_id(fleet: Fleet) -> None:
    """Every message of a whole refresh, as the broker saw it come in."""
    seen: list[str] = []
    with closing(fleet.server.client()) as client:
        monitor = client.monitor()
        with monitor:
            done = threading.Event()

            def listen() -> None:
                for command in monitor.listen():
                    seen.append(command["command"])
                    if "is_enough" in command["command"]:
                        break
                done.set()

            threading.Thread(target=listen, daemon=True).start()
            with worker(fleet.environ, processes=1):
                fleet.phr.login(patient("canary-user"))
                fleet.until("canary-user", State.COMPLETE)
            with closing(fleet.server.client()) as other:
                other.echo("is_enough")
            assert done.wait(60)
    pushed = [json.loads(text.partition(" ")[2].partition(" ")[2]) for text in seen if text.startswith("LPUSH ")]
    ours = [message for message in pushed if message["headers"].get("task", "").startswith("phr_refresh.")]
    arguments = [json.loads(base64.b64decode(message["body"]))[1] for message in ours]
    assert {"refresh", "follow"} <= {message["headers"]["task"].rpartition(".")[2] for message in ours}
    assert {"user", "logouts", "refresh", "tries"} == {name for found in arguments for name in found}
    assert {"canary-user"} == {found["user"] for found in arguments}
    everything = "".join([*map(str, arguments), *map(json.dumps, ours)])
    assert [] == [secret for secret in (ICN, CORRELATION_ID, "eyJ", patient("canary-user").key) if secret in everything]


def test_a_wrong_setting_ends_a_worker_with_one_line(fleet: Fleet) -> None:
    """Before it takes any message, and without a traceback."""
    settings = json.loads(fleet.environ["CELERY_HOST"])
    settings["block"] = {"policy": {"refresh_window": -1}}
    run = CeleryProcess({**fleet.environ, "CELERY_HOST": json.dumps(settings)}, "worker", "-Q", "phr_refresh")
    with closing(run):
        assert 0 != run.wait(60)
        assert ("phr-refresh: Policy.refresh_window:" in run.log(), "Traceback" in run.log()) == (True, False)
