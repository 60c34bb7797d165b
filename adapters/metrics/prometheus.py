"""Metrics for Prometheus. Needs the extra `prometheus`."""

from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Final

from ...statemachine.effects import Fact
from ...statemachine.errors import MissingExtra
from .definitions import METRICS, Kind, Metric
from .observations import observations

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
except ImportError as error:
    raise MissingExtra("metrics for Prometheus", "prometheus") from error

Instrument = Counter | Gauge | Histogram
Record = Callable[[float], object]

_creating: Final = Lock()


class PrometheusObserver:
    """Keeps the metrics of `definitions` in `registry`, by default the process's. Thread-safe; does not raise or wait.

    Observers on one registry share its metrics. How they are served is the host's: `prometheus_client` has a WSGI and
    an ASGI application. With several processes on one port set PROMETHEUS_MULTIPROC_DIR before the first import, as
    `prometheus_client` wants it: counters and histograms are added up, gauges over the processes that live.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        with _creating:
            self._instruments = _instruments(registry)
        #: What to call for a metric and the values of its labels: as many as there are such values, not facts.
        self._records: dict[tuple[str, tuple[str, ...]], Record] = {}

    def __call__(self, fact: Fact) -> None:
        """Add what `fact` says."""
        for name, labels, value in observations(fact):
            record = self._records.get((name, labels)) or self._record_of(name, labels)
            record(value)

    def _record_of(self, name: str, labels: tuple[str, ...]) -> Record:
        instrument = self._instruments[name]
        child = instrument.labels(*labels) if labels else instrument
        match child:
            case Counter():
                record: Record = child.inc
            case Gauge():
                record = child.set
            case Histogram():
                record = child.observe
        self._records[name, labels] = record
        return record


@cache
def _instruments(registry: CollectorRegistry) -> dict[str, Instrument]:
    # A registry takes each name once, and there may be more than one `PhrRefresh` in a process.
    return {metric.name: _instrument(metric, registry) for metric in METRICS}


def _instrument(metric: Metric, registry: CollectorRegistry) -> Instrument:
    name = metric.prometheus_name
    match metric.kind:
        case Kind.COUNTER:
            return Counter(name, metric.help, metric.labels, registry=registry)
        case Kind.GAUGE:
            return Gauge(name, metric.help, metric.labels, registry=registry, multiprocess_mode="livesum")
        case Kind.HISTOGRAM:
            return Histogram(name, metric.help, metric.labels, registry=registry, buckets=metric.buckets)
