"""A host with a Celery app: what its module would hold, for tests and for the worker processes that they start.

`tests/programs/celery_app.py` is that module: it reads its settings from the environment that `environment` makes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from celery import Celery
from phr_refresh import Patient
from phr_refresh.adapters.simulator import Simulator
from phr_refresh.celery import Delivery, setup

from .samples import ICN

TESTS = Path(__file__).resolve().parent.parent
QUEUES = "phr_refresh,phr_refresh_follow"
CORRELATION_ID = "canary-correlation-id"
#: How soon a dead worker's messages come back.
SOON = {"visibility_timeout": 3, "unacked_restore_interval": 0.5, "unacked_restore_throttle": 1}
QUICK = {"poll_schedule": (), "poll_interval": 0.2, "poll_interval_max": 1.2, "login_budget": 30}


def by_id(user: str) -> Patient | None:
    """The host's directory: numbers are patients, and so is the canary; anybody else is none."""
    if user == "canary-user":
        return Patient(user, ICN, CORRELATION_ID)
    kind, _, number = user.rpartition("-")
    return Patient(user, f"{int(number):010}V654321", number) if kind == "user" else None


def ping() -> None:
    """A task of the host's own."""


def make_app(broker: str, block: Mapping[str, Any], *, options: Mapping[str, Any] = SOON, **delivery: Any) -> Celery:
    """An app of its own, as the documentation says; `delivery` are the fields of `Delivery`."""
    app = Celery("portal", broker=broker, set_as_current=False)
    app.conf.broker_transport_options = dict(options)
    app.conf.broker_connection_retry_on_startup = True
    app.task(name="portal.ping", shared=False)(ping)
    for name in ("sweep_every", "expires"):
        if delivery.get(name) is not None:
            delivery[name] = timedelta(seconds=delivery[name])
    setup(app, {"policy": QUICK, **block}, directory=by_id, delivery=Delivery(**delivery))
    return app


def environment(simulator: Simulator, *, broker: str, store: str, **settings: Any) -> dict[str, str]:
    """What a worker's or beat's process needs. `settings`: the arguments of `make_app`."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
        "PHR_REFRESH_STORE": store,
        "PHR_REFRESH_MHV_URL": simulator.url,
        "PHR_REFRESH_APP_TOKEN": simulator.app_token,
        "PHR_REFRESH_AUTHORIZATION_KEY": simulator.authorization_key,
        "CELERY_HOST": json.dumps({"broker": broker, "block": {}, **settings}),
        # A container's user may be root, of which Celery warns.
        "PYTHONWARNINGS": "ignore",
    }


class CeleryProcess:
    """A worker or beat. `pid` leads a process group of its own, children included."""

    def __init__(self, environ: Mapping[str, str], *arguments: str) -> None:
        self._log = TemporaryFile()  # noqa: SIM115 - `close` closes it
        command = [sys.executable, "-m", "celery", "-A", "celery_app", "--workdir", str(TESTS / "programs")]
        self._process = subprocess.Popen(
            [*command, *arguments], env=dict(environ), stdout=self._log, stderr=self._log, start_new_session=True
        )
        self.pid = self._process.pid

    def children(self) -> list[int]:
        """Its pool's processes."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def log(self) -> str:
        """All that it has logged so far."""
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode()

    def kill(self) -> None:
        """SIGKILL, to it and to all of its children at once."""
        os.killpg(self.pid, 9)
        self._process.wait()

    def wait(self, seconds: float) -> int:
        """Its exit code, once it has ended by itself."""
        return self._process.wait(seconds)

    def close(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        self._log.close()


@contextmanager
def worker(
    environ: Mapping[str, str], *, queues: str = QUEUES, level: str = "INFO", processes: int = 2
) -> Iterator[CeleryProcess]:
    """A real worker with a pool of processes."""
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    name = f"worker-{os.urandom(4).hex()}@%h"
    run = CeleryProcess(environ, "worker", "-Q", queues, "-c", str(processes), "-l", level, "-n", name, *quiet)
    try:
        yield run
    finally:
        run.close()


@contextmanager
def beat(environ: Mapping[str, str], folder: Path) -> Iterator[CeleryProcess]:
    """A real beat."""
    files = ("-s", str(folder / "schedule"), "--pidfile", str(folder / "beat.pid"))
    run = CeleryProcess(environ, "beat", "-l", "INFO", *files)
    try:
        yield run
    finally:
        run.close()
