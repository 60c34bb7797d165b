"""Sealing tokens at rest: adapters/session_creation/sealing.py."""

import sys

import pytest
from cryptography.fernet import Fernet
from phr_refresh.adapters.session_creation.seal import FernetSeal, PlainSeal
from phr_refresh.statemachine.errors import ConfigurationError, MissingExtra


@pytest.fixture
def keys():
    return [Fernet.generate_key().decode() for _ in range(2)]


def test_a_plain_seal_changes_nothing():
    """Without sealing, what is stored is the token."""
    assert (b"token", b"token") == (PlainSeal().seal(b"token"), PlainSeal().unseal(b"token"))


def test_what_is_sealed_is_hidden_and_comes_back(keys):
    """A sealed token does not contain it, and opens to it."""
    seal = FernetSeal(keys)
    sealed = seal.seal(b"token")
    assert b"token" not in sealed
    assert b"token" == seal.unseal(sealed)


def test_the_first_key_seals(keys):
    """Who has only the first key can open what is sealed; who has only the second cannot."""
    sealed = FernetSeal(keys).seal(b"token")
    assert (b"token", None) == (FernetSeal(keys[:1]).unseal(sealed), FernetSeal(keys[1:]).unseal(sealed))


def test_every_key_opens(keys):
    """After a rotation, what the old key sealed still opens."""
    sealed = FernetSeal(keys[1:]).seal(b"token")
    assert b"token" == FernetSeal(keys).unseal(sealed)


@pytest.mark.parametrize("sealed", [b"", b"token", b"\xff\x00", b"gAAAAA", "gAAAAA\u00e9"], ids=repr)
def test_what_is_no_seal_opens_to_none(keys, sealed):
    """Anything that no key sealed is None, not an error."""
    assert FernetSeal(keys).unseal(sealed) is None


def test_a_changed_seal_opens_to_none(keys):
    """One changed byte is noticed."""
    sealed = bytearray(FernetSeal(keys).seal(b"token"))
    sealed[20] ^= 1
    assert FernetSeal(keys).unseal(bytes(sealed)) is None


def test_keys_come_from_one_setting(keys):
    """Keys may stand in one text, with commas between them."""
    sealed = FernetSeal(keys[:1]).seal(b"token")
    assert b"token" == FernetSeal.from_setting(f" {keys[1]}, {keys[0]} ,").unseal(sealed)


@pytest.mark.parametrize("setting", ["", " , "])
def test_no_key_is_refused(setting):
    """A setting without a key is an error that says what to give."""
    with pytest.raises(ConfigurationError) as caught:
        FernetSeal.from_setting(setting)
    assert "FernetSeal.keys: it is not a list of at least one key; give keys made by " in str(caught.value)


@pytest.mark.parametrize("bad", ["hunter2-is-no-key", "caf\u00e9", "A" * 44], ids=["short", "not ascii", "bad length"])
def test_a_malformed_key_is_named_by_its_number_and_not_shown(keys, bad):
    """The error says which key is malformed, and neither it nor its context shows the key."""
    with pytest.raises(ConfigurationError) as caught:
        FernetSeal([keys[0], bad])
    assert str(caught.value).startswith("FernetSeal.keys: key number 2 is malformed; ")
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)


def test_repr_shows_no_key(keys):
    """A seal in a log line shows no key."""
    assert "FernetSeal(<keys withheld>)" == repr(FernetSeal(keys))


def test_without_cryptography_the_extra_is_named(monkeypatch):
    """Where `cryptography` is not installed, the error says what to install."""
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(MissingExtra) as caught:
        FernetSeal(["key"])
    assert str(caught.value).endswith("run: pip install 'phr-refresh[sealed]'.")
