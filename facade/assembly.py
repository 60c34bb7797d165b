"""What both faces are put together from: the parts that settings name, and the checks of how they fit."""

import os
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from phr_refresh.adapters.driver import Ports, Tap
from phr_refresh.adapters.logs import LogObserver, Observers, tell
from phr_refresh.adapters.metrics import observer_named
from phr_refresh.adapters.metrics.measuring import MeasuredUpstream, MeasuredWorker
from phr_refresh.adapters.ports import AsyncStore, AsyncWorker, NeverWaits, Observer, Seal, Store, Upstream, Worker
from phr_refresh.adapters.redaction import guard_loggers, safe_error
from phr_refresh.adapters.session_creation.seal import FernetSeal, PlainSeal
from phr_refresh.statemachine.effects import Fact, Step
from phr_refresh.statemachine.errors import ConfigurationError, InvalidPatient
from phr_refresh.statemachine.flows import Flows
from phr_refresh.statemachine.outcomes import Receipt, ReceiptKind
from phr_refresh.statemachine.patient import Patient, UserKey, key_of
from phr_refresh.statemachine.policy import Policy

DEFAULT_STORE = "sqlite:///phr-refresh.db"


S = TypeVar("S", Store, AsyncStore)
W = TypeVar("W", Worker, AsyncWorker)


class Face(Generic[S, W]):
    """What the faces for threads and for asyncio have in common: all that waits for nothing."""

    def __init__(
        self,
        *,
        store: S,
        upstream: Upstream,
        worker: W | None = None,
        policy: Policy | None = None,
        seal: Seal | None = None,
        observer: Observer | None = None,
        tap: Tap | None = None,
    ) -> None:
        """`worker`: by default one of this process. `seal` encrypts cached tokens, by default nothing does.

        `observer` is told every `Fact`, by default it logs. `tap` sees each flow before it runs, such as
        `drawing.trace.Recorder.tap`.
        """
        self._policy = policy or Policy()
        self._flows = flows_under(self._policy, upstream)
        self._store: S = store
        self._worker: W = worker or self._new_worker()
        self._hands_over_at_once = isinstance(self._worker, NeverWaits) and self._worker.never_waits
        self.observer = observer or LogObserver()
        # Logs leave measurements out: then none are made.
        self._measures = not isinstance(self.observer, LogObserver)
        self._upstream = MeasuredUpstream(upstream, self.observer) if self._measures else upstream
        self._measured_worker = MeasuredWorker(self._worker, self.observer) if self._measures else None
        self._ports = Ports(
            store=store,
            upstream=self._upstream,
            worker=self._measured_worker or self._worker,
            seal=seal or PlainSeal(),
            observer=self.observer,
            policy=self._policy,
            tap=tap,
        )
        self._closed = False
        self._set_up()

    def _new_worker(self) -> W:
        raise NotImplementedError

    def _set_up(self) -> None:
        """What a face has of its own; and its worker is started."""

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigurationError(type(self).__name__, "it is closed", "make another one")

    def _deferred(self, reason: str, **details: str) -> Receipt:
        self._tell("login_deferred", is_warning=True, reason=reason, **details)
        return Receipt(kind=ReceiptKind.DEFERRED, reason=reason)

    def _failed(self, error: Exception) -> Receipt:
        return self._deferred("internal_error", error=safe_error(error))

    def _answered(self, receipt: Receipt, began: float) -> Receipt:
        """`receipt`, told with the time that the login hook took."""
        if self._measures:
            details = {"kind": receipt.kind.value, "login_seconds": time.perf_counter() - began}
            tell(self.observer, Fact("login_answered", details=details, is_measurement=True))
        return receipt

    def _ran(self, step: Step, began: float, error: Exception | None) -> None:
        """Take note of a step that was run."""
        if error is not None:
            self._tell("step_failed", is_warning=True, step=type(step).__name__, error=safe_error(error))
        if self._measured_worker is not None:
            self._measured_worker.ran(step, time.perf_counter() - began)

    def _tell_dropped(self, dropped: int) -> None:
        if dropped:
            # No warning: what is dropped waits for its time, and readers of the status take over.
            self._tell("worker_closed", dropped=dropped)

    def _tell(self, name: str, *, is_warning: bool = False, **details: str | int) -> None:
        tell(self.observer, Fact(name, details=details, is_warning=is_warning))


