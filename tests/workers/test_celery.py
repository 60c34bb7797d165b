"""Celery as the worker: what is sent, what the tasks do with it, and a broker that fails."""

import asyncio
import base64
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from freezegun import freeze_time
from phr_refresh import AsyncPhrRefresh, ConfigurationError, Patient, PhrRefresh, Policy, Receipt
from phr_refresh.adapters.ports import Row
from phr_refresh.adapters.stores.memory import MemoryStore
from phr_refresh.adapters.workers.celery import FOLLOW, REFRESH, SWEEP, WATCH, CeleryWorker, message_of, step_of
from phr_refresh.celery import Delivery, WorkerProcess, setup
from phr_refresh.embedding import Embedding
from phr_refresh.statemachine.codec import decode
from phr_refresh.statemachine.effects import Follow, ListDue, Load, Phase, Refresh, StatusReport
from phr_refresh.statemachine.record import State
from support.celery_host import CORRELATION_ID, QUEUES, by_id, make_app
from support.fakes import ScriptedUpstream, Silent
from support.fleet import Wire
from support.samples import ADA, ICN, JWT, UNHURRIED

CANARY = Patient("canary-user", ICN, CORRELATION_ID)
NO_PATIENCE = Policy(login_budget=timedelta(milliseconds=300))
PATIENT = Policy(
    login_budget=timedelta(seconds=30), poll_interval_max=timedelta(seconds=1.2), poll_interval=timedelta(seconds=0.2)
)
REFRESH_STEPS = [Refresh(ADA), Refresh(ADA, logouts=3, tries=2)]
RUNNING = StatusReport(Phase.IN_PROGRESS)


@pytest.fixture
def broker(shared_server: Callable[..., Any]) -> Any:
    """A real Valkey."""
    return shared_server("valkey")


def block(**changes: Any) -> dict[str, Any]:
    """A settings block without an upstream of its own."""
    return {"patient_of": by_id, "store": MemoryStore, "upstream": ScriptedUpstream(), "policy": PATIENT} | changes


def bodies(server: Any, queue: str = "phr_refresh") -> list[dict[str, Any]]:
    """The arguments of the messages in a queue, oldest first."""
    with closing(server.client()) as client:
        raw = client.lrange(queue, 0, -1)
    return [json.loads(base64.b64decode(json.loads(text)["body"]))[1] for text in reversed(raw)]


# What is sent.


@pytest.mark.parametrize("step", [*REFRESH_STEPS, Follow(ADA, "r1"), Follow(ADA, "r1", 4)], ids=repr)
def test_a_step_survives_its_message(step: Refresh | Follow) -> None:
    """Whatever a step counts comes out of its message again, by way of JSON."""
    name, message = message_of(step)
    again = step_of(name, json.loads(json.dumps(message)), ADA)
    assert step == again
    assert isinstance(again, Follow) or again.logouts == step.logouts


STRANGE: list[tuple[str, dict[str, object]]] = [
    (REFRESH, {}),
    (REFRESH, {"tries": "0"}),
    (REFRESH, {"tries": -1}),
    (REFRESH, {"tries": True}),
    (REFRESH, {"tries": 0, "logouts": "many"}),
    (FOLLOW, {"tries": 0}),
    (FOLLOW, {"tries": 0, "refresh": ""}),
    (FOLLOW, {"tries": 0, "refresh": 7}),
]


@pytest.mark.parametrize(("name", "message"), STRANGE)
def test_a_strange_message_is_no_step(name: str, message: dict[str, object]) -> None:
    """What nobody of ours can have sent is not run."""
    assert step_of(name, message, ADA) is None


