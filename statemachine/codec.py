"""The stored form of a record, for which `encode` and `decode` are each other's inverse.

The same fields have two forms, told apart by their first byte, and `decode` reads both. `encode` writes UTF-8 JSON:
schema `v`, fingerprint `f` of the lifecycle that wrote it, then the fields under one-letter names, absent where they
hold their default. Times are milliseconds relative to `t`, which is absolute: a settled patient's record stays near 270
bytes and can be read by eye. `encode_packed` writes MessagePack: a list of the same fields in the order of `_ORDER`,
with the words that nearly every record holds as numbers, near 110 bytes.

Two versions share a store while one replaces the other (docs/upgrading.md), so each reads its neighbours' records: a
schema one higher, too, as long as it understands every field that it knows. Fields that it does not know are written
back as they were. `t` moves with the state, so a field that was not there from the start holds absolute times.
"""

import json
from typing import Any, Final

import msgpack

from .errors import RecordUnreadable
from .extract import ExtractProgress, ExtractState
from .policy import Instant
from .record import Carried, Failure, KickOff, RefreshRecord, Refusal, State

SCHEMA: Final = 1
_END_OF_CALENDAR: Final = 253_402_300_800_000  # the year 10000, which datetime does not know
_UPDATE: Final = "update phr-refresh on this host"
#: The names of all fields that this version knows, in the order of the packed form. That order is fixed: fields that
#: come later go by their names there, too, behind these.
_ORDER: Final = "vtsfxgeicadwpzkhnrqlyob"
_NAMES: Final = frozenset(_ORDER)
_STATE: Final = _ORDER.index("s")
_EXTRACTS: Final = _ORDER.index("e")
# Made once: json.dumps would make an encoder for each call that asks for other separators.
_JSON: Final = json.JSONEncoder(separators=(",", ":"), check_circular=False)
_STATES: Final = {state.value: state for state in State}
_LETTERS: Final = {ExtractState.IN_PROGRESS: "p", ExtractState.CURRENT: "c", ExtractState.FAILED: "f"}
_EXTRACT_STATES: Final = {letter: state for state, letter in _LETTERS.items()}
_KICK_OFFS: Final = {KickOff.CLAIMED: "c", KickOff.ACCEPTED: "a", KickOff.ANSWER_LOST: "l"}
_KICK_OFF_STATES: Final = {letter: kick_off for kick_off, letter in _KICK_OFFS.items()}
#: Words by their numbers in the packed form: the states, and the upstream's extracts. New ones go to the end.
_WORDS: Final = (
    *("no_session", "session_created", "refreshing", "complete", "stale"),
    *("VPR", "ImagingStudy", "MASAppointments", "Allergy", "ChemistryHematology", "Appointments"),
    *("AppointmentsReminder", "DodMilitaryService"),
)
_NUMBERS: Final = {word: number for number, word in enumerate(_WORDS)}


def encode(record: RefreshRecord) -> bytes:
    """The stored form of `record` that can be read by eye."""
    return _JSON.encode(_fields(record) | {name: json.loads(text) for name, text in record.carried}).encode()


def encode_packed(record: RefreshRecord) -> bytes:
    """The small stored form of `record`."""
    fields = _fields(record)
    values = [fields.get(name) for name in _ORDER]
    values[_STATE] = _NUMBERS[record.state]
    if record.extracts:
        values[_EXTRACTS] = [[_NUMBERS.get(name, name), *rest] for name, *rest in fields["e"]]
    if record.carried:
        values.append(record.carried)
    while values[-1] is None:
        values.pop()
    return bytes(msgpack.packb(values))


def _fields(record: RefreshRecord) -> dict[str, Any]:
    base = record.since
    found: dict[str, Any] = {"v": SCHEMA, "f": record.fingerprint, "s": record.state.value, "t": base}
    if record.session_expires_at is not None:
        found["x"] = record.session_expires_at - base
    if record.opening_id:
        found["o"] = [record.opening_id, record.opening_until - base]
    if record.logouts:
        found["h"] = record.logouts
    if record.failures:
        found["n"] = record.failures
    if record.retry_at:
        found["r"] = record.retry_at - base
    if record.session_failure is not None:
        found["q"] = [record.session_failure.code, record.session_failure.at - base]
    if record.refusal is not None:
        refusal = record.refusal
        found["l"] = [refusal.event, refusal.state, refusal.guards, refusal.at - base]
    if record.as_of is not None:
        found["g"] = record.as_of - base
    if record.deferred_since:
        found["y"] = record.deferred_since
    if record.extracts:
        found["e"] = [[name, _LETTERS[state], None if at is None else at - base] for name, state, at in record.extracts]
    return found if record.refresh_id is None else found | _fields_of_refresh(record, base)


