"""Metrics for OpenTelemetry. Needs the extra `opentelemetry`: the API alone; the SDK is the host's."""

from collections.abc import Callable, Mapping
from typing import Final

from ...statemachine.effects import Fact
from ...statemachine.errors import MissingExtra
from .definitions import METRICS, Kind, Metric
from .observations import observations

try:
    from opentelemetry.metrics import Meter, get_meter
except ImportError as error:
    raise MissingExtra("metrics for OpenTelemetry", "opentelemetry") from error

Record = Callable[[float, Mapping[str, str]], object]

_LABELS: Final = {metric.name: metric.labels for metric in METRICS}


class OpenTelemetryObserver:
    """Records the metrics of `definitions` with `meter`, by default one of the process's provider.

    Thread-safe; does not raise or wait. Without an SDK in the process nothing is kept. Gauges and histograms stand for
    one process each: give each a resource of its own (`service.instance.id`).
    """

    def __init__(self, meter: Meter | None = None) -> None:
        meter = meter or get_meter("phr_refresh")
        self._records: dict[str, Record] = {metric.name: _record_of(metric, meter) for metric in METRICS}
        #: As many as there are values of labels, not facts.
        self._attributes: dict[tuple[str, tuple[str, ...]], Mapping[str, str]] = {}

    def __call__(self, fact: Fact) -> None:
        """Record what `fact` says."""
        for name, labels, value in observations(fact):
            attributes = self._attributes.get((name, labels))
            if attributes is None:
                attributes = self._attributes[name, labels] = dict(zip(_LABELS[name], labels, strict=True))
            self._records[name](value, attributes)


def _record_of(metric: Metric, meter: Meter) -> Record:
    name = metric.opentelemetry_name
    match metric.kind:
        case Kind.COUNTER:
            return meter.create_counter(name, description=metric.help).add
        case Kind.GAUGE:
            return meter.create_gauge(name, description=metric.help).set
        case Kind.HISTOGRAM:
            buckets = metric.buckets
            return meter.create_histogram(name, "s", metric.help, explicit_bucket_boundaries_advisory=buckets).record
