"""The guards and actions of the table: pure functions of a record and an event."""

from collections.abc import Callable, Mapping
from typing import Any

from .events import Event
from .record import TIMED_OUT, Failure, KickOff, RefreshRecord, cancelled

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
