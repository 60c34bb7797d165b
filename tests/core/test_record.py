"""The stored form of a record: every field comes back, and whatever is stored there, nothing else is ever raised."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack
from phr_refresh.statemachine.codec import MALFORMED, SCHEMA, _Stored, decode, encode
from phr_refresh.statemachine.errors import RecordUnreadable
from phr_refresh.statemachine.record import (
    ExtractProgress,
    ExtractState,
    Failure,
    KickOff,
    RefreshRecord,
    Refusal,
    State,
)
from phr_refresh.statemachine.views import explanation_of, status_of
from support.samples import ADA, CORRELATION_ID, CURRENT, ICN, NOON, SECOND, refreshing
from support.stepping import World

INSTANTS = st.integers(min_value=1, max_value=2**43)
WORDS = st.from_regex(r"[A-Za-z0-9_.:-]{0,12}", fullmatch=True)
IDS = st.text(min_size=1, max_size=12)
FAILURES = st.none() | st.builds(Failure, code=WORDS, at=INSTANTS)
REFUSALS = st.none() | st.builds(
    Refusal, event=WORDS, state=WORDS, guards=st.lists(WORDS, max_size=3).map(tuple), at=INSTANTS
)
EXTRACTS = st.lists(
    st.builds(ExtractProgress, WORDS, st.sampled_from(ExtractState), st.none() | INSTANTS), max_size=4
).map(tuple)
NO_REFRESH = st.just({})
REFRESH = st.fixed_dictionaries(
    {
        "refresh_id": IDS,
        "claimed_at": INSTANTS,
        "kick_off": st.sampled_from(KickOff),
        "answered_at": st.none() | INSTANTS,
        "deadline_at": INSTANTS,
        "window_opens_at": INSTANTS,
        "next_poll_at": INSTANTS,
        "completed_at": st.none() | INSTANTS,
        "failure": FAILURES,
    }
)
NO_OPENING = st.just({})
OPENING = st.fixed_dictionaries({"opening_id": IDS, "opening_until": INSTANTS})
OTHERS = st.fixed_dictionaries(
    {
        "state": st.sampled_from(State),
        "since": INSTANTS,
        "session_expires_at": st.none() | INSTANTS,
        "as_of": st.none() | INSTANTS,
        "extracts": EXTRACTS,
        "failures": st.integers(0, 100),
        "deferred_since": st.just(0) | INSTANTS,
        "logouts": st.integers(0, 100),
        "retry_at": st.just(0) | INSTANTS,
        "session_failure": FAILURES,
        "refusal": REFUSALS,
        "fingerprint": WORDS,
    }
)
RECORDS = st.builds(
    lambda *parts: RefreshRecord(**{name: value for part in parts for name, value in part.items()}),
    OTHERS,
    REFRESH | NO_REFRESH,
    OPENING | NO_OPENING,
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=4),
    max_leaves=8,
)
#: Places in the stored array.
PLACES = ["schema", *RefreshRecord._fields[:-1]]
FULL = refreshing(
    kick_off=KickOff.ACCEPTED,
    opening_id="o",
    opening_until=NOON,
    failures=2,
    logouts=3,
    retry_at=NOON,
    extracts=CURRENT,
    as_of=NOON,
    answered_at=NOON,
    completed_at=NOON,
    session_expires_at=NOON,
    deferred_since=NOON,
    failure=Failure(code="x", at=NOON),
    session_failure=Failure(code="y", at=NOON),
    refusal=Refusal(event="e", state="s", guards=("g",), at=NOON),
    fingerprint="01234567",
)


def stored(*more: object, **changes: object) -> bytes:
    """The stored form of a record with everything in it, with changes by the name of the place, and more behind."""
    values = [*msgpack.decode(encode(FULL)), *more]
    for name, value in changes.items():
        values[PLACES.index(name)] = value
    return msgpack.encode(values)


def attempt(value: bytes) -> None:
    """Decode `value`; nothing but `RecordUnreadable` may come out of it."""
    with suppress(RecordUnreadable):
        decode(value)


def problem_of(value: bytes) -> str:
    """Why it cannot be read."""
    with pytest.raises(RecordUnreadable) as raised:
        decode(value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    return raised.value.problem


@given(RECORDS)
def test_every_field_comes_back(record: RefreshRecord) -> None:
    """What was stored is what is read."""
    assert record == decode(encode(record))


def test_the_order_of_the_stored_form_is_that_of_the_record() -> None:
    """Field by field, with the schema before and what is carried behind."""
    assert PLACES == list(_Stored.__struct_fields__)
    assert "carried" == RefreshRecord._fields[-1]


def test_the_strategies_leave_out_no_field() -> None:
    """The stored form of a full record has every place there is, none of them empty."""
    values = msgpack.decode(encode(FULL))
    assert len(PLACES) == len(values)
    assert None not in values


@given(RECORDS)
def test_the_stored_form_is_stable(record: RefreshRecord) -> None:
    """Reading and storing again gives the same bytes."""
    assert encode(record) == encode(decode(encode(record)))


def test_the_stored_form_stays_what_it_is() -> None:
    """Places and numbers of words are part of what is stored: other versions read them."""
    record = RefreshRecord(
        state=State.COMPLETE,
        since=NOON,
        refresh_id="r",
        claimed_at=NOON - SECOND,
        kick_off=KickOff.ACCEPTED,
        deadline_at=NOON + 1,
        window_opens_at=NOON + 2,
        next_poll_at=NOON + 3,
        extracts=(
            ExtractProgress("ImagingStudy", ExtractState.CURRENT, NOON),
            ExtractProgress("New", ExtractState.FAILED, None),
        ),
        fingerprint="01234567",
    )
    none = None
    refresh = ["r", -1000, 1, none, 1, 2, 3, none]
    expected = [1, 3, NOON, "01234567", none, none, none, none, *refresh, none, [[1, 1, 0], ["New", 2, none]]]
    assert expected == msgpack.decode(encode(record))


@pytest.mark.parametrize(
    ("number", "state"), list(enumerate(["no_session", "session_created", "refreshing", "complete", "stale"]))
)
def test_a_state_is_a_number(number: int, state: str) -> None:
    """In the order of a patient's day."""
    assert State(state) is decode(stored(state=number)).state


