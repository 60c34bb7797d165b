"""The session tokens that the simulator issues: JWTs signed with HMAC-SHA256."""

import base64
import hashlib
import hmac
import json
import secrets
from typing import Any

_HEADER = {"alg": "HS256", "typ": "JWT"}


class TokenIssuer:
    """Issues and checks tokens. Without a `secret` it draws one: a token of another simulator is worth nothing here."""

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret or secrets.token_bytes(32)

    def issue(self, subject_id: str, *, now: float, lifetime: float) -> str:
        """A token for `subject_id` that expires `lifetime` seconds after `now`."""
        claims = {"iat": int(now), "exp": int(now + lifetime), "subjectId": subject_id}
        signed = f"{_encoded(_HEADER)}.{_encoded(claims)}"
        return f"{signed}.{self._signature(signed)}"

    def subject_of(self, authorization: str, *, now: float) -> str | None:
        """The subject of the bearer token in an Authorization header; None if it is missing, forged or expired."""
        scheme, _, token = authorization.partition(" ")
        signed, _, signature = token.strip().rpartition(".")
        if scheme.lower() != "bearer" or not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            return None
        claims = json.loads(_decoded(signed.partition(".")[2]))
        return str(claims["subjectId"]) if now < claims["exp"] else None

    def _signature(self, signed: str) -> str:
        return _base64url(hmac.new(self._secret, signed.encode(), hashlib.sha256).digest())


def subject_id_of(icn: str) -> str:
    """The id that the upstream's FHIR server knows a patient by: opaque, the same for ever, not the ICN."""
    return blake2b_hex(icn, "phr-sim-subject")


def blake2b_hex(text: str, purpose: str) -> str:
    """16 hexadecimal characters of a hash of `text`, different for each purpose (up to 16 characters)."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=purpose.encode())
    return digest.hexdigest()


def _encoded(value: dict[str, Any]) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