def test_a_login_is_one_message_without_an_identifier(broker: Any) -> None:
    """What lies in the broker is JSON with the opaque user id and two counts, and its repr is withheld from events."""
    app = make_app(broker.url, block())
    with closing(Embedding.of(block(worker=app)).open()) as phr:
        assert "handed_over" == phr.login(CANARY).kind
        assert [{"user": "canary-user", "logouts": 0, "tries": 0}] == bodies(broker)
    with closing(broker.client()) as client:
        everything = b"".join(client.lrange("phr_refresh", 0, -1))
    message = json.loads(everything)
    assert ("application/json", REFRESH) == (message["content-type"], message["headers"]["task"])
    assert ("<withheld>", "<withheld>") == (message["headers"]["argsrepr"], message["headers"]["kwargsrepr"])
    assert message["headers"]["expires"] is not None
    for shown in (everything, base64.b64decode(message["body"])):
        assert [] == [secret for secret in (ICN, CORRELATION_ID, JWT, CANARY.key) if secret.encode() in shown]


def test_a_hand_over_is_one_round_trip(broker: Any) -> None:
    """The first one connects and declares the queue; every other is one LPUSH."""
    app = make_app(broker.url, block())
    with closing(CeleryWorker(app)) as worker, closing(broker.client()) as client:
        worker.hand_over(Refresh(ADA))
        client.config_resetstat()
        assert [True] * 10 == [worker.hand_over(Refresh(ADA)) for _ in range(10)]
        stats = client.info("commandstats")
    counts = {name: found["calls"] for name, found in stats.items() if name.startswith("cmdstat_")}
    assert {"cmdstat_lpush": 10} == {name: calls for name, calls in counts.items() if "config" not in name}


def test_follow_ups_have_a_queue_of_their_own(broker: Any) -> None:
    """A burst of logins then delays nothing that has been started."""
    app = make_app(broker.url, block(), queue="first", follow_queue="second")
    with closing(CeleryWorker(app)) as worker:
        assert [True, True] == [worker.hand_over(Refresh(ADA)), worker.hand_over(Follow(ADA, "r1"), 0.5)]
    assert [["logouts", "tries", "user"], ["refresh", "tries", "user"]] == [
        sorted(message) for queue in ("first", "second") for message in bodies(broker, queue)
    ]


def test_a_delay_stays_below_the_visibility_time_out(broker: Any) -> None:
    """A message that waits in a worker for longer would be delivered again, each time, to be handed over twice."""
    app = make_app(broker.url, block(), options={"visibility_timeout": 30})
    with closing(CeleryWorker(app)) as worker, freeze_time("2030-01-01T12:00:00Z"):
        worker.hand_over(Refresh(ADA), 300)
    with closing(broker.client()) as client:
        (raw,) = client.lrange("phr_refresh", 0, -1)
    assert "2030-01-01T12:00:15+00:00" == json.loads(raw)["headers"]["eta"]


def test_asyncio_hands_over_too(broker: Any) -> None:
    """`AsyncPhrRefresh` sends from threads."""
    app = make_app(broker.url, block())

    async def log_in() -> Receipt:
        async with Embedding.of(block(worker=app, store="memory://")).open_async() as phr:
            assert isinstance(phr, AsyncPhrRefresh)
            return await phr.login(CANARY)

    assert "handed_over" == asyncio.run(log_in()).kind
    assert ["canary-user"] == [message["user"] for message in bodies(broker)]


def test_an_eager_app_runs_what_is_due_at_once() -> None:
    """In a host's tests, with `task_always_eager`: the refresh is started by the login, and following is left out."""
    upstream, store = ScriptedUpstream(), MemoryStore()
    given = block(upstream=upstream, store=lambda: store)
    app = make_app("memory://", given)
    app.conf.task_always_eager = True
    with closing(Embedding.of({**given, "worker": app}).open()) as phr:
        assert "handed_over" == phr.login(CANARY).kind
        assert ("refreshing", 1, 0) == (phr.status("canary-user").state, upstream.kick_offs, upstream.polls)


def test_a_closed_worker_takes_nothing() -> None:
    """Neither of them raises."""
    app = make_app("memory://", block())
    worker = CeleryWorker(app)
    beside = worker.for_event_loop()

    async def hand_over() -> list[bool]:
        taken = [await beside.hand_over(Refresh(ADA))]
        await beside.close()
        return [*taken, await beside.hand_over(Refresh(ADA))]

    assert ([True, False], False) == (asyncio.run(hand_over()), worker.hand_over(Refresh(ADA)))


