"""PhrRefresh: the public face for threads and processes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

from phr_refresh.adapters.driver import run
from phr_refresh.adapters.ports import AnswersInTime, RecordsAnswer, Row, Store, Worker
from phr_refresh.adapters.stores import open_store
from phr_refresh.adapters.workers.threads import ThreadWorker
from phr_refresh.adapters.workers.time_limit import TimeLimit, TimeLimitExceeded
from phr_refresh.statemachine.draft import Flow
from phr_refresh.statemachine.effects import Load, SessionToken, Step
from phr_refresh.statemachine.errors import RecordUnreadable
from phr_refresh.statemachine.outcomes import Explanation, Receipt, Status, SweepReport
from phr_refresh.statemachine.patient import Patient
from phr_refresh.statemachine.policy import Policy

from .assembly import Face, Settings, Silenceable, as_patient, key_and_patient, keys_of

T = TypeVar("T")


class PhrRefresh(Face[Store, Worker]):
    """Refreshes patients' records at login. One object per process, shared by all threads; a context manager.

    It owns what it is given: `close` closes store, upstream and worker. It survives a fork that comes before the first
    call. All methods but `login` raise `StoreUnavailable` when the store is down, and `RecordUnreadable`.
    """

    def _new_worker(self) -> Worker:
        return ThreadWorker()

    def _set_up(self) -> None:
        self._in_time = self._store if isinstance(self._store, AnswersInTime) else None
        self._time_limit = TimeLimit()
        self._worker.start(self._run_step)

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] | None = None, *, worker: Worker | None = None, policy: Policy | None = None
    ) -> PhrRefresh:
        """From the environment: see `assembly.Settings` and `MhvSettings.from_env`. Raises `ConfigurationError`."""
        settings = Settings.from_env(environ)
        return cls(
            store=open_store(settings.store_url),
            upstream=settings.upstream(environ),
            worker=worker,
            policy=policy,
            seal=settings.seal,
            observer=settings.observer,
        )

    def login(self, patient: Patient) -> Receipt:
        """The login hook: never raises, returns within `Policy.login_budget` (rule R5). The work is the worker's."""
        began = time.perf_counter()
        return self._answered(self._login(patient), began)

    def _login(self, patient: Patient) -> Receipt:
        if self._closed:
            return self._deferred("closed")
        ends_at = time.monotonic() + self._policy.login_budget.total_seconds()
        observer = Silenceable(self.observer)
        try:
            row = self._read_by(patient, ends_at)
            if row is not None and self._hands_over_at_once:
                return run(self._flows.login(patient), self._ports, row)
            # Whatever the store or the broker does: the limit holds, and what is late goes on behind it.
            return self._time_limit.call(
                lambda: run(self._flows.login(patient), replace(self._ports, observer=observer), row),
                seconds=max(ends_at - time.monotonic(), 0),
            )
        except TimeLimitExceeded:
            observer.silence()
            return self._deferred("over_budget")
        except Exception as error:
            return self._failed(error)

    def _read_by(self, patient: Patient, ends_at: float) -> Row | None:
        """The patient's record, read in this thread without waiting beyond `ends_at`; None where that cannot be."""
        if self._in_time is None or not patient.is_member:
            return None
        return self._in_time.call_by(Load(patient.key), ends_at)

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
        keys = keys_of(users)
        found = self._run(self._flows.statuses(list(keys.values())))
        return {user: found[key] for user, key in keys.items()}

    def session(self, patient: Patient) -> SessionToken:
        """The token for FHIR calls, created if needed. Raises `NotEligible` or `SessionUnavailable`; never None."""
        return self._run(self._flows.session(as_patient(patient)))

    def records(self, patient: Patient, kind: str) -> RecordsAnswer:
        """One kind of the patient's records, read with their session, which is created if needed (see `session`).

        It says nothing about how old they are: that is `status`. Failures to read are answers, not exceptions.
        """
        return self._run(self._flows.records(as_patient(patient), kind))

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
            self._time_limit.close()
            self._tell_dropped(self._worker.close())

    def _run(self, flow: Flow[T]) -> T:
        self._check_open()
        return run(flow, self._ports)

    def _run_step(self, step: Step) -> None:
        began, failure = time.perf_counter(), None
        try:
            run(self._flows.step(step), self._ports)
        except Exception as error:
            failure = error
        self._ran(step, began, failure)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
