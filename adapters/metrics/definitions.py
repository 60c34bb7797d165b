"""THE table of the metrics: names, labels, help texts. docs/operations.md shows it, and a test compares the two."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PREFIX: Final = "phr_refresh_"


class Kind(StrEnum):
    """What a metric is, in the words of both Prometheus and OpenTelemetry."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `name` has neither prefix nor suffix; `buckets` are upper bounds in seconds, of histograms only."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """The name of its samples, less what a histogram appends."""
        return f"{PREFIX}{self.name}{_SUFFIXES[self.kind]}"

    @property
    def opentelemetry_name(self) -> str:
        """The name of its instrument."""
        return f"phr_refresh.{self.name}"


_SUFFIXES: Final = {Kind.COUNTER: "_total", Kind.HISTOGRAM: "_seconds", Kind.GAUGE: ""}

_LOGINS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_CALLS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0)
_REFRESHES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 1800.0, 3600.0)

METRICS: Final = (
    Metric("login", Kind.HISTOGRAM, ("kind",), "How long the login hook took, by what it answered.", _LOGINS),
    Metric("logins_deferred", Kind.COUNTER, ("reason",), "Logins that went on without anything handed over."),
    Metric(
        "transitions",
        Kind.COUNTER,
        ("event", "from_state", "to_state", "reason"),
        "Events of the lifecycle that were committed; reason is a failure's code, else empty.",
    ),
    Metric("refresh", Kind.HISTOGRAM, ("outcome",), "From the claim on a kick-off to the refresh's end.", _REFRESHES),
    Metric("upstream_call", Kind.HISTOGRAM, ("call", "outcome"), "How long a call to the upstream took.", _CALLS),
    Metric("upstream_failures", Kind.COUNTER, ("call", "reason"), "Calls to the upstream that brought nothing."),
    Metric(
        "refreshes_deferred",
        Kind.COUNTER,
        ("call", "reason"),
        "Calls put off since the upstream is in trouble; worker or sweep resume them.",
    ),
    Metric("upstream_guard_open", Kind.GAUGE, (), "Whether the process keeps calls from an upstream in trouble."),
    Metric("conflicts", Kind.COUNTER, (), "Commits that lost to another process, and will be decided anew."),
    Metric("store_errors", Kind.COUNTER, ("call", "reason"), "Calls to the store that failed."),
    Metric("worker_queue_depth", Kind.GAUGE, (), "Steps that wait in this process's worker, delayed ones included."),
    Metric("step", Kind.HISTOGRAM, ("step",), "How long a step took that a worker ran.", _CALLS),
    Metric("warnings", Kind.COUNTER, ("event",), "Events logged as warnings; see the list of them."),
)
