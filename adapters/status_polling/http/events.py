"""Server-Sent Events: the status as a stream (HTML Standard, section 9.2).

Each event is named `status`; its id is the status's entity tag and its data the JSON of `GET status`. The stream ends
when the refresh has settled. A browser that reconnects then gives that id back, and is told with 204 to stop.
"""

import json
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any, Final

from ....statemachine.errors import PhrRefreshError
from ....statemachine.outcomes import Status
from ....statemachine.patient import Patient
from .bodies import etag_of, status_body
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
    patient: Patient,
    status: Status,
    *,
    seen: str | None,
    lasts: timedelta,
    heartbeat: timedelta,
    look_in: Callable[[Status], float],
) -> Generator[Need, Any, None]:
    """The stream from `status` on: an event whenever it differs from what the client has `seen`."""
    now: float = yield Pause(0)
    ends_at, last_sent = now + lasts.total_seconds(), now
    yield Send(f"retry: {RECONNECT_MS}\n\n".encode())
    while True:
        if event_id(status) != seen:
            seen, last_sent = event_id(status), now
            yield Send(_event("status", status_body(status), seen))
        if not status.under_way or now >= ends_at:
            return
        if now - last_sent >= heartbeat.total_seconds():
            last_sent = now
            # A comment: proxies close what is silent, and a client that is gone shows only when it is written to.
            yield Send(b":\n\n")
        now = yield Pause(look_in(status))
        try:
            status = yield ReadStatus(patient)
        except PhrRefreshError:
            # The stream has begun with 200. It ends, and who connects again is told with a status of its own.
            return


def _event(name: str, body: dict[str, Any], event_id: str) -> bytes:
    return f"event: {name}\nid: {event_id}\ndata: {json.dumps(body, separators=(',', ':'))}\n\n".encode()
