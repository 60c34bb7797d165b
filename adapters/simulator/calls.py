"""The call log: what arrived, in which order, and how it ended. It shows pseudonyms, never an ICN."""

import secrets
import threading
from collections import Counter
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Any

from ...statemachine.policy import Instant
from .faults import Endpoint

#: The outcome of a call that has not ended yet.
UNDER_WAY = "under_way"
#: The outcome of a login that the upstream refused because another one for the same patient was under way.
SIMULTANEOUS = "simultaneous"


@dataclass(frozen=True, slots=True)
class Call:
    """One call that has arrived in full. `order` counts from 1; `arrived_at` is in epoch milliseconds.

    `patient` is a pseudonym, None where the caller could not be told. `outcome` is "http_200" and the like,
    "simultaneous", "reset", "lost_answer", "hung", or "under_way". `fault` names the scripted fault that struck.
    """

    order: int
    arrived_at: Instant
    endpoint: str
    patient: str | None
    outcome: str = UNDER_WAY
    fault: str | None = None


class CallLog:
    """Counts and lists every call. Thread-safe and exact: one lock guards all of it. It only ever grows."""

    def __init__(self, window_ms: int) -> None:
        self._lock = threading.Lock()
        self._window_ms = window_ms
        # Random per simulator: a pseudonym in a report cannot be traced back by hashing all ICNs.
        self._key = secrets.token_bytes(16)
        self._calls: list[Call] = []
        self._totals: Counter[str] = Counter()
        self._per_patient: dict[str, Counter[str]] = {}
        self._last_refresh: dict[str, Instant] = {}
        self._duplicate_refreshes = 0
        self._simultaneous_logins = 0

    def pseudonym(self, icn: str) -> str:
        """What the log calls this patient: 12 characters, another one in each simulator."""
        return blake2b(icn.encode("utf-8", "surrogatepass"), key=self._key, digest_size=6).hexdigest()

    def arrived(self, endpoint: Endpoint, icn: str | None, *, at: Instant) -> int:
        """Count a call that has been received in full. Returns its order."""
        patient = None if icn is None else self.pseudonym(icn)
        with self._lock:
            order = len(self._calls) + 1
            self._calls.append(Call(order, at, endpoint.value, patient))
            self._totals[endpoint.value] += 1
            if patient is not None:
                self._per_patient.setdefault(patient, Counter())[endpoint.value] += 1
                if endpoint == Endpoint.REFRESH:
                    self._note_refresh(patient, at)
            return order

    def _note_refresh(self, patient: str, at: Instant) -> None:
        previous = self._last_refresh.get(patient)
        if previous is not None and at - previous < self._window_ms:
            self._duplicate_refreshes += 1
        self._last_refresh[patient] = at

    def ended(self, order: int, outcome: str, *, fault: str | None) -> None:
        """Note how a call ended. Done before its answer is sent, so that whoever has the answer finds it here."""
        with self._lock:
            self._calls[order - 1] = replace(self._calls[order - 1], outcome=outcome, fault=fault)
            if outcome == SIMULTANEOUS:
                self._simultaneous_logins += 1

    def summary(self) -> dict[str, Any]:
        """The counts: `totals`, `simultaneous_logins`, `duplicate_refreshes`, and `patients` by pseudonym."""
        with self._lock:
            return {
                "totals": _by_endpoint(self._totals),
                "simultaneous_logins": self._simultaneous_logins,
                "duplicate_refreshes": self._duplicate_refreshes,
                "patients": {patient: _by_endpoint(counts) for patient, counts in self._per_patient.items()},
            }

    def history(self) -> list[Call]:
        """Every call so far, in order of arrival."""
        with self._lock:
            return list(self._calls)

    def history_json(self) -> list[dict[str, Any]]:
        """The same as plain objects."""
        return [asdict(call) for call in self.history()]


def _by_endpoint(counts: Counter[str]) -> dict[str, int]:
    return {endpoint.value: counts[endpoint.value] for endpoint in Endpoint}
