"""Reading the FHIR server that a refresh fills (UPSTREAM, section 4)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never
from urllib.parse import urlencode

from ..statemachine.effects import SessionToken
from .http_client import Answer, HttpClient, Lost, NotSent
from .settings import MhvSettings

_FHIR_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
_NO_PATIENT_YET = "HAPI-1363"


@dataclass(frozen=True, slots=True, repr=False)
class Vitals:
    """The first page of the vital signs: a FHIR Bundle as parsed JSON, and how many there are in all."""

    bundle: Mapping[str, object]
    total: int

    def __repr__(self) -> str:
        return f"Vitals(<bundle withheld>, total={self.total})"


@dataclass(frozen=True, slots=True)
class NotReady:
    """The FHIR server does not know the patient yet: the first refresh has not ended."""


@dataclass(frozen=True, slots=True)
class FhirFailed:
    """Nothing could be read. `reason` is a code such as "http_401", "several_patients" or "timed_out"."""

    reason: str


class FhirClient:
    """Reads a patient's resources with their session token. Thread-safe. Failures are answers, not exceptions."""

    def __init__(self, settings: MhvSettings, http: HttpClient) -> None:
        self._settings = settings
        self._http = http

    def vitals(self, token: SessionToken) -> Vitals | NotReady | FhirFailed:
        """The vital signs of the token's patient, past the server's cache (which is up to 60 s old).

        Two calls: the patient by `subject_id`, then their observations. An error HAPI-1363 is taken for "not yet",
        though old servers used it for several patients too: which of the two it was shows once the refresh has ended.
        """
        found = self._search("Patient", {"identifier": token.subject_id}, token)
        if not isinstance(found, dict):
            return found
        patient_id = _only_patient(found)
        if not isinstance(patient_id, str):
            return patient_id
        bundle = self._search("Observation", {"patient": patient_id, "category": "vital-signs"}, token)
        if not isinstance(bundle, dict):
            return bundle
        return Vitals(bundle, _total(bundle))

    def _search(
        self, resource: str, query: Mapping[str, str], token: SessionToken
    ) -> dict[str, object] | NotReady | FhirFailed:
        outcome = self._http.call(
            "GET",
            f"{self._settings.fhir_url}/{resource}?{urlencode(query)}",
            headers=self._settings.common_headers()
            | token.headers()
            | {"Accept": "application/fhir+json", "Cache-Control": "no-cache"},
            max_bytes=self._settings.max_bundle_bytes,
        )
        match outcome:
            case NotSent(reason) | Lost(reason):
                return FhirFailed(reason)
            case Answer():
                return _bundle(outcome)
        assert_never(outcome)


def _bundle(answer: Answer) -> dict[str, object] | NotReady | FhirFailed:
    body = answer.json_object()
    if answer.status == 202 or (answer.status == 500 and _says_no_patient(body)):
        return NotReady()
    if answer.status != 200:
        return FhirFailed(answer.code)
    if body is None or body.get("resourceType") != "Bundle":
        return FhirFailed(answer.cut or "unreadable_answer")
    return dict(body)


def _says_no_patient(outcome: Mapping[str, object] | None) -> bool:
    issues = outcome.get("issue") if outcome else None
    return isinstance(issues, list) and any(
        isinstance(issue, dict) and _NO_PATIENT_YET in str(issue.get("diagnostics")) for issue in issues
    )


def _entries(bundle: Mapping[str, object]) -> list[object]:
    entries = bundle.get("entry")
    return entries if isinstance(entries, list) else []


def _total(bundle: Mapping[str, object]) -> int:
    total = bundle.get("total")
    return total if type(total) is int and total >= 0 else len(_entries(bundle))


def _only_patient(bundle: Mapping[str, object]) -> str | NotReady | FhirFailed:
    resources = [entry.get("resource") for entry in _entries(bundle) if isinstance(entry, dict)]
    patients = [item for item in resources if isinstance(item, dict) and item.get("resourceType") == "Patient"]
    if len(patients) > 1 or _total(bundle) > 1:
        return FhirFailed("several_patients")
    if not patients:
        return NotReady() if _total(bundle) == 0 else FhirFailed("unreadable_answer")
    found = patients[0].get("id")
    return found if isinstance(found, str) and _FHIR_ID.fullmatch(found) else FhirFailed("unreadable_answer")
