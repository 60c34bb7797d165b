"""Metrics: each fact becomes the numbers that operators look at, with labels that no patient can be told from."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from freezegun import freeze_time
from phr_refresh import AsyncPhrRefresh, ConfigurationError, MissingExtra, Patient, PhrRefresh, Policy, State
from phr_refresh.adapters.logs import Observers
from phr_refresh.adapters.metrics import definitions, observations
from phr_refresh.adapters.metrics.definitions import METRICS, Kind
from phr_refresh.adapters.metrics.labels import OTHER, REASONS, VALUES, bounded
from phr_refresh.adapters.metrics.prometheus import PrometheusObserver
from phr_refresh.adapters.simulator import Fault, Simulator
from phr_refresh.adapters.stores import open_async_store, open_store
from phr_refresh.adapters.stores.memory import MemoryStore
from phr_refresh.adapters.upstream.guard import GuardedUpstream
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.adapters.workers.tasks import TaskWorker
from phr_refresh.adapters.workers.threads import ThreadWorker
from phr_refresh.assembly import Settings
from phr_refresh.embedding import Embedding
from phr_refresh.statemachine.effects import Fact, OpenSession, Refresh, SessionFailed
from prometheus_client import CollectorRegistry, generate_latest
from support.fakes import RecordingWorker, ScriptedUpstream, Silent
from support.samples import BOB, ICN, JWT, UNHURRIED, everybody_is_ada

CORRELATION_ID = "9988776655"
ADA = Patient("ada@portal.example", ICN, CORRELATION_ID)
EVE = Patient("eve", "1000000002V000002", "2")
CAL = Patient("cal", "1000000003V000003", "3")
#: Polls are not much faster than usual: on a busy machine a turn to poll must not be over before its call is made.
FAST = Policy(poll_schedule=(), poll_interval=timedelta(milliseconds=500), login_budget=timedelta(seconds=30))

Samples = dict[tuple[str, ...], float]


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry of this test's own."""
    return CollectorRegistry()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """The upstream, fifty times as fast as recorded."""
    with Simulator(speed=50) as running:
        yield running


def upstream_of(simulator: Simulator) -> MhvUpstream:
    """The adapter to the simulator."""
    return MhvUpstream(
        MhvSettings(
            base_url=simulator.url,
            fhir_url=f"{simulator.url}/fhir",
            app_token=simulator.app_token,
            authorization_key=simulator.authorization_key,
        )
    )


