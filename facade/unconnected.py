"""An upstream for commands that only read the store."""

from phr_refresh.adapters.ports import UpstreamAnswer, UpstreamRequest
from phr_refresh.statemachine.effects import (
    AskStatus,
    CouldNotAsk,
    NeverSent,
    OpenSession,
    ReadRecords,
    RecordsFailed,
    SessionFailed,
    StartRefresh,
)

_REASON = "no_upstream_configured"


class UnconnectedUpstream:
    """Reaches nobody, and says so."""

    longest_call = 0.0

    def call(self, request: UpstreamRequest) -> UpstreamAnswer:
        """Fails, is never sent, is not asked, has nothing to read."""
        match request:
            case OpenSession():
                return SessionFailed(_REASON)
            case StartRefresh():
                return NeverSent(_REASON)
            case AskStatus():
                return CouldNotAsk(_REASON)
            case ReadRecords():
                return RecordsFailed(_REASON)

    def close(self) -> None:
        """Has nothing to let go of."""
