"""The generated documents in `diagrams/`: written from the table, and from flows that really run.

They run on paper (`Rehearsal`), where time and upstream go as they do in every run: so the documents are always alike.
"""

from collections import defaultdict, deque
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from phr_refresh.statemachine.draft import Flow
from phr_refresh.statemachine.effects import (
    Accepted,
    AskStatus,
    Commit,
    Committed,
    Conflict,
    Effect,
    HandOver,
    Load,
    Loaded,
    OpenSession,
    Pause,
    Phase,
    Refresh,
    SessionOpened,
    SessionToken,
    StartRefresh,
    StatusReport,
    Step,
    TokenChange,
)
from phr_refresh.statemachine.flows import Flows
from phr_refresh.statemachine.patient import Patient
from phr_refresh.statemachine.policy import Instant, Policy
from phr_refresh.statemachine.record import ExtractProgress, ExtractState, RefreshRecord, State
from phr_refresh.statemachine.table import FINGERPRINT, TABLE, WAITING, EventName, Kind, Rule

from .trace import Recorder, sequence_diagram

T = TypeVar("T")

# Nobody's identifiers: they are in no diagram, but a flow wants a patient.
_SOMEBODY = Patient("somebody", "0000000000V000000", "0")


def documents() -> dict[str, str]:
    """File name -> content of every generated document."""
    return {
        "lifecycle.mmd": state_diagram(),
        "lifecycle.md": f"# The lifecycle, definition {FINGERPRINT}\n\n{transition_table()}",
        "login.mmd": _login_sequence(),
        "session.mmd": _session_sequence(),
    }


def write(folder: Path) -> list[Path]:
    """Write every document into `folder`; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in documents().items():
        paths.append(folder / name)
        paths[-1].write_text(content, encoding="utf-8")
    return paths


def drifted(folder: Path) -> list[str]:
    """The names of documents in `folder` that are missing or not what would be written now."""
    return [
        name
        for name, content in documents().items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != content.encode()
    ]


def _flows() -> Flows:
    ids = count(1)
    return Flows(Policy(), lambda: f"id{next(ids)}")


def _login_sequence() -> str:
    """A login, the whole refresh, and a second login inside the window that starts nothing."""
    flows, world, recorder = _flows(), Rehearsal(), Recorder()
    world.run(recorder.tap(flows.login(_SOMEBODY)))
    while world.steps:
        step = world.pop_step()
        world.run(recorder.tap(flows.step(step)))
        if isinstance(step, Refresh):
            world.run(recorder.tap(flows.status(_SOMEBODY.key, _SOMEBODY)))
    world.run(recorder.tap(flows.status(_SOMEBODY.key, _SOMEBODY)))
    recorder.note("Note over Browser,Store: A second login inside the window of one hour starts nothing")
    world.run(recorder.tap(flows.login(_SOMEBODY)))
    return sequence_diagram(recorder.happenings)


def _session_sequence() -> str:
    """Two requests open the records page at once: one creates the session, the other waits for it."""
    flows, world, recorder = _flows(), Rehearsal(polls=1), Recorder()
    first = recorder.tap(flows.session(_SOMEBODY))
    second = recorder.tap(flows.session(_SOMEBODY))
    commit = first.send(world.perform(next(first)))
    create = first.send(world.perform(commit))
    wait = second.send(world.perform(next(second)))
    waited = world.perform(wait)
    world.run(first, world.perform(create))
    world.run(second, waited)
    recorder.note("Login->>FHIR: GET vital signs, with the token")
    recorder.note("FHIR-->>Login: searchset Bundle")
    while world.steps:
        step = world.pop_step()
        if isinstance(step, Refresh):
            recorder.note("Note over Worker,PHR: A session that was created in an open window starts the refresh too")
        world.run(recorder.tap(flows.step(step)))
    return sequence_diagram(recorder.happenings)


_MARKS = {Kind.MOVES: "→", Kind.STAYS: "stays", Kind.IGNORED: "ignored", Kind.REFUSED: "refused"}


def state_diagram() -> str:
    """A Mermaid state diagram of every move. Ids have underscores, labels hyphens; timed moves say so."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.NO_SESSION.value}"]
    lines += [f"    {state.value} : {state.label}" for state in State]
    moves: dict[tuple[State, State], list[str]] = defaultdict(list)
    for rule in TABLE:
        if rule.kind is Kind.MOVES:
            timed = any(waiting.event is rule.event for waiting in WAITING.values())
            moves[rule.source, rule.target].append(f"{rule.event.value}{' (time)' if timed else ''}")
    for (source, target), events in moves.items():
        lines.append(f"    {source.value} --> {target.value} : {'<br/>'.join(dict.fromkeys(events))}")
    return "\n".join(lines) + "\n"