@pytest.mark.parametrize(("number", "kick_off"), list(enumerate(["claimed", "accepted", "answer_lost"])))
def test_what_is_known_of_the_kick_off_is_a_number(number: int, kick_off: str) -> None:
    """From the claim on."""
    assert KickOff(kick_off) is decode(stored(kick_off=number)).kick_off


@pytest.mark.parametrize(("number", "state"), list(enumerate(["in_progress", "current", "failed"])))
def test_how_an_extract_stands_is_a_number(number: int, state: str) -> None:
    """Of each extract."""
    assert (ExtractProgress("New", ExtractState(state)),) == decode(stored(extracts=[["New", number, None]])).extracts


EXTRACTS_TODAY = ["VPR", "ImagingStudy", "MASAppointments", "Allergy", "ChemistryHematology", "Appointments"]
EXTRACTS_TODAY += ["AppointmentsReminder", "DodMilitaryService"]


@pytest.mark.parametrize(("number", "name"), list(enumerate(EXTRACTS_TODAY)))
def test_an_extract_that_the_upstream_has_today_is_a_number(number: int, name: str) -> None:
    """Any other goes by its name."""
    (extract,) = decode(stored(extracts=[[number, 1, None]])).extracts
    assert name == extract.name
    assert [[number, 1, None]] == msgpack.decode(encode(RefreshRecord(extracts=(extract,))))[PLACES.index("extracts")]


def test_what_holds_its_default_at_the_end_takes_no_room() -> None:
    """Of somebody never refreshed four fields are stored."""
    assert [1, 0, NOON, ""] == msgpack.decode(encode(RefreshRecord(since=NOON)))


@given(st.binary(max_size=60))
def test_hostile_bytes_are_unreadable(value: bytes) -> None:
    """Bytes that are no record raise `RecordUnreadable` and nothing else."""
    attempt(value)


@given(st.sampled_from(PLACES), PLAIN)
def test_one_field_of_the_wrong_shape_is_unreadable(name: str, value: object) -> None:
    """A record with any field replaced by anything is read, or raises `RecordUnreadable`, and nothing else."""
    attempt(stored(**{name: value}))


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("value", [[], [1], ["a"], {}, "", -1, True, 1.5, [[]], [[None]], ["a", None], 2**63, -(2**63)])
def test_no_shape_of_one_field_raises_anything_else(name: str, value: object) -> None:
    """The same, for the shapes that are most likely to slip through."""
    attempt(stored(**{name: value}))


@given(st.lists(PLAIN, max_size=3))
def test_any_list_is_read_or_unreadable(values: list[object]) -> None:
    """MessagePack that is no record raises `RecordUnreadable` and nothing else."""
    attempt(msgpack.encode(values))


@pytest.mark.parametrize(
    ("field", "value"), [("since", 10**17), ("since", -1), ("next_poll_at", 10**17), ("completed_at", -(10**17))]
)
def test_a_time_outside_the_calendar_is_unreadable(field: str, value: int) -> None:
    """A time that no calendar has raises `RecordUnreadable` when read, not another error when shown."""
    assert "it is corrupt" == problem_of(stored(**{field: value}))


def test_the_calendar_ends_with_the_year_9999() -> None:
    """To the millisecond."""
    last = RefreshRecord(since=253_402_300_800_000 - 1)
    assert last == decode(encode(last))
    assert "it is corrupt" == problem_of(encode(last._replace(since=last.since + 1)))


