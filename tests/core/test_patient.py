"""The patient: what is an identifier, what is not, and that nothing shows one (R7, R8)."""

import copy
import pickle
import traceback
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st
from phr_refresh.statemachine.effects import Follow, Loaded, OpenSession, Refresh, StartRefresh
from phr_refresh.statemachine.errors import InvalidPatient
from phr_refresh.statemachine.patient import Patient, key_of
from phr_refresh.statemachine.record import RefreshRecord
from support.samples import CORRELATION_ID, ICN
from support.values import replace

USER_ID = "ada@portal.example"
ADA = Patient(USER_ID, ICN, CORRELATION_ID)
ARABIC = "\N{ARABIC-INDIC DIGIT ONE}"
FULLWIDTH = "\N{FULLWIDTH DIGIT ONE}"


@pytest.mark.parametrize(
    "icn",
    [
        "",
        " ",
        ICN.lower(),
        ICN + "\n",
        "\n" + ICN,
        " " + ICN,
        ICN + " ",
        ICN + "\0",
        "1" + ICN,
        ICN + "1",
        ICN[1:],
        ICN[:-1],
        ICN.replace("V", ""),
        ICN.replace("V", "/"),
        ICN.replace("V", "VV"),
        "10123456/8V123456",
        "../" + ICN,
        ICN + "/..",
        ICN.replace("1", ARABIC),
        ICN.replace("1", FULLWIDTH),
        ICN.replace("V", "\N{ROMAN NUMERAL FIVE}"),
        "1012345678V12345%",
        "1012345678V123456?x=1",
        "1012345678V123456#",
        None,
        1012345678,
        b"1012345678V123456",
        "1012345678-123456",
    ],
)
def test_a_malformed_icn_is_rejected(icn: object) -> None:
    """Anything but 10 digits, V and 6 digits: the message gives the form and not the value."""
    with pytest.raises(InvalidPatient) as raised:
        Patient("ada", icn, CORRELATION_ID)  # type: ignore[arg-type]
    assert "icn is malformed: expected 10 digits, the letter V and 6 digits." == str(raised.value)


@given(st.text(max_size=20))
def test_no_text_but_an_icn_is_one(text: str) -> None:
    """Whatever the text, it is rejected; an ICN does not come by chance."""
    with pytest.raises(InvalidPatient):
        Patient("ada", text)


@pytest.mark.parametrize(
    "correlation_id",
    ["1/2", "../1", ".", "-1", "_1", "1 2", "1\n", " 1", "1%2F", "a" * 65, ARABIC, "1?", "1#", "1;2", "\u00e9"],
)
def test_a_malformed_correlation_id_is_rejected(correlation_id: str) -> None:
    """Path characters, blanks inside, other alphabets and 65 characters are no MHV correlation id."""
    with pytest.raises(InvalidPatient) as raised:
        Patient("ada", ICN, correlation_id)
    expected = "mhv_correlation_id is malformed: expected 1 to 64 letters, digits, '.', '_' or '-', or none at all."
    assert expected == str(raised.value)


@pytest.mark.parametrize("correlation_id", [None, "", " ", "\t\n", "\N{NO-BREAK SPACE}"])
def test_a_blank_correlation_id_means_no_account(correlation_id: str | None) -> None:
    """Absent or blank: not a member (R8)."""
    assert not Patient("ada", ICN, correlation_id).is_member


@pytest.mark.parametrize("correlation_id", ["1", CORRELATION_ID, "a.b_c-d", "a" * 64])
def test_a_correlation_id_means_an_account(correlation_id: str) -> None:
    """A member is who has one."""
    assert Patient("ada", ICN, correlation_id).is_member


@pytest.mark.parametrize("user_id", ["", " ", "\n\t", "a" * 513, None, 7, b"ada"])
def test_a_malformed_user_id_is_rejected(user_id: object) -> None:
    """Blank, too long or no text: there is nobody to keep a record of."""
    for make in (lambda: Patient(user_id, ICN), lambda: key_of(user_id)):  # type: ignore[arg-type]
        with pytest.raises(InvalidPatient) as raised:
            make()
        assert "user_id is malformed: expected a text of 1 to 512 characters that is not blank." == str(raised.value)


