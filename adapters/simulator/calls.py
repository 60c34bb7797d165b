"""The call log: what arrived, in which order, and how it ended. It shows pseudonyms, never an ICN."""

import secrets
import threading
from collections import Counter
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import pairwise
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

    def pseudonym(self, icn: str) -> str:
        """What the log calls this patient: 12 characters, another one in each simulator."""
        return blake2b(icn.encode("utf-8", "surrogatepass"), key=self._key, digest_size=6).hexdigest()

    def arrived(self, endpoint: Endpoint, icn: str | None, *, at: Instant) -> int:
        """Count a call that has been received in full. Returns its order."""
        patient = None if icn is None else self.pseudonym(icn)
        with self._lock:
            self._calls.append(Call(len(self._calls) + 1, at, endpoint.value, patient))
            return len(self._calls)

    def ended(self, order: int, outcome: str, *, fault: str | None) -> None:
        """Note how a call ended. Done before its answer is sent, so that whoever has the answer finds it here."""
        with self._lock:
            self._calls[order - 1] = replace(self._calls[order - 1], outcome=outcome, fault=fault)

    def history(self) -> list[Call]:
        """Every call so far, in order of arrival."""
        with self._lock:
            return list(self._calls)

    def summary(self) -> dict[str, Any]:
        """The counts: `totals`, `simultaneous_logins`, `duplicate_refreshes`, and `patients` by pseudonym."""
        calls = self.history()
        patients: dict[str, list[Call]] = {}
        for call in calls:
            if call.patient is not None:
                patients.setdefault(call.patient, []).append(call)
        return {
            "totals": _by_endpoint(calls),
            "simultaneous_logins": sum(call.outcome == SIMULTANEOUS for call in calls),
            "duplicate_refreshes": sum(map(self._duplicate_refreshes, patients.values())),
            "patients": {patient: _by_endpoint(own) for patient, own in patients.items()},
        }

    def _duplicate_refreshes(self, calls: list[Call]) -> int:
        kick_offs = [call.arrived_at for call in calls if call.endpoint == Endpoint.REFRESH]
        return sum(later - earlier < self._window_ms for earlier, later in pairwise(kick_offs))


def _by_endpoint(calls: list[Call]) -> dict[str, int]:
    counts = Counter(call.endpoint for call in calls)
    return {endpoint.value: counts[endpoint.value] for endpoint in Endpoint}
