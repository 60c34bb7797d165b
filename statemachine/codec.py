"""The stored form of a record, for which `encode` and `decode` are each other's inverse.

The stored form is UTF-8 JSON: schema `v`, fingerprint `f` of the lifecycle that wrote it, then the fields under
one-letter names, absent where they hold their default. Times are milliseconds relative to `t`, which is absolute:
a record of a settled patient stays near 200 bytes and can still be read by eye.

Two versions share a store while one replaces the other (docs/upgrading.md), so each reads its neighbours' records: a
schema one higher, too, as long as it understands every field that it knows. Fields that it does not know are written
back as they were. `t` moves with the state, so a field that was not there from the start holds absolute times.
"""

import json
from typing import Any, Final

from .errors import RecordUnreadable
from .extract import ExtractProgress, ExtractState
from .policy import Instant
from .record import Failure, KickOff, RefreshRecord, Refusal, State

SCHEMA: Final = 1
_END_OF_CALENDAR: Final = 253_402_300_800_000  # the year 10000, which datetime does not know
_UPDATE: Final = "update phr-refresh on this host"
#: Of every field that this version knows.
_NAMES: Final = frozenset("vfstxohnrqlgyeickadwpzb")
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
        "y": record.deferred_since or None,
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
    carried = {name: json.loads(text) for name, text in record.carried}
    return _JSON.encode(head | present | carried).encode()


def decode(stored: bytes) -> RefreshRecord:
    """The record in `stored`. Raises `RecordUnreadable`; `decode(encode(record)) == record`."""
    try:
        raw = json.loads(stored)
        schema = raw["v"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _corrupt() from None
    if type(schema) is not int or schema < 1:
        raise _corrupt()
    if schema > SCHEMA + 1:
        raise RecordUnreadable(f"it has schema {schema}, this version reads up to {SCHEMA + 1}", _UPDATE)
    try:
        return _read(raw)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        if schema > SCHEMA or _has_unknown_state(raw):
            raise RecordUnreadable("a newer version wrote it, in words that this one does not know", _UPDATE) from None
        raise _corrupt() from None


def _has_unknown_state(raw: dict[str, Any]) -> bool:
    state = raw.get("s")
    return isinstance(state, str) and state.isidentifier() and state not in list(State)


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
        deferred_since=_instant(0, raw.get("y", 0)),
        fingerprint=_text(raw.get("f", "")),
        carried=tuple((name, _JSON.encode(raw[name])) for name in sorted(raw.keys() - _NAMES)),
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
    if type(relative) is not int:
        raise ValueError
    instant = base + relative
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
