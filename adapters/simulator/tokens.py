"""The session tokens that the simulator issues: JWTs signed with HMAC-SHA256."""

import hashlib
import secrets
from typing import Final

import jwt

_ALGORITHM: Final = "HS256"


class TokenIssuer:
    """Issues and checks tokens. Without a `secret` it draws one: a token of another simulator is worth nothing here."""

    def __init__(self, secret: bytes | None = None) -> None:
        # Hashed, a secret of any length is as long as the algorithm wants it.
        self._key = hashlib.sha256(secret or secrets.token_bytes(32)).digest()

    def issue(self, subject_id: str, *, now: float, lifetime: float) -> str:
        """A token for `subject_id` that expires `lifetime` seconds after `now`."""
        claims = {"iat": int(now), "exp": int(now + lifetime), "subjectId": subject_id}
        return jwt.encode(claims, self._key, _ALGORITHM)

    def subject_of(self, authorization: str, *, now: float) -> str | None:
        """The subject of the bearer token in an Authorization header; None if it is missing, forged or expired."""
        scheme, _, token = authorization.partition(" ")
        try:
            # The simulator's clock judges the times, not this host's.
            claims = jwt.decode(
                token.strip(), self._key, [_ALGORITHM], options={"verify_exp": False, "verify_iat": False}
            )
        except jwt.PyJWTError:
            return None
        return str(claims["subjectId"]) if scheme.lower() == "bearer" and now < claims["exp"] else None


def subject_id_of(icn: str) -> str:
    """The id that the upstream's FHIR server knows a patient by: opaque, the same for ever, not the ICN."""
    return blake2b_hex(icn, "phr-sim-subject")


def blake2b_hex(text: str, purpose: str) -> str:
    """16 hexadecimal characters of a hash of `text`, different for each purpose (up to 16 characters)."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=purpose.encode())
    return digest.hexdigest()
