"""The stored form of a record, for which `encode` and `decode` are each other's inverse.

A record is one MessagePack array: the schema, then the fields of `RefreshRecord` in their order, which is fixed; empty
ones at the end are left out. Words that nearly every record holds (states, kick-offs, the upstream's extracts) are
numbers, and times are milliseconds relative to `since`, so that a settled patient takes near 120 bytes.

Two versions share a store while one replaces the other (docs/upgrading.md). So a new field goes behind all others, and
a version that does not know it writes it back as it was; if it is a time, it must be an absolute one, for `since` moves
with the state. Each version reads its neighbours' records: a schema one higher, too, as long as it understands every
field that it knows.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta, msgpack
from msgspec.structs import astuple

from .errors import RecordUnreadable
from .policy import Instant
from .record import ExtractProgress, ExtractState, Failure, KickOff, RefreshRecord, Refusal, State

SCHEMA: Final = 1
#: Stands for a stored word that is none: words are shown on terminals and in answers, whoever wrote the record.
MALFORMED: Final = "malformed"
_WORD: Final = re.compile(r"[A-Za-z0-9_.:-]{0,64}")
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

_Count = Annotated[int, Meta(ge=0)]
_Id = Annotated[str, Meta(min_length=1, max_length=64)]
_Failed = tuple[str, int]


class _Stored(msgspec.Struct, array_like=True, gc=False):
    """The types of what is stored, by which msgspec checks a record at the door. Times are relative to `since`."""

    schema: Annotated[int, Meta(ge=1)]
    state: _Count
    since: Annotated[int, Meta(ge=0, lt=_END_OF_CALENDAR)]
    fingerprint: str
    session_expires_at: int | None = None
    opening_id: _Id | None = None
    opening_until: int | None = None
    logouts: _Count | None = None
    refresh_id: _Id | None = None
    claimed_at: int | None = None
    kick_off: _Count | None = None
    answered_at: int | None = None
    deadline_at: int | None = None
    window_opens_at: int | None = None
    next_poll_at: int | None = None
    completed_at: int | None = None
    as_of: int | None = None
    extracts: tuple[tuple[_Count | str, _Count, int | None], ...] | None = None
    failure: _Failed | None = None
    failures: _Count | None = None
    retry_at: int | None = None
    session_failure: _Failed | None = None
    deferred_since: int | None = None
    refusal: tuple[str, str, tuple[str, ...], int] | None = None


class _Form(NamedTuple):
    """How a field is written and read: both are given the value, and `since`."""

    write: Callable[[Any, Instant], object]
    read: Callable[[Any, Instant], object]


def _instant(relative: int, base: Instant) -> Instant:
    instant = base + relative
    if not 0 <= instant < _END_OF_CALENDAR:
        raise ValueError
    return instant


def _at(relative: int | None, base: Instant) -> Instant | None:
    return None if relative is None else _instant(relative, base)


def _in(instant: Instant | None, base: Instant) -> int | None:
    return None if instant is None else instant - base


def _word(text: str) -> str:
    return text if _WORD.fullmatch(text) else MALFORMED


def _extracts(found: tuple[tuple[int | str, int, int | None], ...] | None, base: Instant) -> tuple[object, ...]:
    return tuple(
        [
            ExtractProgress(
                _EXTRACTS[name] if isinstance(name, int) else _word(name), _EXTRACT_STATES[state], _at(at, base)
            )
            for name, state, at in found or ()
        ]
    )


def _refused(found: tuple[str, str, tuple[str, ...], int], base: Instant) -> Refusal:
    event, state, guards, at = found
    return Refusal(event=_word(event), state=_word(state), guards=tuple(map(_word, guards)), at=_instant(at, base))


_PLAIN: Final = _Form(lambda value, _: value, lambda value, _: value)
_COUNT: Final = _Form(lambda value, _: value or None, lambda value, _: value or 0)
_WHEN: Final = _Form(_in, _at)
#: ... where 0 is never.
_UNTIL: Final = _Form(lambda at, base: at - base if at else None, lambda relative, base: _at(relative, base) or 0)
_FAILURE: Final = _Form(
    lambda failure, base: failure and (failure.code, failure.at - base),
    lambda found, base: found and Failure(code=_word(found[0]), at=_instant(found[1], base)),
)
_FORMS: Final[dict[str, _Form]] = {
    "state": _Form(lambda state, _: _NUMBERS[state], lambda number, _: _STATES[number]),
    "fingerprint": _Form(lambda text, _: text, lambda text, _: _word(text)),
    **dict.fromkeys(("session_expires_at", "claimed_at", "answered_at", "completed_at", "as_of"), _WHEN),
    **dict.fromkeys(("opening_until", "deadline_at", "window_opens_at", "next_poll_at", "retry_at"), _UNTIL),
    **dict.fromkeys(("logouts", "failures"), _COUNT),
    **dict.fromkeys(("failure", "session_failure"), _FAILURE),
    "deferred_since": _UNTIL,
    "kick_off": _Form(lambda kick_off, _: _NUMBERS[kick_off] or None, lambda number, _: _KICK_OFFS[number or 0]),
    "extracts": _Form(
        lambda extracts, base: (
            [(_NUMBERS.get(e.name, e.name), _NUMBERS[e.state], _in(e.succeeded_at, base)) for e in extracts] or None
        ),
        _extracts,
    ),
    "refusal": _Form(
        lambda refusal, base: refusal and (refusal.event, refusal.state, refusal.guards, refusal.at - base),
        lambda found, base: found and _refused(found, base),
    ),
}
_FIELDS: Final = [_FORMS.get(name, _PLAIN) for name in _Stored.__struct_fields__[1:]]
_WRITES: Final = [form.write for form in _FIELDS]
_READS: Final = [form.read for form in _FIELDS]
_KNOWN: Final = len(_Stored.__struct_fields__)
_ARRAY_OF_MANY: Final = b"\xdc"
_ENCODER: Final = msgpack.Encoder()
_DECODER: Final = msgpack.Decoder(_Stored)
_ANY_ARRAY: Final = msgpack.Decoder(list[msgspec.Raw])


def encode(record: RefreshRecord) -> bytes:
    """The stored form of `record`."""
    base = record.since
    found = [SCHEMA, *[write(value, base) for write, value in zip(_WRITES, record, strict=False)]]
    found += map(msgspec.Raw, record.carried)
    while found[-1] is None:
        found.pop()
    return _ENCODER.encode(found)


def decode(stored: bytes) -> RefreshRecord:
    """The record in `stored`. Raises `RecordUnreadable`; `decode(encode(record)) == record`."""
    try:
        found = _DECODER.decode(stored)
        carried = _carried(stored)
    except (msgspec.MsgspecError, RecursionError):
        raise _unreadable(stored) from None
    if found.schema > SCHEMA + 1:
        raise _newer(found.schema)
    base = found.since
    try:
        fields = [read(value, base) for read, value in zip(_READS, astuple(found)[1:], strict=True)]
        return RefreshRecord._make([*fields, carried])
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
        [schema, *_] = msgpack.decode(stored, type=list[object])
    except (msgspec.MsgspecError, RecursionError, ValueError):
        schema = 0
    if type(schema) is int and schema > SCHEMA:
        return _newer(schema)
    return RecordUnreadable("it is corrupt", "restore it, or delete the key once its window has passed")


def _newer(schema: int) -> RecordUnreadable:
    if schema == SCHEMA + 1:
        return RecordUnreadable("a newer version wrote it, in words that this one does not know", _UPDATE)
    return RecordUnreadable(f"it has schema {schema}, this version reads up to {SCHEMA + 1}", _UPDATE)
