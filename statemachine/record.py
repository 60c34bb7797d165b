"""RefreshRecord: what is persisted of one patient. `codec.py` has its stored form."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from .policy import Instant

# How one extract of the record stands: the upstream loads a patient's data in parts that end separately.


class ExtractState(StrEnum):
    """One wanted extract, as judged from the upstream's status rows."""

    IN_PROGRESS = "in_progress"
    CURRENT = "current"
    FAILED = "failed"


class ExtractProgress(NamedTuple):
    """One wanted extract: its name at the upstream, how it stands, when it last succeeded (None: never, or unknown).

    A NamedTuple, as the record is: every read of a record makes as many as there are extracts.
    """

    name: str
    state: ExtractState
    succeeded_at: Instant | None = None


#: Fields that only a newer version knows, as they are stored.
Carried = tuple[bytes, ...]
#: In milliseconds: from when a step is due to when a worker has taken it up.
_WAKING: Final = 5_000


class State(StrEnum):
    """The five states by their stored names; `label` is how people read them."""

    NO_SESSION = "no_session"
    SESSION_CREATED = "session_created"
    REFRESHING = "refreshing"
    COMPLETE = "complete"
    STALE = "stale"

    @property
    def label(self) -> str:
        """The name in text and diagrams, with hyphens."""
        return self.value.replace("_", "-")


class KickOff(StrEnum):
    """What is known of the call that starts the refresh."""

    CLAIMED = "claimed"
    ACCEPTED = "accepted"
    ANSWER_LOST = "answer_lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a refresh, or the session for it, failed. `code` is a word such as "timed_out" or "http_503"."""

    code: str
    at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The last event that the lifecycle refused for this patient, and the guards that said no."""

    event: str
    state: str
    guards: tuple[str, ...]
    at: Instant


class RefreshRecord(NamedTuple):
    """One patient's lifecycle as it is stored. It holds no identifier of the patient and no token.

    Only `lifecycle.step` changes `state`; the bookkeeping fields (`opening_*`, `next_poll_at`, `retry_at`,
    `failures`, `session_failure`, `refusal`) are noted by the flows. Every field that ends in `_at` is an `Instant`.

    The order of the fields is part of the stored form (codec.py): new ones go behind all but `carried`.

    A NamedTuple and no dataclass: every step copies the record with some fields changed, which `_replace` does
    five times as fast as `dataclasses.replace`.
    """

    state: State = State.NO_SESSION
    #: When `state` was entered.
    since: Instant = 0
    #: Of the lifecycle definition that wrote this record.
    fingerprint: str = ""

    #: When the cached session counts as expired, None where there is none.
    session_expires_at: Instant | None = None
    #: Who is creating a session, and when their claim on it lapses by itself (rule R2).
    opening_id: str | None = None
    opening_until: Instant = 0
    #: How often the patient has logged out: a step that a login asked for before the last time is void.
    logouts: int = 0

    #: The last refresh that was claimed. Its id is the fence: an answer that carries another one is refused.
    refresh_id: str | None = None
    claimed_at: Instant | None = None
    kick_off: KickOff = KickOff.CLAIMED
    #: When the kick-off was answered, or its answer given up.
    answered_at: Instant | None = None
    #: When a refresh that has not ended counts as timed out.
    deadline_at: Instant = 0
    #: No kick-off may be claimed before this: the last one, by the latest time it can have arrived, plus the window.
    window_opens_at: Instant = 0
    next_poll_at: Instant = 0
    completed_at: Instant | None = None
    #: When the data were last known good: the oldest success over the wanted extracts that were current.
    as_of: Instant | None = None
    extracts: tuple[ExtractProgress, ...] = ()
    failure: Failure | None = None

    #: Backoff of session calls and of kick-offs that never left.
    failures: int = 0
    retry_at: Instant = 0
    session_failure: Failure | None = None
    #: Since when a worker has been holding back this refresh, because the upstream is overloaded; 0: none does.
    deferred_since: Instant = 0

    refusal: Refusal | None = None
    #: They are written back as they were.
    carried: Carried = ()

    def has_session(self, now: Instant) -> bool:
        """Whether a cached session is still valid at `now`."""
        expires_at = self.session_expires_at
        return self.state is not State.NO_SESSION and expires_at is not None and now < expires_at

    def failures_in_a_row(self, now: Instant, *, forgotten_after: int) -> int:
        """How many tries failed in a row, forgotten so many milliseconds after the pause that they earned."""
        return 0 if now > self.retry_at + forgotten_after else self.failures

    def window_is_open(self, now: Instant) -> bool:
        """Whether the window of the last kick-off has passed at `now`."""
        return now >= self.window_opens_at

    def is_deferred(self, now: Instant) -> bool:
        """Whether a worker will try again: its time is to come, or has come so lately that the worker may be at it."""
        return self.deferred_since > 0 and now < self.retry_at + _WAKING

    def awaits_answer(self, now: Instant) -> bool:
        """Whether the upstream may still have something to say about the last refresh: it runs, or timed out lately."""
        settled = self.completed_at is not None or (self.failure is not None and self.failure.code != TIMED_OUT)
        return self.refresh_id is not None and not settled and not self.window_is_open(now)


def cancelled(opening_id: str) -> str:
    """The id that stands for a cancelled claim on creating a session.

    >>> cancelled("a1"), cancelled(cancelled("a1"))
    ('a1!', 'a1!')
    """
    return opening_id.rstrip("!") + "!"


#: The failure code of a refresh whose deadline passed.
TIMED_OUT: Final = "timed_out"
#: The failure code of a kick-off that provably never left.
NEVER_SENT: Final = "never_sent"
