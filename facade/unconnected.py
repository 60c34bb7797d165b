"""An upstream for commands that only read the store."""

from phr_refresh.adapters.ports import RecordsAnswer, RecordsFailed
from phr_refresh.statemachine.effects import AskStatus, CouldNotAsk, NeverSent, SessionFailed, SessionToken
from phr_refresh.statemachine.patient import Patient

_REASON = "no_upstream_configured"


class UnconnectedUpstream:
    """Reaches nobody, and says so."""

    longest_call = 0.0

    def open_session(self, patient: Patient) -> SessionFailed:
        """Fails."""
        return SessionFailed(_REASON)

    def start_refresh(self, patient: Patient) -> NeverSent:
        """Is never sent."""
        return NeverSent(_REASON)

    def ask_status(self, question: AskStatus) -> CouldNotAsk:
        """Is not asked."""
        return CouldNotAsk(_REASON)

    def read_records(self, kind: str, token: SessionToken) -> RecordsAnswer:
        """Has nothing to read."""
        return RecordsFailed(_REASON)

    def close(self) -> None:
        """Has nothing to let go of."""
