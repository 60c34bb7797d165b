"""The FHIR server that a refresh feeds: one Patient and vital signs, in R4, behind bearer tokens and a cache."""

import json
import threading
from datetime import UTC, datetime
from typing import Any, Final

from ...statemachine.policy import Instant
from .messages import Answer, Request
from .patients import Feed, Patients
from .tokens import TokenIssuer, blake2b_hex, subject_id_of

Resource = dict[str, Any]

_MEDIA_TYPE: Final = "application/fhir+json;charset=UTF-8"
_CATEGORY: Final = "http://terminology.hl7.org/CodeSystem/observation-category"


class FhirServer:
    """Answers `Patient?identifier=` and `Observation?patient=&category=vital-signs`. Thread-safe.

    As upstream, a search is answered from a cache for up to `cache_ms`, unless it says `Cache-Control: no-cache`.
    """

    def __init__(self, patients: Patients, tokens: TokenIssuer, *, cache_ms: int) -> None:
        self._patients = patients
        self._tokens = tokens
        self._cache_ms = cache_ms
        self._lock = threading.Lock()
        self._cache: dict[str, tuple[Instant, bytes]] = {}

    def subject_of(self, request: Request, *, now: Instant) -> str | None:
        """Whose valid token the request bears."""
        return self._tokens.subject_of(request.headers.get("authorization", ""), now=now / 1000)

    def answer(self, request: Request, *, base: str, now: Instant) -> Answer:
        """Answer one request below `base`, the FHIR server's own URL."""
        subject_id = self.subject_of(request, now=now)
        icn = None if subject_id is None else self._patients.icn_of(subject_id)
        if subject_id is None or icn is None:
            return _outcome(401, "login", "The bearer token is missing, malformed or expired.")
        feed = self._patients.feed(icn, now=now)
        match request.path.removeprefix("/fhir/"):
            case "Patient":
                is_own = _value(request, "identifier") == subject_id
            case "Observation":
                is_own = request.query.get("patient", "").removeprefix("Patient/") == _patient_id_of(subject_id)
            case _:
                return _outcome(404, "not-supported", "Only Patient and Observation can be searched.")
        if not is_own:
            return _outcome(403, "forbidden", "The token is not of the patient that was asked for.")
        if feed is None and request.path == "/fhir/Patient":
            return _outcome(202, "incomplete", "The patient is being loaded.", severity="information")
        return self._search(request, icn, feed=feed, base=base, now=now)

    def _search(self, request: Request, icn: str, *, feed: Feed | None, base: str, now: Instant) -> Answer:
        key = f"{icn} {request.target}"
        wants_new = "no-cache" in request.headers.get("cache-control", "").lower()
        with self._lock:
            cached_at, body = self._cache.get(key, (0, b""))
            if wants_new or not body or now - cached_at >= self._cache_ms:
                url = base.removesuffix("/fhir") + request.target
                bundle = _searchset(self._found(request, icn, feed), url=url, base=base, now=now)
                body = json.dumps(bundle, separators=(",", ":")).encode()
                self._cache[key] = (now, body)
        return Answer(200, body, {"Content-Type": _MEDIA_TYPE})

    def _found(self, request: Request, icn: str, feed: Feed | None) -> list[Resource]:
        if feed is None:
            return []
        if request.path.endswith("/Patient"):
            return [_patient(subject_id_of(icn), feed)]
        return self._vital_signs(icn, feed) if _value(request, "category") == "vital-signs" else []

    def _vital_signs(self, icn: str, feed: Feed) -> list[Resource]:
        """Blood pressure, heart rate, weight and temperature, taken when they were fed: others with each refresh."""
        patient_id = _patient_id_of(subject_id_of(icn))
        dice = self._patients.dice(icn, f"vital signs {feed.number} {feed.fed_at}")
        pressure = _observation("85354-9", "Blood pressure panel", patient_id=patient_id, feed=feed)
        pressure["component"] = [
            _measured("8480-6", "Systolic blood pressure", dice.randrange(105, 145), "mm[Hg]"),
            _measured("8462-4", "Diastolic blood pressure", dice.randrange(65, 92), "mm[Hg]"),
        ]
        # The refresh's number shifts the pulse, so that no two consecutive refreshes ever look the same.
        single = [
            ("8867-4", "Heart rate", 60 + feed.number % 40, "/min"),
            ("29463-7", "Body weight", dice.randrange(600, 1000) / 10, "kg"),
            ("8310-5", "Body temperature", dice.randrange(362, 375) / 10, "Cel"),
        ]
        return [pressure] + [
            _observation(code, display, patient_id=patient_id, feed=feed) | _measured(code, display, value, unit)
            for code, display, value, unit in single
        ]


def _patient_id_of(subject_id: str) -> str:
    """The logical id of a patient's FHIR Patient, which is not the identifier it is found by."""
    return blake2b_hex(subject_id, "phr-sim-patient")


def _patient(subject_id: str, feed: Feed) -> Resource:
    return {
        "resourceType": "Patient",
        "id": _patient_id_of(subject_id),
        "meta": {"lastUpdated": _instant(feed.fed_at)},
        "identifier": [{"system": "urn:phr-refresh:simulator", "value": subject_id}],
        "active": True,
        "name": [{"family": "Simulated", "given": ["Patient"]}],
    }


def _observation(code: str, display: str, *, patient_id: str, feed: Feed) -> Resource:
    return {
        "resourceType": "Observation",
        "id": f"{patient_id}-{code}",
        "meta": {"lastUpdated": _instant(feed.fed_at)},
        "status": "final",
        "category": [{"coding": [{"system": _CATEGORY, "code": "vital-signs", "display": "Vital Signs"}]}],
        "code": _code(code, display),
        "subject": {"reference": f"Patient/{patient_id}"},
        "effectiveDateTime": _instant(feed.fed_at),
    }


def _measured(code: str, display: str, value: float, unit: str) -> Resource:
    quantity = {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}
    return {"code": _code(code, display), "valueQuantity": quantity}


def _code(code: str, display: str) -> Resource:
    return {"coding": [{"system": "http://loinc.org", "code": code, "display": display}], "text": display}


def _searchset(resources: list[Resource], *, url: str, base: str, now: int) -> Resource:
    """The Bundle that answers a search. `url` is the search, `base` the FHIR server's, `now` in epoch milliseconds."""
    entries = [
        {"fullUrl": f"{base}/{one['resourceType']}/{one['id']}", "resource": one, "search": {"mode": "match"}}
        for one in resources
    ]
    return {
        "resourceType": "Bundle",
        "type": "searchset",
        "meta": {"lastUpdated": _instant(now)},
        "total": len(resources),
        "link": [{"relation": "self", "url": url}],
        # FHIR knows no empty arrays.
        **({"entry": entries} if entries else {}),
    }


def _outcome(status: int, code: str, diagnostics: str, *, severity: str = "error") -> Answer:
    """What FHIR says instead of a resource."""
    issue = {"severity": severity, "code": code, "diagnostics": diagnostics}
    outcome = {"resourceType": "OperationOutcome", "issue": [issue]}
    return Answer(status, json.dumps(outcome).encode(), {"Content-Type": _MEDIA_TYPE})


def _value(request: Request, name: str) -> str:
    """The value of a FHIR search token, which may be preceded by its system."""
    return request.query.get(name, "").rpartition("|")[2]


def _instant(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
