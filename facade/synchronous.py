"""PhrRefresh: the public face for threads and processes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

from phr_refresh.adapters.driver import Ports, Tap, run, tell
from phr_refresh.adapters.logs import LogObserver
from phr_refresh.adapters.metrics.measuring import MeasuredUpstream, MeasuredWorker, login_answered
from phr_refresh.adapters.ports import Observer, RecordsAnswer, Seal, Store, Upstream, Worker
from phr_refresh.adapters.redaction import safe_error
from phr_refresh.adapters.session_creation.seal import PlainSeal
from phr_refresh.adapters.stores import open_store
from phr_refresh.adapters.workers.threads import ThreadWorker
from phr_refresh.adapters.workers.time_limit import GateTimeout, LoginGate
from phr_refresh.statemachine.draft import Flow
from phr_refresh.statemachine.effects import Fact, SessionToken, Step
from phr_refresh.statemachine.errors import ConfigurationError, RecordUnreadable
from phr_refresh.statemachine.outcomes import Explanation, Receipt, ReceiptKind, Status, SweepReport
from phr_refresh.statemachine.patient import Patient, key_of
from phr_refresh.statemachine.policy import Policy

from .assembly import Settings, Silenceable, as_patient, flows_under, key_and_patient

T = TypeVar("T")


class PhrRefresh:
    """Refreshes patients' records at login. One object per process, shared by all threads; a context manager.

    It owns what it is given: `close` closes store, upstream and worker. It survives a fork that comes before the first
    call. All methods but `login` raise `StoreUnavailable` when the store is down, and `RecordUnreadable`.
    """

    def __init__(
        self,
        *,
        store: Store,
        upstream: Upstream,
        worker: Worker | None = None,
        policy: Policy | None = None,
        seal: Seal | None = None,
        observer: Observer | None = None,
        tap: Tap | None = None,
    ) -> None:
        """`seal` encrypts cached tokens, by default nothing does. `observer` is told every `Fact`, by default it logs.

        `tap` sees each flow before it runs, such as `statemachine.trace.Recorder.tap`.
        """
        self._policy = policy or Policy()
        self._flows = flows_under(self._policy, upstream)
        self._store = store
        self._worker = worker or ThreadWorker()
        self.observer = observer or LogObserver()
        self._upstream = MeasuredUpstream(upstream, self.observer)
        self._measured_worker = MeasuredWorker(self._worker, self.observer)
        self._ports = Ports(
            store=store,
            upstream=self._upstream,
            worker=self._measured_worker,
            seal=seal or PlainSeal(),
            observer=self.observer,
            policy=self._policy,
            tap=tap,
        )
        self._gate = LoginGate()
        self._closed = False
        self._worker.start(self._run_step)

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] | None = None, *, worker: Worker | None = None, policy: Policy | None = None
    ) -> PhrRefresh:
        """From the environment: see `assembly.Settings` and `MhvSettings.from_env`. Raises `ConfigurationError`."""
        from phr_refresh.adapters.upstream.mhv import MhvUpstream
        from phr_refresh.adapters.upstream.settings import MhvSettings

        settings = Settings.from_env(environ)
        mhv = MhvSettings.from_env() if environ is None else MhvSettings.from_env(environ)
        return cls(
            store=open_store(settings.store_url),
            upstream=MhvUpstream(mhv),
            worker=worker,
            policy=policy,
            seal=settings.seal,
            observer=settings.observer,
        )

    def login(self, patient: Patient) -> Receipt:
        """The login hook: never raises, returns within `Policy.login_budget` (rule R5). The work is the worker's."""
        began = time.perf_counter()
        return login_answered(self.observer, self._login(patient), time.perf_counter() - began)

    def _login(self, patient: Patient) -> Receipt:
        if self._closed:
            return self._deferred("closed")
        observer = Silenceable(self.observer)
        try:
            return self._gate.call(
                lambda: run(self._flows.login(patient), replace(self._ports, observer=observer)),
                seconds=self._policy.login_budget.total_seconds(),
            )
        except GateTimeout:
            observer.silence()
            return self._deferred("over_budget")
        except Exception as error:
            return self._deferred("internal_error", error=safe_error(error))

    def _deferred(self, reason: str, **details: str) -> Receipt:
        tell(self.observer, Fact("login_deferred", details={"reason": reason, **details}, is_warning=True))
        return Receipt(kind=ReceiptKind.DEFERRED, reason=reason)

    def refresh(self, patient: Patient) -> Receipt:
        """Start this window's refresh in this thread, unless that was done. Winner and losers get the same id."""
        return self._run(self._flows.refresh(as_patient(patient)))

    def status(self, who: Patient | str) -> Status:
        """Where the refresh stands. Given a `Patient` it asks the upstream when that is due, given a user id never.

        The one caller per poll interval whose turn it is waits for the upstream's answer, up to its time-outs;
        everybody else gets what the store knows, in one round trip.
        """
        return self._run(self._flows.status(*key_and_patient(who)))

    def statuses(self, users: Iterable[str]) -> dict[str, Status | RecordUnreadable]:
        """`status` of many user ids, by user id, a few hundred in one round trip. Asks the upstream nothing.

        A record that cannot be read is its error, in place of a status: it hides no other.
        """
        keys = {user: key_of(user) for user in users}
        found = self._run(self._flows.statuses(list(keys.values())))
        return {user: found[key] for user, key in keys.items()}

    def session(self, patient: Patient) -> SessionToken:
        """The token for FHIR calls, created if needed. Raises `NotEligible` or `SessionUnavailable`; never None."""
        return self._run(self._flows.session(as_patient(patient)))

    def records(self, patient: Patient, kind: str) -> RecordsAnswer:
        """One kind of the patient's records, read with their session, which is created if needed (see `session`).

        It says nothing about how old they are: that is `status`. Failures to read are answers, not exceptions.
        """
        return self._upstream.read_records(kind, self.session(patient))

    def logout(self, who: Patient | str) -> None:
        """End the session and drop its token. The window stays: logging in again starts no second refresh."""
        self._run(self._flows.logout(key_and_patient(who)[0]))

    def explain(self, who: Patient | str) -> Explanation:
        """State, reason, last refusal, possible events and what happens next; for the people on call."""
        return self._run(self._flows.explain(key_and_patient(who)[0]))

    def sweep(self, limit: int = 1000) -> SweepReport:
        """Apply what is due for at most `limit` patients whom nobody asks about."""
        return self._run(self._flows.sweep(limit))

    def close(self) -> None:
        """Finish what is due, within a bounded time, and close worker, upstream and store."""
        self._closed = True
        with ExitStack() as stack:
            stack.callback(self._store.close)
            stack.callback(self._upstream.close)
            self._gate.close()
            dropped = self._worker.close()
            if dropped:
                # No warning: what is dropped waits for its time, and readers of the status take over.
                tell(self.observer, Fact("worker_closed", details={"dropped": dropped}))

    def _run(self, flow: Flow[T]) -> T:
        if self._closed:
            raise ConfigurationError("PhrRefresh", "it is closed", "make another one")
        return run(flow, self._ports)

    def _run_step(self, step: Step) -> None:
        began = time.perf_counter()
        try:
            run(self._flows.step(step), self._ports)
        except Exception as error:
            details = {"step": type(step).__name__, "error": safe_error(error)}
            tell(self.observer, Fact("step_failed", details=details, is_warning=True))
        self._measured_worker.ran(step, time.perf_counter() - began)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
