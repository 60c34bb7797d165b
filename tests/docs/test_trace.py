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
from phr_refresh.drawing.diagrams import Rehearsal
from phr_refresh.drawing.trace import Recorder, sequence_diagram
from phr_refresh.statemachine.draft import Draft, Flow
from phr_refresh.statemachine.effects import (
    AnswerLost,
    Committed,
    Conflict,
    CouldNotAsk,
    Fact,
    Load,
    Loaded,
    OpenSession,
    Pause,
    Phase,
    Rejected,
    SessionFailed,
    StatusReport,
    Tell,
    TokenChange,
)
from phr_refresh.statemachine.flows import Flows
from phr_refresh.statemachine.outcomes import ReceiptKind
from phr_refresh.statemachine.policy import Policy
from phr_refresh.statemachine.record import ExtractProgress, ExtractState, RefreshRecord, State
from support.fakes import ScriptedUpstream, Silent
from support.samples import ADA, BOB, GUEST, HOUR, NOON, RUNNING, UNHURRIED, refreshing, token_until
from support.stepping import World
from support.values import replace


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
    assert "Note over" not in drawn(lambda phr: phr.status("ada"))


def test_status_reads_that_fail_are_all_drawn() -> None:
    """The store answered none of them."""
    world, recorder = World(store_failures=2), Recorder()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            world.run(recorder.tap(world.flows.status(ADA.key)))
    found = sequence_diagram(recorder.happenings)
    assert 2 == found.count("Store-->>Login: unavailable")
    assert "Note over" not in found


def test_a_commit_that_tells_nothing_is_drawn_with_its_state() -> None:
    """Where nothing became true that anybody is told, the state says most."""

    def bookkeeping() -> Flow[None]:
        yield Draft(ADA.key, Loaded(refreshing(), "v1", NOON), Policy()).commit()

    recorder = Recorder()
    World().run(recorder.tap(bookkeeping()))
    assert "    Worker->>Store: commit: refreshing\n" in sequence_diagram(recorder.happenings)


def test_a_store_that_fails_is_drawn() -> None:
    """What the store did not answer is "unavailable", and the run goes on to tell it."""

    class Down(MemoryStore):
        def call(self, request: Any) -> Any:
            if isinstance(request, Change):
                raise StoreUnavailable("of the records", "refused")
            return super().call(request)

    def visit(phr: PhrRefresh) -> None:
        with pytest.raises(PhrRefreshError):
            phr.logout(ADA)

    assert "    Store-->>Login: unavailable\n" in drawn(visit, store=Down())


def test_a_conflict_is_drawn() -> None:
    """Who loses the commit learns what is there instead."""
    store = MemoryStore()

    class Raced(MemoryStore):
        raced = False

        def call(self, request: Any) -> Any:
            if isinstance(request, Change) and not self.raced:
                self.raced = True
                with closing(PhrRefresh(store=store, upstream=ScriptedUpstream(), observer=Silent())) as other:
                    other.refresh(ADA)
            return store.call(request)

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


def test_a_rehearsal_performs_the_effects_of_one_patient() -> None:
    """On paper a pause moves the clock, a fact is heard by nobody, and a stale commit is a conflict."""
    rehearsal = Rehearsal(now=NOON)
    assert (None, NOON + 1500) == (rehearsal.perform(Pause(1.5)), rehearsal.now)
    assert rehearsal.perform(Tell(Fact("told"))) is None
    stranger = Loaded(None, "", NOON + 1500)
    assert stranger == rehearsal.perform(Load(ADA.key))
    first = replace(Draft(ADA.key, stranger, Policy()).commit(), token_change=TokenChange.PUT, token=token_until(NOON))
    committed, conflict = (rehearsal.perform(first) for _ in range(2))
    now = rehearsal.perform(Load(ADA.key))
    assert (Loaded(first.record, committed.version, NOON + 1500), Conflict(now)) == (now, conflict)
    second = replace(first, expected_version=now.version, token_change=TokenChange.KEEP, token=None)
    assert [Committed, Conflict] == [type(rehearsal.perform(commit)) for commit in (second, second)]
    assert token_until(NOON) == rehearsal.perform(Load(ADA.key, with_token=True)).token


def followed(rehearsal: Rehearsal, flows: Flows) -> RefreshRecord:
    """The record when the step that is due next has run."""
    rehearsal.run(flows.step(rehearsal.pop_step()))
    record: RefreshRecord = rehearsal.perform(Load(ADA.key)).record
    return record


def test_a_rehearsal_goes_well() -> None:
    """From one fixed moment on: each call takes a tenth of a second, and all extracts are there at the second poll."""
    rehearsal, flows = Rehearsal(), World().flows
    begin = 1_700_000_000_000
    assert begin == rehearsal.now
    assert ReceiptKind.STARTED is rehearsal.run(flows.refresh(ADA)).kind
    assert begin + 200 == rehearsal.now
    token = rehearsal.run(flows.session(ADA))
    assert ("rehearsed", "rehearsed", begin + 100 + HOUR) == (token.jwt, token.subject_id, token.expires_at)
    early = ExtractProgress("Allergy", ExtractState.CURRENT, begin + 100)
    record = followed(rehearsal, flows)
    expected = (State.REFRESHING, None, (early, ExtractProgress("VPR", ExtractState.IN_PROGRESS)))
    assert expected == (record.state, record.as_of, record.extracts)
    record = followed(rehearsal, flows)
    expected = (State.COMPLETE, begin + 100, (early, ExtractProgress("VPR", ExtractState.CURRENT, rehearsal.now)))
    assert expected == (record.state, record.as_of, record.extracts)
    assert not rehearsal.steps


def test_who_only_stands_in_a_note_takes_no_part() -> None:
    """Participants are those whom a message goes to or comes from, whether it is waited for or not."""
    world, recorder = World(), Recorder()
    world.run(recorder.tap(world.flows.login(ADA)))
    recorder.note("Note over FHIR: nobody asks it")
    expected = [
        "sequenceDiagram",
        "    autonumber",
        "    participant Browser as Browser",
        "    participant Login as Login service",
        "    participant Worker as Worker",
        "    participant Store as Store",
        "    Browser->>Login: log in",
        "    Login->>Store: load the record",
        "    Store-->>Login: no record",
        "    Login-)Worker: hand over: refresh",
        "    Login-->>Browser: handed over",
        "    Note over FHIR: nobody asks it",
    ]
    assert expected == sequence_diagram(recorder.happenings).splitlines()


def test_a_run_that_does_nothing_is_not_drawn() -> None:
    """Who has no MHV account is answered without any effect."""
    world, recorder = World(), Recorder()
    world.run(recorder.tap(world.flows.status(GUEST.key, GUEST)))
    assert [] == recorder.happenings


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
