"""phr-refresh on Celery workers: what a host writes in its Celery app. Needs the extra `celery`.

    app = Celery("portal", broker="redis://redis:6379/1")
    setup(app, PHR_REFRESH, directory="portal.patients.by_user_id")

`PHR_REFRESH` is the settings block of the login service (see `embedding`), where `"worker": "portal.celery.app"` lets
logins hand over to these workers. `setup` registers the tasks `phr_refresh.refresh`, `.follow`, `.watch` and `.sweep`
on two queues of their own, and the sweep with beat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from phr_refresh.adapters.driver import tell
from phr_refresh.adapters.per_process import PerProcess
from phr_refresh.adapters.redaction import error_types
from phr_refresh.adapters.workers.celery import (
    FOLLOW,
    REFRESH,
    SWEEP,
    WATCH,
    CeleryWorker,
    Message,
    QueuedTask,
    longest_delay,
    step_of,
)
from phr_refresh.statemachine.effects import Fact
from phr_refresh.statemachine.errors import ConfigurationError, InvalidPatient, MissingExtra, StoreError
from phr_refresh.statemachine.outcomes import Status
from phr_refresh.statemachine.patient import Patient, UserKey, key_of
from phr_refresh.statemachine.policy import Policy

from .embedding import Embedding, read_patient_of
from .synchronous import PhrRefresh

try:
    from celery import Celery, Task
    from celery.exceptions import WorkerShutdown
    from celery.signals import worker_init, worker_process_init, worker_process_shutdown, worker_shutdown
except ImportError as missing:
    raise MissingExtra("phr_refresh.celery", "celery") from missing

__all__ = ["Delivery", "setup"]

Block = Mapping[str, Any]
#: The host's user id -> whose it is, None for somebody who is no patient (any more).
Directory = Callable[[str], Patient | None]

#: All that is taken: what a message holds is never run.
_JSON: Final = {"json", "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How the messages travel.

    `queue` has the refreshes to be started, `follow_queue` all else, so that no burst of logins keeps what has been
    started from being followed: workers take from both in turn. `expires`: what waited longer is dropped, so that
    nothing starts that nobody asks for any more; shorter than the window. `rate_limit`: refreshes that each worker
    starts, such as "20/s". `sweep_every` None: beat has nothing to do.
    """

    queue: str = "phr_refresh"
    follow_queue: str = "phr_refresh_follow"
    expires: timedelta = timedelta(minutes=30)
    rate_limit: str | None = None
    sweep_every: timedelta | None = timedelta(seconds=30)
    sweep_limit: int = 1000


def setup(
    app: Celery, block: Block | Callable[[], Block], *, directory: Directory | str, delivery: Delivery | None = None
) -> None:
    """Register the tasks. Opens nothing: each worker process does so for itself, after its fork.

    `block`: the settings block, or what gives it when it is wanted. `directory`: a callable, or its dotted path: the
    host's user id -> `Patient`, or None for somebody who is no patient (any more). A setting that is wrong ends a
    worker when it starts, with one line.
    """
    delivery = delivery or Delivery()

    def settings() -> tuple[Embedding, Directory]:
        return _checked(app, block() if callable(block) else block, directory, delivery)

    process = WorkerProcess(app, settings)
    _register(app, process, delivery)
    _connect(process, settings)


def _checked(app: Celery, block: Block, directory: Directory | str, delivery: Delivery) -> tuple[Embedding, Directory]:
    if not set(app.conf.accept_content) <= _JSON:
        problem = "it takes more than JSON, and whoever reaches the broker could have it run anything"
        raise ConfigurationError("Celery's accept_content", problem, 'give phr-refresh an app with ["json"]')
    find = read_patient_of(directory, key="directory")
    embedding = Embedding.of({"patient_of": find, **block})
    if not timedelta(0) < delivery.expires < embedding.policy.refresh_window:
        problem = "it is not within the window, so that an old message could start another refresh"
        raise ConfigurationError("Delivery.expires", problem, "give less than policy.refresh_window")
    longest = embedding.policy.poll_interval_max + embedding.policy.poll_interval
    if longest_delay(app) < longest.total_seconds():
        problem = "it is so short that messages which wait for their time would be delivered twice"
        least = f"give at least {2 * longest.total_seconds():g} seconds, or shorten policy.poll_interval_max"
        raise ConfigurationError("broker_transport_options['visibility_timeout']", problem, least)
    return embedding, find


def _register(app: Celery, process: WorkerProcess, delivery: Delivery) -> None:
    def refresh(task: Task, **message: Any) -> None:
        """Start one patient's refresh, unless that was done."""
        process.refresh(message, is_repeated=_is_repeated(task))

    def follow(task: Task, **message: Any) -> None:
        """Ask once how one refresh stands."""
        process.follow(message, is_repeated=_is_repeated(task))

    def watch(task: Task, **message: Any) -> None:
        """Follow one refresh, if nobody does."""
        process.watch(message)

    def sweep(task: Task) -> None:
        """Apply what is due for patients whom nobody asks about."""
        process.sweep(delivery.sweep_limit)

    common = {
        "base": QueuedTask,
        "shared": False,
        "bind": True,
        "serializer": "json",
        "ignore_result": True,
        # A message is the worker's until the step is done: one that dies gives it back.
        "acks_late": True,
        "reject_on_worker_lost": True,
        "expires": delivery.expires.total_seconds(),
    }
    queue = delivery.follow_queue
    app.task(name=REFRESH, destination=delivery.queue, rate_limit=delivery.rate_limit, **common)(refresh)
    for name, task in ((FOLLOW, follow), (WATCH, watch), (SWEEP, sweep)):
        app.task(name=name, destination=queue, **common)(task)
    if delivery.sweep_every is not None:
        seconds = delivery.sweep_every.total_seconds()
        # A sweep that could not run in its time is made up for by the next one.
        app.add_periodic_task(seconds, app.signature(SWEEP), name=SWEEP, queue=queue, expires=seconds)


def _is_repeated(task: Task) -> bool:
    """Whether a worker has had this message before, and died or was too slow."""
    return bool((task.request.delivery_info or {}).get("redelivered"))


def _connect(process: WorkerProcess, settings: Callable[[], object]) -> None:
    """Check the settings when a worker starts; open and close with each of its processes."""

    def check(**_: object) -> None:
        try:
            settings()
        except (ConfigurationError, MissingExtra) as error:
            raise WorkerShutdown(f"phr-refresh: {error}") from None

    def begin(**_: object) -> None:
        process.opened()

    def end(**_: object) -> None:
        process.close()

    worker_init.connect(check, weak=False)
    worker_process_init.connect(begin, weak=False)
    worker_process_shutdown.connect(end, weak=False)
    worker_shutdown.connect(end, weak=False)


# What a worker's process has open, and what its tasks do.


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


def _drop(opened: _Opened, key: UserKey | None, reason: str) -> None:
    tell(opened.refresher.observer, Fact("step_dropped", key, details={"reason": reason}, is_warning=True))
