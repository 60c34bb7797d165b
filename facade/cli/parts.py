"""What several commands share: options, a `PhrRefresh` on the store alone, what is printed, the wait for a signal."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from phr_refresh.adapters.stores import open_store
from phr_refresh.adapters.workers.inline import InlineWorker

from ..assembly import DEFAULT_STORE, Settings
from ..synchronous import PhrRefresh
from ..unconnected import UnconnectedUpstream
from .views import as_json

store_option = click.option(
    "--store",
    envvar="PHR_REFRESH_STORE",
    default=DEFAULT_STORE,
    show_default=True,
    help="Store URL: sqlite:///file, redis://host:port/0, memory://.",
)


def json_option(more: str = "") -> Callable[[Any], Any]:
    """The option `--json`; `more` is added to its help."""
    return click.option("--json", "as_json_", is_flag=True, help=f"Print one JSON object{more}.")


def on_store_alone(url: str) -> PhrRefresh:
    """What reads and sweeps the store, and asks no upstream."""
    observer = Settings.from_env().observer
    return PhrRefresh(store=open_store(url), upstream=UnconnectedUpstream(), worker=InlineWorker(), observer=observer)


def show(value: Any, lines: Callable[[Any], list[str]], *, json_wanted: bool) -> None:
    """Print `value` in lines, or as one JSON object."""
    click.echo(json.dumps(as_json(value), indent=2) if json_wanted else "\n".join(lines(value)))


@contextmanager
def until_told_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, also where whoever started this process had it ignore them."""
    stop = threading.Event()
    before = {name: signal.signal(name, lambda *_: stop.set()) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
