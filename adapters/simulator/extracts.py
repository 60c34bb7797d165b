"""How one extract of one patient runs: requested, under way for a while, then settled, well or in error.

Nothing runs in the background: how things stand is computed from the times when somebody asks. Instants are
milliseconds since 1970 by the simulator's clock.
"""

import html
import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from ...statemachine.policy import Instant

#: Extract -> shortest and longest duration in seconds. The first five were recorded, the others are assumed.
DURATIONS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "VPR": (4.1, 4.7),
        "ImagingStudy": (1.4, 6.3),
        "MASAppointments": (1.6, 3.1),
        "Allergy": (0.6, 1.1),
        "ChemistryHematology": (0.3, 0.4),
        "Appointments": (0.5, 2.0),
        "AppointmentsReminder": (0.5, 2.0),
        "DodMilitaryService": (0.5, 2.0),
    }
)
#: All extracts of a patient.
EXTRACTS: Final = tuple(DURATIONS)
#: All extracts of a refresh are requested within this time.
START_SPREAD_SECONDS: Final = 0.030

_WHOLE_PATIENT: Final = "0"
_STATIONS: Final = {"MASAppointments": "979"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the last load of an extract that settled has ended; all None where none ever did."""

    completed_at: Instant | None = None
    succeeded_at: Instant | None = None
    record_count: int = 0
    load_status: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """One load of one extract. `before` is how the load before it ended, shown until this one settles."""

    requested_at: Instant
    ends_at: Instant
    record_count: int
    error: str | None
    before: Outcome

    def is_settled(self, now: Instant) -> bool:
        """Whether it has ended, well or in error."""
        return now >= self.ends_at

    def outcome(self, now: Instant) -> Outcome:
        """What the upstream knows of the extract at `now`."""
        if not self.is_settled(now):
            return self.before
        if self.error is not None:
            # A failed load counts as completed, too: the trap that UPSTREAM calls `lastCompleted`.
            return Outcome(self.ends_at, self.before.succeeded_at, self.before.record_count, "ERROR", self.error)
        return Outcome(self.ends_at, self.ends_at, self.record_count, "OK")

    def has_succeeded(self, now: Instant) -> bool:
        """Whether it has ended well."""
        return self.is_settled(now) and self.error is None


def begin(extract: str, *, start: Instant, speed: float, fails: bool, dice: random.Random, before: Outcome) -> Load:
    """A load that is requested at most 30 ms after `start` and takes as long as one took in the recordings."""
    requested_at = start + _scaled(dice.uniform(0, START_SPREAD_SECONDS), speed)
    return Load(
        requested_at=requested_at,
        ends_at=requested_at + max(1, _scaled(dice.uniform(*DURATIONS[extract]), speed)),
        record_count=dice.randrange(40),
        error=_error_message(dice) if fails else None,
        before=before,
    )


def settled(extract: str, *, ended_at: Instant, dice: random.Random) -> Load:
    """A load that ended well at `ended_at`."""
    duration = _scaled(dice.uniform(*DURATIONS[extract]), 1.0)
    return Load(ended_at - duration, ended_at, dice.randrange(40), None, Outcome())


def row(extract: str, load: Load, *, icn: str, now: Instant) -> dict[str, Any]:
    """The extract's entry in the upstream's `facilityExtractStatusList`."""
    outcome = load.outcome(now)
    return {
        "extract": extract,
        "stationNumber": _STATIONS.get(extract, _WHOLE_PATIENT),
        "lastRequested": load.requested_at,
        "lastCompleted": outcome.completed_at,
        "lastSuccessfulCompleted": outcome.succeeded_at,
        "lastModified": load.ends_at if load.is_settled(now) else load.requested_at,
        "recordCount": outcome.record_count,
        "loadStatus": outcome.load_status,
        "errorMessage": outcome.error,
        # True after an error and for ever after: it means neither fresh nor good.
        "upToDate": load.is_settled(now),
        "icn": icn,
    }


def _scaled(seconds: float, speed: float) -> int:
    return round(seconds * 1000 / speed)


def _error_message(dice: random.Random) -> str:
    site, query = dice.randrange(400, 1000), dice.getrandbits(64)
    where = f'<error> site {site}: query "{query:016x}" failed & was dropped'
    return html.escape(f"{where}: java.net.SocketTimeoutException: Read timed out")
