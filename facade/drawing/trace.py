"""Trace: what flows really did, effect by effect, and a Mermaid sequence diagram of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import GeneratorType
from typing import Any, TypeVar, cast

from phr_refresh.statemachine.draft import Flow
from phr_refresh.statemachine.effects import (
    Accepted,
    AnswerLost,
    AskStatus,
    Commit,
    CommitAll,
    Committed,
    Conflict,
    CouldNotAsk,
    Effect,
    HandOver,
    Load,
    LoadAll,
    Loaded,
    NeverSent,
    OpenSession,
    Pause,
    Refresh,
    Rejected,
    SessionFailed,
    SessionOpened,
    StartRefresh,
    StatusReport,
    TokenChange,
)
from phr_refresh.statemachine.outcomes import Receipt, Status
from phr_refresh.statemachine.patient import UserKey
from phr_refresh.statemachine.record import ExtractState

T = TypeVar("T")

#: Who runs each flow in a diagram, and who asked for it with which words.
_RUNNERS = {
    "login": ("Login", "Browser", "log in"),
    "logout": ("Login", "Browser", "log out"),
    "status": ("Login", "Browser", "GET status"),
    "session": ("Login", "Browser", "open the records page"),
}
#: A flow that nobody waits for.
_BY_ITSELF = ("Worker", "", "")
_PARTICIPANTS = {
    "Browser": "Browser",
    "Login": "Login service",
    "Worker": "Worker",
    "Store": "Store",
    "MHV": "MHV API",
    "PHR": "PHR manager",
    "FHIR": "FHIR server",
}


@dataclass(slots=True)
class Run:
    """One run of one flow, by its name, and the effects it has yielded so far."""

    flow: str
    effects: list[Effect] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Happened:
    """An effect of a run with its answer; or, where `effect` is None, the end of a run with its outcome."""

    run: Run
    effect: Effect | None
    answer: Any


#: What happened, or a line of Mermaid that somebody added.
Happening = Happened | str


class Recorder:
    """Records the flows that pass through `tap`, those of one patient if `key` is given. Appending is thread-safe."""

    def __init__(self, key: UserKey | None = None) -> None:
        self._key = key
        #: In the order in which things happened.
        self.happenings: list[Happening] = []

    def note(self, line: str) -> None:
        """Add a line of Mermaid of one's own, such as a message between participants that no flow sends."""
        self.happenings.append(line)

    def tap(self, flow: Flow[T]) -> Flow[T]:
        """The same flow, recorded."""
        run = Run(cast("GeneratorType[Any, Any, Any]", flow).__name__)
        answer: Any = None
        error: Exception | None = None
        while True:
            try:
                effect = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as stop:
                self._add(Happened(run, None, stop.value))
                return stop.value  # type: ignore[no-any-return]
            run.effects.append(effect)
            try:
                answer, error = (yield effect), None
            except Exception as raised:
                answer, error = None, raised
            self._add(Happened(run, effect, answer))

    def _add(self, happened: Happened) -> None:
        keys = [effect.key for effect in happened.run.effects if isinstance(effect, Load | Commit)]
        if happened.run.effects and (self._key is None or self._key in keys):
            self.happenings.append(happened)


def sequence_diagram(happenings: list[Happening]) -> str:
    """A Mermaid sequence diagram. Of status reads that the store answered alone only the first is drawn."""
    quiet = _quiet_runs(happenings)
    lines: list[str] = []
    for happening in happenings:
        if isinstance(happening, str):
            lines.append(f"    {happening}")
        elif not any(happening.run is run for run in quiet[1:]):
            lines += [f"    {line}" for line in _drawn(happening)]
    if len(quiet) > 1:
        lines.append(f"    Note over Browser,Store: {len(quiet)} status reads in all were answered by the store alone")
    messages = [line for line in lines if "->" in line or "-)" in line]
    named = [
        f"    participant {name} as {label}"
        for name, label in _PARTICIPANTS.items()
        if any(name in message for message in messages)
    ]
    return "\n".join(["sequenceDiagram", "    autonumber", *named, *lines]) + "\n"


