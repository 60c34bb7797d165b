"""TABLE: what each event does in each state, and the checks that run when this module is imported.

For each of the 5 x 11 (state, event) pairs the table says: the event moves the record to another state, or it stays
and is recorded, or it is ignored, or it is refused. `lifecycle.py` steps it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from itertools import combinations, product
from typing import Any, Final

from .policy import Instant
from .record import TIMED_OUT, ExtractProgress, Failure, KickOff, RefreshRecord, State, cancelled
from .values import Value

# The machine's events: past-tense facts, each with just what its action needs. Times are absolute `Instant`s.


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


class Event(Value, frozen=True, kw_only=True):
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


# The guards and actions of the table: pure functions of a record and an event.

Guard = Callable[[RefreshRecord, Event], bool]
Action = Callable[[RefreshRecord, Event], Mapping[str, Any]]


# Guards. Their names are what a refusal and `explain` show, so each reads as "refused: not <name>".


def window_open(record: RefreshRecord, event: Event) -> bool:
    """The window of the last kick-off has passed (rule R1)."""
    return record.window_is_open(event.at)


def same_window(record: RefreshRecord, event: Event) -> bool:
    """The window of the last kick-off has not passed yet."""
    return not record.window_is_open(event.at)


def session_valid(record: RefreshRecord, event: Event) -> bool:
    """A session is cached and has not expired."""
    return record.has_session(event.at)


def session_over(record: RefreshRecord, event: Event) -> bool:
    """The session has expired."""
    return not record.has_session(event.at)


def backoff_over(record: RefreshRecord, event: Event) -> bool:
    """The pause after calls that failed has passed."""
    return event.at >= record.retry_at


def same_refresh(record: RefreshRecord, event: Event) -> bool:
    """The answer belongs to the refresh that this record stands for: the fence against late answers (rule R3)."""
    return event.refresh_id is not None and event.refresh_id == record.refresh_id


def deadline_passed(record: RefreshRecord, event: Event) -> bool:
    """The refresh has run past its deadline."""
    return event.at >= record.deadline_at


def still_running(record: RefreshRecord, event: Event) -> bool:
    """The refresh of this window has neither ended nor passed its deadline."""
    return record.awaits_answer(event.at) and record.failure is None and event.at < record.deadline_at


def completed_this_window(record: RefreshRecord, event: Event) -> bool:
    """The refresh of this window has completed."""
    return record.completed_at is not None


def not_settled(record: RefreshRecord, event: Event) -> bool:
    """The refresh of this window has not ended, or merely timed out: a late truth is still the truth."""
    return record.completed_at is None and (record.failure is None or record.failure.code == TIMED_OUT)


def timed_out(record: RefreshRecord, event: Event) -> bool:
    """The refresh timed out, and was not reported to have failed."""
    return record.failure is not None and record.failure.code == TIMED_OUT


# Actions. Each returns the fields that change beside `state` and `since`.


def open_session(record: RefreshRecord, event: Event) -> Mapping[str, Any]:
    """A session is cached; a backoff that it had earned is over."""
    return {
        "session_expires_at": event.session_expires_at,
        "opening_id": None,
        "opening_until": 0,
        "session_failure": None,
        # A backoff that a kick-off earned goes on; one that the session earned is over.
        "failures": 0 if record.session_failure else record.failures,
        "retry_at": 0 if record.session_failure else record.retry_at,
    }


def resume_timed_out(record: RefreshRecord, event: Event) -> Mapping[str, Any]:
    """A session is cached over a refresh that failed, or ran out unseen."""
    # A refresh that ran out while nobody was logged in has had no chance to be told so.
    failure = record.failure or Failure(code=TIMED_OUT, at=record.deadline_at)
    return {**open_session(record, event), "failure": failure}


def expire_session(record: RefreshRecord, event: Event) -> Mapping[str, Any]:
    """The session is no longer counted on."""
    return {"session_expires_at": None}


def end_session(record: RefreshRecord, event: Event) -> Mapping[str, Any]:
    """The session is gone at once; the window and its refresh stay."""
    # The window's anchor and the refresh stay: logging out and in again must not start a second refresh.
    # A session that is being created just now cannot be called back, and a second one beside it would break R2:
    # the claim on it stays until its creator sees that it is cancelled, or it lapses.
    return {
        "session_expires_at": None,
        "opening_id": record.opening_id and cancelled(record.opening_id),
        "logouts": record.logouts + 1,
        # The step that waits to try again is void now: the next login must not wait for it.
        "retry_at": 0 if record.deferred_since else record.retry_at,
        "deferred_since": 0,
    }


def claim(record: RefreshRecord, event: Event) -> Mapping[str, Any]:
    """A new refresh begins, and with it a new window."""
    return {
        "refresh_id": event.refresh_id,
        "claimed_at": event.at,
        "kick_off": KickOff.CLAIMED,
        "answered_at": None,
        "deadline_at": event.deadline_at,
        "window_opens_at": event.window_opens_at,
        "next_poll_at": event.next_poll_at,
        "completed_at": None,
        "extracts": (),
        "failure": None,
    }


def accept(record: RefreshRecord, event: Event) -> Mapping[str, Any]:
    """The upstream took the kick-off."""
    # The window counts from the answer: the call cannot have arrived later than that.
    return {
        "kick_off": KickOff.ACCEPTED,
        "deferred_since": 0,
        "answered_at": event.at,
        "window_opens_at": event.window_opens_at,
        "next_poll_at": max(record.next_poll_at, event.next_poll_at),
    }


def lose_answer(record: RefreshRecord, event: Event) -> Mapping[str, Any]:
    """The kick-off may have arrived, or not."""
    return {
        "kick_off": KickOff.ANSWER_LOST,
        "deferred_since": 0,
        "answered_at": event.at,
        # It may even be under way still.
        "window_opens_at": max(record.window_opens_at, event.window_opens_at),
        "next_poll_at": max(record.next_poll_at, event.next_poll_at),
    }


def progress(record: RefreshRecord, event: Event) -> Mapping[str, Any]:
    """Some extracts ended."""
    return {"extracts": event.extracts}


def complete(record: RefreshRecord, event: Event) -> Mapping[str, Any]:
    """The refresh of this window has ended well, at least in part."""
    return {
        "completed_at": event.at,
        "extracts": event.extracts,
        "as_of": event.as_of if event.as_of is not None else record.as_of,
        "failure": None,
        "deferred_since": 0,
        **_pause_after(record, event),
    }


def fail(record: RefreshRecord, event: Event) -> Mapping[str, Any]:
    """The refresh of this window has failed, or its kick-off never left."""
    return {
        "failure": Failure(code=event.code, at=event.at),
        "extracts": event.extracts or record.extracts,
        # Only a call that never left sets these two: then the window is not spent, but there is a pause.
        "window_opens_at": event.window_opens_at or record.window_opens_at,
        "deferred_since": event.deferred_since,
        **_pause_after(record, event),
    }


def _pause_after(record: RefreshRecord, event: Event) -> Mapping[str, Any]:
    # A pause that the session has earned is no business of the refresh's end: only a session ends it.
    if record.session_failure:
        return {}
    return {"failures": event.failures, "retry_at": event.retry_at}


def time_out(record: RefreshRecord, event: Event) -> Mapping[str, Any]:
    """The deadline passed without an end."""
    return {"failure": Failure(code=TIMED_OUT, at=record.deadline_at)}


def nothing(record: RefreshRecord, event: Event) -> Mapping[str, Any]:
    """Only the state changes."""
    return {}


class Kind(StrEnum):
    """What the table says of a (state, event) pair."""

    MOVES = "moves"
    STAYS = "stays"
    IGNORED = "ignored"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: `event` takes a record from `source` to `target` where every guard agrees. Rows are tried in order."""

    event: EventName
    source: State
    kind: Kind
    target: State
    guards: tuple[Guard, ...] = ()
    action: Action = nothing


