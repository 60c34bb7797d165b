"""What a status looks like to a browser: JSON, entity tag, progress, and when to ask again."""

import json
from datetime import datetime
from typing import Any

from ...statemachine.outcomes import Status
from ...statemachine.record import ExtractState, State
from .messages import digest

#: While a session is being created nothing tells when it will be there.
_OPENING_SECONDS = 1.0


def moment(value: datetime | None) -> str | None:
    """ISO 8601 in UTC, to the millisecond."""
    return None if value is None else value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def status_body(status: Status) -> dict[str, Any]:
    """The status as a JSON object; `openapi` has its schema."""
    return {
        "state": status.state.value,
        "under_way": status.under_way,
        "since": moment(status.since),
        "as_of": moment(status.as_of),
        "stale": is_stale(status),
        "partial": status.partial,
        "refresh_id": status.refresh_id,
        "claimed_at": moment(status.claimed_at),
        "extracts": [
            {"name": item.name, "state": item.state.value, "succeeded_at": moment(item.succeeded_at)}
            for item in status.extracts
        ],
        "failure": failure_body(status),
        "next_check_at": moment(status.next_check_at),
    }


def failure_body(status: Status) -> dict[str, Any] | None:
    """Why the refresh failed, and when it can be tried again."""
    failure = status.failure
    if failure is None:
        return None
    return {"code": failure.code, "at": moment(failure.at), "retry_at": moment(failure.retry_at)}


def is_stale(status: Status) -> bool:
    """Whether what is shown may be out of date: only `complete` promises that it is not.

    A refresh recorded while nobody was logged in counts too, once the next login resumes it.
    """
    return status.state is not State.COMPLETE


def etag_of(status: Status) -> str:
    """An entity tag without its mark of weakness. Weak: the time of the next check alone is no news."""
    told = {name: value for name, value in status_body(status).items() if name != "next_check_at"}
    return f'"{digest(json.dumps(told).encode())}"'


def may_begin(status: Status) -> bool:
    """Whether a login could start something now, so that what one has just handed over may not show yet."""
    failure = status.failure
    is_barred = failure is not None and failure.retry_at is not None and seconds_until(failure.retry_at, status) != 0
    return status.state is not State.COMPLETE and not is_barred


def progress_of(status: Status) -> str:
    """A sentence for X-Progress, as FHIR's asynchronous requests have it; at most 100 characters."""
    if status.state is not State.REFRESHING:
        return "not begun"
    ended = sum(item.state is not ExtractState.IN_PROGRESS for item in status.extracts)
    return f"{ended} of {len(status.extracts)} extracts ended" if status.extracts else "refresh requested"


def seconds_to_next_check(status: Status) -> float:
    """Seconds until asking again can first tell something new: by the policy, and by the time already spent."""
    seconds = seconds_until(status.next_check_at, status)
    return _OPENING_SECONDS if seconds is None else seconds


def seconds_until(at: datetime | None, status: Status) -> float | None:
    """Seconds from when `status` was so until `at`, 0 if that is past; None where either is not known."""
    if at is None or status.read_at is None:
        return None
    return max((at - status.read_at).total_seconds(), 0.0)


def is_due(status: Status) -> bool:
    """Whether it is time to ask the upstream: whose turn that is, the store decides."""
    return status.next_check_at is not None and seconds_until(status.next_check_at, status) == 0
