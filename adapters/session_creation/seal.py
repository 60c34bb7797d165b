"""Sealing cached tokens at rest, so that who reads the store reads no token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...statemachine.errors import ConfigurationError, MissingExtra

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

_REMEDY = "give keys made by cryptography.fernet.Fernet.generate_key(), the newest first"


class PlainSeal:
    """Seals nothing: for stores that only this service can read."""

    def seal(self, plain: bytes) -> bytes:
        """`plain` as it is."""
        return plain

    def unseal(self, sealed: bytes) -> bytes | None:
        """`sealed` as it is."""
        return sealed


class FernetSeal:
    """Seals with Fernet (AES-128-CBC and HMAC-SHA-256): the first key seals, every key opens.

    To rotate, put a new key first everywhere, and drop the old one when the longest token has expired.
    Thread-safe. Raises `ConfigurationError` on a malformed key or on none, `MissingExtra` without `cryptography`.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = _fernet(keys)

    @classmethod
    def from_setting(cls, setting: str) -> FernetSeal:
        """From one text with comma-separated keys, the newest first."""
        return cls([key.strip() for key in setting.split(",") if key.strip()])

    def seal(self, plain: bytes) -> bytes:
        """`plain`, encrypted and authenticated under the first key."""
        return self._fernet.encrypt(plain)

    def unseal(self, sealed: bytes) -> bytes | None:
        """What was sealed; None if no key opens it, or if it never was a seal."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(sealed)
        except (InvalidToken, TypeError, ValueError):
            return None

    def __repr__(self) -> str:
        return "FernetSeal(<keys withheld>)"


def _fernet(keys: Sequence[str]) -> MultiFernet:
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError as error:
        raise MissingExtra("sealing tokens at rest", "sealed") from error
    if isinstance(keys, str) or not keys:
        raise ConfigurationError("FernetSeal.keys", "it is not a list of at least one key", _REMEDY)
    fernets = []
    for key in keys:
        try:
            fernets.append(Fernet(key))
        except (ValueError, TypeError):
            break
    # Raised out here, so that no error of cryptography with a piece of a key hangs on ours as its context.
    if len(fernets) < len(keys):
        raise ConfigurationError("FernetSeal.keys", f"key number {len(fernets) + 1} is malformed", _REMEDY)
    return MultiFernet(fernets)