# A broker that fails.


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Celery's own lines are none of these tests' business."""
    caplog.set_level(logging.CRITICAL)


def logging_in(app: Celery, observer: Silent, policy: Policy = UNHURRIED) -> PhrRefresh:
    """A login service that hands over to `app`."""
    worker = CeleryWorker(app, observer=observer)
    return PhrRefresh(store=MemoryStore(), upstream=ScriptedUpstream(), worker=worker, policy=policy, observer=observer)


def test_logins_go_on_without_a_broker(own_server: Any) -> None:
    """Each login is deferred with one event of its own, and the broker's going and coming are told once each."""
    observer = Silent()
    app = make_app(own_server.url, block())
    with closing(logging_in(app, observer)) as phr:
        assert "handed_over" == phr.login(CANARY).kind
        own_server.stop()
        assert ["worker_full"] * 5 == [phr.login(CANARY).reason for _ in range(5)]
        assert (5, 1) == (len(observer.told("login_deferred")), len(observer.told("broker_unavailable")))
        own_server.start()
        assert "handed_over" == phr.login(CANARY).kind
    assert 1 == len(observer.told("broker_available"))


def test_a_broker_that_restarted_is_not_noticed(own_server: Any) -> None:
    """The connection from before fails at the first use; a new one is made at once, without a pause."""
    observer = Silent()
    with closing(logging_in(make_app(own_server.url, block()), observer)) as phr:
        phr.login(CANARY)
        own_server.stop()
        own_server.start()
        assert "handed_over" == phr.login(CANARY).kind
    assert [] == observer.told("broker_unavailable")


def test_a_broker_that_hangs_costs_the_budget_and_no_more(broker: Any) -> None:
    """A login waits for its budget; what is stuck behind it ends by its own time-outs, before `close` gives up."""
    wire = Wire(broker.port)
    observer = Silent()
    app = make_app(f"redis://127.0.0.1:{wire.port}", block())
    with closing(wire):
        phr = logging_in(app, observer, NO_PATIENCE)
        wire.hang()
        receipts = [phr.login(CANARY) for _ in range(3)]
        phr.close()
    assert ["over_budget"] * 3 == [receipt.reason for receipt in receipts]
    assert 3 == len(observer.told("login_deferred"))


# What the tasks do.


class Process:
    """A `WorkerProcess` on a broker, with all that it stands on in reach."""

    def __init__(self, server: Any, directory: Any = by_id) -> None:
        self.observer = Silent()
        self.upstream = ScriptedUpstream()
        self.server = server
        store = self.store = MemoryStore()
        given = block(store=lambda: store, upstream=self.upstream)
        embedding = Embedding.of(given)
        object.__setattr__(embedding.settings, "observer", self.observer)
        self.app = make_app(server.url, given)
        self.process = WorkerProcess(self.app, lambda: (embedding, directory))

    def sent(self, task: str) -> list[dict[str, Any]]:
        """The arguments of the messages for `task` so far."""
        with closing(self.server.client()) as client:
            lists = [client.lrange(queue, 0, -1) for queue in QUEUES.split(",")]
            raw = [json.loads(text) for found in lists for text in reversed(found)]
        found = [text for text in raw if text["headers"]["task"] == task]
        return [json.loads(base64.b64decode(text["body"]))[1] for text in found]

    def started(self) -> str:
        """Let the canary's refresh be started; its id."""
        self.process.refresh({"user": "canary-user", "logouts": 0, "tries": 0}, is_repeated=False)
        return str(self.sent(FOLLOW)[0]["refresh"])


@pytest.fixture
def process(broker: Any) -> Iterator[Process]:
    """A worker's process, frozen at noon."""
    with freeze_time("2030-01-01T12:00:00Z", ignore=["redis", "kombu"]):
        made = Process(broker)
        yield made
        made.process.close()


