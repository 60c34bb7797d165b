"""Hand-written fakes of the ports, for tests that run flows through a real driver."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from phr_refresh.adapters.ports import Change, Records, RecordsAnswer, Row, Store, Written
from phr_refresh.statemachine.effects import (
    Accepted,
    AskStatus,
    CouldNotAsk,
    KickOffAnswer,
    Phase,
    SessionFailed,
    SessionOpened,
    SessionToken,
    StatusReport,
    Step,
)
from phr_refresh.statemachine.facts import Fact
from phr_refresh.statemachine.patient import Patient, UserKey

from .samples import CURRENT, HOUR, JWT, NOON, token_until


class Silent:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def __call__(self, fact: Fact) -> None:
        self.facts.append(fact)

    def told(self, name: str) -> list[Fact]:
        """The facts of that name, in order."""
        return [fact for fact in self.facts if fact.name == name]


class CountingStore:
    """Passes everything on to a store, and remembers what was asked. `before` runs first."""

    def __init__(self, store: Store, *, before: Callable[[str], None] = lambda call: None) -> None:
        self.store = store
        self.calls: list[str] = []
        self.before = before

    def load(self, key: UserKey, *, with_token: bool = False) -> Row:
        self._note("load with token" if with_token else "load")
        return self.store.load(key, with_token=with_token)

    def write(self, change: Change) -> Written | Row:
        self._note("write")
        return self.store.write(change)

    def due(self, limit: int) -> Sequence[UserKey]:
        self._note("due")
        return self.store.due(limit)

    def close(self) -> None:
        self.store.close()

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.before(call)


@dataclass
class ScriptedUpstream:
    """Answers from scripts; when they are empty, all goes well. Its tokens last 15 minutes by this host's clock."""

    sessions: deque[SessionFailed] = field(default_factory=deque)
    kick_off_answers: deque[KickOffAnswer] = field(default_factory=deque)
    statuses: deque[StatusReport | CouldNotAsk] = field(default_factory=deque)
    records: deque[RecordsAnswer] = field(default_factory=deque)
    longest_call: float = 20.0
    opened: int = 0
    kick_offs: int = 0
    polls: int = 0

    def open_session(self, patient: Patient) -> SessionOpened | SessionFailed:
        self.opened += 1
        # Not time.time(): freezegun leaves that real close to the root of a thread.
        expires_at = round(datetime.now(UTC).timestamp() * 1000) + HOUR // 4
        return self.sessions.popleft() if self.sessions else SessionOpened(token_until(expires_at, JWT))

    def start_refresh(self, patient: Patient) -> KickOffAnswer:
        self.kick_offs += 1
        return self.kick_off_answers.popleft() if self.kick_off_answers else Accepted()

    def ask_status(self, question: AskStatus) -> StatusReport | CouldNotAsk:
        self.polls += 1
        return self.statuses.popleft() if self.statuses else StatusReport(Phase.COMPLETE, CURRENT, NOON)

    def read_records(self, kind: str, token: SessionToken) -> RecordsAnswer:
        return self.records.popleft() if self.records else Records({"resourceType": "Bundle", "total": 0}, 0)

    def close(self) -> None:
        pass


class RecordingWorker:
    """Takes steps and runs none."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.taken: list[tuple[Step, float]] = []
        self.is_full = is_full

    def start(self, run: object) -> None:
        pass

    def close(self) -> int:
        return 0

    def hand_over(self, step: Step, delay: float = 0.0) -> bool:
        if not self.is_full:
            self.taken.append((step, delay))
        return not self.is_full
