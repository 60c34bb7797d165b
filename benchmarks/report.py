"""What a contest has shown, as JSON and as Markdown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .contest import Count, Figure
from .contestants import Entry
from .works import Load, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything that one run of the benchmarks has found. `machine` says on what, by plain words."""

    machine: Mapping[str, str]
    loads: Sequence[Load]
    entries: Sequence[Entry]
    figures: Sequence[Figure]
    counts: Sequence[Count]
    missing: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def figure(self, work: Work, contestant: str) -> Figure | None:
        """One figure."""
        return next((item for item in self.figures if (item.work, item.contestant) == (work, contestant)), None)

    def count(self, work: Work, contestant: str) -> Count | None:
        """One count."""
        return next((item for item in self.counts if (item.work, item.contestant) == (work, contestant)), None)


def as_json(results: Results) -> str:
    """The results, whole."""
    whole: dict[str, Any] = {
        "machine": dict(results.machine),
        "seconds": round(results.seconds, 1),
        "works": [asdict(load) for load in results.loads],
        "contestants": [
            {"name": entry.name, "text": entry.text, "floor": entry.floor, "remark": entry.remark}
            for entry in results.entries
        ],
        "missing": dict(results.missing),
        "figures": [asdict(figure) for figure in results.figures],
        "counts": [asdict(count) for count in results.counts],
    }
    return json.dumps(whole, indent=2) + "\n"


def as_markdown(results: Results) -> str:
    """The results, to be read."""
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    return "\n".join(
        [
            "# Benchmarks",
            "",
            f"By `python -m benchmarks` in {results.seconds:.0f} seconds: {machine}.",
            "",
            *_timed(results),
            *_budgets(results),
            *_counted(results),
            *_remarks(results),
        ]
    )


def _timed(results: Results) -> list[str]:
    lines = [
        "## Time, as a multiple of the floor",
        "",
        "Median of the ratios of rounds that contestants run in turn, with first and third quartile. The floor is bare",
        "redis-py with the same bytes, which decides nothing; asyncio has a floor of its own. Below it, the floor's",
        "own time per operation.",
        "",
        "| | " + " | ".join(load.work.value.replace("_", " ") for load in results.loads) + " |",
        "|---" * (len(results.loads) + 1) + "|",
    ]
    for entry in results.entries:
        cells = [
            _cell(results.figure(load.work, entry.name), is_floor=entry.name == entry.floor) for load in results.loads
        ]
        lines.append(f"| {entry.name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _budgets(results: Results) -> list[str]:
    lines = ["## Budgets", "", "| work | contestant | budget | measured | |", "|---|---|---|---|---|"]
    for load in results.loads:
        for name in ("phr-refresh", "phr-refresh-async"):
            figure = results.figure(load.work, name)
            if load.budget is not None and figure is not None:
                verdict = "met" if figure.median <= load.budget else "missed"
                cells = [load.text, name, f"{load.budget:g}", _short(figure.median), verdict]
                lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _cell(figure: Figure | None, *, is_floor: bool) -> str:
    if figure is None:
        return "-"
    if is_floor:
        return f"{_short(figure.microseconds)} us"
    return f"**{_short(figure.median)}** ({_short(figure.low)} - {_short(figure.high)})"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _counted(results: Results) -> list[str]:
    works = [load.work for load in results.loads if any(count.work is load.work for count in results.counts)]
    lines = [
        "## Counted, for one operation",
        "",
        "Round trips to the server / bytes sent + received / upstream calls: sessions, kick-offs, statuses.",
        "",
        "| | " + " | ".join(work.value.replace("_", " ") for work in works) + " |",
        "|---" * (len(works) + 1) + "|",
    ]
    for entry in results.entries:
        cells = [_count_cell(results.count(work, entry.name)) for work in works]
        lines.append(f"| {entry.name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _count_cell(count: Count | None) -> str:
    if count is None:
        return "-"
    upstream = ", ".join(f"{calls:g}" for calls in count.upstream)
    return f"{count.round_trips:g} / {count.sent:.0f} + {count.received:.0f} / {upstream}"


def _remarks(results: Results) -> list[str]:
    lines = ["## Works", ""]
    lines += [f"- {load.work.value.replace('_', ' ')}: {load.text}" for load in results.loads]
    lines += ["", "## Contestants", ""]
    for entry in results.entries:
        remark = f". {entry.remark[0].upper()}{entry.remark[1:]}" if entry.remark else ""
        lines.append(f"- {entry.name}: {entry.text}{remark}")
    lines += [f"- {name} did not run: {package} is not installed" for name, package in results.missing.items()]
    return [*lines, ""]
