"""The patient, by the identifiers that a login service knows."""

import re
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from hashlib import blake2b

from .errors import InvalidPatient

_ICN = re.compile(r"[0-9]{10}V[0-9]{6}")
_CORRELATION_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
_USER_ID_MAX = 512

#: What a store knows a patient by: 22 characters, a hash of the host's user id.
UserKey = str


def key_of(user_id: str) -> UserKey:
    """The store key of a user: BLAKE2b-128 of the host's opaque user id, base64url without padding.

    It hides the id from who reads the store's keys; it is no secret to who can guess user ids.

    >>> key_of("ada")
    'bnG25QcFbsXOa_63noyHhQ'
    """
    if not isinstance(user_id, str) or not user_id.strip() or len(user_id) > _USER_ID_MAX:
        raise InvalidPatient("user_id", f"a text of 1 to {_USER_ID_MAX} characters that is not blank")
    digest = blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=16, person=b"phr-refresh").digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


@dataclass(frozen=True, slots=True, repr=False)
class Patient:
    """Who is to be refreshed. Neither `repr` nor any error shows an identifier (rule R7).

    `user_id` is the host's own opaque id. `icn` is 10 digits, "V", 6 digits. `mhv_correlation_id` is absent
    (None or blank) for somebody without an MHV account: no session and no refresh for them (rule R8).
    Raises `InvalidPatient` on anything else, so that no identifier with a slash ever meets a URL.
    """

    user_id: str
    icn: str
    mhv_correlation_id: str | None = None
    key: UserKey = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", key_of(self.user_id))
        if not isinstance(self.icn, str) or not _ICN.fullmatch(self.icn):
            raise InvalidPatient("icn", "10 digits, the letter V and 6 digits")
        if self.is_member and not _CORRELATION_ID.fullmatch(str(self.mhv_correlation_id)):
            raise InvalidPatient("mhv_correlation_id", "1 to 64 letters, digits, '.', '_' or '-', or none at all")

    @property
    def is_member(self) -> bool:
        """Whether the patient has an MHV account: the MHV correlation id is our proxy for it."""
        return bool(self.mhv_correlation_id and str(self.mhv_correlation_id).strip())

    def __repr__(self) -> str:
        return "Patient(<identifiers withheld>)"
