"""What the demo shows: a bar per patient on a terminal, plain lines elsewhere, and a summary at the end."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from phr_refresh.statemachine.outcomes import Status
from phr_refresh.statemachine.record import ExtractState, State
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from .demo import DemoResult, Visit, Watch

_COLOURS = {State.COMPLETE: "green", State.STALE: "yellow", State.REFRESHING: "cyan"}
_WORDS = {ExtractState.CURRENT: "", ExtractState.FAILED: " failed", ExtractState.IN_PROGRESS: " ..."}


@contextmanager
def watcher(console: Console, *, quiet: bool) -> Iterator[Watch]:
    """Shows visits while they change: live on a terminal, a line per change elsewhere, nothing if `quiet`."""
    if quiet:
        yield lambda visit: None
    elif console.is_terminal:
        with _Bars(console) as bars:
            yield bars.show
    else:
        yield _Lines(console).show


class _Bars:
    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[state]}"),
            TextColumn("{task.fields[seconds]:>4.1f} s"),
            TextColumn("{task.fields[extracts]}"),
            console=console,
        )
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, visit: Visit) -> None:
        status = visit.status
        with self._lock:
            if visit.name not in self._tasks:
                self._tasks[visit.name] = self._progress.add_task(
                    visit.name, total=1, state="", seconds=0.0, extracts=""
                )
            if status is None:
                return
            done, total = _progress(status)
            colour = _COLOURS.get(status.state, "white")
            self._progress.update(
                self._tasks[visit.name],
                completed=done,
                total=total,
                state=f"[{colour}]{_state(status):<17}[/]",
                seconds=visit.seconds,
                extracts=_extracts(status) or visit.role,
            )


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._last: dict[str, str] = {}

    def show(self, visit: Visit) -> None:
        status = visit.status
        if status is None:
            return
        extracts = ", ".join(f"{item.name}{_WORDS[item.state]}" for item in status.extracts)
        line = f"{visit.name}: {_state(status)}{f' ({extracts})' if extracts else ''}"
        with self._lock:
            if self._last.get(visit.name) != line:
                self._last[visit.name] = line
                self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _state(status: Status) -> str:
    if not status.eligible:
        return "not eligible"
    return f"{status.state.label}, in part" if status.partial else status.state.label


def _extracts(status: Status) -> str:
    """The extracts that are not current yet, by what they are."""
    waiting = [item.name for item in status.extracts if item.state is ExtractState.IN_PROGRESS]
    failed = [item.name for item in status.extracts if item.state is ExtractState.FAILED]
    words = [f"waiting for {', '.join(waiting)}"] if waiting else []
    return "; ".join([*words, *(f"[red]{name} failed[/]" for name in failed)])


def _progress(status: Status) -> tuple[int, int]:
    if not status.eligible or status.state is State.COMPLETE:
        return 1, 1
    settled = sum(item.state is not ExtractState.IN_PROGRESS for item in status.extracts)
    return settled, max(len(status.extracts), 1)


def report(console: Console, result: DemoResult) -> None:
    """The summary: what became of everybody, what the upstream counted, one patient's sequence diagram."""
    console.print("\nOne patient's run, as a Mermaid sequence diagram:\n")
    console.print(result.diagram, highlight=False, markup=False, soft_wrap=True)
    console.print(_table(result))
    totals = result.calls["totals"]
    lines = [
        f"Upstream calls: {', '.join(f'{endpoint} {count}' for endpoint, count in totals.items())}.",
        f"Duplicate refreshes: {result.calls['duplicate_refreshes']}.",
        f"Logged in again inside the window: {_second_logins(result)}.",
        f"Slowest login hook: {max(visit.login_seconds for visit in result.visits) * 1000:.0f} ms.",
        f"Store: {result.store_url}. In all {result.seconds:.1f} s.",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for promise in result.broken:
        console.print(f"[red]Broken promise:[/] {promise}", soft_wrap=True)
    if not result.broken:
        console.print("[green]Every promise was kept.[/]")


def _second_logins(result: DemoResult) -> str:
    kinds = Counter(visit.second_receipt.kind.value for visit in result.visits if visit.second_receipt)
    return ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in kinds.items())


def _table(result: DemoResult) -> Table:
    table = Table(title="What became of them", box=None, title_justify="left", padding=(0, 1, 0, 0))
    table.add_column("who", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for heading in ("s", "login", "refresh", "status", "fhir", "vitals"):
        table.add_column(heading, justify="right")
    for visit in result.visits:
        remark = visit.role or ("from an earlier run" if visit.was_fresh else "")
        table.add_row(
            visit.name + (f"\n  {remark}" if remark else ""),
            _state(visit.status) if visit.status else "unknown",
            f"{visit.seconds:.1f}",
            *(str(visit.calls.get(endpoint, 0)) for endpoint in ("login", "refresh", "status", "fhir")),
            str(visit.vitals.total) if visit.vitals else "-",
        )
    return table