def samples(registry: CollectorRegistry, *, less: tuple[str, ...] = ("_bucket", "_sum", "_created")) -> Samples:
    """Every sample but those whose names end in one of `less`, by its short name and the values of its labels."""
    return {
        (sample.name.removeprefix(definitions.PREFIX), *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith(less)
    }


def moved(event: str, source: str, target: str, reason: str = "") -> tuple[str, ...]:
    """The sample of one transition."""
    return "transitions_total", event, source, target, reason


#: What a visit leaves behind, less what depends on how often the status was asked.
VISIT: Samples = {
    ("login_seconds_count", "handed_over"): 1,
    ("login_seconds_count", "fresh"): 1,
    moved("session_opened", "no_session", "session_created"): 1,
    moved("refresh_claimed", "session_created", "refreshing"): 1,
    moved("refresh_accepted", "refreshing", "refreshing"): 1,
    moved("refresh_completed", "refreshing", "complete"): 1,
    moved("session_ended", "complete", "no_session"): 1,
    ("refresh_seconds_count", "completed"): 1,
    ("upstream_call_seconds_count", "open_session", "opened"): 1,
    ("upstream_call_seconds_count", "start_refresh", "accepted"): 1,
    ("upstream_call_seconds_count", "ask_status", "complete"): 1,
    ("upstream_call_seconds_count", "read_records", "read"): 1,
    ("step_seconds_count", "refresh"): 1,
    ("upstream_guard_open",): 0,
    ("worker_queue_depth",): 0,
    ("conflicts_total",): 0,
}
POLLS = {("upstream_call_seconds_count", "ask_status", "in_progress"), moved("progress_reported", *["refreshing"] * 2)}


def check_visit(found: Samples, simulator: Simulator) -> None:
    """Just the visit is in the samples, and as many calls as the upstream itself has counted."""
    asked = found.get(("upstream_call_seconds_count", "ask_status", "in_progress"), 0)
    assert VISIT == {name: value for name, value in found.items() if name not in POLLS}
    totals = simulator.calls()["totals"]
    assert (1, 1, asked + 1) == (totals["login"], totals["refresh"], totals["status"])


def test_a_visit_leaves_just_these_samples(registry: CollectorRegistry, simulator: Simulator) -> None:
    """Login, refresh, polls, records, a second login and logout, against the simulator."""
    worker = InlineWorker()
    with PhrRefresh(
        store=open_store("memory://"),
        upstream=upstream_of(simulator),
        worker=worker,
        policy=FAST,
        observer=PrometheusObserver(registry),
    ) as phr:
        phr.login(ADA)
        while State.REFRESHING is phr.status(ADA).state:
            pass
        phr.login(ADA)
        phr.records(ADA, "vitals")
        phr.logout(ADA)
    check_visit(samples(registry), simulator)


def test_an_asynchronous_visit_leaves_the_same_samples(registry: CollectorRegistry, simulator: Simulator) -> None:
    """The same visit with await."""

    async def visit() -> None:
        phr = AsyncPhrRefresh(
            store=open_async_store("memory://"),
            upstream=upstream_of(simulator),
            policy=FAST,
            observer=PrometheusObserver(registry),
        )
        async with phr:
            await phr.login(ADA)
            while (await phr.status(ADA)).state is not State.COMPLETE:
                await asyncio.sleep(0)
            await phr.login(ADA)
            await phr.records(ADA, "vitals")
            await phr.logout(ADA)

    asyncio.run(visit())
    found = samples(registry)
    # How many steps of following ran beside this test's polls depends on the moment; so do what waits, and who loses.
    found.pop(("step_seconds_count", "follow"), None)
    found |= {("worker_queue_depth",): 0, ("conflicts_total",): 0}
    check_visit(found, simulator)


def test_durations_are_those_that_passed(registry: CollectorRegistry) -> None:
    """A refresh that took two seconds from claim to end lies in the bucket up to two, and adds two to the sum."""
    with (
        freeze_time("2030-01-01T12:00:00Z") as clock,
        PhrRefresh(
            store=MemoryStore(),
            upstream=ScriptedUpstream(),
            worker=(worker := InlineWorker()),
            policy=UNHURRIED,
            observer=PrometheusObserver(registry),
        ) as phr,
    ):
        phr.login(ADA)
        clock.tick(2)
        worker.run_later()
        assert State.COMPLETE is phr.status(ADA).state
    found = samples(registry, less=())
    assert 2.0 == found["refresh_seconds_sum", "completed"]
    assert (0.0, 1.0) == tuple(found["refresh_seconds_bucket", "completed", bound] for bound in ("1.0", "2.0"))
    assert 0.0 == found["login_seconds_sum", "handed_over"]


def test_failures_are_counted_by_their_reasons(registry: CollectorRegistry, simulator: Simulator) -> None:
    """A session refused, a kick-off that fails: calls by outcome, failures by reason, one warning each."""
    simulator.script(Fault("login", "unauthorized", times=1))
    simulator.script(Fault("refresh", "http_error", status=503))
    with PhrRefresh(
        store=open_store("memory://"),
        upstream=upstream_of(simulator),
        worker=InlineWorker(),
        policy=UNHURRIED,
        observer=PrometheusObserver(registry),
    ) as phr:
        phr.login(ADA)
        phr.login(BOB)
    found = samples(registry)
    assert 1 == found["upstream_call_seconds_count", "open_session", "failed"]
    assert 1 == found["upstream_failures_total", "open_session", "http_401"]
    assert 1 == found["upstream_call_seconds_count", "start_refresh", "rejected"]
    assert 1 == found["upstream_failures_total", "start_refresh", "http_503"]
    assert 1 == found[moved("refresh_failed", "refreshing", "stale", "http_503")]
    assert 1 == found["refresh_seconds_count", "failed"]
    assert (1, 1) == (found["warnings_total", "session_failed"], found["warnings_total", "refresh_failed"])


def test_a_store_that_is_down_is_counted_with_the_logins_that_it_defers(registry: CollectorRegistry) -> None:
    """One failed load and one deferred login, with their reasons."""
    with PhrRefresh(
        store=open_store("redis://127.0.0.1:1"),
        upstream=ScriptedUpstream(),
        policy=UNHURRIED,
        observer=PrometheusObserver(registry),
    ) as phr:
        phr.login(ADA)
    found = samples(registry)
    assert 1 == found["store_errors_total", "load", "connection_failed"]
    assert 1 == found["logins_deferred_total", "store_unavailable"]
    assert 1 == found["login_seconds_count", "deferred"]
    assert 1 == found["warnings_total", "login_deferred"]


def test_a_lost_race_is_a_conflict(registry: CollectorRegistry) -> None:
    """Of two processes that act on the same record, the loser's commit counts as one conflict, and as no error."""
    store = MemoryStore()
    policy = UNHURRIED

    class Logout(ScriptedUpstream):
        """Logs the patient out while the session is being created."""

        def call(self, request: Any) -> Any:
            if not isinstance(request, OpenSession):
                return super().call(request)
            other.logout(request.patient)
            return super().call(request)

    other = PhrRefresh(store=store, upstream=ScriptedUpstream(), policy=policy, observer=Silent())
    phr = PhrRefresh(store=store, upstream=Logout(), policy=policy, observer=PrometheusObserver(registry))
    with closing(other), closing(phr):
        phr.refresh(ADA)
    found = samples(registry)
    assert 1 == found["conflicts_total",]
    assert [] == [name for name in found if name[0] == "store_errors_total"]


def test_the_queue_of_a_worker_is_a_gauge(registry: CollectorRegistry) -> None:
    """Steps that wait for their time are in it, and leave it when they run."""
    ran = threading.Semaphore(0)

    class Last:
        """Tells when a step has been told of."""

        def __call__(self, fact: Fact) -> None:
            if fact.name == "step_ran":
                ran.release()

    hurried = Policy(
        poll_interval=timedelta(hours=1), poll_interval_max=timedelta(hours=1), login_budget=FAST.login_budget
    )
    with PhrRefresh(
        store=open_store("memory://"),
        upstream=ScriptedUpstream(),
        worker=ThreadWorker(threads=1),
        policy=hurried,
        observer=Observers(PrometheusObserver(registry), Last()),
    ) as phr:
        phr.login(ADA)
        phr.login(BOB)
        assert (True, True) == (ran.acquire(timeout=60), ran.acquire(timeout=60))
        assert 2 == samples(registry)["worker_queue_depth",]
    assert 2 == samples(registry)["step_seconds_count", "refresh"]


def test_a_queue_of_tasks_is_a_gauge_too(registry: CollectorRegistry) -> None:
    """The same under asyncio."""

    async def log_in() -> float:
        observer = PrometheusObserver(registry)
        async with AsyncPhrRefresh(
            store=open_async_store("memory://"),
            upstream=ScriptedUpstream(),
            worker=TaskWorker(),
            policy=UNHURRIED,
            observer=observer,
        ) as phr:
            await asyncio.gather(phr.login(ADA), phr.login(BOB))
            return samples(registry)["worker_queue_depth",]

    assert asyncio.run(log_in()) in (1, 2)


def test_a_worker_without_a_queue_leaves_the_gauge_alone(registry: CollectorRegistry) -> None:
    """A worker on a broker has none: nothing is told of it."""
    with PhrRefresh(
        store=open_store("memory://"),
        upstream=ScriptedUpstream(),
        worker=RecordingWorker(),
        policy=UNHURRIED,
        observer=(silent := Silent()),
    ) as phr:
        phr.login(ADA)
    assert ["login_answered"] == [fact.name for fact in silent.facts]


def test_a_guard_that_opens_and_closes_is_a_gauge(registry: CollectorRegistry) -> None:
    """Open after two failures: what it turns away is counted as that, and put off; closed once a call succeeds."""
    upstream = ScriptedUpstream()
    upstream.sessions += [SessionFailed("http_503")] * 2
    now = 0.0
    observer = PrometheusObserver(registry)
    guarded = GuardedUpstream(upstream, failures=2, open_for=30.0, observer=observer, monotonic=lambda: now)
    with PhrRefresh(
        store=open_store("memory://"), upstream=guarded, worker=InlineWorker(), policy=UNHURRIED, observer=observer
    ) as phr:
        for patient in (ADA, BOB):
            phr.refresh(patient)
        assert 1 == samples(registry)["upstream_guard_open",]
        phr.refresh(EVE)
        found = samples(registry)
        assert 1 == found["upstream_call_seconds_count", "open_session", "turned_away"]
        assert 1 == found["upstream_failures_total", "open_session", "upstream_overloaded"]
        assert 1 == found["refreshes_deferred_total", "open_session", "upstream_overloaded"]
        now = 31.0
        phr.refresh(CAL)
    assert 0 == samples(registry)["upstream_guard_open",]


def test_no_identifier_is_in_the_exposition(registry: CollectorRegistry, simulator: Simulator) -> None:
    """Whatever a fact carries, names, keys, ids and texts with identifiers in them show nowhere (R7)."""
    for fault in ("http_error", "garbage", "reset"):
        simulator.script(Fault("status", fault, times=1))
    observer = PrometheusObserver(registry)
    silent = Silent()
    worker = InlineWorker()
    with PhrRefresh(
        store=open_store("memory://"),
        upstream=upstream_of(simulator),
        worker=worker,
        policy=FAST,
        observer=Observers(observer, silent),
    ) as phr:
        phr.login(ADA)
        while State.REFRESHING is phr.status(ADA).state:
            pass
        token = phr.session(ADA).reveal()
        phr.logout(ADA)
    refresh_ids = {str(fact.details["refresh_id"]) for fact in silent.facts if "refresh_id" in fact.details}
    for secret in (ICN, JWT, ADA.user_id):
        hostile = dict.fromkeys(("reason", "call", "outcome", "kind", "step", "event", "error"), secret)
        for name in ("refresh_failed", secret, *observations._MEASUREMENTS):
            for is_measurement in (False, True):
                observer(Fact(name, secret, secret, secret, hostile, is_warning=True, is_measurement=is_measurement))
    shown = generate_latest(registry).decode()
    assert f'reason="{OTHER}"' in shown
    secrets = (ICN, JWT, ADA.user_id, ADA.key, CORRELATION_ID, token, *refresh_ids)
    assert [] == [secret for secret in secrets if secret in shown]


def test_an_observer_that_raises_does_not_keep_the_others_from_hearing(caplog: pytest.LogCaptureFixture) -> None:
    """Both beside it are told, in order, and one line says that it failed, without its text."""
    silent = Silent()

    def broken(fact: Fact) -> None:
        raise LookupError(ICN)

    Observers(silent, broken, silent)(Fact("tried"))
    assert ["tried"] * 2 == [fact.name for fact in silent.facts]
    assert ["phr_refresh.observer_failed (LookupError)"] == [record.getMessage() for record in caplog.records]


def test_observers_on_one_registry_share_its_metrics(registry: CollectorRegistry) -> None:
    """A process may have several: none of them is refused, and they count together."""
    for _ in range(2):
        PrometheusObserver(registry)(Fact("tried", is_warning=True))
    assert 2 == samples(registry)["warnings_total", OTHER]


def test_metrics_are_a_setting() -> None:
    """The environment names them, or the settings block; logs are kept."""
    by_env = Settings.from_env({"PHR_REFRESH_METRICS": "prometheus, opentelemetry"})
    block = {"patient_of": everybody_is_ada, "upstream": ScriptedUpstream(), "metrics": "prometheus"}
    by_block = Embedding.of(block, {}).settings
    assert [True, True] == [isinstance(settings.observer, Observers) for settings in (by_env, by_block)]
    assert not isinstance(Settings.from_env({}).observer, Observers)


def test_an_unknown_kind_of_metrics_is_named() -> None:
    """The error says which setting, and what it takes."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({"PHR_REFRESH_METRICS": "statsd"})
    assert "PHR_REFRESH_METRICS: it names no known kind; give prometheus or opentelemetry." == str(caught.value)


@pytest.mark.parametrize("name", ["prometheus", "opentelemetry"])
def test_a_missing_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library the error says what to install."""
    library = {"prometheus": "prometheus_client", "opentelemetry": "opentelemetry.metrics"}[name]
    monkeypatch.setitem(__import__("sys").modules, library, None)
    monkeypatch.delitem(__import__("sys").modules, f"phr_refresh.adapters.metrics.{name}", raising=False)
    with pytest.raises(MissingExtra, match=rf"pip install 'phr-refresh\[{name}\]'"):
        Settings.from_env({"PHR_REFRESH_METRICS": name})


def test_every_label_has_its_values() -> None:
    """The labels of the table are those that have a list of values, and a value is taken for nothing else."""
    assert set(VALUES) == {label for metric in METRICS for label in metric.labels}
    assert ("http_503", OTHER, OTHER) == tuple(bounded("reason", value) for value in ("http_503", "http_799", None))
    assert len(REASONS) < 100


def test_names_follow_the_conventions() -> None:
    """Counters end in _total, histograms in their unit; each name once, histograms have buckets in order."""
    assert len(METRICS) == len({metric.name for metric in METRICS})
    for metric in METRICS:
        assert (metric.kind is Kind.HISTOGRAM) == bool(metric.buckets)
        assert sorted(metric.buckets) == list(metric.buckets)
    ends = {Kind.COUNTER: "_total", Kind.HISTOGRAM: "_seconds"}
    assert [] == [m.name for m in METRICS if m.kind in ends and not m.prometheus_name.endswith(ends[m.kind])]


def test_measurements_name_steps_of_both_kinds() -> None:
    """A step that was handed over is told with its kind, and never with its patient."""
    silent = Silent()
    from phr_refresh.adapters.metrics.measuring import MeasuredWorker

    MeasuredWorker(ThreadWorker(), silent).ran(Refresh(ADA), 0.5)
    assert [Fact("step_ran", details={"step": "refresh", "step_seconds": 0.5, "waiting": 0}, is_measurement=True)] == (
        silent.facts
    )
