"""The stored form of a record: every field comes back, and whatever is stored there, nothing else is ever raised."""

import json
from contextlib import suppress

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phr_refresh.statemachine.codec import SCHEMA, decode, encode, encode_packed
from phr_refresh.statemachine.errors import RecordUnreadable
from phr_refresh.statemachine.extract import ExtractProgress, ExtractState
from phr_refresh.statemachine.record import Failure, KickOff, RefreshRecord, Refusal, State
from phr_refresh.statemachine.views import explanation_of, status_of
from support.samples import ADA, CORRELATION_ID, CURRENT, ICN, NOON, SECOND, refreshing
from support.stepping import World

INSTANTS = st.integers(min_value=1, max_value=2**43)
WORDS = st.text(max_size=12)
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
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=4),
    max_leaves=8,
)
FIELDS = "fstxohnrqlgeicakdwpzb"


def stored(**changes: object) -> dict[str, object]:
    """The stored form of a record with everything in it, as a dict, with changes."""
    record = refreshing(
        opening_id="o",
        opening_until=NOON,
        failures=2,
        logouts=3,
        retry_at=NOON,
        extracts=CURRENT,
        as_of=NOON,
        answered_at=NOON,
        completed_at=NOON,
        failure=Failure(code="x", at=NOON),
        session_failure=Failure(code="y", at=NOON),
        refusal=Refusal(event="e", state="s", guards=("g",), at=NOON),
    )
    return json.loads(encode(record)) | changes


def attempt(value: bytes) -> None:
    """Decode `value`; nothing but `RecordUnreadable` may come out of it."""
    with suppress(RecordUnreadable):
        decode(value)


def packed(**changes: object) -> bytes:
    """The packed form of the record that `stored` has, with changes: of a field by its place in the list."""
    values = msgpack.unpackb(encode_packed(decode(json.dumps(stored()).encode())))
    for place, value in changes.items():
        values[int(place.removeprefix("at_"))] = value
    return msgpack.packb(values)


@given(RECORDS)
def test_every_field_comes_back(record: RefreshRecord) -> None:
    """What was stored is what is read, in either form."""
    assert (record, record) == (decode(encode(record)), decode(encode_packed(record)))


def test_the_strategies_leave_out_no_field() -> None:
    """The stored form of a full record has every letter there is."""
    assert set(FIELDS) | {"v"} == set(stored())


@given(RECORDS)
def test_the_stored_form_is_stable(record: RefreshRecord) -> None:
    """Reading and storing again gives the same bytes, in either form."""
    assert encode(record) == encode(decode(encode(record)))
    assert encode_packed(record) == encode_packed(decode(encode_packed(record)))


def test_the_packed_form_stays_what_it_is() -> None:
    """Places and numbers of words are part of what is stored: other versions read them."""
    record = RefreshRecord(
        state=State.COMPLETE,
        since=NOON,
        refresh_id="r",
        claimed_at=NOON - SECOND,
        kick_off=KickOff.ACCEPTED,
        extracts=(
            ExtractProgress("VPR", ExtractState.CURRENT, NOON),
            ExtractProgress("New", ExtractState.FAILED, None),
        ),
        fingerprint="01234567",
        carried=(("new", "[1]"),),
    )
    none = None
    head = [1, NOON, 3, "01234567", none, none, [[5, "c", 0], ["New", "f", none]], "r", -1000, none]
    rest = [-NOON, -NOON, -NOON, none, "a", none, none, none, none, none, none, none, none, [["new", "[1]"]]]
    assert head + rest == msgpack.unpackb(encode_packed(record))


@given(st.binary(max_size=60))
def test_hostile_bytes_are_unreadable(value: bytes) -> None:
    """Bytes that are no record raise `RecordUnreadable` and nothing else."""
    with pytest.raises(RecordUnreadable):
        decode(value)


@given(JSON)
def test_hostile_json_is_unreadable(value: object) -> None:
    """JSON that is no record raises `RecordUnreadable` and nothing else."""
    attempt(json.dumps(value).encode())


@given(st.sampled_from(FIELDS), JSON)
def test_one_field_of_the_wrong_shape_is_unreadable(name: str, value: object) -> None:
    """A record with any field replaced by any JSON is read, or raises `RecordUnreadable`, and nothing else."""
    attempt(json.dumps(stored(**{name: value})).encode())


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [[], [1], ["a"], {}, "", -1, True, 1.5, [[]], [[None]], ["a", None]])
def test_no_shape_of_one_field_raises_anything_else(name: str, value: object) -> None:
    """The same, for the shapes that are most likely to slip through."""
    attempt(json.dumps(stored(**{name: value})).encode())


@pytest.mark.parametrize("place", range(24))
@given(JSON)
def test_one_packed_field_of_the_wrong_shape_is_unreadable(place: int, value: object) -> None:
    """The same for the packed form, what a later version has added to its end included."""
    values = [*msgpack.unpackb(packed()), ()]
    values[place] = value
    with suppress(OverflowError):  # of MessagePack, which has no integers beyond 64 bits
        attempt(msgpack.packb(values))


@given(st.lists(JSON, max_size=3))
def test_any_list_is_read_or_unreadable(values: list[object]) -> None:
    """MessagePack that is no record raises `RecordUnreadable` and nothing else."""
    with suppress(OverflowError):
        attempt(msgpack.packb(values))


