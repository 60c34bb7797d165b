"""The test kit: the page that documents it runs as it stands, and its rules see what they are there for."""

import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from phr_refresh import Fact, Policy, StoreUnavailable
from phr_refresh.adapters.ports import Change
from phr_refresh.adapters.stores.memory import MemoryStore
from phr_refresh.statemachine.effects import AskStatus, Follow, Load, NeverSent, OpenSession, Refresh, StartRefresh
from phr_refresh.testing import Clock, ClockedWorker, Coverage, Rules, ScriptedUpstream, SteppableStore
from support.samples import ADA, NOON

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def run_pytest(folder: Path, program: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A pytest run of its own over `program`, with the plugin and nothing else of ours."""
    (folder / "test_it.py").write_text(program, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "phr_refresh.testing.plugin", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(item for item in sys.path if item), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def examples() -> str:
    """The program on the page."""
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    """Every example passes, and the report tells what they went through."""
    done = run_pytest(tmp_path, examples(), "--phr-coverage")
    assert 0 == done.returncode, done.stdout
    assert "5 passed" in done.stdout
    assert "states: 5 of 5" in done.stdout
    assert "not seen: answer_lost: stale -> stale" in done.stdout


def test_processes_of_one_run_are_counted_together(tmp_path: Path) -> None:
    """Under pytest-xdist the report adds up what its processes saw."""
    alone = run_pytest(tmp_path, examples(), "--phr-coverage").stdout
    spread = run_pytest(tmp_path, examples(), "--phr-coverage", "-p", "xdist", "-n", "2").stdout

    def counts(text: str) -> list[str]:
        return re.findall(r"^\S.*: \d+ of \d+$", text, re.MULTILINE)

    assert 3 == len(counts(alone))
    assert counts(alone) == counts(spread)


def test_a_broken_rule_fails_the_test(tmp_path: Path) -> None:
    """A kick-off that somebody sends behind the library's back fails the test at its end, with one sentence."""
    program = """
from phr_refresh import Patient
from phr_refresh.statemachine.effects import StartRefresh

ADA = Patient("ada", "1012345678V123456", "12345")

def test_it(phr):
    phr.refresh(ADA)
    phr._upstream.call(StartRefresh(ADA))
"""
    done = run_pytest(tmp_path, program)
    assert 1 == done.returncode
    assert "R1: a kick-off was sent 0.000 s after the one before" in done.stdout


POLICY = Policy(login_budget=timedelta(seconds=30))


@pytest.fixture
def clock() -> Clock:
    """Time that stands still."""
    return Clock()


@pytest.fixture
def rules(clock: Clock) -> Rules:
    """The rules over an upstream with which all goes well."""
    return Rules(ScriptedUpstream(), clock=clock, policy=POLICY)


def asked() -> AskStatus:
    """A status call about Ada."""
    return AskStatus(ADA, claimed_at=NOON, answered_at=NOON, asked_at=NOON, turn_ends_at=NOON + 1000)


def test_r1_counts_from_kick_off_to_kick_off(rules: Rules, clock: Clock) -> None:
    """A millisecond too early is broken, a whole window is not."""
    rules.call(StartRefresh(ADA))
    clock.tick(seconds=3600)
    rules.call(StartRefresh(ADA))
    assert [] == rules.broken
    clock.tick(seconds=3599.999)
    rules.call(StartRefresh(ADA))
    assert ["R1: a kick-off was sent 3599.999 s after the one before"] == rules.broken


def test_r1_forgives_what_never_left(clock: Clock) -> None:
    """A kick-off that was never sent may be tried again."""
    upstream = ScriptedUpstream()
    upstream.kick_off_answers.append(NeverSent("refused"))
    rules = Rules(upstream, clock=clock, policy=POLICY)
    rules.call(StartRefresh(ADA))
    rules.call(StartRefresh(ADA))
    assert [] == rules.broken


def test_r2_sees_sessions_at_once(clock: Clock) -> None:
    """A session call that comes while another one is under way is broken."""

    class Slow(ScriptedUpstream):
        def call(self, request: Any) -> Any:
            if not isinstance(request, OpenSession):
                return super().call(request)
            if not self.calls:
                self.calls.append("first")
                rules.call(OpenSession(request.patient))
            return super().call(request)

    rules = Rules(Slow(), clock=clock, policy=POLICY)
    rules.call(OpenSession(ADA))
    assert ["R2: a session was asked for while another one was"] == rules.broken


def test_r3_sees_a_completion_that_nobody_reported(rules: Rules) -> None:
    """Told complete before the upstream said so is broken; after it, not."""
    rules.call(StartRefresh(ADA))
    fact = Fact("refresh_completed", ADA.key, "refreshing", "complete")
    rules(fact)
    rules.call(asked())
    rules(fact)
    assert ["R3: a refresh was told complete, and the upstream had not said so"] == rules.broken


def test_r6_sees_polls_too_close(rules: Rules, clock: Clock) -> None:
    """Nine tenths of an interval are broken."""
    rules.call(asked())
    clock.tick(seconds=0.9)
    rules.call(asked())
    assert ["R6: a status call was made 0.900 s after the one before"] == rules.broken


def test_ticks_run_steps_at_their_own_times(clock: Clock) -> None:
    """A step that is due on the way runs then, and what it hands over runs in the same tick if it is due too."""
    ran: list[tuple[str, float]] = []
    worker = ClockedWorker(clock)
    begun = clock.now

    def run(step: object) -> None:
        ran.append((type(step).__name__, (clock.now - begun).total_seconds()))
        if isinstance(step, Refresh):
            worker.hand_over(Follow(ADA, "r1"), 2)

    worker.start(run)
    worker.hand_over(Refresh(ADA), 1)
    clock.tick(seconds=10)
    assert [("Refresh", 1.0), ("Follow", 3.0)] == ran
    assert (10.0, 0) == ((clock.now - begun).total_seconds(), worker.waiting)


def test_a_dead_worker_runs_nothing(clock: Clock) -> None:
    """What it held is lost, and a leap of the clock runs nothing either."""
    ran: list[object] = []
    worker = ClockedWorker(clock)
    worker.start(ran.append)
    worker.hand_over(Refresh(ADA))
    clock.leap(hours=1)
    assert ([], 1) == (ran, worker.die())
    clock.tick(hours=1)
    assert [] == ran


def test_a_lost_answer_has_taken_effect(clock: Clock) -> None:
    """The write is there, though its writer was told nothing; a failed one is not."""
    store = SteppableStore(MemoryStore(clock=clock))
    change = Change(
        key=ADA.key,
        value=b"1",
        expected_version="",
        decided_at=clock(),
        max_age=1000,
        due_at=None,
        keep_until=clock() + 1,
    )
    store.fail("write")
    store.lose_answer(2)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.call(change)
        values = store.call(Load(ADA.key)).value
    assert b"1" == values
    assert ["write", "load", "write", "load"] == store.calls


def test_coverage_counts_guards_that_refused() -> None:
    """From the fact that tells of a refused event."""
    coverage = Coverage()
    coverage.observing()(Fact("event_refused", ADA.key, details={"guards": "same_refresh same_window"}))
    lines = coverage.report()
    assert any(line.startswith("guards that refused: 2 of ") for line in lines)
    assert "  not seen: same_refresh" not in lines