def flows_under(policy: Policy, upstream: Upstream) -> Flows:
    """The flows under `policy`. Raises `ConfigurationError` if a call can outlive the claim on it (rules R1, R2)."""
    longest = upstream.longest_call
    margin = policy.unanswered_margin - 2 * policy.decision_age
    for name, lasts in (("session_claim", policy.session_claim), ("unanswered_margin", margin)):
        if lasts.total_seconds() <= longest:
            raise ConfigurationError(
                f"Policy.{name}",
                f"a call can take {longest:g} s, and the claim on it would lapse before",
                "make it longer, or the upstream's time-outs shorter",
            )
    guard_loggers()
    return Flows(policy, new_id)


def new_id() -> str:
    """An id that no other process makes: 64 random bits, 11 characters."""
    return secrets.token_urlsafe(8)


def keys_of(users: Iterable[str]) -> dict[str, UserKey]:
    """The store key of each of `users`. Raises `InvalidPatient`."""
    return {user: key_of(user) for user in users}


def key_and_patient(who: Patient | str) -> tuple[UserKey, Patient | None]:
    """The store key of a patient or of a user id, and the patient where it is one. Raises `InvalidPatient`."""
    return (who.key, who) if isinstance(who, Patient) else (key_of(who), None)


def as_patient(who: Patient) -> Patient:
    """`who`. Raises `InvalidPatient` for anything but a `Patient`: a user id alone opens no session."""
    if not isinstance(who, Patient):
        raise InvalidPatient("patient", "a Patient, since a user id alone does not say whom to ask for")
    return who


class Silenceable:
    """An observer for one login. Once that login is given up and told so, what goes on behind it tells nothing."""

    __slots__ = ("_observer", "_silent")

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._silent = False

    def silence(self) -> None:
        """Tell nothing from now on."""
        self._silent = True

    def __call__(self, fact: Fact) -> None:
        """Tell `fact`, unless silenced."""
        if not self._silent:
            self._observer(fact)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says beside the upstream.

    `PHR_REFRESH_STORE`: store URL, default ``sqlite:///phr-refresh.db``.
    `PHR_REFRESH_SEAL_KEYS`: Fernet keys, newest first, comma-separated; tokens are sealed at rest if it is set.
    `PHR_REFRESH_PSEUDONYM_KEY`: any text; the same in all processes makes their logs joinable.
    These two may be ``file:...`` or ``ssm:...``.
    `PHR_REFRESH_METRICS`: ``prometheus``, ``opentelemetry``, or both, comma-separated; by default there are none.
    """

    store_url: str
    seal: Seal
    observer: Observer

    def upstream(self, environ: Mapping[str, str] | None = None) -> Upstream:
        """The real upstream by `MhvSettings.from_env`, behind its guard."""
        from phr_refresh.adapters.upstream.mhv import MhvUpstream
        from phr_refresh.adapters.upstream.settings import MhvSettings

        mhv = MhvSettings.from_env() if environ is None else MhvSettings.from_env(environ)
        return MhvUpstream(mhv, observer=self.observer)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read `environ`, by default the process's. Raises `ConfigurationError`, `MissingExtra`."""
        from phr_refresh.adapters.session_creation.secret_values import read_secret

        found = os.environ if environ is None else environ
        seal_keys = found.get("PHR_REFRESH_SEAL_KEYS")
        pseudonym_key = found.get("PHR_REFRESH_PSEUDONYM_KEY")
        logs = LogObserver(read_secret("PHR_REFRESH_PSEUDONYM_KEY", pseudonym_key).encode() if pseudonym_key else None)
        metrics = [observer_named(name) for name in names_in(found.get("PHR_REFRESH_METRICS", ""))]
        return cls(
            found.get("PHR_REFRESH_STORE") or DEFAULT_STORE,
            FernetSeal.from_setting(read_secret("PHR_REFRESH_SEAL_KEYS", seal_keys)) if seal_keys else PlainSeal(),
            Observers(logs, *metrics) if metrics else logs,
        )


def names_in(setting: str) -> list[str]:
    """The names in a comma-separated setting."""
    return [name.strip() for name in setting.split(",") if name.strip()]