def _quiet_runs(happenings: list[Happening]) -> list[Run]:
    ended = [item.run for item in happenings if isinstance(item, Happened) and item.effect is None]
    return [run for run in ended if run.flow == "status" and all(isinstance(e, Load) for e in run.effects)]


def _drawn(happened: Happened) -> Iterator[str]:
    run, effect = happened.run, happened.effect
    runner, caller, words = _RUNNERS.get(run.flow, _BY_ITSELF)
    if caller and effect is run.effects[0]:
        yield f"{caller}->>{runner}: {words}"
    if effect is not None:
        yield from _exchange(runner, effect, happened.answer)
    elif caller:
        yield f"{runner}-->>{caller}: {_outcome(happened.answer)}"


def _exchange(runner: str, effect: Effect, answer: Any) -> Iterator[str]:
    match effect:
        case Load(_, with_token):
            asked = f"load the record{' and the token' if with_token else ''}"
            yield from _call(runner, "Store", asked, _loaded(answer))
        case Commit():
            yield from _call(runner, "Store", f"commit: {_changes(effect)}", _committed(answer))
        case OpenSession():
            said = "JWT" if isinstance(answer, SessionOpened) else _reason(answer)
            yield from _call(runner, "MHV", "create a session", said)
        case StartRefresh():
            said = "accepted" if isinstance(answer, Accepted) else _reason(answer)
            yield from _call(runner, "PHR", "POST refresh", said)
        case AskStatus():
            yield from _call(runner, "PHR", "GET status", _report(answer))
        case HandOver(step, delay):
            what = "refresh" if isinstance(step, Refresh) else "follow"
            yield f"{runner}-)Worker: hand over: {what}{f' in {delay:.1f} s' if delay else ''}"
        case Pause():
            yield f"Note over {runner},Store: wait for the session that another is creating"
        case LoadAll(keys):
            yield f"{runner}->>Store: load {len(keys)} records"
        case CommitAll(commits):
            yield f"{runner}->>Store: commit {len(commits)} records"


def _call(runner: str, to: str, asked: str, said: str) -> Iterator[str]:
    yield f"{runner}->>{to}: {asked}"
    yield f"{to}-->>{runner}: {said}"


def _loaded(answer: Any) -> str:
    if not isinstance(answer, Loaded):
        return "unavailable"
    state = answer.record.state.label if answer.record else "no record"
    return f"{state}, token" if answer.token else state


def _changes(commit: Commit) -> str:
    words = [fact.name for fact in commit.told] + [why.replace("_", " ") for why in commit.noted]
    if commit.token_change is TokenChange.PUT:
        words.append("token")
    return ", ".join(words) or commit.record.state.label


def _committed(answer: Any) -> str:
    match answer:
        case Committed():
            return "committed"
        case Conflict(current):
            return f"conflict, it is {_loaded(current)}"
    return "unavailable"


def _reason(answer: Any) -> str:
    match answer:
        case SessionFailed(reason) | Rejected(reason) | NeverSent(reason) | AnswerLost(reason) | CouldNotAsk(reason):
            return f"{type(answer).__name__}: {reason}"
    return "nothing"


def _report(answer: Any) -> str:
    if not isinstance(answer, StatusReport):
        return _reason(answer)
    ended = sum(item.state is not ExtractState.IN_PROGRESS for item in answer.extracts)
    return f"{answer.phase.value.replace('_', ' ')}, {ended} of {len(answer.extracts)} extracts ended"


def _outcome(outcome: Any) -> str:
    match outcome:
        case Receipt(kind=kind):
            return kind.value.replace("_", " ")
        case Status(state=state):
            return f"{'202' if state.value == 'refreshing' else '200'} {state.label}"
        case None:
            return "done"
    return "token"
