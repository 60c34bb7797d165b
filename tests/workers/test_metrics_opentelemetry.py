"""Metrics for OpenTelemetry: the same numbers, by way of its API, read back with its SDK."""

from collections.abc import Iterator
from typing import Any

import pytest
from freezegun import freeze_time
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from phr_refresh import PhrRefresh, State
from phr_refresh.adapters.metrics.definitions import METRICS
from phr_refresh.adapters.metrics.opentelemetry import OpenTelemetryObserver
from phr_refresh.adapters.stores.memory import MemoryStore
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.statemachine.effects import Fact
from support.fakes import ScriptedUpstream
from support.samples import ADA, ICN, UNHURRIED


@pytest.fixture
def reader() -> Iterator[InMemoryMetricReader]:
    """What a provider of this test's own has measured."""
    opened = InMemoryMetricReader()
    provider = MeterProvider([opened])
    opened.meter = provider.get_meter("phr_refresh")
    yield opened
    provider.shutdown()


def read(reader: InMemoryMetricReader) -> dict[tuple[str, ...], Any]:
    """Each data point by its instrument's name and its attributes, in the order of our table."""
    data = reader.get_metrics_data()
    if data is None:
        return {}
    order = {metric.opentelemetry_name: metric.labels for metric in METRICS}
    return {
        (metric.name.removeprefix("phr_refresh."), *(point.attributes[label] for label in order[metric.name])): point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


def value_of(point: HistogramDataPoint | NumberDataPoint) -> float:
    """How many a histogram has counted, or a number."""
    return point.count if isinstance(point, HistogramDataPoint) else point.value


def test_a_visit_leaves_just_these_points(reader: InMemoryMetricReader) -> None:
    """Login, refresh of two seconds, logout: counts and durations."""
    worker = InlineWorker()
    with (
        freeze_time("2030-01-01T12:00:00Z") as clock,
        PhrRefresh(
            store=MemoryStore(),
            upstream=ScriptedUpstream(),
            worker=worker,
            policy=UNHURRIED,
            observer=OpenTelemetryObserver(reader.meter),
        ) as phr,
    ):
        phr.login(ADA)
        clock.tick(2)
        worker.run_later()
        assert State.COMPLETE is phr.status(ADA).state
        phr.logout(ADA)
    found = read(reader)
    assert {
        ("login", "handed_over"): 1,
        ("transitions", "session_opened", "no_session", "session_created", ""): 1,
        ("transitions", "refresh_claimed", "session_created", "refreshing", ""): 1,
        ("transitions", "refresh_accepted", "refreshing", "refreshing", ""): 1,
        ("transitions", "refresh_completed", "refreshing", "complete", ""): 1,
        ("transitions", "session_ended", "complete", "no_session", ""): 1,
        ("refresh", "completed"): 1,
        ("upstream_call", "open_session", "opened"): 1,
        ("upstream_call", "start_refresh", "accepted"): 1,
        ("upstream_call", "ask_status", "complete"): 1,
        ("step", "refresh"): 1,
        ("step", "follow"): 1,
    } == {name: value_of(point) for name, point in found.items()} | {}
    assert 2.0 == found["refresh", "completed"].sum
    assert METRICS[3].buckets == tuple(found["refresh", "completed"].explicit_bounds)


def test_counters_and_gauges_are_what_the_table_says(reader: InMemoryMetricReader) -> None:
    """A warning adds up, and the guard's gauge is as last told; what is hostile is "other" (R7)."""
    observer = OpenTelemetryObserver(reader.meter)
    for name in ("upstream_guard_opened", "upstream_guard_closed"):
        observer(Fact(name))
    for _ in range(2):
        observer(Fact(ICN, ADA.key, ICN, ICN, {"reason": ICN}, is_warning=True))
    found = read(reader)
    assert {
        ("transitions", "other", "other", "other", "other"): 2,
        ("upstream_guard_open",): 0,
        ("warnings", "other"): 2,
    } == {name: value_of(point) for name, point in found.items()}
    assert ICN not in str(reader.get_metrics_data())


def test_without_an_sdk_nothing_is_kept() -> None:
    """The API alone takes every observation and forgets it."""
    observer = OpenTelemetryObserver(NoOpMeterProvider().get_meter("phr_refresh"))
    observer(Fact("refresh_claimed", ADA.key, "stale", "refreshing", is_warning=True))
