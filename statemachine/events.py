"""The machine's events: past-tense facts, each with just what its action needs. Times are absolute `Instant`s."""

from dataclasses import dataclass
from enum import StrEnum

from .extract import ExtractProgress
from .policy import Instant


class EventName(StrEnum):
    """The triggers of the machine, in the order of a patient's day."""

    SESSION_OPENED = "session_opened"
    SESSION_EXPIRED = "session_expired"
    SESSION_ENDED = "session_ended"
    REFRESH_CLAIMED = "refresh_claimed"
    REFRESH_ACCEPTED = "refresh_accepted"
    ANSWER_LOST = "answer_lost"
    PROGRESS_REPORTED = "progress_reported"
    REFRESH_COMPLETED = "refresh_completed"
    REFRESH_FAILED = "refresh_failed"
    REFRESH_TIMED_OUT = "refresh_timed_out"
    FRESHNESS_EXPIRED = "freshness_expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened at `at`, by the store's clock.

    `refresh_id` is the fence of every event that answers a refresh. The other fields are set where the event's
    action reads them, see `lifecycle.py`.
    """

    name: EventName
    at: Instant
    refresh_id: str | None = None
    session_expires_at: Instant | None = None
    deadline_at: Instant = 0
    window_opens_at: Instant = 0
    next_poll_at: Instant = 0
    extracts: tuple[ExtractProgress, ...] = ()
    as_of: Instant | None = None
    #: Of a completion: since when it could have been seen, where that is known.
    ended_at: Instant | None = None
    retry_at: Instant = 0
    #: Of a failure that can be tried again: how many there were in a row, this one included.
    failures: int = 0
    #: Of a call that is deferred: since when it has been.
    deferred_since: Instant = 0
    #: Of a failure: a word such as "http_503".
    code: str = ""
