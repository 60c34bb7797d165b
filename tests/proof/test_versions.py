"""A rolling deployment: the build before this one and this one, as processes on one store at the same time.

tests/builds/README.md tells how the older build was made; docs/upgrading.md what these tests stand for.
"""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import phr_refresh
import pytest
from phr_refresh import PhrRefresh, open_store
from phr_refresh.adapters.ports import Change
from phr_refresh.adapters.simulator import Simulator
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.statemachine.codec import decode
from phr_refresh.statemachine.effects import UPSTREAM_OVERLOADED, ListDue, Load, SessionFailed
from phr_refresh.statemachine.patient import Patient, key_of
from phr_refresh.statemachine.record import RefreshRecord
from support.fakes import ScriptedUpstream, Silent
from support.samples import HOUR, UNHURRIED

HERE = Path(__file__).parents[1]
OLD = HERE / "builds" / "4aa4993" / "phr_refresh-0.1.0-py3-none-any.whl"
LIMIT = 60
pytestmark = pytest.mark.once


class Build:
    """A process of one build. `ask` gives it a verb and a user, and waits for what came of it."""

    def __init__(self, environ: dict[str, str], *, deadline: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "programs" / "any_version.py"), str(deadline)],
            env=environ,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def begin(self, verb: str, user: str = "") -> None:
        """Ask, and do not wait."""
        self.process.stdin.write(json.dumps([verb, user]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, object]:
        """What came of the oldest thing asked."""
        return json.loads(self.process.stdout.readline())

    def ask(self, verb: str, user: str = "") -> dict[str, object]:
        """Ask, and wait."""
        self.begin(verb, user)
        return self.answer()

    def close(self) -> None:
        """End it."""
        self.process.stdin.close()
        self.process.stdout.close()
        assert 0 == self.process.wait(LIMIT)


@pytest.fixture(scope="module")
def old_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the older build and nothing else: a pure wheel is installed by being unpacked."""
    folder = tmp_path_factory.mktemp("older")
    with zipfile.ZipFile(OLD) as wheel:
        wheel.extractall(folder)
    return folder


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """The upstream, fifty times as fast as recorded."""
    with Simulator(speed=50) as running:
        yield running


@pytest.fixture(params=["sqlite", "valkey"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store that processes can share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return request.getfixturevalue("shared_server")(request.param).url


Start = Callable[..., tuple[Build, Build]]


@pytest.fixture
def start(old_path: Path, simulator: Simulator, url: str) -> Iterator[Start]:
    """Starts a process of the older build and one of this build, on one store and one upstream."""
    started: list[Build] = []

    def start_both(*, deadline: float = 300) -> tuple[Build, Build]:
        environ = os.environ | {
            "PHR_REFRESH_STORE": url,
            "PHR_REFRESH_MHV_URL": simulator.url,
            "PHR_REFRESH_APP_TOKEN": simulator.app_token,
            "PHR_REFRESH_AUTHORIZATION_KEY": simulator.authorization_key,
        }
        own = os.pathsep.join([str(Path(phr_refresh.__file__).parent.parent), environ.get("PYTHONPATH", "")])
        old = Build(environ | {"PYTHONPATH": str(old_path)}, deadline=deadline)
        new = Build(environ | {"PYTHONPATH": own}, deadline=deadline)
        started.extend([old, new])
        return old, new

    yield start_both
    for build in started:
        build.close()


def kick_offs(simulator: Simulator) -> int:
    """How many have arrived."""
    return simulator.calls()["totals"]["refresh"]


def test_they_are_two_builds(start: Start, old_path: Path) -> None:
    """Each process has the build that it is meant to have."""
    old, new = start()
    assert str(old_path / "phr_refresh") == old.ask("where")["path"]
    assert str(Path(phr_refresh.__file__).parent) == new.ask("where")["path"]


def test_both_at_once_send_one_kick_off_per_patient(start: Start, simulator: Simulator) -> None:
    """Both refresh the same 40 patients at the same time: winner and loser of each race have the same refresh."""
    builds = start()
    for build in builds:
        build.begin("everybody", "40")
    old, new = (build.answer()["ids"] for build in builds)
    assert (old, 40, 40) == (new, len(set(old)), kick_offs(simulator))
    assert (0, 0) == (simulator.calls()["duplicate_refreshes"], simulator.calls()["simultaneous_logins"])


@pytest.mark.parametrize("first", ["old", "new"])
def test_what_one_begins_the_other_completes(start: Start, simulator: Simulator, first: str) -> None:
    """One build logs the patient in, the other polls to the end, and both tell the same of it."""
    old, new = start()
    beginner, finisher = (old, new) if first == "old" else (new, old)
    assert "handed_over" == beginner.ask("login", "user-1")["kind"]
    assert "in_progress" == finisher.ask("login", "user-1")["kind"]
    while (asked := finisher.ask("ask", "user-1"))["state"] == "refreshing":
        pass
    assert "complete" == asked["state"]
    assert asked == beginner.ask("status", "user-1") == finisher.ask("status", "user-1")
    assert ["fresh", "fresh"] == [build.ask("refresh", "user-1")["kind"] for build in (old, new)]
    assert 1 == kick_offs(simulator)


def test_both_sweep(start: Start, url: str) -> None:
    """What either build began and nobody followed, either sweeper moves, each patient once."""
    old, new = start(deadline=1)
    for number in range(20):
        (old, new)[number % 2].ask("refresh", f"user-{number}")
    with closing(open_store(url)) as store:
        while len(store.call(ListDue(100))) < 20:
            pass
    for build in (old, new):
        build.begin("sweep", "12")
    done = [build.answer() for build in (old, new)]
    done += [build.ask("sweep", "100") for build in (old, new)]
    assert (20, 0) == (sum(each["moved"] for each in done), sum(each["unreadable"] for each in done))
    for build in (old, new):
        statuses = [build.ask("status", f"user-{number}") for number in range(20)]
        assert {("stale", "timed_out")} == {(status["state"], status["failure"]) for status in statuses}


def test_whatever_both_do_breaks_no_rule(start: Start, simulator: Simulator) -> None:
    """Hundreds of verbs of both builds in an order of chance: one kick-off per patient, nothing unreadable."""
    builds = start()
    for seed, build in enumerate(builds):
        build.begin("many", str(seed))
    assert [[], []] == [build.answer()["failed"] for build in builds]
    assert kick_offs(simulator) <= 20
    assert (0, 0) == (simulator.calls()["duplicate_refreshes"], simulator.calls()["simultaneous_logins"])


def test_the_older_build_goes_on_with_a_refresh_that_this_one_deferred(
    start: Start, simulator: Simulator, url: str
) -> None:
    """The field of a deferral is new. The older build does not know it, starts the refresh, and all is as it should."""
    ada = Patient("user-7", "1012345678V000007", "12345")
    upstream = ScriptedUpstream()
    upstream.sessions.append(SessionFailed(UPSTREAM_OVERLOADED, retry_after=0.001))
    with PhrRefresh(
        store=open_store(url), upstream=upstream, worker=InlineWorker(), policy=UNHURRIED, observer=Silent()
    ) as phr:
        assert UPSTREAM_OVERLOADED == phr.refresh(ada).reason
        assert stored(url, "user-7").deferred_since > 0
        old, new = start()
        assert "started" == old.ask("refresh", "user-7")["kind"]
        assert "joined" == new.ask("refresh", "user-7")["kind"]
        assert (0, 1) == (stored(url, "user-7").deferred_since, kick_offs(simulator))


def test_a_different_definition_is_neither_a_crash_nor_a_reset(start: Start, url: str) -> None:
    """A record of a lifecycle with another table is gone on with, under its window, and `explain` says so."""
    old, new = start()
    begun = old.ask("refresh", "user-3")
    with closing(open_store(url)) as store:
        row = store.call(Load(key_of("user-3")))
        value = row.value.replace(stored(url, "user-3").fingerprint.encode(), b"0ther000")
        store.call(
            Change(
                key=key_of("user-3"),
                value=value,
                expected_version=row.version,
                decided_at=row.now,
                max_age=LIMIT * 1000,
                due_at=row.now + HOUR,
                keep_until=row.now + 2 * HOUR,
            )
        )
    assert "Written by another definition of the lifecycle (0ther000)." in new.ask("explain", "user-3")["why"]
    assert ("joined", begun["refresh_id"]) == tuple(new.ask("refresh", "user-3").values())[:2]
    while new.ask("ask", "user-3")["state"] == "refreshing":
        pass
    assert "complete" == old.ask("status", "user-3")["state"]
    assert "0ther000" != stored(url, "user-3").fingerprint


def stored(url: str, user: str) -> RefreshRecord:
    """The record that lies in the store."""
    with closing(open_store(url)) as store:
        return decode(store.call(Load(key_of(user))).value)
