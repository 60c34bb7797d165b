"""Rule R7: no identifier, token or key in any log, key, value, repr, exception or command line."""

import io
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from phr_refresh import Patient, PhrRefresh, PhrRefreshError, open_store
from phr_refresh.adapters.session_creation.seal import FernetSeal
from phr_refresh.adapters.simulator import Fault, Simulator
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.statemachine.effects import Load
from support.samples import UNHURRIED
from support.values import replace

ICN, CORRELATION_ID = "1012345678V123456", "canary-correlation-id"
APP_TOKEN, AUTHORIZATION_KEY = "canary-app-token", "canary-authorization-key"
USER_ID = "canary-user-id"
ADA = Patient(USER_ID, ICN, CORRELATION_ID)
SECRETS = (ICN, ICN.lower(), CORRELATION_ID, APP_TOKEN, AUTHORIZATION_KEY, USER_ID)

FAULTS = {
    "none": [],
    "login refused": [Fault("login", "unauthorized")],
    "login broken": [Fault("login", "http_error", status=500)],
    "login without a token": [Fault("login", "bad_token")],
    "login reset": [Fault("login", "reset")],
    "kick-off refused": [Fault("refresh", "unauthorized")],
    "kick-off broken": [Fault("refresh", "http_error", status=503)],
    "kick-off answer lost": [Fault("refresh", "lost_answer")],
    "status broken": [Fault("status", "http_error", status=502)],
    "status garbage": [Fault("status", "garbage")],
    "all extracts fail": [Fault("refresh", "all_failed")],
}


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What all loggers together write, every level on, with tracebacks."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s %(pathname)s"))
    root = logging.getLogger()
    loggers = [
        root,
        *(found for found in logging.root.manager.loggerDict.values() if isinstance(found, logging.Logger)),
    ]
    levels = [found.level for found in loggers]
    root.addHandler(handler)
    for found in loggers:
        found.setLevel(logging.DEBUG)
    yield text
    for found, level in zip(loggers, levels, strict=True):
        found.setLevel(level)
    root.removeHandler(handler)


def visit(phr: PhrRefresh, worker: InlineWorker) -> list[str]:
    """A whole visit, whatever fails; the reprs of all that came of it, and the texts of all that was raised."""
    seen: list[str] = []
    for act in (phr.login, phr.status, phr.session, phr.refresh, phr.explain, phr.status, phr.logout, phr.login):
        try:
            came = act(ADA)
            seen += [repr(came), str(came)]
        except PhrRefreshError as error:
            seen += traceback.format_exception(error)
            link: BaseException | None = error
            while link is not None:
                seen += [repr(link), str(link), repr(vars(link))]
                link = link.__cause__ or link.__context__
        worker.run_later()
    return seen


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "plain"])
def test_a_visit_shows_no_identifier(fault: str, sealed: bool, backend, logged: io.StringIO) -> None:
    """Whatever goes wrong, logs at DEBUG, reprs, exceptions, store keys and values hold no identifier, token or key."""
    worker = InlineWorker()
    with Simulator(speed=100, app_token=APP_TOKEN, authorization_key=AUTHORIZATION_KEY) as simulator:
        for scripted in FAULTS[fault]:
            simulator.script(replace(scripted, icn=ICN))
        settings = MhvSettings(base_url=simulator.url, app_token=APP_TOKEN, authorization_key=AUTHORIZATION_KEY)
        seal = FernetSeal([Fernet.generate_key().decode()]) if sealed else None
        stored = backend.open()
        upstream = MhvUpstream(settings)
        with closing(PhrRefresh(store=stored, upstream=upstream, worker=worker, seal=seal, policy=UNHURRIED)) as phr:
            seen = visit(phr, worker)
            values = [repr(stored.call(Load(ADA.key, with_token=True)))]
            token = "eyJ" if sealed else "no token is looked for in a store that is not sealed"
    shown = "\n".join([*seen, repr(settings), repr(upstream), repr(phr), repr(ADA), logged.getvalue()])
    assert [] == [secret for secret in SECRETS if secret in shown]
    assert "eyJ" not in shown
    assert "phr_refresh." in logged.getvalue()
    assert [] == [secret for secret in (*SECRETS, token) if secret in "\n".join(values)]


def test_store_keys_show_no_identifier(shared_server) -> None:
    """The keys in a real server hold a hash of the user id and nothing else of the patient."""
    server = shared_server("valkey")
    with Simulator(speed=100) as simulator:
        settings = MhvSettings(
            base_url=simulator.url,
            app_token=simulator.app_token,
            authorization_key=simulator.authorization_key,
        )
        worker = InlineWorker()
        store, upstream = open_store(server.url), MhvUpstream(settings)
        with closing(PhrRefresh(store=store, upstream=upstream, worker=worker, policy=UNHURRIED)) as phr:
            phr.login(ADA)
            with closing(server.client()) as client:
                keys = b" ".join(client.keys()).decode()
    assert 3 == len(keys.split())
    assert [] == [secret for secret in SECRETS if secret in keys]


def test_the_command_line_takes_no_identifier(tmp_path: Path) -> None:
    """`phr-refresh login USER` reads the ICN from a file, so that /proc/PID/cmdline cannot show it."""
    patients = tmp_path / "patients.json"
    patients.write_text(f'{{"{USER_ID}": {{"icn": "{ICN}", "mhv_correlation_id": "{CORRELATION_ID}"}}}}')
    with Simulator(speed=100, app_token=APP_TOKEN, authorization_key=AUTHORIZATION_KEY) as simulator:
        hang = Fault("login", "hang", icn=ICN)
        simulator.script(hang)
        environ = {
            "PHR_REFRESH_STORE": f"sqlite:///{tmp_path / 'store.db'}",
            "PHR_REFRESH_MHV_URL": simulator.url,
            "PHR_REFRESH_APP_TOKEN": APP_TOKEN,
            "PHR_REFRESH_AUTHORIZATION_KEY": AUTHORIZATION_KEY,
        }
        command = [sys.executable, "-m", "phr_refresh", "login", USER_ID, "--patients", str(patients)]
        with subprocess.Popen(command, env=os.environ | environ, stderr=subprocess.PIPE) as process:
            while not simulator.calls()["totals"]["login"]:
                assert process.poll() is None
            shown = Path(f"/proc/{process.pid}/cmdline").read_text()
            process.kill()
            process.communicate()
    assert USER_ID in shown
    assert [] == [secret for secret in SECRETS if secret in shown and secret != USER_ID]
