"""TABLE: what each event does in each state, and the checks that run when this module is imported.

For each of the 5 x 11 (state, event) pairs the table says: the event moves the record to another state, or it stays
and is recorded, or it is ignored, or it is refused. `lifecycle.py` steps it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from itertools import combinations, product
from typing import Final

from .events import EventName
from .policy import Instant
from .record import RefreshRecord, State
from .rules import (
    Action,
    Guard,
    accept,
    backoff_over,
    claim,
    complete,
    completed_this_window,
    deadline_passed,
    end_session,
    expire_session,
    fail,
    lose_answer,
    not_settled,
    nothing,
    open_session,
    progress,
    resume_timed_out,
    same_refresh,
    same_window,
    session_over,
    session_valid,
    still_running,
    time_out,
    timed_out,
    window_open,
)


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
