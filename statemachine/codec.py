"""The stored form of a record, for which `encode` and `decode` are each other's inverse.

A record is one MessagePack array: the fields of `_Stored` in that order, which is fixed; empty ones at the end are left
out. Words that nearly every record holds (states, kick-offs, the upstream's extracts) are numbers, and times are
milliseconds relative to `since`, so that a settled patient takes near 120 bytes.

Two versions share a store while one replaces the other (docs/upgrading.md). So a new field goes behind all others, as
an absolute time where it is one (`since` moves with the state), and a version that does not know it writes it back as
it was. Each reads its neighbours' records: a schema one higher, too, as long as it understands every field it knows.
"""

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .errors import RecordUnreadable
from .policy import Instant
from .record import ExtractProgress, ExtractState, Failure, KickOff, RefreshRecord, Refusal, State

SCHEMA: Final = 1
_END_OF_CALENDAR: Final = 253_402_300_800_000  # the year 10000, which datetime does not know
_UPDATE: Final = "update phr-refresh on this host"

#: What is stored as a number: its place here. New ones go to the end.
_STATES: Final = tuple(State)
_KICK_OFFS: Final = tuple(KickOff)
_EXTRACT_STATES: Final = tuple(ExtractState)
_EXTRACTS: Final = (
    *("VPR", "ImagingStudy", "MASAppointments", "Allergy", "ChemistryHematology", "Appointments"),
    *("AppointmentsReminder", "DodMilitaryService"),
)
_NUMBERS: Final = {
    word: number for words in (_STATES, _KICK_OFFS, _EXTRACT_STATES, _EXTRACTS) for number, word in enumerate(words)
}
#: What stored words may look like: they are shown on terminals and in answers, whoever wrote the record.
_WORD: Final = re.compile(r"[A-Za-z0-9_.:-]{0,64}")
#: Stands for any other.
MALFORMED: Final = "malformed"

_Count = Annotated[int, Meta(ge=0)]
_Id = Annotated[str, Meta(min_length=1, max_length=64)]


class _Stored(msgspec.Struct, array_like=True, gc=False):
    """The fields in their order. What ends in `_in` is relative to `since`."""

    schema: Annotated[int, Meta(ge=1)]
    fingerprint: str
    state: _Count
    since: Annotated[int, Meta(ge=0, lt=_END_OF_CALENDAR)]
    session_expires_in: int | None = None
    as_of_in: int | None = None
    refresh_id: _Id | None = None
    claimed_in: int | None = None
    kick_off: _Count | None = None
    answered_in: int | None = None
    deadline_in: int | None = None
    window_opens_in: int | None = None
    next_poll_in: int | None = None
    completed_in: int | None = None
    extracts: tuple[tuple[_Count | str, _Count, int | None], ...] | None = None
    failure: tuple[str, int] | None = None
    logouts: _Count | None = None
    opening: tuple[_Id, int] | None = None
    failures: _Count | None = None
    retry_in: int | None = None
    session_failure: tuple[str, int] | None = None
    deferred_in: int | None = None
    refusal: tuple[str, str, tuple[str, ...], int] | None = None


_KNOWN: Final = len(_Stored.__struct_fields__)
_ARRAY_OF_MANY: Final = b"\xdc"
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Stored)
_ANY_ARRAY: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])


def encode(record: RefreshRecord) -> bytes:
    """The stored form of `record`."""
    base = record.since
    deferred_since, expires_at, as_of = record.deferred_since, record.session_expires_at, record.as_of
    found: list[object] = [
        *(SCHEMA, record.fingerprint, _NUMBERS[record.state], base),
        None if expires_at is None else expires_at - base,
        None if as_of is None else as_of - base,
        *(_NOTHING if record.refresh_id is None else _refresh(record, base)),
        [(_NUMBERS.get(e.name, e.name), _NUMBERS[e.state], _in(e.succeeded_at, base)) for e in record.extracts] or None,
        record.failure and (record.failure.code, record.failure.at - base),
        record.logouts or None,
        record.opening_id and (record.opening_id, record.opening_until - base),
        record.failures or None,
        record.retry_at - base if record.retry_at else None,
        record.session_failure and (record.session_failure.code, record.session_failure.at - base),
        deferred_since - base if deferred_since else None,
        record.refusal and _refusal(record.refusal, base),
    ]
    if record.carried:
        found += map(msgspec.Raw, record.carried)
    while found[-1] is None:
        found.pop()
    return _ENCODER.encode(found)


_NOTHING: Final = (None,) * 8


