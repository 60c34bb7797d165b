"""The tables of docs/operations.md. `python -m phr_refresh.adapters.metrics.documents` prints them."""

import sys

from ..logs import WARNINGS
from .definitions import METRICS, Kind


def metrics_table() -> str:
    """All metrics as Markdown."""
    rows = ["| metric | type | labels | what it tells |", "|---|---|---|---|"]
    for metric in METRICS:
        unit = " (s)" if metric.kind is Kind.HISTOGRAM else ""
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.prometheus_name}` | {metric.kind.value}{unit} | {labels} | {metric.help} |")
    return "\n".join(rows)


def warnings_table() -> str:
    """All warnings as Markdown."""
    rows = ["| event | what it means, and what to do |", "|---|---|"]
    rows += [f"| `phr_refresh.{name}` | {what} |" for name, what in WARNINGS.items()]
    return "\n".join(rows)


if __name__ == "__main__":
    sys.stdout.write(f"{metrics_table()}\n\n{warnings_table()}\n")
