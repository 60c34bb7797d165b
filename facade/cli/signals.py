"""Commands that go on until they are told to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


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
