"""Traces: what flows did, as a Mermaid sequence diagram; and the rehearsal that the documentation is recorded from."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory
from phr_refresh import PhrRefresh, PhrRefreshError, StoreUnavailable
from phr_refresh.adapters.ports import Change
from phr_refresh.adapters.stores.memory import MemoryStore
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.statemachine.draft import Draft
from phr_refresh.statemachine.effects import (
    AnswerLost,
    CommitAll,
    Committed,
    Conflict,
    CouldNotAsk,
    ListDue,
    Load,
    LoadAll,
    OpenSession,
    Pause,
    Phase,
    Rejected,
    SessionFailed,
    StatusReport,
    Tell,
)
from phr_refresh.statemachine.facts import Fact
from phr_refresh.statemachine.policy import Policy
from phr_refresh.statemachine.rehearsal import Rehearsal
from phr_refresh.statemachine.trace import Recorder, sequence_diagram
from support.fakes import ScriptedUpstream, Silent
from support.samples import ADA, BOB, NOON, RUNNING, UNHURRIED
from support.stepping import World


def drawn(
    visit: Callable[[PhrRefresh], object], *, recorder: Recorder | None = None, store: Any = None, **script: Any
) -> str:
    """The diagram of a visit to a portal whose upstream follows `script`."""
    recorder = recorder or Recorder()
    upstream = ScriptedUpstream(**{name: deque(answers) for name, answers in script.items()})
    phr = PhrRefresh(
        store=store or MemoryStore(),
        upstream=upstream,
        worker=InlineWorker(),
        observer=Silent(),
        policy=UNHURRIED,
        tap=recorder.tap,
    )
    with closing(phr):
        visit(phr)
    return sequence_diagram(recorder.happenings)


def test_a_visit_is_drawn_in_order() -> None:
    """Who asked, what was loaded and committed, what was called, and what came of it; only who acts takes part."""
    found = drawn(lambda phr: (phr.login(ADA), phr.session(ADA), phr.logout(ADA)))
    expected = [
        "sequenceDiagram",
        "    autonumber",
        "    participant Browser as Browser",
        "    participant Login as Login service",
        "    participant Worker as Worker",
        "    participant Store as Store",
        "    participant MHV as MHV API",
        "    participant PHR as PHR manager",
        "    Browser->>Login: log in",
        "    Login->>Store: load the record",
        "    Store-->>Login: no record",
    ]
    lines = found.splitlines()
    assert expected == lines[: len(expected)]
    rest = [line.strip() for line in lines]
    for line in (
        "Login-)Worker: hand over: refresh",
        "Worker->>Store: commit: session claim",
        "MHV-->>Worker: JWT",
        "PHR-->>Worker: accepted",
        "Worker-)Worker: hand over: follow in 1.0 s",
        "Login-->>Browser: handed over",
        "Browser->>Login: open the records page",
        "Store-->>Login: refreshing, token",
        "Login-->>Browser: token",
        "Browser->>Login: log out",
        "Login-->>Browser: done",
    ):
        assert line in rest


WORDS = {
    "a session that fails": ({"sessions": [SessionFailed("http_503")]}, "MHV-->>Worker: SessionFailed: http_503"),
    "a kick-off that is refused": ({"kick_off_answers": [Rejected("http_401")]}, "PHR-->>Worker: Rejected: http_401"),
    "an answer that is lost": ({"kick_off_answers": [AnswerLost("timed_out")]}, "PHR-->>Worker: AnswerLost: timed_out"),
}


@pytest.fixture
def clock_at_noon() -> Iterator[FrozenDateTimeFactory]:
    """Time that the test moves."""
    with freeze_time("2030-01-01T12:00:00Z") as clock:
        yield clock


@pytest.mark.parametrize("case", WORDS)
def test_what_fails_is_drawn_with_its_reason(case: str) -> None:
    """Failed calls show their kind and code."""
    script, line = WORDS[case]
    assert f"    {line}\n" in drawn(lambda phr: phr.refresh(ADA), **script)


def test_answers_to_status_calls_are_drawn(clock_at_noon: FrozenDateTimeFactory) -> None:
    """Progress, a call that failed, and the end."""

    def visit(phr: PhrRefresh) -> None:
        phr.refresh(ADA)
        for _ in range(3):
            clock_at_noon.tick(5)
            phr.status(ADA)

    statuses = [StatusReport(Phase.IN_PROGRESS, RUNNING), CouldNotAsk("http_502")]
    lines = [line.strip() for line in drawn(visit, statuses=statuses).splitlines()]
    answers = [line for line in lines if line.startswith("PHR-->>Login")]
    expected = ["in progress, 1 of 2 extracts ended", "CouldNotAsk: http_502", "complete, 1 of 1 extracts ended"]
    assert [f"PHR-->>Login: {words}" for words in expected] == answers
    assert "Login-->>Browser: 202 refreshing" in lines
    assert "Login-->>Browser: 200 complete" in lines


def test_status_reads_that_the_store_answers_are_drawn_once() -> None:
    """Of ten readers the first is drawn, and the others are counted."""
    found = drawn(lambda phr: [phr.status("ada") for _ in range(10)])
    assert 1 == found.count("Browser->>Login: GET status")
    assert "Note over Browser,Store: 10 status reads in all were answered by the store alone" in found


def test_a_store_that_fails_is_drawn() -> None:
    """What the store did not answer is "unavailable", and the run goes on to tell it."""

    class Down(MemoryStore):
        def write(self, change: Change) -> Any:
            raise StoreUnavailable("of the records", "refused")

    def visit(phr: PhrRefresh) -> None:
        with pytest.raises(PhrRefreshError):
            phr.logout(ADA)

    assert "    Store-->>Login: unavailable\n" in drawn(visit, store=Down())


def test_a_conflict_is_drawn() -> None:
    """Who loses the commit learns what is there instead."""
    store = MemoryStore()

    class Raced(MemoryStore):
        raced = False

        def write(self, change: Change) -> Any:
            if not self.raced:
                self.raced = True
                with closing(PhrRefresh(store=store, upstream=ScriptedUpstream(), observer=Silent())) as other:
                    other.refresh(ADA)
            return store.write(change)

        def load(self, key: str, *, with_token: bool = False) -> Any:
            return store.load(key, with_token=with_token)

    store.close = lambda: None  # both share it
    found = drawn(lambda phr: phr.logout(ADA), store=Raced())
    assert "    Store-->>Login: conflict, it is refreshing\n" in found


def test_only_one_patient_is_recorded_if_one_is_named() -> None:
    """Others pass through unseen, and lines of one's own stand where they were added."""
    recorder = Recorder(ADA.key)

    def visit(phr: PhrRefresh) -> None:
        phr.logout(BOB)
        recorder.note("Note over Browser,Store: now Ada")
        phr.logout(ADA)

    found = drawn(visit, recorder=recorder)
    assert 1 == found.count("Browser->>Login: log out")
    assert found.index("now Ada") < found.index("Browser->>Login: log out")


