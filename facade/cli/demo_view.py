"""What the demo shows: a table that lives on a terminal, plain lines elsewhere, and a summary at the end."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from phr_refresh.statemachine.outcomes import Status
from phr_refresh.statemachine.record import ExtractState, State
from rich.console import Console
from rich.live import Live
from rich.table import Table

from .demo import DemoResult, Visit, Watch

_COLOURS = {State.COMPLETE: "green", State.STALE: "yellow", State.REFRESHING: "cyan"}
_WORDS = {ExtractState.CURRENT: "", ExtractState.FAILED: " failed", ExtractState.IN_PROGRESS: " ..."}
_ENDPOINTS = ("login", "refresh", "status", "fhir")


@contextmanager
def watcher(console: Console, *, quiet: bool) -> Iterator[Watch]:
    """Shows visits while they change: live on a terminal, a line per change elsewhere, nothing if `quiet`."""
    if quiet:
        yield lambda visit: None
    elif console.is_terminal:
        visits: dict[str, Visit] = {}
        with Live(console=console, get_renderable=lambda: _table(list(visits.values())), transient=True):
            yield lambda visit: visits.update({visit.name: visit})
    else:
        yield _Lines(console).show


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._last: dict[str, str] = {}

    def show(self, visit: Visit) -> None:
        if visit.status is None:
            return
        extracts = _extracts(visit.status)
        line = f"{visit.name}: {_state(visit.status)}{f' ({extracts})' if extracts else ''}"
        with self._lock:
            if self._last.get(visit.name) != line:
                self._last[visit.name] = line
                self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _state(status: Status) -> str:
    if not status.eligible:
        return "not eligible"
    return f"{status.state.label}, in part" if status.partial else status.state.label


def _extracts(status: Status) -> str:
    return ", ".join(f"{item.name}{_WORDS[item.state]}" for item in status.extracts)


def _table(visits: list[Visit]) -> Table:
    """How everybody stands. Calls are counted, and vital signs are read, once all refreshes have ended."""
    table = Table(title="What became of them", box=None, title_justify="left", padding=(0, 1, 0, 0))
    for heading in ("who", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("s", *_ENDPOINTS, "vitals"):
        table.add_column(heading, justify="right")
    for visit in visits:
        status = visit.status
        waiting = _extracts(status) if status and status.state is State.REFRESHING else ""
        remark = waiting or visit.role or ("from an earlier run" if visit.was_fresh else "")
        table.add_row(
            visit.name + (f"\n  {remark}" if remark else ""),
            f"[{_COLOURS.get(status.state, 'white')}]{_state(status)}[/]" if status else "unknown",
            f"{visit.seconds:.1f}",
            *(str(visit.calls.get(endpoint, 0)) for endpoint in _ENDPOINTS),
            str(visit.vitals.total) if visit.vitals else "-",
        )
    return table


def report(console: Console, result: DemoResult) -> None:
    """The summary: what became of everybody, what the upstream counted, one patient's sequence diagram."""
    console.print("\nOne patient's run, as a Mermaid sequence diagram:\n")
    console.print(result.diagram, highlight=False, markup=False, soft_wrap=True)
    console.print(_table(result.visits))
    totals = result.calls["totals"]
    kinds = Counter(visit.second_receipt.kind.value for visit in result.visits if visit.second_receipt)
    second = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in kinds.items())
    lines = [
        f"Upstream calls: {', '.join(f'{endpoint} {count}' for endpoint, count in totals.items())}.",
        f"Duplicate refreshes: {result.calls['duplicate_refreshes']}.",
        f"Logged in again inside the window: {second}.",
        f"Slowest login hook: {max(visit.login_seconds for visit in result.visits) * 1000:.0f} ms.",
        f"Store: {result.store_url}. In all {result.seconds:.1f} s.",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for promise in result.broken:
        console.print(f"[red]Broken promise:[/] {promise}", soft_wrap=True)
    if not result.broken:
        console.print("[green]Every promise was kept.[/]")
