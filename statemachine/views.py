"""What a record says to callers: receipts, statuses and explanations, made from it without I/O."""

from datetime import datetime

from .effects import UPSTREAM_OVERLOADED
from .errors import EventRefused
from .lifecycle import deadline_of, prospects
from .outcomes import Explanation, ExtractStatus, FailureStatus, PossibleEvent, Receipt, ReceiptKind, Status
from .policy import Instant, as_datetime
from .record import TIMED_OUT, ExtractState, KickOff, RefreshRecord, Refusal, State
from .table import FINGERPRINT


def _moment(instant: Instant | None) -> datetime | None:
    return as_datetime(instant) if instant else None


def receipt_of(
    kind: ReceiptKind, record: RefreshRecord, *, reason: str | None = None, retry_at: Instant | None = None
) -> Receipt:
    """A receipt that carries the refresh of `record`."""
    return Receipt(
        kind=kind,
        refresh_id=record.refresh_id,
        claimed_at=_moment(record.claimed_at),
        deadline_at=_moment(record.deadline_at),
        retry_at=_moment(retry_at),
        reason=reason,
    )


def standing_receipt(record: RefreshRecord, now: Instant, running: ReceiptKind) -> Receipt | None:
    """The receipt for a patient for whom nothing is to be started now; None where something is."""
    if record.state is State.REFRESHING:
        return receipt_of(running, record)
    if record.state is State.COMPLETE:
        return receipt_of(ReceiptKind.FRESH, record, retry_at=record.window_opens_at)
    if record.state is not State.NO_SESSION and not record.window_is_open(now):
        return receipt_of(ReceiptKind.DEFERRED, record, reason="window_closed", retry_at=record.window_opens_at)
    if now < record.retry_at:
        reason = UPSTREAM_OVERLOADED if record.deferred_since else "backoff"
        return receipt_of(ReceiptKind.DEFERRED, record, reason=reason, retry_at=record.retry_at)
    return None


def status_of(record: RefreshRecord, now: Instant) -> Status:
    """The status that `record` stands for at `now`; what was due must have been applied."""
    is_opening = now < record.opening_until and record.window_is_open(now)
    is_deferred = record.is_deferred(now) and record.state is not State.REFRESHING
    next_check_at = record.retry_at if is_deferred else record.next_poll_at
    return Status(
        state=record.state,
        under_way=record.state is State.REFRESHING or is_opening or is_deferred,
        read_at=as_datetime(now),
        since=_moment(record.since) if record.fingerprint else None,
        as_of=_moment(record.as_of or _oldest_success(record)),
        refresh_id=record.refresh_id,
        claimed_at=_moment(record.claimed_at),
        extracts=tuple(ExtractStatus(e.name, e.state, _moment(e.succeeded_at)) for e in record.extracts),
        failure=_failure_of(record),
        next_check_at=_moment(max(next_check_at, now)) if is_deferred or record.awaits_answer(now) else None,
    )


def _oldest_success(record: RefreshRecord) -> Instant | None:
    """As of when the data are that the upstream had before any refresh of ours; None where a part never succeeded."""
    successes = [item.succeeded_at for item in record.extracts if item.succeeded_at is not None]
    return min(successes, default=None) if len(successes) == len(record.extracts) else None


def _failure_of(record: RefreshRecord) -> FailureStatus | None:
    """The refresh's failure, or that of a later session call where a session is what is missing."""
    failure, opens_at = record.failure, record.window_opens_at
    session_failure = record.session_failure if record.state in (State.NO_SESSION, State.STALE) else None
    if session_failure is not None and (failure is None or session_failure.at >= failure.at):
        failure, opens_at = session_failure, 0
    if failure is None:
        return None
    return FailureStatus(failure.code, as_datetime(failure.at), _moment(max(opens_at, record.retry_at)))


def explanation_of(record: RefreshRecord, now: Instant) -> Explanation:
    """Everything that `record` can tell at `now`; what was due must have been applied."""
    return Explanation(
        state=record.state,
        since=_moment(record.since) if record.fingerprint else None,
        why=_why(record),
        next_step=_next_step(record, now),
        next_at=_moment(deadline_of(record)),
        last_refused=_refused(record.refusal),
        events=tuple(
            PossibleEvent(item.event.value, item.kind.value, item.target, item.refused_by)
            for item in prospects(record, now)
        ),
        status=status_of(record, now),
    )


def _refused(refusal: Refusal | None) -> str | None:
    if refusal is None:
        return None
    return f"{_clock(refusal.at)}: {EventRefused(refusal.event, refusal.state, refusal.guards)}"


def _clock(instant: Instant) -> str:
    return as_datetime(instant).strftime("%Y-%m-%d %H:%M:%SZ")


_KICK_OFFS = {
    KickOff.CLAIMED: "its kick-off is claimed, and whether it was sent is not recorded yet",
    KickOff.ACCEPTED: "the upstream accepted its kick-off",
    KickOff.ANSWER_LOST: "the answer to its kick-off was lost, so the status decides",
}


def _why(record: RefreshRecord) -> str:
    match record.state:
        case State.NO_SESSION if not record.fingerprint:
            why = "Never seen, or forgotten since."
        case State.NO_SESSION:
            why = "No session is cached: it ended, expired, or could not be created."
        case State.SESSION_CREATED:
            why = "A session is cached; no refresh of this window was kicked off."
        case State.REFRESHING:
            settled = sum(item.state is not ExtractState.IN_PROGRESS for item in record.extracts)
            why = f"A refresh runs: {_KICK_OFFS[record.kick_off]}; {settled} of {len(record.extracts)} extracts ended."
        case State.COMPLETE:
            failed = [item.name for item in record.extracts if item.state is ExtractState.FAILED]
            why = "The upstream reported the end of this window's refresh."
            why += f" These extracts failed: {', '.join(failed)}." if failed else ""
        case State.STALE if record.failure is None:
            why = "The window of the last refresh has passed; the data may be out of date."
        case State.STALE:  # pragma: no branch  (there is no sixth state)
            why = f"The last refresh failed at {_clock(record.failure.at)} ({record.failure.code})."
    if record.session_failure:
        why += f" The last session call failed at {_clock(record.session_failure.at)} ({record.session_failure.code})."
    if record.fingerprint not in ("", FINGERPRINT):
        why += f" Written by another definition of the lifecycle ({record.fingerprint})."
    return why


def _next_step(record: RefreshRecord, now: Instant) -> str:
    match record.state:
        case State.REFRESHING:
            poll = _clock(max(record.next_poll_at, now))
            return f"The next status call may go out at {poll}; at {_clock(record.deadline_at)} it times out."
        case State.COMPLETE:
            return f"At {_clock(record.window_opens_at)} the data count as stale, and the next login refreshes them."
        case State.SESSION_CREATED if now >= record.retry_at:
            return "The worker that opened the session, or the next login, claims the refresh."
    if record.is_deferred(now):
        return f"The upstream has no room for calls; a worker tries again at {_clock(record.retry_at)}."
    if now < record.retry_at:
        return f"Nothing is tried before {_clock(record.retry_at)}, after {record.failures} failures in a row."
    if not record.window_is_open(now):
        late = record.failure is not None and record.failure.code == TIMED_OUT
        asked = " Until then whoever reads the status makes us ask again, at a slow pace." if late else ""
        return f"At {_clock(record.window_opens_at)} the window opens, and the next login refreshes.{asked}"
    return "The next login opens a session where one is needed, and starts a refresh."