def _refresh(record: RefreshRecord, base: Instant) -> tuple[str | int | None, ...]:
    return (
        record.refresh_id,
        _in(record.claimed_at, base),
        _NUMBERS[record.kick_off],
        _in(record.answered_at, base),
        record.deadline_at - base,
        record.window_opens_at - base,
        record.next_poll_at - base,
        _in(record.completed_at, base),
    )


def _in(instant: Instant | None, base: Instant) -> int | None:
    return None if instant is None else instant - base


def _refusal(refusal: Refusal, base: Instant) -> tuple[str, str, tuple[str, ...], int]:
    return refusal.event, refusal.state, refusal.guards, refusal.at - base


def decode(stored: bytes) -> RefreshRecord:
    """The record in `stored`. Raises `RecordUnreadable`; `decode(encode(record)) == record`."""
    try:
        found = _DECODER.decode(stored)
        carried = _carried(stored)
    except (msgspec.MsgspecError, RecursionError):
        raise _unreadable(stored) from None
    if found.schema > SCHEMA + 1:
        raise _newer(found.schema)
    try:
        return _record(found, carried)
    except IndexError:
        # A number for which this version has no word.
        raise _newer(SCHEMA + 1) from None
    except (ValueError, OverflowError):
        raise _unreadable(stored) from None


def _carried(stored: bytes) -> tuple[bytes, ...]:
    # An array of 16 and more says how many in two bytes; nearly always there are none to carry, and nothing is copied.
    if stored[:1] != _ARRAY_OF_MANY or int.from_bytes(stored[1:3], "big") <= _KNOWN:
        return ()
    return tuple(bytes(raw) for raw in _ANY_ARRAY.decode(stored)[_KNOWN:])


def _unreadable(stored: bytes) -> RecordUnreadable:
    """What to raise for a record whose fields are not of their types: a newer version may have given them others."""
    try:
        [schema, *_] = msgspec.msgpack.decode(stored, type=list[object])
    except (msgspec.MsgspecError, RecursionError, ValueError):
        schema = 0
    if type(schema) is int and schema > SCHEMA:
        return _newer(schema)
    return RecordUnreadable("it is corrupt", "restore it, or delete the key once its window has passed")


def _newer(schema: int) -> RecordUnreadable:
    if schema == SCHEMA + 1:
        return RecordUnreadable("a newer version wrote it, in words that this one does not know", _UPDATE)
    return RecordUnreadable(f"it has schema {schema}, this version reads up to {SCHEMA + 1}", _UPDATE)


def _record(found: _Stored, carried: tuple[bytes, ...]) -> RefreshRecord:
    base = found.since
    opening = found.opening

    def at(relative: int | None) -> Instant | None:
        if relative is None:
            return None
        instant = base + relative
        if not 0 <= instant < _END_OF_CALENDAR:
            raise ValueError
        return instant

    return RefreshRecord(
        state=_STATES[found.state],
        since=base,
        session_expires_at=at(found.session_expires_in),
        opening_id=opening[0] if opening else None,
        opening_until=at(opening[1]) or 0 if opening else 0,
        logouts=found.logouts or 0,
        refresh_id=found.refresh_id,
        claimed_at=at(found.claimed_in),
        kick_off=_KICK_OFFS[found.kick_off or 0],
        answered_at=at(found.answered_in),
        deadline_at=at(found.deadline_in) or 0,
        window_opens_at=at(found.window_opens_in) or 0,
        next_poll_at=at(found.next_poll_in) or 0,
        completed_at=at(found.completed_in),
        as_of=at(found.as_of_in),
        extracts=tuple(
            [
                ExtractProgress(
                    _EXTRACTS[name] if isinstance(name, int) else _word(name),
                    _EXTRACT_STATES[state],
                    at(succeeded_in),
                )
                for name, state, succeeded_in in found.extracts
            ]
        )
        if found.extracts
        else (),
        failure=_failure(found.failure, at(found.failure[1])) if found.failure else None,
        failures=found.failures or 0,
        retry_at=at(found.retry_in) or 0,
        session_failure=_failure(found.session_failure, at(found.session_failure[1]))
        if found.session_failure
        else None,
        refusal=_refused(found.refusal, at(found.refusal[3])) if found.refusal else None,
        deferred_since=at(found.deferred_in) or 0,
        fingerprint=_word(found.fingerprint),
        carried=carried,
    )


def _failure(found: tuple[str, int], at: Instant | None) -> Failure:
    return Failure(code=_word(found[0]), at=at or 0)


def _refused(found: tuple[str, str, tuple[str, ...], int], at: Instant | None) -> Refusal:
    event, state, guards, _ = found
    return Refusal(event=_word(event), state=_word(state), guards=tuple(map(_word, guards)), at=at or 0)


def _word(text: str) -> str:
    return text if _WORD.fullmatch(text) else MALFORMED
