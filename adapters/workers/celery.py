"""CeleryWorker: hands steps over to Celery, for workers in other processes to run. Needs the extra `celery`.

`phr_refresh.celery.setup` makes the tasks that it sends. A message carries the host's opaque user id, the id of the
refresh, and two counts: no identifier that the upstream knows, and no token (rule R7). Whoever runs a step asks the
host's directory whose it is.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeGuard

from ...statemachine.effects import Fact, Follow, Refresh, Step
from ...statemachine.errors import ConfigurationError, MissingExtra
from ...statemachine.patient import Patient
from ..driver import tell
from ..logs import LogObserver
from ..per_process import PerProcess
from ..ports import Observer, Runner
from ..redaction import error_types

try:
    from celery import Celery, Task, current_app
    from kombu.pools import ProducerPool
except ImportError as missing:
    raise MissingExtra("phr_refresh.celery", "celery") from missing

REFRESH: Final = "phr_refresh.refresh"
FOLLOW: Final = "phr_refresh.follow"
WATCH: Final = "phr_refresh.watch"
SWEEP: Final = "phr_refresh.sweep"

Message = dict[str, str | int | None]

#: How long a broker may take to connect, and to answer: a login does not wait for it, but a thread of its gate does.
_SECONDS = 1.0
_CONNECTIONS = 16
#: A connection from before the broker's restart fails once. That is tried again at once, and nothing else in a login.
_AT_ONCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
#: A worker can wait for a broker that restarts. What it cannot hand over after that comes back with its own message.
_PATIENTLY = {"max_retries": 4, "interval_start": 0, "interval_step": 0.25, "interval_max": 1}
_DEFAULT_VISIBILITY = 3600.0
_WITHHELD = "<withheld>"


class QueuedTask(Task):  # type: ignore[misc]  # Celery has no types
    """A task that knows its queue, so that no host has to route it."""

    abstract = True
    destination = ""

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """See Celery. What a message holds is shown in no log and no event of Celery's."""
        own = {"queue": self.destination, "argsrepr": _WITHHELD, "kwargsrepr": _WITHHELD}
        return super().apply_async(*args, **{**options, **own})


def message_of(step: Step) -> tuple[str, Message]:
    """The name of the task that runs `step`, and its arguments."""
    if isinstance(step, Refresh):
        return REFRESH, {"user": step.patient.user_id, "logouts": step.logouts, "tries": step.tries}
    return FOLLOW, {"user": step.patient.user_id, "refresh": step.refresh_id, "tries": step.tries}


def step_of(name: str, message: Mapping[str, object], patient: Patient) -> Step | None:
    """The step that a message stands for; None for one that nobody of ours has sent."""
    refresh, logouts, tries = message.get("refresh"), message.get("logouts"), message.get("tries")
    if not _is_count(tries):
        return None
    if name == FOLLOW:
        return Follow(patient, refresh, tries) if isinstance(refresh, str) and refresh else None
    return Refresh(patient, logouts=logouts, tries=tries) if logouts is None or _is_count(logouts) else None


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def longest_delay(app: Celery) -> float:
    """Seconds for which a message may wait in a worker: half the time after which the broker delivers it again."""
    return float(app.conf.broker_transport_options.get("visibility_timeout", _DEFAULT_VISIBILITY)) / 2


def worker_of(app: object, observer: Observer) -> "CeleryWorker":
    """What a login hands over to: by an app, or by "celery" for the current app. Raises `ConfigurationError`."""
    found = current_app if app == "celery" else app
    if not isinstance(found, Celery) and found is not current_app:
        remedy = 'give a Celery app, its dotted path such as "portal.celery.app", or "threads"'
        raise ConfigurationError("PHR_REFRESH['worker']", "it is no Celery app", remedy)
    return CeleryWorker(found, observer=observer)