def test_a_refresh_is_started_and_followed(process: Process) -> None:
    """The task starts it and sends the first step of following, which ends with the refresh."""
    refresh_id = process.started()
    assert (1, [{"user": "canary-user", "refresh": refresh_id, "tries": 0}]) == (
        process.upstream.kick_offs,
        process.sent(FOLLOW),
    )
    with freeze_time("2030-01-01T12:00:02Z", ignore=["redis", "kombu"]):
        process.process.follow(process.sent(FOLLOW)[0], is_repeated=False)
    assert "complete" == process.process.opened().refresher.status("canary-user").state
    assert 1 == len(process.sent(FOLLOW))


def test_a_refresh_that_comes_twice_starts_nothing(process: Process) -> None:
    """A message that is delivered again finds the refresh under way, and sees to it that somebody follows."""
    refresh_id = process.started()
    process.process.refresh({"user": "canary-user", "logouts": 0, "tries": 0}, is_repeated=True)
    assert (1, 1) == (process.upstream.kick_offs, len(process.sent(FOLLOW)))
    assert [{"user": "canary-user", "refresh": refresh_id, "tries": 0}] == process.sent(WATCH)


def test_a_follow_that_comes_again_doubles_nobody(process: Process) -> None:
    """However often a message comes again after it was run: no call, and no second chain, as long as one follows."""
    process.upstream.statuses.extend([RUNNING] * 3)
    process.started()
    first = process.sent(FOLLOW)[0]
    with freeze_time("2030-01-01T12:00:02Z", ignore=["redis", "kombu"]):
        process.process.follow(first, is_repeated=False)
        for _ in range(3):
            process.process.follow(first, is_repeated=True)
    with freeze_time("2030-01-01T12:00:04Z", ignore=["redis", "kombu"]):
        process.process.follow(process.sent(FOLLOW)[1], is_repeated=False)
        for message in process.sent(WATCH):
            process.process.watch(message)
    assert (2, 3, 3) == (process.upstream.polls, len(process.sent(FOLLOW)), len(process.sent(WATCH)))


def test_a_worker_that_died_after_asking_is_made_up_for(process: Process) -> None:
    """The poll was claimed, and nobody follows any more: who watches takes over when it is time to ask again."""
    process.upstream.statuses.append(RUNNING)
    process.started()
    first = process.sent(FOLLOW)[0]
    with freeze_time("2030-01-01T12:00:02Z", ignore=["redis", "kombu"]):
        # What its worker did before it died: it asked, and handed over nothing.
        process.process.opened().refresher.status(CANARY)
        process.process.follow(first, is_repeated=True)
    with freeze_time("2030-01-01T12:00:05Z", ignore=["redis", "kombu"]):
        process.process.watch(process.sent(WATCH)[0])
    assert (2, "complete") == (
        process.upstream.polls,
        process.process.opened().refresher.status("canary-user").state,
    )


def test_a_follow_that_was_never_run_is_run_when_it_comes_again(process: Process) -> None:
    """A worker that died before it did anything leaves the work to the next."""
    process.started()
    with freeze_time("2030-01-01T12:00:02Z", ignore=["redis", "kombu"]):
        process.process.follow(process.sent(FOLLOW)[0], is_repeated=True)
    assert ("complete", []) == (
        process.process.opened().refresher.status("canary-user").state,
        process.sent(WATCH),
    )


def test_who_is_no_patient_is_dropped(process: Process) -> None:
    """The directory knows of nobody: told, with a pseudonym, and nothing is called."""
    process.process.refresh({"user": "guest", "logouts": 0, "tries": 0}, is_repeated=False)
    (fact,) = process.observer.told("step_dropped")
    assert ({"reason": "not_a_patient"}, []) == (fact.details, process.upstream.calls)


@pytest.mark.parametrize("message", [{}, {"user": ""}, {"user": 7}, {"user": "user-1", "tries": "x"}], ids=repr)
def test_a_message_that_is_none_of_ours_is_dropped(process: Process, message: dict[str, Any]) -> None:
    """Told, and nothing is called: a queue is open to whoever reaches the broker."""
    process.process.refresh(message, is_repeated=False)
    assert [{"reason": "message_unreadable"}] == [fact.details for fact in process.observer.told("step_dropped")]
    assert [] == process.upstream.calls


