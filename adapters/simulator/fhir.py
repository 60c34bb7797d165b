"""The FHIR R4 resources that a refresh feeds: one Patient and a set of vital signs."""

import random
from datetime import UTC, datetime
from typing import Any, Final

from .patients import Feed
from .tokens import blake2b_hex

Resource = dict[str, Any]

_LOINC: Final = "http://loinc.org"
_UCUM: Final = "http://unitsofmeasure.org"
_CATEGORY: Final = "http://terminology.hl7.org/CodeSystem/observation-category"
_SYSTOLIC: Final = ("8480-6", "Systolic blood pressure", "mm[Hg]")
_DIASTOLIC: Final = ("8462-4", "Diastolic blood pressure", "mm[Hg]")
_HEART_RATE: Final = ("8867-4", "Heart rate", "/min")
_WEIGHT: Final = ("29463-7", "Body weight", "kg")
_TEMPERATURE: Final = ("8310-5", "Body temperature", "Cel")


def patient_id_of(subject_id: str) -> str:
    """The logical id of a patient's FHIR Patient, which is not the identifier it is found by."""
    return blake2b_hex(subject_id, "phr-sim-patient")


def patient(subject_id: str, feed: Feed) -> Resource:
    """A synthetic Patient."""
    return {
        "resourceType": "Patient",
        "id": patient_id_of(subject_id),
        "meta": {"lastUpdated": _instant(feed.fed_at)},
        "identifier": [{"system": "urn:phr-refresh:simulator", "value": subject_id}],
        "active": True,
        "name": [{"family": "Simulated", "given": ["Patient"]}],
    }


def vital_signs(patient_id: str, feed: Feed, dice: random.Random) -> list[Resource]:
    """Blood pressure, heart rate, weight and temperature, taken when they were fed: other ones with each refresh."""
    pressure = _observation("85354-9", "Blood pressure panel", patient_id=patient_id, feed=feed)
    pressure["component"] = [
        {"code": _code(*_SYSTOLIC[:2]), "valueQuantity": _quantity(dice.randrange(105, 145), _SYSTOLIC[2])},
        {"code": _code(*_DIASTOLIC[:2]), "valueQuantity": _quantity(dice.randrange(65, 92), _DIASTOLIC[2])},
    ]
    # The refresh's number shifts the pulse, so that no two consecutive refreshes ever look the same.
    measured = [
        (_HEART_RATE, 60 + feed.number % 40),
        (_WEIGHT, dice.randrange(600, 1000) / 10),
        (_TEMPERATURE, dice.randrange(362, 375) / 10),
    ]
    single = []
    for (code, display, unit), value in measured:
        observation = _observation(code, display, patient_id=patient_id, feed=feed)
        observation["valueQuantity"] = _quantity(value, unit)
        single.append(observation)
    return [pressure, *single]


def searchset(resources: list[Resource], *, url: str, base: str, now: int) -> Resource:
    """The Bundle that answers a search. `url` is the search, `base` the FHIR server's, `now` in epoch milliseconds."""
    bundle: Resource = {
        "resourceType": "Bundle",
        "type": "searchset",
        "meta": {"lastUpdated": _instant(now)},
        "total": len(resources),
        "link": [{"relation": "self", "url": url}],
    }
    if resources:  # FHIR knows no empty arrays.
        bundle["entry"] = [
            {
                "fullUrl": f"{base}/{resource['resourceType']}/{resource['id']}",
                "resource": resource,
                "search": {"mode": "match"},
            }
            for resource in resources
        ]
    return bundle


def operation_outcome(severity: str, code: str, *, diagnostics: str) -> Resource:
    """What FHIR says instead of a resource."""
    return {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": severity, "code": code, "diagnostics": diagnostics}],
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


def _code(code: str, display: str) -> Resource:
    return {"coding": [{"system": _LOINC, "code": code, "display": display}], "text": display}


def _quantity(value: float, unit: str) -> Resource:
    return {"value": value, "unit": unit, "system": _UCUM, "code": unit}


def _instant(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
