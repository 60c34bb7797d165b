"""Real processes over real HTTP: races of many, and deaths at the worst moments."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from freezegun import freeze_time
from phr_refresh import Patient, PhrRefresh, State, open_store
from phr_refresh.adapters.simulator import Simulator
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.adapters.workers.inline import InlineWorker
from support.samples import UNHURRIED

PROGRAMS = Path(__file__).parents[1] / "programs"
ADA = Patient("ada", "1012345678V123456", "12345")
PROCESSES, PATIENTS = 20, 50


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """The upstream, ten times as fast as recorded."""
    with Simulator(speed=10) as running:
        yield running


@pytest.fixture(params=["sqlite", "valkey"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store that processes can share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return request.getfixturevalue("shared_server")(request.param).url


def environment(simulator: Simulator, store_url: str) -> dict[str, str]:
    """What a process needs to know."""
    return os.environ | {
        "PHR_REFRESH_STORE": store_url,
        "PHR_REFRESH_MHV_URL": simulator.url,
        "PHR_REFRESH_APP_TOKEN": simulator.app_token,
        "PHR_REFRESH_AUTHORIZATION_KEY": simulator.authorization_key,
    }


def opened(simulator: Simulator, store_url: str) -> PhrRefresh:
    """A PhrRefresh of this process, on the same store and upstream."""
    settings = MhvSettings.from_env(environment(simulator, store_url))
    store = open_store(store_url)
    return PhrRefresh(store=store, upstream=MhvUpstream(settings), worker=InlineWorker(), policy=UNHURRIED)


def die(moment: str, simulator: Simulator, store_url: str) -> int:
    """Let a process refresh ADA and die at `moment`; its exit code."""
    program = [sys.executable, str(PROGRAMS / "die_while_refreshing.py"), moment]
    return subprocess.run(program, env=environment(simulator, store_url), check=False, timeout=60).returncode


@pytest.mark.once
def test_twenty_processes_start_each_refresh_once(simulator: Simulator, url: str) -> None:
    """Twenty processes that refresh the same patients at once kick each off once, and all get the winner's id."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, str(PROGRAMS / "refresh_everyone.py"), str(PATIENTS)],
                    env=environment(simulator, url),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(PROCESSES)
        ]
        assert ["ready\n"] * PROCESSES == [process.stdout.readline() for process in processes]
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        printed = [process.communicate(timeout=120)[0] for process in processes]
    receipts = [[json.loads(line) for line in lines.splitlines()] for lines in printed]

    assert [0] * PROCESSES == [process.returncode for process in processes]
    calls = simulator.calls()
    assert (PATIENTS, PATIENTS) == (calls["totals"]["refresh"], calls["totals"]["login"])
    assert (0, 0) == (calls["duplicate_refreshes"], calls["simultaneous_logins"])
    for of_one_patient in zip(*receipts, strict=True):
        assert 1 == len({refresh_id for _, refresh_id in of_one_patient})
        assert 1 == [kind for kind, _ in of_one_patient].count("started")
        assert {"started", "joined", "fresh"} >= {kind for kind, _ in of_one_patient}


def test_death_before_the_kick_off_ends_stale_at_the_deadline(simulator: Simulator, tmp_path: Path) -> None:
    """A process that dies between claim and call leaves a refresh that is never sent, and times out by itself."""
    store_url = f"sqlite:///{tmp_path / 'store.db'}"

    assert -9 == die("before the kick-off", simulator, store_url)

    with closing(opened(simulator, store_url)) as phr:
        assert State.REFRESHING == phr.status(ADA).state
        assert ["joined", "in_progress"] == [phr.refresh(ADA).kind, phr.login(ADA).kind]
        with freeze_time(datetime.now(UTC) + timedelta(minutes=5)):
            status = phr.status(ADA)
    assert (State.STALE, "timed_out") == (status.state, status.failure.code)
    assert 0 == simulator.calls()["totals"]["refresh"]


def test_death_after_the_kick_off_ends_complete(simulator: Simulator, url: str) -> None:
    """A process that dies with the answer in hand leaves a refresh that the next reader of the status sees through."""
    assert -9 == die("after the kick-off", simulator, url)

    simulator.completed_earlier(ADA.icn, seconds_ago=0)
    with closing(opened(simulator, url)) as phr:
        status = phr.status(ADA)
        while status.state is State.REFRESHING:  # the poll interval has not passed yet
            status = phr.status(ADA)
    assert State.COMPLETE == status.state
    assert 1 == simulator.calls()["totals"]["refresh"]


def test_a_dead_session_creator_holds_nobody_up_for_long(simulator: Simulator, tmp_path: Path) -> None:
    """The claim of a process that dies while it creates a session lapses by itself, and another creates it."""
    store_url = f"sqlite:///{tmp_path / 'store.db'}"

    assert -9 == die("before the session call", simulator, store_url)

    with closing(opened(simulator, store_url)) as phr:
        assert "handed_over" == phr.login(ADA).kind
        assert 0 == simulator.calls()["totals"]["login"]
        with freeze_time(datetime.now(UTC) + timedelta(seconds=51)):
            assert "started" == phr.refresh(ADA).kind
    assert (1, 1) == (simulator.calls()["totals"]["login"], simulator.calls()["totals"]["refresh"])


def test_a_forked_child_logs_in(simulator: Simulator, tmp_path: Path) -> None:
    """A process forked after PhrRefresh was made, as servers that preload do, logs patients in as its parent does."""
    store_url = f"sqlite:///{tmp_path / 'store.db'}"
    program = (
        "import os\n"
        "from datetime import timedelta\n"
        "from phr_refresh import Patient, PhrRefresh, Policy\n"
        "phr = PhrRefresh.from_env(policy=Policy(login_budget=timedelta(seconds=30)))\n"
        "child = os.fork()\n"
        "number = 1 if child else 2\n"
        "kind = phr.login(Patient(f'user-{number}', f'101234567{number}V123456', '12345')).kind\n"
        "os.write(1, f'{kind.value}\\n'.encode())\n"
        "phr.close()\n"
        "child and os.waitpid(child, 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        env=environment(simulator, store_url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ("handed_over\nhanded_over\n", 0) == (done.stdout, done.returncode)
    assert 2 == simulator.calls()["totals"]["refresh"]