def test_a_directory_that_fails_is_asked_again(broker: Any) -> None:
    """As often as the policy says; its error is told by its type alone, since its text may hold anything."""

    def fails(user: str) -> Patient:
        raise LookupError(ICN)

    process = Process(broker, fails)
    with closing(process.process):
        process.process.refresh({"user": "user-1", "logouts": 0, "tries": 0}, is_repeated=False)
        process.process.refresh({"user": "user-1", "logouts": 0, "tries": 5}, is_repeated=False)
    told = [dict(fact.details) for fact in process.observer.told("directory_failed")]
    assert [{"error": "LookupError", "again": True}, {"error": "LookupError", "again": False}] == told
    assert [{"user": "user-1", "logouts": 0, "tries": 1}] == process.sent(REFRESH)


def test_a_directory_that_gives_somebody_else_is_not_believed(broker: Any) -> None:
    """A refresh under another patient's name would be worse than none."""
    process = Process(broker, lambda user: ADA)
    with closing(process.process):
        process.process.refresh({"user": "user-1", "logouts": 0, "tries": 0}, is_repeated=False)
    assert [{"reason": "directory_gave_another"}] == [fact.details for fact in process.observer.told("step_dropped")]


def test_the_sweep_goes_on_until_nothing_is_due(process: Process) -> None:
    """In batches, until one of them has moved fewer than it may."""
    for number in range(5):
        process.process.refresh({"user": f"user-{number}", "logouts": 0, "tries": 0}, is_repeated=False)
    with freeze_time("2030-01-01T12:06:00Z", ignore=["redis", "kombu"]):
        process.process.sweep(2)
        assert () == tuple(process.store.call(ListDue(10)))
        row = process.store.call(Load(by_id("user-1").key))
    assert isinstance(row, Row)
    assert State.STALE is decode(row.value or b"").state


# Settings.


def test_the_tasks_are_registered_as_documented() -> None:
    """Late acknowledgement, redelivery after a crash, no result, JSON, an expiry, and the rate limit in its place."""
    app = make_app("memory://", block(), rate_limit="20/s", sweep_every=5)
    tasks = {name: app.tasks[name] for name in (REFRESH, FOLLOW, WATCH, SWEEP)}
    for task in tasks.values():
        assert (True, True, True, "json") == (
            task.acks_late,
            task.reject_on_worker_lost,
            task.ignore_result,
            task.serializer,
        )
    assert ("20/s", None) == (tasks[REFRESH].rate_limit, tasks[FOLLOW].rate_limit)
    assert {1800.0} == {task.expires for task in tasks.values()}
    entry = app.conf.beat_schedule[SWEEP]
    assert (SWEEP, 5.0, "phr_refresh_follow") == (entry["task"], entry["schedule"], entry["options"]["queue"])


def test_the_sweep_can_be_left_out() -> None:
    """A fleet that sweeps by other means leaves beat alone."""
    assert {} == make_app("memory://", block(), sweep_every=None).conf.beat_schedule


def wrong_content(app: Celery) -> None:
    """Let the app take pickles."""
    app.conf.accept_content = ["json", "pickle"]


def test_an_app_that_takes_pickles_is_refused() -> None:
    """Whoever reaches the broker could have a worker run anything."""
    app = Celery("portal", broker="memory://", set_as_current=False)
    wrong_content(app)
    process = settings_of(app, block())
    with pytest.raises(ConfigurationError, match="it takes more than JSON"):
        process()


def test_an_expiry_beyond_the_window_is_refused() -> None:
    """An old message could start a refresh that nobody asks for any more."""
    app = Celery("portal", broker="memory://", set_as_current=False)
    with pytest.raises(ConfigurationError, match="it is not within the window"):
        settings_of(app, block(), Delivery(expires=timedelta(hours=1)))()


def test_a_visibility_time_out_below_the_polls_is_refused() -> None:
    """A message that waits for its time longer than that would come twice, each time."""
    app = Celery("portal", broker="redis://127.0.0.1:1", set_as_current=False)
    app.conf.broker_transport_options = {"visibility_timeout": 60}
    with pytest.raises(ConfigurationError, match="give at least 62 seconds, or shorten"):
        settings_of(app, block(policy=Policy()))()


