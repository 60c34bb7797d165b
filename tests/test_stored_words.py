"""The stored forms to the letter: other versions share the store, so what a letter or a number means is fixed."""

import json

import msgpack
import pytest
from phr_refresh.statemachine.codec import decode, encode, encode_packed
from phr_refresh.statemachine.errors import RecordUnreadable
from phr_refresh.statemachine.extract import ExtractProgress, ExtractState
from phr_refresh.statemachine.record import KickOff, RefreshRecord, State
from support.samples import NOON, refreshing

STATES = ["no_session", "session_created", "refreshing", "complete", "stale"]
EXTRACTS = ["VPR", "ImagingStudy", "MASAppointments", "Allergy", "ChemistryHematology", "Appointments"]
EXTRACTS += ["AppointmentsReminder", "DodMilitaryService"]
YEAR_10000 = 253_402_300_800_000
CORRUPT = "it is corrupt"


def problem_of(stored: bytes) -> str:
    """Why it cannot be read."""
    with pytest.raises(RecordUnreadable) as raised:
        decode(stored)
    return raised.value.problem


@pytest.mark.parametrize("state", STATES)
def test_a_state_is_its_word_and_its_number(state: str) -> None:
    """In the form that can be read by eye, and in the small one."""
    record = RefreshRecord(state=State(state))
    assert state == json.loads(encode(record))["s"]
    assert STATES.index(state) == msgpack.unpackb(encode_packed(record))[2]


@pytest.mark.parametrize("name", EXTRACTS)
def test_an_extract_that_the_upstream_has_today_is_a_number(name: str) -> None:
    """They come after the states."""
    record = RefreshRecord(extracts=(ExtractProgress(name, ExtractState.CURRENT, None),))
    assert [[len(STATES) + EXTRACTS.index(name), "c", None]] == msgpack.unpackb(encode_packed(record))[6]
    assert [[name, "c", None]] == json.loads(encode(record))["e"]
    assert record == decode(encode_packed(record))


@pytest.mark.parametrize(
    ("state", "letter"),
    [(ExtractState.IN_PROGRESS, "p"), (ExtractState.CURRENT, "c"), (ExtractState.FAILED, "f")],
)
def test_how_an_extract_stands_is_a_letter(state: ExtractState, letter: str) -> None:
    """The same in both forms."""
    record = RefreshRecord(extracts=(ExtractProgress("New", state, 7),))
    assert [["New", letter, 7]] == json.loads(encode(record))["e"] == msgpack.unpackb(encode_packed(record))[6]


@pytest.mark.parametrize(
    ("kick_off", "letter"), [(KickOff.CLAIMED, "c"), (KickOff.ACCEPTED, "a"), (KickOff.ANSWER_LOST, "l")]
)
def test_what_is_known_of_the_kick_off_is_a_letter(kick_off: KickOff, letter: str) -> None:
    """The same in both forms."""
    record = refreshing(kick_off=kick_off)
    assert letter == json.loads(encode(record))["k"] == msgpack.unpackb(encode_packed(record))[14]


def test_what_holds_its_default_takes_no_room() -> None:
    """Of somebody never refreshed four fields are stored, without a blank between them."""
    record = RefreshRecord(since=NOON)
    assert b'{"v":1,"f":"","s":"no_session","t":%d}' % NOON == encode(record)
    assert msgpack.packb([1, NOON, 0, ""]) == encode_packed(record)


def test_a_record_of_no_known_lifecycle_has_no_fingerprint() -> None:
    """It is absent where a record was made by hand."""
    assert "" == decode(b'{"v":1,"t":0,"s":"no_session"}').fingerprint


def test_the_calendar_ends_with_the_year_9999() -> None:
    """To the millisecond."""
    last = RefreshRecord(since=YEAR_10000 - 1)
    assert last == decode(encode(last))
    assert CORRUPT == problem_of(encode(RefreshRecord(since=YEAR_10000)))


@pytest.mark.parametrize("schema", [0, -1])
def test_schemas_count_from_one(schema: int) -> None:
    """What lies before is no older version, but damage."""
    assert CORRUPT == problem_of(b'{"v":%d,"t":0,"s":"no_session"}' % schema)


@pytest.mark.parametrize(
    "stored",
    [
        b'{"v":1,"t":0,"s":"no_session","b":[]}',
        b'{"v":1,"t":0,"s":"no word"}',
        b'{"v":1,"t":1.5,"s":"no_session"}',
        b'{"v":1,"t":true,"s":"no_session"}',
        b'{"v":1,"t":0,"s":"no_session","h":1.5}',
        b'{"v":1,"t":0,"s":"no_session","i":5}',
        msgpack.packb([1, 0, -1, ""]),
        msgpack.packb([1, 0, 0, "", None, None, [[-1, "c", None]]]),
    ],
)
def test_damage_is_not_taken_for_a_newer_version(stored: bytes) -> None:
    """A record of the very schema that this version writes is corrupt if it cannot be read."""
    assert CORRUPT == problem_of(stored)


@pytest.mark.parametrize("deep", [b'{"v":1,"t":0,"s":"no_session","!":' + b"[" * 200_000 + b"]" * 200_000 + b"}"])
def test_nesting_without_end_is_damage(deep: bytes) -> None:
    """It takes no process with it."""
    assert CORRUPT == problem_of(deep)
