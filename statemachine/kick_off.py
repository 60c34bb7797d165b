"""What the upstream's answer to a kick-off means to the lifecycle."""

from typing import assert_never

from .effects import Accepted, AnswerLost, KickOffAnswer, Loaded, NeverSent, Rejected
from .events import Event, EventName
from .policy import Policy, milliseconds
from .record import NEVER_SENT


def event_of(answer: KickOffAnswer, refresh_id: str, *, claimed: Loaded, policy: Policy) -> Event:
    """The event that `answer` to the kick-off of `refresh_id` is to the lifecycle."""
    opens_at = answer.at + milliseconds(policy.refresh_window)
    poll_at = answer.at + milliseconds(policy.poll_interval)
    forgotten_after = milliseconds(policy.retry_backoff_max)
    failures = claimed.record.failures_in_a_row(answer.at, forgotten_after=forgotten_after) if claimed.record else 0
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
        case NeverSent(_, at):
            return Event(
                name=EventName.REFRESH_FAILED,
                at=at,
                refresh_id=refresh_id,
                code=NEVER_SENT,
                window_opens_at=at,
                retry_at=at + policy.backoff_after(failures + 1),
                failures=failures + 1,
            )
        case _:
            assert_never(answer)