@pytest.mark.parametrize(
    "user_id", ["../../etc", "a/b", "{tag}", "a:b", "*", "\0", "\ud800", "a" * 512, "\N{PILE OF POO}"]
)
def test_any_other_user_id_is_opaque(user_id: str) -> None:
    """Its key is 22 URL-safe characters, whatever it holds."""
    key = Patient(user_id, ICN).key
    assert 22 == len(key)
    assert key.replace("-", "").replace("_", "").isalnum()
    assert key.isascii()


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_different_users_have_different_keys(one: str, other: str) -> None:
    """Nobody shares a record, not even users whose ids differ in a blank or in case."""
    if one.strip() and other.strip():
        assert (one == other) == (key_of(one) == key_of(other))


def test_the_key_does_not_hold_the_user_id() -> None:
    """Who reads the store's keys reads no user id."""
    assert "bnG25QcFbsXOa_63noyHhQ" == key_of("ada")


SHOWN = [
    repr(ADA),
    str(ADA),
    f"{ADA}",
    f"{ADA!s:>60}",
    repr([ADA]),
    repr({"patient": ADA}),
    repr((ADA,)),
    repr(Refresh(ADA)),
    repr(Follow(ADA, "r1")),
    repr(OpenSession(ADA)),
    repr(StartRefresh(ADA)),
]


@pytest.mark.parametrize("number", range(len(SHOWN)))
def test_nothing_that_shows_a_patient_shows_an_identifier(number: int) -> None:
    """`repr`, `str`, formats and everything that carries a patient withhold all three identifiers and the key."""
    for secret in (USER_ID, ICN, CORRELATION_ID, ADA.key):
        assert secret not in SHOWN[number]


def test_a_patient_says_that_identifiers_are_withheld() -> None:
    """Nobody takes it for an empty one."""
    assert "Patient(<identifiers withheld>)" == repr(ADA)


def test_a_step_does_not_show_what_was_seen() -> None:
    """A record is no text for a log line that names a step."""
    assert repr(Refresh(ADA)) == repr(Refresh(ADA, Loaded(RefreshRecord(), "v1", 7)))


@pytest.mark.parametrize(
    ("user_id", "icn", "correlation_id"),
    [(USER_ID * 30, ICN, None), (USER_ID, ICN + "X", None), (USER_ID, ICN, CORRELATION_ID + "/")],
)
def test_no_error_shows_an_identifier(user_id: str, icn: str, correlation_id: str | None) -> None:
    """Neither the message, nor the arguments, nor a chained error holds a value that was given."""
    with pytest.raises(InvalidPatient) as raised:
        Patient(user_id, icn, correlation_id)
    shown = "".join(traceback.format_exception_only(raised.value)) + repr(raised.value.args) + repr(vars(raised.value))
    for secret in (USER_ID, ICN, CORRELATION_ID):
        assert secret not in shown
    assert (None, None) == (raised.value.__cause__, raised.value.__context__)


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda patient: pickle.loads(pickle.dumps(patient)), replace]
)
def test_a_patient_survives_copying(again: object) -> None:
    """Copies, pickles and replacements are the same patient, key and all."""
    other = again(ADA)  # type: ignore[operator]
    assert (ADA, ADA.key, hash(ADA)) == (other, other.key, hash(other))


def test_a_replaced_user_id_has_its_own_key() -> None:
    """The key follows the user id."""
    assert key_of("bob") == replace(ADA, user_id="bob").key


def test_a_patient_is_frozen() -> None:
    """Nobody becomes somebody else."""
    with pytest.raises(FrozenInstanceError):
        ADA.icn = ICN  # type: ignore[misc]


def test_a_patient_is_no_member_unless_told_so() -> None:
    """Without a correlation id there is none; and nobody chooses the store key."""
    assert Patient("ada", ICN).mhv_correlation_id is None
    with pytest.raises(TypeError):
        Patient("ada", ICN, CORRELATION_ID, "a-key")  # type: ignore[call-arg]
