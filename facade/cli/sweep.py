"""The command `sweep`: once, or again and again beside a service."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import click
from phr_refresh.statemachine.errors import StoreUnavailable
from phr_refresh.statemachine.outcomes import SweepReport

from .parts import json_option, on_store_alone, show, store_option, until_told_to_stop
from .views import as_json, sweep_lines

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
@store_option
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(min=1), help="At most so many patients.")
@click.option(
    "--every",
    callback=seconds_in,
    metavar="DURATION",
    help="Sweep again and again, such as every 5s, until SIGTERM or Ctrl-C.",
)
@json_option("; with --every one a line")
def sweep(store: str, limit: int, every: float | None, as_json_: bool) -> None:
    """Apply what is due for patients whom nobody asks about.

    Any number of sweepers may run at once. With --every a line tells of each sweep that moved somebody, and one of each
    time that the store goes away or comes back.

    Example: phr-refresh sweep --every 5s
    """
    with on_store_alone(store) as phr:
        if every is None:
            show(phr.sweep(limit), sweep_lines, json_wanted=as_json_)
            return
        with until_told_to_stop() as stop:
            for news in _sweep_on(lambda: phr.sweep(limit), stop, limit=limit, every=every):
                if isinstance(news, str):
                    click.echo(news, err=True)
                else:
                    click.echo(json.dumps(as_json(news)) if as_json_ else sweep_lines(news)[0])


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
