"""What the upstream's answer to a kick-off means to the lifecycle."""

from .effects import UPSTREAM_OVERLOADED, Accepted, AnswerLost, KickOffAnswer, Loaded, NeverSent, Rejected
from .events import Event, EventName
from .policy import Instant, Policy, milliseconds
from .record import NEVER_SENT, RefreshRecord


def event_of(answer: KickOffAnswer, refresh_id: str, *, claimed: Loaded, policy: Policy) -> Event:
    """The event that `answer` to the kick-off of `refresh_id` is to the lifecycle."""
    opens_at = answer.at + milliseconds(policy.refresh_window)
    poll_at = answer.at + milliseconds(policy.poll_interval)
    record = claimed.record or RefreshRecord()
    match answer:
        case Accepted(at):
            return Event(
                name=EventName.REFRESH_ACCEPTED,
                at=at,
                refresh_id=refresh_id,
                window_opens_at=opens_at,
                next_poll_at=poll_at,
            )
        case AnswerLost(reason, at):
            return Event(
                name=EventName.ANSWER_LOST,
                at=at,
                refresh_id=refresh_id,
                window_opens_at=opens_at,
                next_poll_at=poll_at,
                code=reason,
            )
        case Rejected(reason, at):
            return Event(
                name=EventName.REFRESH_FAILED, at=at, refresh_id=refresh_id, code=reason, window_opens_at=opens_at
            )
    return _try_again(answer, refresh_id, record=record, policy=policy)


def _try_again(answer: NeverSent, refresh_id: str, *, record: RefreshRecord, policy: Policy) -> Event:
    at, failures = answer.at, record.failures
    deferred_since = 0
    if answer.reason == UPSTREAM_OVERLOADED:
        # Nobody's failure: it is not counted.
        code, pause = UPSTREAM_OVERLOADED, policy.deferral_after(answer.retry_after, refresh_id)
        deferred_since = deferred(record, at, policy)
    else:
        failures = record.failures_in_a_row(at, forgotten_after=milliseconds(policy.retry_backoff_max)) + 1
        code, pause = NEVER_SENT, policy.spread(policy.backoff_after(failures), refresh_id)
    return Event(
        name=EventName.REFRESH_FAILED,
        at=at,
        refresh_id=refresh_id,
        code=code,
        window_opens_at=at,
        retry_at=at + pause,
        failures=failures,
        deferred_since=deferred_since,
    )


def deferred(record: RefreshRecord, at: Instant, policy: Policy) -> Instant:
    """Since when a refresh that is deferred at `at` has been so; 0 where it was for a whole window: that is enough.

    Nobody waits for it any more by then, and the next login starts anew.
    """
    since = record.deferred_since or at
    return since if at - since < milliseconds(policy.refresh_window) else 0
