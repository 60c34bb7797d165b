"""The command `sweep`: once, or again and again beside a service."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import click
from phr_refresh.adapters.stores import open_store
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.statemachine.errors import StoreUnavailable
from phr_refresh.statemachine.outcomes import SweepReport

from ..assembly import DEFAULT_STORE, Settings
from ..synchronous import PhrRefresh
from ..unconnected import UnconnectedUpstream
from .signals import until_told_to_stop
from .views import as_json

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_in(_: object, parameter: object, text: str | None) -> float | None:
    """The seconds in a duration such as 5s, 500ms or 2m; an option's callback. Raises `click.BadParameter`."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(ms|s|m|h)", text)
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if seconds <= 0:
        raise click.BadParameter(f"{text!r} is no duration; give a number with its unit, such as 5s, 500ms, 2m or 1h.")
    return seconds


@click.command()
@click.option(
    "--store",
    envvar="PHR_REFRESH_STORE",
    default=DEFAULT_STORE,
    show_default=True,
    help="Store URL: sqlite:///file, redis://host:port/0, memory://.",
)
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(min=1), help="At most so many patients.")
@click.option(
    "--every",
    callback=seconds_in,
    metavar="DURATION",
    help="Sweep again and again, such as every 5s, until SIGTERM or Ctrl-C.",
)
@click.option("--json", "as_json_", is_flag=True, help="Print one JSON object; with --every one a line.")
def sweep(store: str, limit: int, every: float | None, as_json_: bool) -> None:
    """Apply what is due for patients whom nobody asks about.

    Any number of sweepers may run at once. With --every a line tells of each sweep that moved somebody, and one of each
    time that the store goes away or comes back.

    Example: phr-refresh sweep --every 5s
    """
    with PhrRefresh(
        store=open_store(store),
        upstream=UnconnectedUpstream(),
        worker=InlineWorker(),
        observer=Settings.from_env().observer,
    ) as phr:
        if every is None:
            done = phr.sweep(limit)
            click.echo(json.dumps(as_json(done), indent=2) if as_json_ else sweep_line(done))
            return
        with until_told_to_stop() as stop:
            for news in _sweep_on(lambda: phr.sweep(limit), stop, limit=limit, every=every):
                if isinstance(news, str):
                    click.echo(news, err=True)
                else:
                    click.echo(json.dumps(as_json(news)) if as_json_ else sweep_line(news))


def sweep_line(done: SweepReport) -> str:
    """What a sweep did, in a line."""
    line = f"{done.due} due, {done.moved} moved, {done.conflicts} moved by others, {done.unreadable} unreadable"
    moves = ", ".join(f"{count} {move}" for move, count in done.moves.items())
    return f"{line} ({moves})" if moves else line


def _sweep_on(sweep: Callable[[], SweepReport], stop: threading.Event, *, limit: int, every: float) -> Iterator[Any]:
    """Each report that says something new, and each outage of the store and its end as a text."""
    is_down, unreadable = False, 0
    while not stop.is_set():
        try:
            done = sweep()
        except StoreUnavailable as error:
            # Once for each time that it goes away, not for each try.
            if not is_down:
                yield f"Error: {error} Sweeping goes on once it is back."
            is_down = True
            stop.wait(every)
            continue
        if is_down:
            yield "The store is back."
        if done.moved or done.unreadable != unreadable:
            yield done
        is_down, unreadable = False, done.unreadable
        # Where there is more to do, it is done at once.
        if done.moved < limit:
            stop.wait(every)
