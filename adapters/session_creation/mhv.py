"""The JWT login of the upstream (UPSTREAM, section 3)."""

import time
from collections.abc import Mapping
from math import isfinite
from typing import TypeGuard, assert_never

import jwt

from ...statemachine.effects import SessionFailed, SessionOpened, SessionToken
from ...statemachine.patient import Patient
from ...statemachine.policy import Instant, milliseconds
from ..upstream.http_client import Answer, HttpClient, Lost, NotSent
from ..upstream.settings import MhvSettings

_TOKEN_HEADERS = ("x-amzn-remapped-authorization", "authorization")
_LONGEST_LIFE = 3_600_000
_LONGEST_TOKEN = 16_384
_BAD_TOKEN = SessionFailed("bad_token")


class MhvSessions:
    """Creates upstream sessions over `http`. Thread-safe. Failures are answers, not exceptions."""

    def __init__(self, settings: MhvSettings, http: HttpClient) -> None:
        self._settings = settings
        self._http = http
        path = "/mhvapi/security/v1/login" if settings.legacy_paths else "/v1/security/login"
        self._url, self._headers = f"{settings.base_url}{path}", settings.common_headers()
        self._body = {
            "appId": settings.app_id,
            "appToken": settings.app_token,
            "userType": "PATIENT",
            "authParams": {"PATIENT_SUBJECT_ID_TYPE": "ICN"},
        }

    def open_session(self, patient: Patient) -> SessionOpened | SessionFailed:
        """Log the patient in, once. Nothing here keeps a second login of theirs away: the flows do (rule R2)."""
        outcome = self._http.call(
            "POST",
            self._url,
            headers=self._headers,
            body=self._body | {"subject": patient.icn},
            max_bytes=self._settings.max_answer_bytes,
        )
        match outcome:
            case NotSent(reason) | Lost(reason):
                return SessionFailed(reason)
            case Answer() if not 200 <= outcome.status < 300:
                return SessionFailed(outcome.code)
            case Answer():
                # The token came in the header: a body that cannot be read takes nothing from it.
                return self._opened(_bearer(outcome.headers))
        assert_never(outcome)

    def _opened(self, token: str) -> SessionOpened | SessionFailed:
        claims = _claims(token)
        subject_id = _subject_id(claims.get("subjectId"))
        now = int(time.time() * 1000)
        ends = _expiry(claims.get("exp"), claims.get("iat"), now=now)
        if not subject_id or ends is None:
            return _BAD_TOKEN
        expires_at = ends - milliseconds(self._settings.token_early_expiry)
        if expires_at <= now:
            # A session that is over as it begins would be created again, and again.
            return SessionFailed("token_expired")
        return SessionOpened(SessionToken(token, subject_id, expires_at))


def _bearer(headers: Mapping[str, str]) -> str:
    for name in _TOKEN_HEADERS:
        scheme, _, token = headers.get(name, "").strip().partition(" ")
        if scheme.lower() == "bearer" and 0 < len(token) <= _LONGEST_TOKEN:
            return token.strip()
    return ""


def _claims(token: str) -> Mapping[str, object]:
    # Unverified on purpose: there is no published key, and whoever is shown the token checks it. It tells us when to
    # renew and whom to ask for; it came over TLS from the host that is trusted with the login itself.
    try:
        return jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return {}


def _subject_id(claim: object) -> str:
    if isinstance(claim, bool) or not isinstance(claim, str | int):
        return ""
    text = str(claim).strip()
    return text if text.isprintable() and len(text) <= 256 else ""


def _expiry(expires: object, issued: object, *, now: Instant) -> Instant | None:
    """When the token ends, by this host's clock, at most an hour from `now`; None if `exp` is no NumericDate.

    A token that says when it was issued was issued just now: then its life counts, whatever the two clocks show
    (RFC 7519, section 2; section 4.1.6).
    """
    if expires is None:
        return now + _LONGEST_LIFE
    if not _is_date(expires):
        return None
    if _is_date(issued):
        return now + int(min((expires - issued) * 1000, _LONGEST_LIFE))
    return int(min(expires * 1000, now + _LONGEST_LIFE))


def _is_date(claim: object) -> TypeGuard[float]:
    return (isinstance(claim, int) and not isinstance(claim, bool)) or (isinstance(claim, float) and isfinite(claim))
