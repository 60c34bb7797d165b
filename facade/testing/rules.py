"""The rules that no test may see broken (DESIGN, section 3), looked at from outside: at the upstream and the facts."""

from collections import defaultdict

from phr_refresh.adapters.ports import Observer, Upstream, UpstreamAnswer, UpstreamRequest
from phr_refresh.statemachine.effects import (
    AskStatus,
    Fact,
    NeverSent,
    OpenSession,
    Phase,
    StartRefresh,
    StatusReport,
)
from phr_refresh.statemachine.patient import Patient, UserKey
from phr_refresh.statemachine.policy import Instant, Policy
from phr_refresh.statemachine.record import State

from ..synchronous import PhrRefresh
from .clock import Clock


class Rules:
    """An upstream and an observer in one: passes everything on, and keeps in `broken` a sentence for each violation.

    R1: kick-offs of one patient lie a whole window apart, but for those that never left. R2: no session is asked for
    while another is. R3: a refresh is told complete only after the upstream said so. R4: once all
    deadlines have passed nobody waits. R6: polls keep their distance.
    """

    def __init__(self, upstream: Upstream, *, clock: Clock, policy: Policy, observer: Observer | None = None) -> None:
        self.upstream = upstream
        self.longest_call = upstream.longest_call
        self.broken: list[str] = []
        self._clock = clock
        self._policy = policy
        self._observer = observer
        self._kicked_off: dict[UserKey, Instant] = {}
        self._polled: dict[UserKey, Instant] = {}
        self._opening: dict[UserKey, int] = defaultdict(int)
        self._completed: set[UserKey] = set()
        self._seen: dict[UserKey, Patient] = {}

    def call(self, request: UpstreamRequest) -> UpstreamAnswer:
        """See `Upstream.call`."""
        match request:
            case OpenSession(patient):
                return self._open_session(request, patient)
            case StartRefresh(patient):
                return self._start_refresh(request, patient)
            case AskStatus():
                return self._ask_status(request)
        return self.upstream.call(request)

    def _open_session(self, request: OpenSession, patient: Patient) -> UpstreamAnswer:
        self._seen[patient.key] = patient
        self._opening[patient.key] += 1
        if self._opening[patient.key] > 1:
            self.broken.append("R2: a session was asked for while another one was")
        try:
            return self.upstream.call(request)
        finally:
            self._opening[patient.key] -= 1

    def _start_refresh(self, request: StartRefresh, patient: Patient) -> UpstreamAnswer:
        now, last = self._clock(), self._kicked_off.get(patient.key)
        answer = self.upstream.call(request)
        if isinstance(answer, NeverSent):
            return answer
        if last is not None and now - last < self._policy.ms.refresh_window:
            self.broken.append(f"R1: a kick-off was sent {(now - last) / 1000:.3f} s after the one before")
        self._kicked_off[patient.key] = now
        self._completed.discard(patient.key)
        return answer

    def _ask_status(self, question: AskStatus) -> UpstreamAnswer:
        key, now = question.patient.key, self._clock()
        last = self._polled.get(key)
        if last is not None and now - last < self._policy.ms.poll_interval:
            self.broken.append(f"R6: a status call was made {(now - last) / 1000:.3f} s after the one before")
        self._polled[key] = now
        answer = self.upstream.call(question)
        if isinstance(answer, StatusReport) and answer.phase is Phase.COMPLETE:
            self._completed.add(key)
        return answer

    def close(self) -> None:
        """See `Upstream.close`."""
        self.upstream.close()

    def check_nobody_is_stuck(self, refresher: PhrRefresh) -> None:
        """R4: let every deadline pass, and look whether somebody of those who were seen still waits."""
        self._clock.leap(days=1, seconds=self._policy.refresh_window.total_seconds())
        for patient in self._seen.values():
            if refresher.status(patient.user_id).state in (State.REFRESHING, State.COMPLETE, State.SESSION_CREATED):
                self.broken.append("R4: somebody still waits, though every deadline has passed")

    def __call__(self, fact: Fact) -> None:
        """See `Observer`."""
        if fact.name == "refresh_completed" and fact.key is not None and fact.key not in self._completed:
            self.broken.append("R3: a refresh was told complete, and the upstream had not said so")
        if self._observer is not None:
            self._observer(fact)
