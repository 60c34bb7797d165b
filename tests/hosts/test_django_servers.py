"""The Django app in servers: several processes, forks, event loops; and a portal without Django."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

pytest.importorskip("django")

from phr_refresh.adapters.simulator import Fault, Simulator
from support.hosts import PATIENCE_SECONDS, environment

PROGRAMS = Path(__file__).parents[1] / "programs"
WORKERS = 2
#: So often a new browser logs in until each worker has had one.
TRIES = 500


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """The upstream, fifty times as fast as recorded."""
    with Simulator(speed=50) as running:
        yield running


@contextmanager
def served(command: list[str], environ: dict[str, str], *, sign: str) -> Iterator[str]:
    """A server, a module and its arguments, that says its address after `sign`; the address."""
    arguments = [sys.executable, "-m", *command]
    with subprocess.Popen(
        arguments, env=environ, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as server:
        watchdog = threading.Timer(PATIENCE_SECONDS, server.kill)
        watchdog.start()
        drain = threading.Thread(target=server.stderr.read, daemon=True)
        try:
            said = next(line for line in server.stderr if sign in line)
            drain.start()
            yield said.partition(sign)[2].split()[0]
        finally:
            server.terminate()
            server.wait()
            drain.join()
            watchdog.cancel()


def log_in(url: str, user: str) -> tuple[str, requests.Session]:
    """Log in with a new browser: the process that answered, and the browser."""
    browser = requests.Session()
    browser.trust_env = False
    headers = browser.get(f"{url}/csrf", timeout=PATIENCE_SECONDS).json()["headers"]
    answer = browser.post(
        f"{url}/login", data={"user": user}, headers=headers, timeout=PATIENCE_SECONDS, allow_redirects=False
    )
    assert 302 == answer.status_code
    return answer.headers["X-Process"], browser


def test_two_workers_start_one_refresh(simulator: Simulator, tmp_path: Path) -> None:
    """Forked from one preloaded process, each opens its own; a patient who logs in at both is refreshed once."""
    pytest.importorskip("gunicorn")
    processes: set[str] = set()
    options = ["--preload", f"--workers={WORKERS}", "--threads=4", "--bind=127.0.0.1:0", f"--pythonpath={PROGRAMS}"]
    environ = environment(simulator, f"sqlite:///{tmp_path / 'store.db'}")
    with served(["gunicorn", *options, "host_django"], environ, sign="Listening at: ") as url:
        for _ in range(TRIES):
            process, browser = log_in(url, "member-1")
            processes.add(process)
            with browser:
                if len(processes) == WORKERS:
                    break
        _, browser = log_in(url, "member-1")
        with browser:
            while (answer := browser.get(f"{url}/phr/status", headers={"Prefer": "wait=5"})).status_code == 202:
                pass
    assert WORKERS == len(processes)
    assert "complete" == answer.json()["state"]
    assert (1, 0) == (simulator.calls()["totals"]["refresh"], simulator.calls()["duplicate_refreshes"])


FORKING = """
import os
from datetime import timedelta
import django
from django.conf import settings
from phr_refresh import Patient
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "phr_refresh.django"],
    PHR_REFRESH={"patient_of": lambda number: Patient(f"user-{number}", f"101234567{number}V123456", "12345"),
                 "policy": {"login_budget": 30}},
)
django.setup()
import phr_refresh.django as phr
phr.logged_in(0)
of_parent = phr.refresher()
# Not in the midst of a write: SQLite's locks would stay held in the child.
while of_parent.status("user-0").state != "complete":
    pass
child = os.fork()
number = 1 if child else 2
phr.logged_in(number)
is_new = phr.refresher() is not of_parent
os.write(1, f"{number} {is_new}\\n".encode())
child and os.waitpid(child, 0)
"""


def test_a_forked_child_opens_its_own(simulator: Simulator, tmp_path: Path) -> None:
    """Even where the parent has used it, and both finish and close what is theirs when they end."""
    environ = environment(simulator, f"sqlite:///{tmp_path / 'store.db'}")
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert (["1 False", "2 True"], 0) == (sorted(done.stdout.splitlines()), done.returncode), done.stderr
    assert "hook_failed" not in done.stderr
    assert 3 == simulator.calls()["totals"]["refresh"]


def test_on_an_event_loop(simulator: Simulator, tmp_path: Path) -> None:
    """Under ASGI a login is a login, a status a status, and events come one by one, not all at the end."""
    pytest.importorskip("uvicorn")
    simulator.script(Fault("status", "http_error", status=503))
    command = ["uvicorn", "--port=0", f"--app-dir={PROGRAMS}", "host_django:asgi_application"]
    environ = environment(simulator, f"sqlite:///{tmp_path / 'store.db'}")
    with served(command, environ, sign="running on ") as url:
        _, browser = log_in(url, "member-1")
        with browser:
            while browser.get(f"{url}/phr/status").json()["state"] != "refreshing":
                pass
            with browser.get(f"{url}/phr/events", stream=True, timeout=PATIENCE_SECONDS) as answer:
                told = (line for line in answer.iter_lines(chunk_size=1) if line.startswith(b"data: "))
                # This one is there while the refresh still runs.
                assert b'"state":"refreshing"' in next(told)
                simulator.clear_faults()
                *_, last = told
    assert b'"state":"complete"' in last


def test_without_django_the_error_says_what_to_install() -> None:
    """The extra is named, whichever of the two modules is imported."""
    for module in ("phr_refresh.django", "phr_refresh.adapters.login_hooks.django"):
        program = f"import sys; sys.modules['django'] = None; import {module}"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert "pip install 'phr-refresh[django]'" in done.stderr.splitlines()[-1]


def test_a_portal_that_did_not_install_the_app_is_told_so() -> None:
    """Its logins go on, with a warning; whoever wants the refresher learns what to add."""
    program = (
        "from django.conf import settings; settings.configure(); import django; django.setup()\n"
        "import phr_refresh.django as phr\n"
        "phr.logged_in('ada'); phr.logged_out('ada'); phr.refresher()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if "phr_refresh." in line and "reason=" in line]
    assert ["phr_refresh.login_deferred reason=closed", "phr_refresh.logout_deferred reason=closed"] == told
    assert 'INSTALLED_APPS: the app is not in it; add "phr_refresh.django".' in done.stderr
