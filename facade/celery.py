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

from phr_refresh.adapters.ports import Observer
from phr_refresh.statemachine.errors import ConfigurationError, MissingExtra
from phr_refresh.statemachine.patient import Patient

try:
    from celery import Celery, Task, current_app
    from celery.exceptions import WorkerShutdown
    from celery.signals import worker_init, worker_process_init, worker_process_shutdown, worker_shutdown
except ImportError as missing:
    raise MissingExtra("phr_refresh.celery", "celery") from missing

from phr_refresh.adapters.workers.celery import FOLLOW, REFRESH, SWEEP, WATCH, CeleryWorker, QueuedTask, longest_delay

from .celery_process import WorkerProcess
from .embedding import Embedding, imported, read_patient_of

__all__ = ["Delivery", "setup", "worker_of"]

Block = Mapping[str, Any]
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


def worker_of(app: object, observer: Observer) -> CeleryWorker:
    """What a login hands over to, by the setting `worker`: an app, its dotted path, or "celery" for the current app."""
    found = current_app if app == "celery" else imported("worker", app) if isinstance(app, str) else app
    if not isinstance(found, Celery) and found is not current_app:
        remedy = 'give a Celery app, its dotted path such as "portal.celery.app", or "threads"'
        raise ConfigurationError("PHR_REFRESH['worker']", "it is no Celery app", remedy)
    return CeleryWorker(found, observer=observer)