def _fields_of_refresh(record: RefreshRecord, base: Instant) -> dict[str, Any]:
    found: dict[str, Any] = {
        "i": record.refresh_id,
        "k": _KICK_OFFS[record.kick_off],
        "d": record.deadline_at - base,
        "w": record.window_opens_at - base,
        "p": record.next_poll_at - base,
    }
    for name, instant in (("c", record.claimed_at), ("a", record.answered_at), ("z", record.completed_at)):
        if instant is not None:
            found[name] = instant - base
    if record.failure is not None:
        found["b"] = [record.failure.code, record.failure.at - base]
    return found


def decode(stored: bytes) -> RefreshRecord:
    """The record in `stored`. Raises `RecordUnreadable`; `decode(encode(record)) == record`, and so for the packed."""
    try:
        values, carried = _json_values(stored) if stored.startswith(b"{") else _packed_values(stored)
        schema = values[0]
    except (ValueError, TypeError, LookupError, RecursionError):
        raise _corrupt() from None
    if type(schema) is not int or schema < 1:
        raise _corrupt()
    if schema > SCHEMA + 1:
        raise RecordUnreadable(f"it has schema {schema}, this version reads up to {SCHEMA + 1}", _UPDATE)
    try:
        return _read(values, carried)
    except (ValueError, TypeError, LookupError):
        if schema > SCHEMA or _is_unknown_state(values[_STATE]):
            raise RecordUnreadable("a newer version wrote it, in words that this one does not know", _UPDATE) from None
        raise _corrupt() from None


def _json_values(stored: bytes) -> tuple[list[Any], Carried]:
    raw = json.loads(stored.decode())
    unknown = raw.keys() - _NAMES
    return [raw.get(name) for name in _ORDER], tuple((name, _JSON.encode(raw[name])) for name in sorted(unknown))


def _packed_values(stored: bytes) -> tuple[list[Any], Carried]:
    values: list[Any] = msgpack.unpackb(stored)
    # What is no list has no length, or takes no list.
    values += [None] * (len(_ORDER) - len(values))
    values[_STATE] = _word(values[_STATE])
    if values[_EXTRACTS] is not None:
        values[_EXTRACTS] = [[_word(name), *rest] for name, *rest in values[_EXTRACTS]]
    *values, more = values if len(values) > len(_ORDER) else (*values, ())
    return values, tuple((_text(name), _JSON.encode(json.loads(text))) for name, text in more)


def _word(value: object) -> object:
    return _WORDS[value] if type(value) is int and value >= 0 else value


def _is_unknown_state(state: object) -> bool:
    return isinstance(state, str) and state.isidentifier() and state not in _STATES


def _corrupt() -> RecordUnreadable:
    return RecordUnreadable("it is corrupt", "restore it, or delete the key once its window has passed")


def _read(values: list[Any], carried: Carried) -> RefreshRecord:
    _, base, state, fingerprint, session, as_of, extracts, *rest = values
    refresh_id, claimed, answered, deadline, window, poll, completed, kick_off, *rest = rest
    logouts, failures, retry, session_failure, refusal, deferred, opening, failed = rest
    _instant(0, base)

    def absolute(value: Any) -> Instant | None:
        return None if value is None else _instant(base, value)

    def failure(value: Any) -> Failure | None:
        return None if value is None else Failure(code=_text(value[0]), at=_instant(base, value[1]))

    return RefreshRecord(
        state=_STATES[state],
        since=base,
        session_expires_at=absolute(session),
        opening_id=_text(opening[0]) if opening else None,
        opening_until=_instant(base, opening[1]) if opening else 0,
        logouts=_integer(logouts or 0),
        refresh_id=None if refresh_id is None else _text(refresh_id),
        claimed_at=absolute(claimed),
        kick_off=_KICK_OFF_STATES[kick_off or "c"],
        answered_at=absolute(answered),
        deadline_at=absolute(deadline) or 0,
        window_opens_at=absolute(window) or 0,
        next_poll_at=absolute(poll) or 0,
        completed_at=absolute(completed),
        as_of=absolute(as_of),
        extracts=tuple([_extract(item, base) for item in extracts]) if extracts else (),
        failure=failure(failed),
        failures=_integer(failures or 0),
        retry_at=absolute(retry) or 0,
        session_failure=failure(session_failure),
        refusal=_refusal(refusal, base),
        deferred_since=_instant(0, deferred or 0),
        fingerprint=_text(fingerprint or ""),
        carried=carried,
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
