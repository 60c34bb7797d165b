"""The library in one process of a Celery worker, and what its tasks do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from celery import Celery
from phr_refresh.adapters.driver import tell
from phr_refresh.adapters.per_process import PerProcess
from phr_refresh.adapters.redaction import error_types
from phr_refresh.adapters.workers.celery import FOLLOW, REFRESH, WATCH, CeleryWorker, Message, step_of
from phr_refresh.statemachine.effects import Fact
from phr_refresh.statemachine.errors import InvalidPatient, StoreError
from phr_refresh.statemachine.outcomes import Status
from phr_refresh.statemachine.patient import Patient, key_of
from phr_refresh.statemachine.policy import Policy

from .embedding import Embedding
from .synchronous import PhrRefresh

Directory = Callable[[str], Patient | None]


@dataclass(frozen=True, slots=True)
class _Opened:
    refresher: PhrRefresh
    worker: CeleryWorker
    directory: Directory
    policy: Policy


class WorkerProcess:
    """One `PhrRefresh` for this process: opened when the process starts, or by its first task. Thread-safe."""

    def __init__(self, app: Celery, settings: Callable[[], tuple[Embedding, Directory]]) -> None:
        self._app = app
        self._settings = settings
        self._opened = PerProcess(self._open)

    def opened(self) -> _Opened:
        """What is open, and opened now if nothing is. Raises `ConfigurationError`, `MissingExtra`."""
        return self._opened.get()

    def _open(self) -> _Opened:
        embedding, directory = self._settings()
        worker = CeleryWorker(self._app, observer=embedding.settings.observer, is_patient=True)
        return _Opened(embedding.open(worker), worker, directory, embedding.policy)

    def close(self) -> None:
        """Close what is open."""
        found = self._opened.take()
        if found is not None:
            found.refresher.close()

    # What the tasks do.

    def refresh(self, message: Message, *, is_repeated: bool) -> None:
        """Run a `Refresh`. Again: who had the message may have died before the following was handed over."""
        opened = self.opened()
        self._run(opened, REFRESH, message)
        status = _status(opened, message) if is_repeated else None
        if status is not None and status.refresh_id is not None:
            _watch(opened, {"user": message.get("user"), "refresh": status.refresh_id, "tries": 0}, status)

    def follow(self, message: Message, *, is_repeated: bool) -> None:
        """Run a `Follow`. Again: only if nobody else follows, or each message that comes twice would double who does.

        Its refresh was asked about a moment ago either by this very message, whose worker died then and left nobody to
        follow, or by who follows: that shows once it is time to ask again.
        """
        opened = self.opened()
        status = _status(opened, message) if is_repeated else None
        if status is None or _is_time(status):
            self._run(opened, FOLLOW, message)
        elif status.refresh_id == message.get("refresh"):
            _watch(opened, message, status)

    def watch(self, message: Message) -> None:
        """Follow, if it was time to ask and nobody has asked. A reader of the status who asks counts as somebody."""
        opened = self.opened()
        status = _status(opened, message)
        if status is None or (status.refresh_id == message.get("refresh") and _is_time(status)):
            self._run(opened, FOLLOW, message)

    def sweep(self, limit: int) -> None:
        """Sweep until nothing more can be moved."""
        opened = self.opened()
        while opened.refresher.sweep(limit).moved == limit:
            pass

    def _run(self, opened: _Opened, name: str, message: Message) -> None:
        user = message.get("user")
        try:
            key = key_of(user)  # type: ignore[arg-type]  # it came from outside
        except InvalidPatient:
            _drop(opened, None, "message_unreadable")
            return
        try:
            patient = opened.directory(str(user))
        except Exception as error:
            again = _try_again(opened, name, message)
            fact = Fact("directory_failed", key, details={"error": error_types(error), "again": again}, is_warning=True)
            tell(opened.refresher.observer, fact)
            return
        if patient is None:
            _drop(opened, key, "not_a_patient")
        elif not isinstance(patient, Patient) or patient.key != key:
            _drop(opened, key, "directory_gave_another")
        elif (step := step_of(name, message, patient)) is None:
            _drop(opened, key, "message_unreadable")
        else:
            opened.worker.run(step)


def _is_time(status: Status) -> bool:
    return _until_next(status) == timedelta(0)


def _until_next(status: Status) -> timedelta | None:
    """How long nobody is to ask; None where there is nothing to ask any more."""
    if status.next_check_at is None or status.read_at is None:
        return None
    return max(status.next_check_at - status.read_at, timedelta(0))


def _status(opened: _Opened, message: Message) -> Status | None:
    """Where the refresh stands; None where that cannot be told: then the step runs, and sees for itself."""
    try:
        return opened.refresher.status(str(message.get("user")))
    except (StoreError, InvalidPatient):
        return None


def _watch(opened: _Opened, message: Message, status: Status) -> None:
    """Look again when whoever follows must have asked once more."""
    until_next = _until_next(status)
    if until_next is not None:
        opened.worker.send(WATCH, message, (until_next + opened.policy.poll_interval).total_seconds())


def _try_again(opened: _Opened, name: str, message: Message) -> bool:
    tries = message.get("tries")
    if type(tries) is not int or not 0 <= tries < opened.policy.retry_limit:
        return False
    return opened.worker.send(name, {**message, "tries": tries + 1}, opened.policy.backoff_after(tries + 1) / 1000)


def _drop(opened: _Opened, key: str | None, reason: str) -> None:
    tell(opened.refresher.observer, Fact("step_dropped", key, details={"reason": reason}, is_warning=True))
