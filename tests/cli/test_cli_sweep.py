"""`phr-refresh sweep --every`: what it says and when, what it survives, how it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from freezegun import freeze_time
from phr_refresh import Policy, State, SweepReport, open_store
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.cli.sweep import _sweep_on, seconds_in
from phr_refresh.cli.views import sweep_lines
from phr_refresh.statemachine.effects import ListDue
from phr_refresh.statemachine.errors import StoreUnavailable
from phr_refresh.synchronous import PhrRefresh
from support.fakes import ScriptedUpstream, Silent
from support.samples import ADA, BOB

NOTHING = SweepReport(0, 0, 0, 0)
ONE = SweepReport(1, 1, 0, 0, {"refreshing -> stale": 1})
FULL = SweepReport(2, 2, 0, 0, {"refreshing -> stale": 2})
UNREADABLE = SweepReport(1, 0, 0, 1)
DOWN = StoreUnavailable("redis://a", "timed_out")
WENT = f"Error: {DOWN} Sweeping goes on once it is back."
BACK = "The store is back."


class Stop(threading.Event):
    """An event that is set once the script of sweeps is used up; its waits take no time and are counted."""

    waits = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        return self.is_set()


def news(*script: SweepReport | StoreUnavailable) -> tuple[list[object], int]:
    """What is said of sweeps that go so, and how often was waited between them."""
    stop, left = Stop(), list(script)

    def sweep() -> SweepReport:
        found = left.pop(0)
        if not left:
            stop.set()
        if isinstance(found, StoreUnavailable):
            raise found
        return found

    return list(_sweep_on(sweep, stop, limit=2, every=5.0)), stop.waits


def test_a_sweep_that_did_nothing_is_not_told() -> None:
    """A quiet night is a quiet log."""
    assert [ONE] == news(NOTHING, ONE, NOTHING, NOTHING)[0]


def test_an_outage_is_told_once() -> None:
    """One line when the store goes away, however often it is tried, and one when it is back."""
    assert [WENT, BACK, ONE, WENT, BACK] == news(DOWN, DOWN, DOWN, ONE, NOTHING, DOWN, NOTHING)[0]


def test_unreadable_records_are_told_when_their_number_changes() -> None:
    """They stay where they are, and so does the news."""
    assert [UNREADABLE, NOTHING] == news(UNREADABLE, UNREADABLE, NOTHING, NOTHING)[0]


def test_where_there_is_more_to_do_it_is_done_at_once() -> None:
    """A sweep that came to its limit is followed by the next one without a pause."""
    assert ([FULL, FULL, ONE], 1) == news(FULL, FULL, ONE)


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5.0), ("500ms", 0.5), ("2m", 120.0), ("1h", 3600.0), ("1.5s", 1.5)]
)
def test_a_duration_is_a_number_with_its_unit(text: str, seconds: float) -> None:
    """In the words that systemd, Docker and Go use."""
    assert seconds == seconds_in(None, None, text)


@pytest.mark.parametrize("text", ["5", "s", "0s", "-1s", "5 s", "5d", "1e3s", "", "5s5s"])
def test_anything_else_is_no_duration(text: str) -> None:
    """The message says what is."""
    with pytest.raises(click.BadParameter, match="is no duration; give a number with its unit, such as 5s"):
        seconds_in(None, None, text)


def test_a_line_counts_the_moves() -> None:
    """What moved whereto stands behind the counts."""
    assert "1 due, 1 moved, 0 moved by others, 0 unreadable (1 refreshing -> stale)" == sweep_lines(ONE)[0]
    assert "0 due, 0 moved, 0 moved by others, 0 unreadable" == sweep_lines(NOTHING)[0]


# As a process.


Sweeper = subprocess.Popen[str]


@pytest.fixture
def start_sweeper(tmp_path: Path) -> Iterator[Callable[[str], Sweeper]]:
    """Starts `phr-refresh sweep --every 50ms --json` on a store."""
    started: list[Sweeper] = []

    def start(store_url: str) -> Sweeper:
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PHR_REFRESH_STORE": store_url}
        command = [sys.executable, "-m", "phr_refresh", "sweep", "--every", "50ms", "--json"]
        process = subprocess.Popen(
            command, env=environ, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def overdue(store_url: str, *patients: object, ago: timedelta = timedelta(minutes=10)) -> None:
    """Refreshes whose deadline is past by now, on a store with this host's clock."""
    with freeze_time(datetime.now(UTC) - ago), closing_phr(store_url) as phr:
        for patient in patients:
            assert "started" == phr.refresh(patient).kind


def closing_phr(store_url: str) -> closing[PhrRefresh]:
    """A `PhrRefresh` on the store, without anybody who follows."""
    worker, policy = InlineWorker(), Policy()
    return closing(
        PhrRefresh(
            store=open_store(store_url), upstream=ScriptedUpstream(), worker=worker, observer=Silent(), policy=policy
        )
    )


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_it_sweeps_until_told_to_stop(
    start_sweeper: Callable[[str], Sweeper], tmp_path: Path, name: signal.Signals
) -> None:
    """One line for each sweep that moved somebody; a signal ends it with 0, and nothing on standard error."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    overdue(url, ADA)
    sweeper = start_sweeper(url)
    assert 1 == json.loads(sweeper.stdout.readline())["moved"]
    overdue(url, BOB)
    assert {"refreshing -> stale": 1} == json.loads(sweeper.stdout.readline())["moves"]
    sweeper.send_signal(name)
    assert ("", "", 0) == (*sweeper.communicate(timeout=30), sweeper.returncode)
    with closing_phr(url) as phr:
        assert {State.STALE} == {status.state for status in phr.statuses(["ada", "bob"]).values()}


def test_it_survives_a_store_that_is_down(
    start_sweeper: Callable[[str], Sweeper], start_server: Callable[[str], object]
) -> None:
    """It says so when the store goes and when it is back, each once, and sweeps on."""
    server = start_server("valkey")
    sweeper = start_sweeper(server.url)
    server.stop()
    went = sweeper.stderr.readline()
    assert "is unavailable" in went
    assert "Sweeping goes on once it is back." in went
    server.start()
    assert f"{BACK}\n" == sweeper.stderr.readline()
    sweeper.terminate()
    assert ("", "", 0) == (*sweeper.communicate(timeout=30), sweeper.returncode)


def test_two_sweepers_share_the_work(start_sweeper: Callable[[str], Sweeper], tmp_path: Path) -> None:
    """Each patient is moved once, by whichever comes first."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    overdue(url, ADA, BOB)
    sweepers = [start_sweeper(url) for _ in range(2)]
    with closing(open_store(url)) as store:
        while store.call(ListDue(10)):
            pass
    for sweeper in sweepers:
        sweeper.terminate()
    lines = [json.loads(line) for sweeper in sweepers for line in sweeper.communicate(timeout=30)[0].splitlines()]
    assert 2 == sum(line["moved"] for line in lines)
