"""Rehearsal: runs flows on paper, with one record, a clock that only it moves, and an upstream that always does well.

The documentation's sequence diagrams are recorded from here: the flows are the real ones, nothing else is.
"""

from collections import deque
from itertools import count
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
    SessionOpened,
    SessionToken,
    StartRefresh,
    StatusReport,
    Step,
    TokenChange,
)
from phr_refresh.statemachine.policy import Instant
from phr_refresh.statemachine.record import ExtractProgress, ExtractState, RefreshRecord

T = TypeVar("T")

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
