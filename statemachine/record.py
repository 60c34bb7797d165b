"""RefreshRecord: what is persisted of one patient, and its stored form.

The stored form is UTF-8 JSON: schema `v`, fingerprint `f` of the lifecycle that wrote it, then the fields under
one-letter names, absent where they hold their default. Times are milliseconds relative to `t`, which is absolute:
a record of a settled patient stays near 200 bytes and can still be read by eye.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from .errors import RecordUnreadable
from .extract import ExtractProgress, ExtractState
from .policy import Instant

SCHEMA: Final = 1
_END_OF_CALENDAR: Final = 253_402_300_800_000  # the year 10000, which datetime does not know


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

    A NamedTuple and no dataclass: every step copies the record with some fields changed, which `_replace` does
    five times as fast as `dataclasses.replace`.
    """

    state: State = State.NO_SESSION
    #: When `state` was entered.
    since: Instant = 0

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

    refusal: Refusal | None = None
    #: Of the lifecycle definition that wrote this record.
    fingerprint: str = ""

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

# Made once: json.dumps would make an encoder for each call that asks for other separators.
_JSON: Final = json.JSONEncoder(separators=(",", ":"), check_circular=False)
_LETTERS: Final = {ExtractState.IN_PROGRESS: "p", ExtractState.CURRENT: "c", ExtractState.FAILED: "f"}
_EXTRACT_STATES: Final = {letter: state for state, letter in _LETTERS.items()}
_KICK_OFFS: Final = {KickOff.CLAIMED: "c", KickOff.ACCEPTED: "a", KickOff.ANSWER_LOST: "l"}
_KICK_OFF_STATES: Final = {letter: kick_off for kick_off, letter in _KICK_OFFS.items()}


def encode(record: RefreshRecord) -> bytes:
    """The stored form of `record`."""
    base = record.since

    def relative(instant: Instant | None) -> int | None:
        return None if instant is None else instant - base

    def failure(value: Failure | None) -> list[Any] | None:
        return None if value is None else [value.code, value.at - base]

    refusal = record.refusal
    fields: dict[str, Any] = {
        "x": relative(record.session_expires_at),
        "o": [record.opening_id, record.opening_until - base] if record.opening_id else None,
        "h": record.logouts or None,
        "n": record.failures or None,
        "r": relative(record.retry_at or None),
        "q": failure(record.session_failure),
        "l": refusal and [refusal.event, refusal.state, refusal.guards, refusal.at - base],
        "g": relative(record.as_of),
        "e": [[item.name, _LETTERS[item.state], relative(item.succeeded_at)] for item in record.extracts] or None,
    }
    if record.refresh_id is not None:
        fields |= {
            "i": record.refresh_id,
            "c": relative(record.claimed_at),
            "k": _KICK_OFFS[record.kick_off],
            "a": relative(record.answered_at),
            "d": record.deadline_at - base,
            "w": record.window_opens_at - base,
            "p": record.next_poll_at - base,
            "z": relative(record.completed_at),
            "b": failure(record.failure),
        }
    head = {"v": SCHEMA, "f": record.fingerprint, "s": record.state.value, "t": base}
    present = {name: value for name, value in fields.items() if value is not None}
    return _JSON.encode(head | present).encode()


def decode(stored: bytes) -> RefreshRecord:
    """The record in `stored`. Raises `RecordUnreadable`; `decode(encode(record)) == record`."""
    try:
        raw = json.loads(stored)
        schema = raw["v"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _corrupt() from None
    if type(schema) is not int or schema < 1:
        raise _corrupt()
    if schema > SCHEMA:
        raise RecordUnreadable(
            f"it has schema {schema}, this version reads up to {SCHEMA}", "update phr-refresh on this host"
        )
    try:
        return _read(raw)
    except (ValueError, TypeError, LookupError, AttributeError):
        raise _corrupt() from None


def _corrupt() -> RecordUnreadable:
    return RecordUnreadable("it is corrupt", "restore it, or delete the key once its window has passed")


def _read(raw: dict[str, Any]) -> RefreshRecord:
    base = _instant(0, raw["t"])

    def absolute(name: str) -> Instant | None:
        value = raw.get(name)
        return None if value is None else _instant(base, value)

    def failure(name: str) -> Failure | None:
        value = raw.get(name)
        return None if value is None else Failure(code=_text(value[0]), at=_instant(base, value[1]))

    opening = raw.get("o")
    return RefreshRecord(
        state=State(raw["s"]),
        since=base,
        session_expires_at=absolute("x"),
        opening_id=_text(opening[0]) if opening else None,
        opening_until=_instant(base, opening[1]) if opening else 0,
        logouts=_integer(raw.get("h", 0)),
        refresh_id=_text(raw["i"]) if "i" in raw else None,
        claimed_at=absolute("c"),
        kick_off=_KICK_OFF_STATES[raw.get("k", "c")],
        answered_at=absolute("a"),
        deadline_at=absolute("d") or 0,
        window_opens_at=absolute("w") or 0,
        next_poll_at=absolute("p") or 0,
        completed_at=absolute("z"),
        as_of=absolute("g"),
        extracts=tuple(_extract(item, base) for item in raw.get("e", ())),
        failure=failure("b"),
        failures=_integer(raw.get("n", 0)),
        retry_at=absolute("r") or 0,
        session_failure=failure("q"),
        refusal=_refusal(raw.get("l"), base),
        fingerprint=_text(raw.get("f", "")),
    )


def _extract(item: list[Any], base: Instant) -> ExtractProgress:
    name, letter, succeeded = item
    return ExtractProgress(
        _text(name), _EXTRACT_STATES[letter], None if succeeded is None else _instant(base, succeeded)
    )


def _refusal(item: list[Any] | None, base: Instant) -> Refusal | None:
    if item is None:
        return None
    event, state, guards, at = item
    return Refusal(
        event=_text(event),
        state=_text(state),
        guards=tuple(_text(guard) for guard in guards),
        at=_instant(base, at),
    )


def _instant(base: Instant, relative: object) -> Instant:
    instant = base + _integer(relative)
    if not 0 <= instant < _END_OF_CALENDAR:
        raise ValueError
    return instant


def _integer(value: object) -> int:
    if type(value) is not int:
        raise ValueError
    return value


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError
    return value