_N, _S, _R, _C, _T = State  # no-session, session-created, refreshing, complete, stale
_E = EventName


def _moves(event: EventName, source: State, target: State, *guards: Guard, do: Action) -> Rule:
    return Rule(event, source, Kind.MOVES if source is not target else Kind.STAYS, target, guards, do)


def _stays(event: EventName, sources: tuple[State, ...], *guards: Guard, do: Action) -> list[Rule]:
    return [Rule(event, source, Kind.STAYS, source, guards, do) for source in sources]


def _ignored(event: EventName, sources: tuple[State, ...], *guards: Guard) -> list[Rule]:
    return [Rule(event, source, Kind.IGNORED, source, guards) for source in sources]


def _refused(event: EventName, *sources: State) -> list[Rule]:
    return [Rule(event, source, Kind.REFUSED, source) for source in sources]


def _resumes(source: State) -> list[Rule]:
    # Where this window stands decides: its end comes first, and the last line takes what is left,
    # a refresh of this window that failed or ran out.
    return [
        _moves(_E.SESSION_OPENED, source, _S, window_open, do=open_session),
        _moves(_E.SESSION_OPENED, source, _R, still_running, do=open_session),
        _moves(_E.SESSION_OPENED, source, _C, completed_this_window, do=open_session),
        _moves(_E.SESSION_OPENED, source, _T, do=resume_timed_out),
    ]


