"""The upstream as one object: session creation and status polling over one pool of connections."""

from ...statemachine.effects import (
    AskStatus,
    CouldNotAsk,
    KickOffAnswer,
    SessionFailed,
    SessionOpened,
    SessionToken,
    StatusReport,
)
from ...statemachine.patient import Patient
from ..ports import Observer, RecordsAnswer, Upstream
from ..redaction import guard_loggers
from ..session_creation.mhv import MhvSessions
from ..status_polling.phrmgr import PhrManager
from .fhir import FhirClient
from .guard import GuardedUpstream
from .http_client import HttpClient
from .settings import MhvSettings


class MhvUpstream:
    """The real upstream, by `settings`; an implementation of `ports.Upstream`. Thread-safe.

    It installs the redaction of the loggers underneath (`redaction.guard_loggers`), which stays when it is closed.
    """

    #: Seconds after which no call of ours is under way any more: claims must outlast it, see `Policy`.
    longest_call: float
    #: The kinds of records that there are to read.
    kinds: tuple[str, ...]

    def __init__(self, settings: MhvSettings) -> None:
        guard_loggers(secrets=settings.secrets())
        self.settings = settings
        self._http = HttpClient(
            connect_seconds=settings.connect_timeout.total_seconds(),
            read_seconds=settings.read_timeout.total_seconds(),
            idle_seconds=settings.idle_limit.total_seconds(),
            pool_size=settings.pool_size,
            verify=settings.verify,
        )
        self._sessions = MhvSessions(settings, self._http)
        self._phr_manager = PhrManager(settings, self._http)
        self._fhir = FhirClient(settings, self._http)
        self.longest_call = self._http.longest_call
        self.kinds = tuple(settings.records) if settings.fhir_url else ()

    def open_session(self, patient: Patient) -> SessionOpened | SessionFailed:
        """See `MhvSessions.open_session`."""
        return self._sessions.open_session(patient)

    def start_refresh(self, patient: Patient) -> KickOffAnswer:
        """See `PhrManager.start_refresh`."""
        return self._phr_manager.start_refresh(patient)

    def ask_status(self, question: AskStatus) -> StatusReport | CouldNotAsk:
        """See `PhrManager.ask_status`."""
        return self._phr_manager.ask_status(question)

    def read_records(self, kind: str, token: SessionToken) -> RecordsAnswer:
        """See `FhirClient.read`. Raises `ConfigurationError` without a `fhir_url`."""
        return self._fhir.read(kind, token)

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()

    def __repr__(self) -> str:
        return f"MhvUpstream({self.settings!r})"


def guarded(upstream: Upstream, observer: Observer) -> Upstream:
    """An `MhvUpstream` behind the guard of its settings. One of the host's own is left to the host."""
    if not isinstance(upstream, MhvUpstream):
        return upstream
    settings = upstream.settings
    return GuardedUpstream(
        upstream,
        concurrency=settings.concurrency,
        failures=settings.guard_failures,
        open_for=settings.guard_open_for.total_seconds(),
        observer=observer,
    )
