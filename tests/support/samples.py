"""Synthetic people, moments and records."""

from datetime import timedelta
from typing import Any

from phr_refresh.statemachine.effects import SessionToken
from phr_refresh.statemachine.patient import Patient
from phr_refresh.statemachine.policy import Policy, milliseconds
from phr_refresh.statemachine.record import ExtractProgress, ExtractState, RefreshRecord, State

ICN = "1012345678V123456"
CORRELATION_ID = "12345"
JWT = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeW50aGV0aWMifQ."
#: 2030-01-01T12:00:00Z
NOON = 1_893_499_200_000
SECOND = 1_000
MINUTE = 60_000
HOUR = 3_600_000
WINDOW = milliseconds(Policy().refresh_window)
DEADLINE = milliseconds(Policy().refresh_deadline)
MARGIN = milliseconds(Policy().unanswered_margin)

#: For tests that are not about the budget: on a busy machine a login may take longer than 50 ms.
#: Asks every second from the kick-off on, as the recorded durations would not have it.
UNHURRIED = Policy(poll_schedule=(), login_budget=timedelta(seconds=30), retry_jitter=0)

ADA = Patient("ada", ICN, CORRELATION_ID)
BOB = Patient("bob", "1098765432V654321", "67890")
GUEST = Patient("guest", "1000000001V000001")


def everybody_is_ada(user: object) -> Patient:
    """A host's `patient_of`, to be named by its dotted path."""
    return ADA


CURRENT = (ExtractProgress("Allergy", ExtractState.CURRENT, NOON), ExtractProgress("VPR", ExtractState.CURRENT, NOON))
RUNNING = (ExtractProgress("Allergy", ExtractState.CURRENT, NOON), ExtractProgress("VPR", ExtractState.IN_PROGRESS))
PARTIAL = (ExtractProgress("Allergy", ExtractState.CURRENT, NOON), ExtractProgress("VPR", ExtractState.FAILED))


def token_until(expires_at: int, jwt: str = JWT) -> SessionToken:
    """A session token that counts as expired at `expires_at`."""
    return SessionToken(jwt, "subject-1", expires_at)


def refreshing(now: int = NOON, **changes: Any) -> RefreshRecord:
    """A record whose refresh "r1" was claimed at `now`, with `changes`."""
    fields: dict[str, Any] = {
        "state": State.REFRESHING,
        "since": now,
        "session_expires_at": now + HOUR // 4,
        "refresh_id": "r1",
        "claimed_at": now,
        "deadline_at": now + DEADLINE,
        "window_opens_at": now + WINDOW,
        "next_poll_at": now + SECOND,
        "fingerprint": "00000000",
    }
    return RefreshRecord(**(fields | changes))