TABLE: Final[tuple[Rule, ...]] = (
    *_resumes(_N),
    *_resumes(_T),
    *_stays(_E.SESSION_OPENED, (_S, _R, _C), do=open_session),
    _moves(_E.SESSION_EXPIRED, _S, _N, session_over, do=expire_session),
    *_ignored(_E.SESSION_EXPIRED, (_N, _R, _C, _T)),
    *(_moves(_E.SESSION_ENDED, source, _N, do=end_session) for source in State),
    _moves(_E.REFRESH_CLAIMED, _S, _R, window_open, session_valid, backoff_over, do=claim),
    _moves(_E.REFRESH_CLAIMED, _T, _R, window_open, session_valid, backoff_over, do=claim),
    *_refused(_E.REFRESH_CLAIMED, _N, _R, _C),
    # Somebody's status call can be faster than the kick-off's own answer, so these two come in any state.
    *_stays(_E.REFRESH_ACCEPTED, (_N, _R, _C, _T), same_refresh, same_window, do=accept),
    *_refused(_E.REFRESH_ACCEPTED, _S),
    *_stays(_E.ANSWER_LOST, (_N, _R, _C, _T), same_refresh, same_window, do=lose_answer),
    *_refused(_E.ANSWER_LOST, _S),
    *_stays(_E.PROGRESS_REPORTED, (_R,), same_refresh, do=progress),
    *_ignored(_E.PROGRESS_REPORTED, (_N, _C, _T), same_refresh),
    *_refused(_E.PROGRESS_REPORTED, _S),
    _moves(_E.REFRESH_COMPLETED, _R, _C, same_refresh, do=complete),
    _moves(_E.REFRESH_COMPLETED, _T, _C, same_refresh, same_window, timed_out, do=complete),
    *_stays(_E.REFRESH_COMPLETED, (_N,), same_refresh, same_window, not_settled, do=complete),
    *_ignored(_E.REFRESH_COMPLETED, (_C,), same_refresh),
    *_refused(_E.REFRESH_COMPLETED, _S),
    _moves(_E.REFRESH_FAILED, _R, _T, same_refresh, do=fail),
    *_stays(_E.REFRESH_FAILED, (_N,), same_refresh, not_settled, do=fail),
    *_ignored(_E.REFRESH_FAILED, (_C, _T), same_refresh),
    *_refused(_E.REFRESH_FAILED, _S),
    _moves(_E.REFRESH_TIMED_OUT, _R, _T, deadline_passed, do=time_out),
    *_ignored(_E.REFRESH_TIMED_OUT, (_N, _S, _C, _T)),
    _moves(_E.FRESHNESS_EXPIRED, _C, _T, window_open, do=nothing),
    *_ignored(_E.FRESHNESS_EXPIRED, (_N, _S, _R, _T)),
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A state that leaves by itself: when, and by which event."""

    event: EventName
    until: Callable[[RefreshRecord], Instant]


WAITING: Final[Mapping[State, Waiting]] = {
    State.SESSION_CREATED: Waiting(_E.SESSION_EXPIRED, lambda record: record.session_expires_at or record.since),
    State.REFRESHING: Waiting(_E.REFRESH_TIMED_OUT, lambda record: record.deadline_at),
    State.COMPLETE: Waiting(_E.FRESHNESS_EXPIRED, lambda record: record.window_opens_at),
}


def check(table: tuple[Rule, ...], waiting: Mapping[State, Waiting]) -> None:
    """Raise `ValueError` unless the table is total, unambiguous, connected, and lets nobody wait for ever."""
    for event, state in product(EventName, State):
        rules = [rule for rule in table if (rule.event, rule.source) == (event, state)]
        if not rules:
            raise ValueError(f"the table does not say what {event} does in {state}")
        if any(rule.kind is Kind.REFUSED for rule in rules) and len(rules) > 1:
            raise ValueError(f"the table both refuses and allows {event} in {state}")
        for earlier, later in combinations(rules, 2):
            # Where the later row's guards agree, so do the earlier one's: a duplicate, or a row in its shadow.
            if set(earlier.guards) <= set(later.guards):
                raise ValueError(f"the table has a row for {event} in {state} that can never be reached")
    reached = {State.NO_SESSION}
    while more := {rule.target for rule in table if rule.source in reached} - reached:
        reached |= more
    if unreached := set(State) - reached:
        raise ValueError(f"no event ever leads to {', '.join(sorted(unreached))}")
    timed = {_E.SESSION_EXPIRED, _E.REFRESH_TIMED_OUT, _E.FRESHNESS_EXPIRED}
    for rule in table:
        if rule.event in timed and rule.kind is Kind.MOVES and waiting.get(rule.source) is None:
            raise ValueError(f"{rule.source} is left by {rule.event}, but has no deadline")
    for state, wait in waiting.items():
        if not any((rule.event, rule.source, rule.kind) == (wait.event, state, Kind.MOVES) for rule in table):
            raise ValueError(f"{state} has a deadline, but {wait.event} does not leave it")


check(TABLE, WAITING)


def _definition(table: tuple[Rule, ...]) -> str:
    return "\n".join(
        f"{rule.event} {rule.source} {rule.kind} {rule.target} {' '.join(guard.__name__ for guard in rule.guards)}"
        for rule in table
    )


#: Of the table that this version runs on; stored with each record that it writes.
FINGERPRINT: Final = sha256(_definition(TABLE).encode()).hexdigest()[:8]
