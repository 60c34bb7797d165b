"""The upstream as one object: session creation and status polling over one pool of connections."""

from ...statemachine.effects import AskStatus, OpenSession, ReadRecords, StartRefresh
from ..ports import Observer, UpstreamAnswer, UpstreamRequest
from ..redaction import guard_loggers
from ..session_creation.mhv import MhvSessions
from ..status_polling.phrmgr import PhrManager
from .fhir import FhirClient
from .guard import GuardedUpstream
from .http_client import HttpClient
from .settings import MhvSettings


class MhvClient:
    """The calls to the real upstream, by `settings`, without a guard: see `MhvUpstream`. Thread-safe.

    It installs the redaction of the loggers underneath (`redaction.guard_loggers`), which stays when it is closed.
    """

    #: Seconds after which no call of ours is under way any more: claims must outlast it, see `Policy`.
    longest_call: float
    #: The kinds of records that there are to read.
    kinds: tuple[str, ...]

    def __init__(self, settings: MhvSettings) -> None:
        guard_loggers(secrets=settings.secrets())
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

    def call(self, request: UpstreamRequest) -> UpstreamAnswer:
        """See `Upstream.call`. Reading records raises `ConfigurationError` without a `fhir_url`."""
        match request:
            case OpenSession(patient):
                return self._sessions.open_session(patient)
            case StartRefresh(patient):
                return self._phr_manager.start_refresh(patient)
            case AskStatus():
                return self._phr_manager.ask_status(request)
            case ReadRecords(kind, token):
                return self._fhir.read(kind, token)

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()


class MhvUpstream(GuardedUpstream):
    """The real upstream, by `settings`, behind the guard that they set: an implementation of `ports.Upstream`.

    Thread-safe. What its guard tells goes to `observer`, by default to that of the `PhrRefresh` which it is given to.
    """

    def __init__(self, settings: MhvSettings, *, observer: Observer | None = None) -> None:
        client = MhvClient(settings)
        super().__init__(
            client,
            concurrency=settings.concurrency,
            failures=settings.guard_failures,
            open_for=settings.guard_open_for.total_seconds(),
            observer=observer,
        )
        self.settings = settings
        #: The kinds of records that there are to read.
        self.kinds = client.kinds

    def __repr__(self) -> str:
        return f"MhvUpstream({self.settings!r})"
