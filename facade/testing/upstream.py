"""An upstream by script."""

from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from phr_refresh.adapters.ports import RecordsAnswer, UpstreamAnswer, UpstreamRequest
from phr_refresh.statemachine.effects import (
    Accepted,
    AskStatus,
    CouldNotAsk,
    KickOffAnswer,
    OpenSession,
    Phase,
    ReadRecords,
    Records,
    SessionFailed,
    SessionOpened,
    SessionToken,
    StartRefresh,
    StatusReport,
)
from phr_refresh.statemachine.record import ExtractProgress, ExtractState

from .clock import START

_THEN = round(START.timestamp() * 1000)
_COMPLETE = StatusReport(Phase.COMPLETE, (ExtractProgress("VPR", ExtractState.CURRENT, _THEN),), _THEN)


@dataclass
class ScriptedUpstream:
    """Gives the answers of its scripts in their order, to whomever asks; once they are used up, all goes well.

    `calls` are the names of the calls so far. Its tokens last `session_lasts`.
    """

    sessions: deque[SessionFailed] = field(default_factory=deque)
    kick_off_answers: deque[KickOffAnswer] = field(default_factory=deque)
    statuses: deque[StatusReport | CouldNotAsk] = field(default_factory=deque)
    records: deque[RecordsAnswer] = field(default_factory=deque)
    session_lasts: timedelta = timedelta(minutes=15)
    jwt: str = "synthetic-token"
    longest_call: float = 20.0
    calls: list[str] = field(default_factory=list)

    @property
    def opened(self) -> int:
        """How many sessions were asked for."""
        return self.calls.count("open_session")

    @property
    def kick_offs(self) -> int:
        """How many kick-offs were sent."""
        return self.calls.count("start_refresh")

    @property
    def polls(self) -> int:
        """How many status calls were made."""
        return self.calls.count("ask_status")

    def call(self, request: UpstreamRequest) -> UpstreamAnswer:
        """See `Upstream.call`."""
        match request:
            case OpenSession():
                return self._next("open_session", self.sessions) or SessionOpened(self._token())
            case StartRefresh():
                return self._next("start_refresh", self.kick_off_answers) or Accepted()
            case AskStatus():
                return self._next("ask_status", self.statuses) or _COMPLETE
            case ReadRecords():
                nothing = Records({"resourceType": "Bundle", "total": 0}, 0)
                return self._next("read_records", self.records) or nothing

    def close(self) -> None:
        """Has nothing to let go of."""

    def _next(self, call: str, script: deque[Any]) -> Any:
        self.calls.append(call)
        return script.popleft() if script else None

    def _token(self) -> SessionToken:
        # By this host's clock, as the port has it. Not time.time(): freezegun leaves that real near a thread's root.
        expires_at = datetime.now(UTC) + self.session_lasts
        return SessionToken(self.jwt, "subject-1", round(expires_at.timestamp() * 1000))
