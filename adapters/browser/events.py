"""Server-Sent Events: the status as a stream (HTML Standard, section 9.2).

Each event is named `status`; its id is the status's entity tag and its data the JSON of `GET status`. The stream ends
when the refresh has settled. A browser that reconnects then gives that id back, and is told with 204 to stop.
"""

import json
from collections.abc import Callable, Generator
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from ...statemachine.errors import PhrRefreshError
from ...statemachine.outcomes import Status
from .bodies import etag_of, seconds_to_next_check, status_body
from .messages import EVENTS
from .needs import Need, Pause, ReadStatus, Send

#: Milliseconds after which a browser whose stream ended connects again.
RECONNECT_MS: Final = 2000
HEADERS: Final = (
    ("Content-Type", EVENTS),
    ("Cache-Control", "no-store"),
    # Else nginx would hold the events back until its buffer is full.
    ("X-Accel-Buffering", "no"),
)


def event_id(status: Status) -> str:
    """What Last-Event-ID says of a client that has seen `status`."""
    return etag_of(status).strip('"')


def events(
    status: Status,
    look: ReadStatus,
    *,
    seen: str | None,
    lasts: timedelta,
    heartbeat: timedelta,
    look_in: Callable[[Status], float],
    is_over: Callable[[Status, float], bool],
) -> Generator[Need, Any, None]:
    """The stream from `status` on: an event whenever what `look` gives differs from what the client has `seen`."""
    began_at: float = yield Pause(0)
    now = last_sent = began_at
    ends_at = began_at + lasts.total_seconds()
    # A stream that ends at once must not be asked for more often than a status.
    yield Send(f"retry: {max(RECONNECT_MS, round(seconds_to_next_check(status) * 1000))}\n\n".encode())
    while True:
        if event_id(status) != seen:
            seen, last_sent = event_id(status), now
            yield Send(_event("status", status_body(status), seen))
        if is_over(status, now - began_at) or now >= ends_at:
            return
        if now - last_sent >= heartbeat.total_seconds():
            last_sent = now
            # A comment: proxies close what is silent, and a client that is gone shows only when it is written to.
            yield Send(b":\n\n")
        now = yield Pause(min(look_in(status), ends_at - now))
        # An outage of the store is waited out: a browser that connects again and is told 503 never comes back.
        with suppress(PhrRefreshError):
            status = yield look


def _event(name: str, body: dict[str, Any], event_id: str) -> bytes:
    return f"event: {name}\nid: {event_id}\ndata: {json.dumps(body, separators=(',', ':'))}\n\n".encode()