@pytest.mark.parametrize(("field", "value"), [("t", 10**17), ("t", -(10**17)), ("p", 10**30), ("z", 10**17)])
def test_a_time_outside_the_calendar_is_unreadable(field: str, value: int) -> None:
    """A time that no calendar has raises `RecordUnreadable` when read, not another error when shown."""
    raw = stored(**{field: value, "s": "no_session"})
    with pytest.raises(RecordUnreadable):
        decode(json.dumps(raw).encode())


def test_a_missing_state_is_unreadable() -> None:
    """Every record has a state and a time."""
    for name in "vst":
        raw = stored()
        del raw[name]
        with pytest.raises(RecordUnreadable):
            decode(json.dumps(raw).encode())


@pytest.mark.parametrize(
    "value",
    [
        b"\x91\xc0",
        b"\x92\x01",
        b"\xc1",
        b"\x80",
        b"",
        b"null",
        b"[]",
        b"1",
        b'{"v":0}',
        b'{"v":true}',
        b'{"v":"1"}',
        b"[" * 100_000,
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
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_a_schema_two_higher_says_to_update() -> None:
    """A record of a later version than the next is left as it is, and the message says why."""
    with pytest.raises(RecordUnreadable) as raised:
        decode(json.dumps(stored(v=SCHEMA + 2)).encode())
    expected = (
        f"a stored record cannot be read: it has schema {SCHEMA + 2}, this version reads up to {SCHEMA + 1}; "
        "update phr-refresh on this host."
    )
    assert expected == str(raised.value)


def test_words_of_a_newer_version_in_packed_records_say_to_update() -> None:
    """A newer version writes a state that has no number by its name."""
    assert State.NO_SESSION is decode(packed(at_2=0)).state
    with pytest.raises(RecordUnreadable, match="update phr-refresh"):
        decode(packed(at_2="paused"))
    with pytest.raises(RecordUnreadable, match="update phr-refresh"):
        decode(packed(at_0=SCHEMA + 2))


def test_the_next_schema_is_read_as_far_as_it_is_understood() -> None:
    """While two versions share a store, the older one goes on with the records of the newer."""
    assert decode(json.dumps(stored()).encode()) == decode(json.dumps(stored(v=SCHEMA + 1)).encode())


@pytest.mark.parametrize("change", [{"s": "paused"}, {"v": SCHEMA + 1, "k": "q"}, {"v": SCHEMA + 1, "e": {"VPR": 1}}])
def test_words_of_a_newer_version_say_to_update(change: dict[str, object]) -> None:
    """A state that this version does not know, or a field in another form, is no corruption: nobody shall delete it."""
    with pytest.raises(RecordUnreadable) as raised:
        decode(json.dumps(stored(**change)).encode())
    expected = (
        "a stored record cannot be read: a newer version wrote it, in words that this one does not know; "
        "update phr-refresh on this host."
    )
    assert expected == str(raised.value)


@given(st.dictionaries(st.text(min_size=2, max_size=5), JSON, max_size=3), st.sampled_from([SCHEMA, SCHEMA + 1]))
def test_fields_of_a_newer_version_are_carried_along(more: dict[str, object], schema: int) -> None:
    """Fields that this version does not know change nothing for it, and are written back as they were."""
    plain = decode(json.dumps(stored()).encode())
    record = decode(json.dumps(more | stored(v=schema)).encode())
    assert plain == record._replace(carried=())
    moved = json.loads(encode(record._replace(state=State.STALE, since=record.since + SECOND)))
    assert json.dumps(more, sort_keys=True) == json.dumps({name: moved[name] for name in more}, sort_keys=True)
    assert record == decode(encode_packed(record))
    assert SCHEMA == moved["v"]


def test_carried_fields_are_no_field_of_ours() -> None:
    """What this version writes, it knows when it reads it."""
    assert () == decode(encode(refreshing(deferred_since=NOON, failures=1, logouts=2))).carried


def test_what_is_stored_holds_no_identifier() -> None:
    """Neither the user id, nor the ICN, nor the correlation id, nor a token is in the stored form (R7)."""
    world = World()
    world.logged_in()
    world.now += SECOND
    world.run(world.flows.status(ADA.key, ADA))
    value = world.rows[ADA.key].value.decode()
    for secret in (ADA.user_id, ICN, CORRELATION_ID, ADA.key, "jwt-1", "subject-1"):
        assert f'"{secret}"' not in value
        assert secret not in value or secret == CORRELATION_ID


def test_a_settled_record_is_small() -> None:
    """The stored form of a patient after a whole lifecycle stays within 300 bytes; packed, within 110."""
    world = World()
    world.logged_in()
    world.now += SECOND
    world.run(world.flows.status(ADA.key, ADA))
    value = world.rows[ADA.key].value
    assert len(value) <= 300
    assert len(encode_packed(decode(value))) <= 110


@given(RECORDS, INSTANTS)
def test_every_record_can_be_shown(record: RefreshRecord, now: int) -> None:
    """Whatever a record holds, status and explanation can be made of it."""
    assert record.state is status_of(record, now).state
    assert record.state is explanation_of(record, now).state


def test_labels_have_hyphens() -> None:
    """People read hyphens, the store holds underscores."""
    expected = ["no-session", "session-created", "refreshing", "complete", "stale"]
    assert expected == [state.label for state in State]
