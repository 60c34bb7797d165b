"""What the programs of all hosts under test share: their people, their settings block, their log and their journal.

A user's name says how the portal's `patient_of` behaves: "member-7" is a patient, "guest-7" one without an MHV account,
"nobody-7" no patient; for "raises-7" it raises, with an identifier in its message, and for "slow-7" it takes a while.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from phr_refresh import Patient

#: Logins by whose store nothing comes back take this long; it is far more than any other login takes.
LOGIN_BUDGET_SECONDS = 1.0
SLOW_SECONDS = 0.2


def prepare() -> None:
    """Log to standard error, INFO and above. Call it first."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")


def block(patient_of: Callable[[Any], Patient | None]) -> dict[str, Any]:
    """The settings block PHR_REFRESH. Store and upstream come from the environment."""
    policy = {"login_budget": LOGIN_BUDGET_SECONDS, "poll_interval": 0.1, "poll_schedule": ()}
    return {"patient_of": patient_of, "policy": policy, "longest_wait": 5}


def icn_of(user: str) -> str:
    """The synthetic ICN of a user."""
    return f"{int(user.partition('-')[2]):010}V123456"


def correlation_id_of(user: str) -> str:
    """The synthetic MHV correlation id of a user."""
    return f"canary-{user}"


def patient_of(user: str, *, is_logged_in: bool) -> Patient | None:
    """The patient that a user is. `is_logged_in`: whether, at this moment, the framework says that the user is."""
    print(f"journal {user} {is_logged_in}", flush=True)
    behaviour = user.partition("-")[0]
    if behaviour == "raises":
        raise LookupError(f"no patient {icn_of(user)} with {correlation_id_of(user)}")
    if behaviour == "slow":
        threading.Event().wait(SLOW_SECONDS)
    if behaviour == "nobody":
        return None
    return Patient(user, icn_of(user), None if behaviour == "guest" else correlation_id_of(user))


def listening(port: int) -> None:
    """Tell the test where this program listens. Call it once connections are taken."""
    print(f"listening on http://127.0.0.1:{port}", flush=True)