@pytest.mark.parametrize(
    "value",
    [
        b"\x91\xc0",
        b"\x92\x01",
        b"\x94\x01\x00\xa0",
        b"\xc1",
        b"\x80",
        b"",
        b"null",
        b"\x91" * 200_000,
        msgpack.encode([0, 0, 0, ""]),
        msgpack.encode([-1, 0, 0, ""]),
        msgpack.encode([True, 0, 0, ""]),
        msgpack.encode(["1", 0, 0, ""]),
        msgpack.encode([1, -1, 0, ""]),
        msgpack.encode([1, "no_session", 0, ""]),
        msgpack.encode([1, 0, 1.5, ""]),
    ],
)
def test_a_corrupt_record_says_what_to_do(value: bytes) -> None:
    """The message names the problem and the remedy, and shows no stored byte."""
    with pytest.raises(RecordUnreadable) as raised:
        decode(value)
    expected = (
        "a stored record cannot be read: it is corrupt; restore it, or delete the key once its window has passed."
    )
    assert expected == str(raised.value)


def test_a_schema_two_higher_says_to_update() -> None:
    """A record of a later version than the next is left as it is, and the message says why."""
    with pytest.raises(RecordUnreadable) as raised:
        decode(stored(schema=SCHEMA + 2))
    expected = (
        f"a stored record cannot be read: it has schema {SCHEMA + 2}, this version reads up to {SCHEMA + 1}; "
        "update phr-refresh on this host."
    )
    assert expected == str(raised.value)
    assert f"it has schema {SCHEMA + 2}, this version reads up to {SCHEMA + 1}" == problem_of(
        stored(schema=SCHEMA + 2, state="a word")
    )


def test_the_next_schema_is_read_as_far_as_it_is_understood() -> None:
    """While two versions share a store, the older one goes on with the records of the newer."""
    assert FULL == decode(stored(schema=SCHEMA + 1))


@pytest.mark.parametrize(
    "change",
    [
        *({"state": 5}, {"kick_off": 3}, {"extracts": [[8, 0, None]]}, {"extracts": [[0, 3, None]]}),
        *({"schema": SCHEMA + 1, "kick_off": "q"}, {"schema": SCHEMA + 1, "extracts": {"VPR": 1}}),
    ],
)
def test_words_of_a_newer_version_say_to_update(change: dict[str, object]) -> None:
    """A number without a word, or a field in another form, is no corruption: nobody shall delete it."""
    with pytest.raises(RecordUnreadable) as raised:
        decode(stored(**change))
    expected = (
        "a stored record cannot be read: a newer version wrote it, in words that this one does not know; "
        "update phr-refresh on this host."
    )
    assert expected == str(raised.value)


@given(st.lists(PLAIN, max_size=3).filter(lambda more: not more or more[-1] is not None))
def test_fields_of_a_newer_version_are_carried_along(more: list[object]) -> None:
    """Fields that this version does not know change nothing for it, and are written back as they were."""
    value = stored(*more, schema=SCHEMA + 1)
    record = decode(value)
    assert FULL == record._replace(carried=())
    moved = encode(record._replace(state=State.STALE, since=record.since + SECOND, refusal=None))
    assert SCHEMA == msgpack.decode(moved)[0]
    raw = msgpack.decode(moved, type=list[msgspec.Raw])
    assert [bytes(item) for item in msgpack.decode(value, type=list[msgspec.Raw])[len(PLACES) :]] == [
        bytes(item) for item in raw[len(PLACES) :]
    ]


@pytest.mark.parametrize("text", ["two words", "a\r\nSet-Cookie: b", "\x1b[2J", "ü", "x" * 65, "</script>"])
def test_a_word_that_is_none_is_not_shown(text: str) -> None:
    """Whoever can write to the store puts nothing on a terminal or into an answer."""
    refusal = ["window", text, [text], 0]
    record = decode(
        stored(
            failure=[text, 0], session_failure=[text, 0], refusal=refusal, extracts=[[text, 1, None]], fingerprint=text
        )
    )
    assert ("malformed", MALFORMED) == (record.failure.code, record.session_failure.code)
    assert Refusal(event="window", state=MALFORMED, guards=(MALFORMED,), at=record.since) == record.refusal
    assert (MALFORMED, MALFORMED) == (record.extracts[0].name, record.fingerprint)


def test_what_is_stored_holds_no_identifier() -> None:
    """Neither the user id, nor the ICN, nor the correlation id, nor a token is in the stored form (R7)."""
    world = World()
    world.logged_in()
    world.now += SECOND
    world.run(world.flows.status(ADA.key, ADA))
    value = world.rows[ADA.key].value
    for secret in (ADA.user_id, ICN, CORRELATION_ID, ADA.key, "jwt-1", "subject-1"):
        assert secret.encode() not in value


def test_a_settled_record_is_small() -> None:
    """The stored form of a patient after a whole lifecycle stays within 120 bytes."""
    world = World()
    world.logged_in()
    world.now += SECOND
    world.run(world.flows.status(ADA.key, ADA))
    assert len(world.rows[ADA.key].value) <= 120


@given(RECORDS, INSTANTS)
def test_every_record_can_be_shown(record: RefreshRecord, now: int) -> None:
    """Whatever a record holds, status and explanation can be made of it."""
    assert record.state is status_of(record, now).state
    assert record.state is explanation_of(record, now).state


def test_labels_have_hyphens() -> None:
    """People read hyphens, the store holds underscores."""
    expected = ["no-session", "session-created", "refreshing", "complete", "stale"]
    assert expected == [state.label for state in State]