def test_a_rehearsal_performs_every_effect() -> None:
    """On paper a pause moves the clock, nothing is due, a fact is heard by nobody, and a stale commit is a conflict."""
    rehearsal = Rehearsal(now=NOON)
    assert (None, NOON + 1500) == (rehearsal.perform(Pause(1.5)), rehearsal.now)
    assert ((), ()) == (rehearsal.perform(ListDue(10)), rehearsal.perform(Tell(Fact("told"))))
    assert [None, None] == [loaded.record for loaded in rehearsal.perform(LoadAll((ADA.key, ADA.key)))]
    commit = Draft(ADA.key, rehearsal.perform(Load(ADA.key)), Policy()).commit()
    assert [Committed, Conflict] == [type(answer) for answer in rehearsal.perform(CommitAll((commit, commit)))]
    rehearsal = Rehearsal(now=NOON)
    assert None is rehearsal.perform(Load(ADA.key)).record


def test_flows_of_many_patients_can_be_traced() -> None:
    """A sweep and a list of statuses: how many records, and of which patients nobody learns."""
    world = World()
    world.logged_in()
    world.rows[ADA.key].due_at = world.now = world.record().deadline_at
    recorder = Recorder()
    world.run(recorder.tap(world.flows.sweep(10)))
    world.run(recorder.tap(world.flows.statuses([ADA.key])))
    drawn = sequence_diagram(recorder.happenings)
    for line in ("Worker->>Store: load 1 records", "Worker->>Store: commit 1 records"):
        assert line in drawn
    assert ADA.key not in drawn


def test_what_raised_is_drawn_as_no_answer() -> None:
    """A store that is down and an adapter that raises leave their arrows."""
    recorder = Recorder()
    flow = recorder.tap(World().flows.refresh(ADA))
    loads = next(flow)
    with pytest.raises(StoreUnavailable):
        flow.throw(StoreUnavailable("stepped", "no answer"))
    assert isinstance(loads, Load)
    world = World()
    flow = recorder.tap(world.flows.refresh(ADA))
    effect = next(flow)
    while not isinstance(effect, OpenSession):
        effect = flow.send(world.perform(effect))
    with pytest.raises(ZeroDivisionError):
        flow.throw(ZeroDivisionError())
    drawn = sequence_diagram(recorder.happenings)
    assert "Store-->>Worker: unavailable" in drawn
    assert "MHV-->>Worker: nothing" in drawn