def transition_table() -> str:
    """A Markdown table: one row per event, one column per state, total over both."""
    head = ["event", *(state.label for state in State)]
    lines = [_row(head), _row(["---"] * len(head))]
    for event in EventName:
        cells = [
            "<br/>".join(_cell(rule) for rule in TABLE if (rule.event, rule.source) == (event, state))
            for state in State
        ]
        lines.append(_row([f"`{event.value}`", *cells]))
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(rule: Rule) -> str:
    guards = " and ".join(guard.__name__.replace("_", " ") for guard in rule.guards)
    mark = f"{_MARKS[rule.kind]} {rule.target.label}" if rule.kind is Kind.MOVES else _MARKS[rule.kind]
    return f"{mark} if {guards}" if guards else mark


_CALL_MS = 100
_SESSION_MS = 3_600_000


class Rehearsal:
    """One patient's world. `polls`: how many status calls it takes until the refresh has ended."""

    def __init__(self, *, now: Instant = 1_700_000_000_000, polls: int = 2) -> None:
        self.now = now
        self.steps: deque[tuple[Step, float]] = deque()
        self._record: RefreshRecord | None = None
        self._version = ""
        self._versions = count()
        self._token: SessionToken | None = None
        self._polls_left = polls

    def run(self, flow: Flow[T], answer: object = None) -> T:
        """Run `flow` to its end; `answer` is that to the effect which it yielded last, if it has begun."""
        while True:
            try:
                effect = flow.send(answer)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            answer = self.perform(effect)

    def pop_step(self) -> Step:
        """The step that was handed over first, at the time for which it was."""
        step, delay = self.steps.popleft()
        self.now += int(delay * 1000)
        return step

    def perform(self, effect: Effect) -> Any:
        """The answer to `effect` of a flow of one patient. Outside calls take a tenth of a second."""
        match effect:
            case Load(_, with_token):
                return self._loaded(with_token=with_token)
            case Commit():
                return self._commit(effect)
            case OpenSession():
                self.now += _CALL_MS
                return SessionOpened(SessionToken("rehearsed", "rehearsed", self.now + _SESSION_MS), self.now)
            case StartRefresh():
                self.now += _CALL_MS
                return Accepted(self.now)
            case AskStatus():
                return self._report(effect)
            case HandOver(step, delay):
                self.steps.append((step, delay))
                return True
            case Pause(seconds):
                self.now += int(seconds * 1000)
        # Nobody listens to what is told.
        return None

    def _loaded(self, *, with_token: bool = False) -> Loaded:
        return Loaded(self._record, self._version, self.now, self._token if with_token else None)

    def _commit(self, effect: Commit) -> Committed | Conflict:
        if effect.expected_version != self._version:
            return Conflict(self._loaded())
        self._record = effect.record
        self._version = f"v{next(self._versions)}"
        if effect.token_change is not TokenChange.KEEP:
            self._token = effect.token
        return Committed(self._version, self.now)

    def _report(self, question: AskStatus) -> StatusReport:
        self.now += _CALL_MS
        self._polls_left -= 1
        ended = self._polls_left <= 0
        state = ExtractState.CURRENT if ended else ExtractState.IN_PROGRESS
        extracts = (
            ExtractProgress("Allergy", ExtractState.CURRENT, question.claimed_at),
            ExtractProgress("VPR", state, self.now if ended else None),
        )
        phase = Phase.COMPLETE if ended else Phase.IN_PROGRESS
        return StatusReport(phase, extracts, question.claimed_at, self.now)