def settings_of(app: Celery, given: dict[str, Any], delivery: Delivery | None = None) -> Callable[[], object]:
    """What a worker does with its settings before it starts."""
    from phr_refresh.celery import _checked

    return lambda: _checked(app, given, by_id, delivery or Delivery())


WRONG_WORKERS = {
    "no module": ("nowhere.app", "it cannot be imported (nowhere)"),
    "no app": ("json.dumps", "it is no Celery app"),
    "no text": (7, "it is no Celery app"),
    "not set up": (Celery("bare", broker="memory://", set_as_current=False), "it has no tasks of ours"),
}


@pytest.mark.parametrize("case", WRONG_WORKERS)
def test_a_wrong_worker_names_the_setting(case: str) -> None:
    """One sentence that says what is wrong with the setting `worker`."""
    value, sentence = WRONG_WORKERS[case]
    embedding = Embedding.of(block(worker=value))
    with pytest.raises(ConfigurationError) as caught:
        embedding.open()
    assert sentence in str(caught.value)


def test_the_hosts_current_app_needs_no_path() -> None:
    """`"worker": "celery"` is the app that the host has made current, as its Celery module does by being imported."""
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from celery import Celery\n"
        "from phr_refresh.celery import setup\n"
        "from phr_refresh.embedding import Embedding\n"
        "from support.celery_quiet import BLOCK\n"
        "from support.samples import ADA\n"
        "block = {**BLOCK, 'worker': 'celery', 'policy': {'login_budget': 30}}\n"
        "setup(Celery('portal', broker='memory://'), block, directory=lambda user: ADA)\n"
        "with Embedding.of(block).open() as phr:\n"
        "    print(phr.login(ADA).kind.value)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ("handed_over", "") == (done.stdout.strip(), done.stderr)


def test_threads_are_the_default_and_can_be_named() -> None:
    """Then nothing of Celery is imported."""
    program = (
        "import sys; from phr_refresh.embedding import Embedding\n"
        "from support.celery_quiet import BLOCK\n"
        "Embedding.of({**BLOCK, 'worker': 'threads'}).open().close()\n"
        "print('celery' in sys.modules)"
    )
    path = f"import sys; sys.path[:0] = {sys.path!r}\n"
    done = subprocess.run([sys.executable, "-c", path + program], capture_output=True, text=True, check=True)
    assert "False" == done.stdout.strip()


def test_a_forked_child_has_connections_of_its_own(broker: Any) -> None:
    """A server that forks after the app was made and used, as gunicorn's preload does, hands over on both sides."""
    program = (
        "import os, sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from support.celery_host import make_app\n"
        "from support.samples import ADA\n"
        "from phr_refresh.adapters.workers.celery import CeleryWorker\n"
        "from phr_refresh.statemachine.effects import Refresh\n"
        f"worker = CeleryWorker(make_app({broker.url!r}, {{}}))\n"
        "worker.start(lambda step: None)\n"
        "assert worker.hand_over(Refresh(ADA, logouts=0))\n"
        "child = os.fork()\n"
        "taken = [worker.hand_over(Refresh(ADA, logouts=2 if child else 1)) for _ in range(20)]\n"
        "worker.close()\n"
        "assert taken == [True] * 20\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    assert ("", 0) == (done.stderr, done.returncode)
    assert [0] + [1] * 20 + [2] * 20 == sorted(message["logouts"] for message in bodies(broker))


def test_setup_opens_nothing() -> None:
    """A module that is imported before a fork, or by a command that runs no task, connects to nothing."""
    opened: list[str] = []

    def given() -> dict[str, Any]:
        opened.append("settings")
        return block()

    app = Celery("portal", broker="redis://127.0.0.1:1", set_as_current=False)
    before = time.monotonic()
    setup(app, given, directory=by_id)
    with closing(CeleryWorker(app)) as worker:
        worker.start(lambda _: None)
    assert ([], True) == (opened, REFRESH in app.tasks)
    assert time.monotonic() - before < 30
