"""Metrics: what observers hear, as numbers for Prometheus or OpenTelemetry (extras `prometheus`, `opentelemetry`).

Which metrics there are stands in `definitions`, what a fact adds to which of them in `observations`; the observers
only carry that over. No label can hold an identifier: each has a fixed set of values, and what is none of them is
"other" (rule R7).
"""

from ...statemachine.errors import ConfigurationError
from ..ports import Observer


def observer_named(name: str) -> Observer:
    """The observer for "prometheus" or "opentelemetry", on the registry or the provider that the process has.

    Raises `ConfigurationError` for another name, `MissingExtra`. The same process may ask for it again and again.
    """
    if name == "prometheus":
        from .prometheus import PrometheusObserver

        return PrometheusObserver()
    if name == "opentelemetry":
        from .opentelemetry import OpenTelemetryObserver

        return OpenTelemetryObserver()
    raise ConfigurationError("PHR_REFRESH_METRICS", "it names no known kind", "give prometheus or opentelemetry")
