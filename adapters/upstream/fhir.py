"""Reading the FHIR server that a refresh fills (UPSTREAM, section 4)."""

import re
from collections.abc import Mapping
from typing import assert_never
from urllib.parse import parse_qsl, urlencode

from ...statemachine.effects import SessionToken
from ...statemachine.errors import ConfigurationError
from ..ports import NotReady, Records, RecordsAnswer, RecordsFailed
from .http_client import Answer, HttpClient, Lost, NotSent
from .settings import MhvSettings

_FHIR_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
_NO_PATIENT_YET = "HAPI-1363"


class FhirClient:
    """Reads a patient's resources with their session token. Thread-safe. Failures are answers, not exceptions."""

    def __init__(self, settings: MhvSettings, http: HttpClient) -> None:
        self._settings = settings
        self._http = http
        asked_for = {"Accept": "application/fhir+json", "Cache-Control": "no-cache"}
        self._headers = settings.common_headers() | asked_for

    def read(self, kind: str, token: SessionToken) -> RecordsAnswer:
        """The records of one `kind` in `MhvSettings.records`, past the server's cache (which is up to 60 s old).

        Two calls: the patient by the token's `subject_id`, then their resources. An error HAPI-1363 is taken for "not
        yet", though old servers used it for several patients too: which it was shows once the refresh has ended.
        Raises `ConfigurationError` for a kind that nobody configured.
        """
        if not self._settings.fhir_url:
            raise ConfigurationError("MhvSettings.fhir_url (PHR_REFRESH_FHIR_URL)", "it is not set", "set it")
        resource, _, query = self._search_of(kind).partition("?")
        found = self._search("Patient", {"identifier": token.subject_id}, token)
        if not isinstance(found, dict):
            return found
        patient_id = _only_patient(found)
        if not isinstance(patient_id, str):
            return patient_id
        bundle = self._search(resource, {"patient": patient_id, **dict(parse_qsl(query))}, token)
        if not isinstance(bundle, dict):
            return bundle
        return Records(bundle, _total(bundle))

    def _search_of(self, kind: str) -> str:
        search = self._settings.records.get(kind)
        if search is None:
            known = ", ".join(sorted(self._settings.records))
            raise ConfigurationError("MhvSettings.records", f"it has no such kind (it has {known})", "add it")
        return search

    def _search(
        self, resource: str, query: Mapping[str, str], token: SessionToken
    ) -> dict[str, object] | NotReady | RecordsFailed:
        outcome = self._http.call(
            "GET",
            f"{self._settings.fhir_url}/{resource}?{urlencode(query)}",
            headers=self._headers | token.headers(),
            max_bytes=self._settings.max_bundle_bytes,
        )
        match outcome:
            case NotSent(reason) | Lost(reason):
                return RecordsFailed(reason)
            case Answer():
                return _bundle(outcome)
        assert_never(outcome)


def _bundle(answer: Answer) -> dict[str, object] | NotReady | RecordsFailed:
    body = answer.json_object()
    if answer.status == 202 or (answer.status == 500 and _says_no_patient(body)):
        return NotReady()
    if answer.status != 200:
        return RecordsFailed(answer.code)
    if body is None or body.get("resourceType") != "Bundle":
        return RecordsFailed(answer.cut or "unreadable_answer")
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


def _only_patient(bundle: Mapping[str, object]) -> str | NotReady | RecordsFailed:
    resources = [entry.get("resource") for entry in _entries(bundle) if isinstance(entry, dict)]
    patients = [item for item in resources if isinstance(item, dict) and item.get("resourceType") == "Patient"]
    if len(patients) > 1 or _total(bundle) > 1:
        return RecordsFailed("several_patients")
    if not patients:
        return NotReady() if _total(bundle) == 0 else RecordsFailed("unreadable_answer")
    found = patients[0].get("id")
    return found if isinstance(found, str) and _FHIR_ID.fullmatch(found) else RecordsFailed("unreadable_answer")
