"""What callers get: frozen values, made by the flows. Times are aware UTC datetimes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from .record import ExtractState, State


class ReceiptKind(StrEnum):
    """What became of a login or of a request to refresh."""

    #: Given to the worker; the work happens there. (login only)
    HANDED_OVER = "handed_over"
    #: A refresh of this window is running. (login only)
    IN_PROGRESS = "in_progress"
    #: This call sent the kick-off. (refresh only)
    STARTED = "started"
    #: Another call has claimed the refresh; this is its receipt. (refresh only)
    JOINED = "joined"
    #: The refresh of this window has completed: the data are current, and `retry_at` is when the window opens.
    FRESH = "fresh"
    #: No MHV account: no session, no refresh (rule R8).
    NOT_ELIGIBLE = "not_eligible"
    #: Nothing can be started now; `reason` says why and `retry_at`, where it is known, when it can.
    DEFERRED = "deferred"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The answer to `login` and `refresh`. Winner and losers of a race get the same `refresh_id`.

    `reason` of a deferred one: "window_closed" (this window's refresh failed), "backoff", "worker_full", "over_budget"
    (the login was not waited for; its work goes on), "too_many_logins", "store_unavailable", "record_unreadable",
    "session_being_created", "logged_out", "closed", "internal_error", "never_sent", "upstream_overloaded" (a worker
    tries again by itself), or the code with which the upstream refused the session or the kick-off, such as "http_503".
    """

    kind: ReceiptKind
    refresh_id: str | None = None
    claimed_at: datetime | None = None
    deadline_at: datetime | None = None
    retry_at: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ExtractStatus:
    """One wanted extract of the record; `succeeded_at` is the age of what is shown of it."""

    name: str
    state: ExtractState
    succeeded_at: datetime | None


@dataclass(frozen=True, slots=True)
class FailureStatus:
    """Why the refresh, or the session for it, failed, and from when on it can be tried again."""

    code: str
    at: datetime
    retry_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Where a patient's refresh stands. `as_of`: when the data were last known good. `since`: when `state` was entered.

    `next_check_at`: when asking again can first tell something new; None while nothing is under way.
    `partial`: complete, though some extracts failed. `under_way`: a refresh runs, or the session for it is being
    created, or a worker holds it back until an overloaded upstream has room; anything else is settled until somebody
    starts something. `read_at`: the store's time when this was so.
    """

    state: State
    eligible: bool = True
    under_way: bool = False
    read_at: datetime | None = None
    since: datetime | None = None
    as_of: datetime | None = None
    refresh_id: str | None = None
    claimed_at: datetime | None = None
    extracts: tuple[ExtractStatus, ...] = ()
    failure: FailureStatus | None = None
    next_check_at: datetime | None = None

    @property
    def partial(self) -> bool:
        """Whether the refresh completed without some of the wanted extracts."""
        return self.state is State.COMPLETE and any(item.state is ExtractState.FAILED for item in self.extracts)


@dataclass(frozen=True, slots=True)
class PossibleEvent:
    """What an event would do now: `effect` is moves, stays, ignored or refused; `refused_by` names the guards."""

    event: str
    effect: str
    target: State | None
    refused_by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Everything the record can tell about a patient, for the people on call.

    `why` and `next_step` are sentences. `last_refused` names the last event that was refused, its guards and when.
    """

    state: State
    since: datetime | None
    why: str
    next_step: str
    next_at: datetime | None
    last_refused: str | None
    events: tuple[PossibleEvent, ...]
    status: Status


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep did: how many patients were due, moved, moved by somebody else first, or unreadable.

    `moves` counts those that it moved by "from -> to", such as "refreshing -> stale".
    """

    due: int
    moved: int
    conflicts: int
    unreadable: int
    moves: Mapping[str, int] = field(default_factory=dict)