class CeleryWorker:
    """A `Worker` whose steps run elsewhere. Thread-safe; survives a fork.

    `app`: one that `phr_refresh.celery.setup` was called on. `is_patient`: in a worker, which may wait a moment for a
    broker that restarts; a login never does.

    A step is taken once the broker has it. It may then run more than once, and every flow allows for that; a broker
    that forgets it is no worse than a process that dies: the records in the store carry their deadlines.
    """

    def __init__(self, app: Celery, *, observer: Observer | None = None, is_patient: bool = False) -> None:
        found: Mapping[str, QueuedTask] = app.tasks
        if REFRESH not in found:
            raise ConfigurationError("Celery app", "it has no tasks of ours", "call phr_refresh.celery.setup(app, ...)")
        self._tasks = {name: found[name] for name in (REFRESH, FOLLOW, WATCH)}
        self._app = app
        self._observer = observer or LogObserver()
        self._retry_policy = _PATIENTLY if is_patient else _AT_ONCE
        self._longest_delay = longest_delay(app)
        self._is_down = False
        self._closed = False
        self._runner: Runner | None = None
        self._pool: PerProcess[Any] = PerProcess(self._new_pool)

    def start(self, run: Runner) -> None:
        """See `Worker.start`. In a login process nothing is run. Connects to nothing."""
        self._runner = run
        # What the first login would otherwise wait for: modules that are imported, queues and routes that are made.
        self._pool.get()
        self._app.amqp.send_task_message, self._app.amqp.router  # noqa: B018

    def run(self, step: Step) -> None:
        """Run `step` here and now: what the tasks do."""
        if self._runner is not None:
            self._runner(step)

    def hand_over(self, step: Step, delay: float = 0.0) -> bool:
        """See `Worker.hand_over`. A delay is cut to `longest_delay`: who comes early waits anew."""
        name, message = message_of(step)
        return self.send(name, message, delay)

    def send(self, name: str, message: Message, delay: float = 0.0) -> bool:
        """Send one message, to be run after `delay` seconds; whether the broker has taken it. Never raises."""
        # A host's tests may let tasks run at once in the caller: without a delay, following would never come to an end.
        if self._closed or (delay > 0 and self._app.conf.task_always_eager):
            return False
        try:
            with self._pool.get().acquire(block=True, timeout=_SECONDS) as producer:
                self._tasks[name].apply_async(
                    kwargs=message,
                    countdown=min(delay, self._longest_delay) or None,
                    producer=producer,
                    retry=True,
                    retry_policy=self._retry_policy,
                    add_to_parent=False,
                )
        except Exception as error:
            self._note(is_down=True, error=error_types(error))
            return False
        self._note(is_down=False)
        return True

    def _note(self, *, is_down: bool, **details: str) -> None:
        """Tell when the broker goes and when it comes back, and not at each login in between."""
        if is_down is not self._is_down:
            self._is_down = is_down
            name = "broker_unavailable" if is_down else "broker_available"
            tell(self._observer, Fact(name, details=details, is_warning=is_down))

    def _new_pool(self) -> Any:
        plain = self._app.connection_for_write()
        # Not the app's own pool: those connections would wait for a broker that hangs for ever.
        options: dict[str, Any] = {"max_retries": 0, "interval_start": 0, "interval_step": 0, "interval_max": 0}
        if plain.transport.driver_type == "redis":
            options |= {"socket_timeout": _SECONDS, "socket_connect_timeout": _SECONDS, "retry_on_timeout": False}
        elif plain.transport.driver_type == "amqp":
            options |= {"read_timeout": _SECONDS, "write_timeout": _SECONDS}
        connection: Any = self._app.connection_for_write(transport_options=options, connect_timeout=_SECONDS)
        pool = connection.Pool(limit=_CONNECTIONS)
        producers: Any = ProducerPool
        return producers(connections=pool, limit=_CONNECTIONS, Producer=self._app.amqp.Producer)

    def for_event_loop(self) -> "AsyncCeleryWorker":
        """This worker for `AsyncPhrRefresh`, to which it then belongs."""
        return AsyncCeleryWorker(self)

    def close(self) -> int:
        """Let go of the connections. Nothing waits here: what was handed over is the broker's."""
        self._closed = True
        pool = self._pool.take()
        if pool is not None:
            pool.connections.force_close_all()
            pool.force_close_all()
        return 0


class AsyncCeleryWorker:
    """The same for `AsyncPhrRefresh`: the broker is spoken to in threads."""

    def __init__(self, worker: CeleryWorker, *, threads: int = 8) -> None:
        self._worker = worker
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="phr-refresh-broker")

    def start(self, run: object) -> None:
        """Called once. Nothing is run here."""
        self._worker.start(lambda _: None)

    async def hand_over(self, step: Step, delay: float = 0.0) -> bool:
        """See `CeleryWorker.hand_over`."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._worker.hand_over, step, delay)
        except RuntimeError:
            return False  # closed

    async def close(self) -> int:
        """Let go of the connections, when what is under way has been sent."""
        await asyncio.to_thread(self._threads.shutdown)
        return self._worker.close()
