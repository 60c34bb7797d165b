"""How commands show receipts, statuses, explanations and sweeps: lines for people, plain values for JSON."""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from phr_refresh.statemachine.outcomes import Explanation, Receipt, Status, SweepReport
from phr_refresh.statemachine.record import State


def as_json(value: Any) -> Any:
    """`value` as what `json.dumps` takes: dataclasses as objects, times as ISO 8601 in UTC, states by stored name."""
    if is_dataclass(value) and not isinstance(value, type):
        return as_json(asdict(value))
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): as_json(item) for name, item in value.items()}
    return value


def receipt_lines(receipt: Receipt) -> list[str]:
    """A receipt in a few lines."""
    words = [receipt.kind.value.replace("_", " ")]
    if receipt.reason:
        words.append(f"({receipt.reason})")
    lines = [" ".join(words)]
    if receipt.refresh_id and receipt.claimed_at:
        lines.append(f"refresh {receipt.refresh_id}, claimed {_time(receipt.claimed_at)}")
    if receipt.retry_at:
        lines.append(f"nothing can be started before {_time(receipt.retry_at)}")
    return lines


def advice(receipt: Receipt) -> str:
    """Why nothing was started, and what to do about it, in one sentence without its full stop."""
    reason = receipt.reason or "unknown"
    if reason in _OURS:
        when = f"; try again from {_time(receipt.retry_at)}" if receipt.retry_at else "; try again later"
        return f"{_OURS[reason]} ({reason}){when}"
    if reason in ("http_401", "http_403"):
        return f"the upstream refused us ({reason}); check PHR_REFRESH_APP_TOKEN, _AUTHORIZATION_KEY and _API_KEY"
    return f"the upstream failed or could not be reached ({reason}); check PHR_REFRESH_MHV_URL and that it runs"


_OURS = {
    "window_closed": "this window's refresh has failed",
    "backoff": "the last calls failed",
    "session_being_created": "another process is creating the session",
    "logged_out": "the patient has logged out",
}


def status_lines(status: Status) -> list[str]:
    """A status in a few lines."""
    if not status.eligible:
        return ["not eligible: the patient has no MHV account"]
    since = f" since {_time(status.since)}" if status.since else " (never seen)"
    partial = ", in part" if status.partial else ""
    lines = [f"{status.state.label}{partial}{since}"]
    if status.as_of:
        lines.append(f"data as of {_time(status.as_of)}")
    if status.failure and status.state is not State.COMPLETE:
        retry = f"; can be tried again from {_time(status.failure.retry_at)}" if status.failure.retry_at else ""
        lines.append(f"failed at {_time(status.failure.at)}: {status.failure.code}{retry}")
    for item in status.extracts:
        when = f", as of {_time(item.succeeded_at)}" if item.succeeded_at else ""
        lines.append(f"  {item.name}: {item.state.value.replace('_', ' ')}{when}")
    if status.next_check_at:
        lines.append(f"next check at {_time(status.next_check_at)}")
    return lines


def explanation_lines(explanation: Explanation) -> list[str]:
    """An explanation in a few lines, with one line per event."""
    lines = [explanation.state.label, explanation.why, explanation.next_step]
    if explanation.last_refused:
        lines.append(f"Last refused at {explanation.last_refused}")
    lines.append("Events now:")
    for event in explanation.events:
        effect = f"moves to {event.target.label}" if event.effect == "moves" and event.target else event.effect
        guards = f" (not {', not '.join(event.refused_by)})" if event.refused_by else ""
        lines.append(f"  {event.event:<18} {effect}{guards}")
    return lines


def sweep_lines(done: SweepReport) -> list[str]:
    """What a sweep did, in one line."""
    line = f"{done.due} due, {done.moved} moved, {done.conflicts} moved by others, {done.unreadable} unreadable"
    moves = ", ".join(f"{count} {move}" for move, count in done.moves.items())
    return [f"{line} ({moves})" if moves else line]


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")
