"""The simulated FHIR server: tokens, the wait for the first refresh, vital signs, and its cache."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from phr_refresh.adapters.simulator import Fault, Simulator
from support.clocks import Clock

r4b = pytest.importorskip("fhir.resources.R4B", reason="the FHIR models are not installed")

ICN = "1012345678V123456"
OTHER_ICN = "1098765432V654321"
LONGEST_REFRESH = 6.4


class Reader:
    """A patient's reader of FHIR: a session, and the two searches."""

    def __init__(self, simulator: Simulator, icn: str = ICN) -> None:
        self.simulator = simulator
        body = {
            "appId": "103",
            "appToken": simulator.app_token,
            "subject": icn,
            "userType": "PATIENT",
            "authParams": {"PATIENT_SUBJECT_ID_TYPE": "ICN"},
        }
        answer = requests.post(f"{simulator.url}/v1/security/login", json=body, timeout=10)
        self.bearer = answer.headers["x-amzn-remapped-authorization"]
        payload = self.bearer.split(".")[1]
        self.subject_id = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["subjectId"]

    def get(self, search: str, **headers: str) -> requests.Response:
        sent = {"Authorization": self.bearer, "Cache-Control": "no-cache"} | headers
        return requests.get(f"{self.simulator.url}/fhir/{search}", headers=sent, timeout=10)

    def patient(self, **headers: str) -> requests.Response:
        return self.get(f"Patient?identifier={self.subject_id}", **headers)

    def patient_id(self) -> str:
        patient_id: str = self.patient().json()["entry"][0]["resource"]["id"]
        return patient_id

    def vital_signs(self, **headers: str) -> dict[str, Any]:
        search = f"Observation?patient={self.patient_id()}&category=vital-signs"
        bundle: dict[str, Any] = self.get(search, **headers).json()
        return bundle


@pytest.fixture
def simulator(clock: Clock) -> Iterator[Simulator]:
    with Simulator(clock=clock, login_seconds=0) as running:
        yield running


def refresh(simulator: Simulator, clock: Clock) -> None:
    keys = {"X-Authorization-Key": simulator.authorization_key}
    requests.post(f"{simulator.url}/v2/phrmgr/refresh/{ICN}", json={}, headers=keys, timeout=10)
    clock.seconds += LONGEST_REFRESH


def test_there_is_no_patient_before_the_first_refresh_has_ended(simulator: Simulator) -> None:
    """The search for the Patient is answered 202 with a valid OperationOutcome."""
    answer = Reader(simulator).patient()
    assert answer.status_code == 202
    assert r4b.get_fhir_model_class("OperationOutcome").model_validate(answer.json()).issue[0].code == "incomplete"


def test_the_patient_is_found_by_the_subject_of_the_token(simulator: Simulator, clock: Clock) -> None:
    """After the refresh a valid searchset holds the one Patient, without the ICN."""
    refresh(simulator, clock)
    reader = Reader(simulator)
    answer = reader.patient()
    bundle = r4b.get_fhir_model_class("Bundle").model_validate(answer.json())
    assert (answer.status_code, bundle.type, bundle.total) == (200, "searchset", 1)
    assert reader.subject_id == bundle.entry[0].resource.identifier[0].value
    assert "application/fhir+json" in answer.headers["Content-Type"]
    assert ICN not in answer.text


def test_vital_signs_are_valid_and_coded(simulator: Simulator, clock: Clock) -> None:
    """Blood pressure with two components, pulse, weight and temperature, in LOINC and UCUM."""
    refresh(simulator, clock)
    bundle = r4b.get_fhir_model_class("Bundle").model_validate(Reader(simulator).vital_signs())
    found = {entry.resource.code.coding[0].code: entry.resource for entry in bundle.entry}
    assert {"85354-9", "8867-4", "29463-7", "8310-5"} == set(found)
    assert [part.code.coding[0].code for part in found["85354-9"].component] == ["8480-6", "8462-4"]
    assert {"vital-signs"} == {vital.category[0].coding[0].code for vital in found.values()}
    quantities = [vital.valueQuantity for code, vital in found.items() if code != "85354-9"]
    assert {"/min", "kg", "Cel"} == {quantity.code for quantity in quantities}
    assert {"http://unitsofmeasure.org"} == {quantity.system for quantity in quantities}


def test_each_refresh_brings_new_values_and_dates(simulator: Simulator, clock: Clock) -> None:
    """A reader can see which refresh the vital signs are from: they are dated at its end."""
    seen = []
    reader = Reader(simulator)
    for _number in range(2):
        started_at = clock.seconds
        refresh(simulator, clock)
        resources = [entry["resource"] for entry in reader.vital_signs()["entry"]]
        vitals = [r4b.get_fhir_model_class("Observation").model_validate(resource) for resource in resources]
        assert all(started_at <= vital.effectiveDateTime.timestamp() <= clock.seconds for vital in vitals)
        seen.append({vital.code.text: vital.valueQuantity and vital.valueQuantity.value for vital in vitals})
        assert resources == [entry["resource"] for entry in reader.vital_signs()["entry"]]
    assert seen[0]["Heart rate"] != seen[1]["Heart rate"]


def test_a_running_refresh_still_shows_the_old_values(simulator: Simulator, clock: Clock) -> None:
    """The data change when all extracts have settled, not before."""
    simulator.completed_earlier(ICN, seconds_ago=7200)
    reader = Reader(simulator)
    old = reader.vital_signs()["entry"]
    refresh(simulator, clock)
    clock.seconds -= LONGEST_REFRESH - 4
    assert old == reader.vital_signs()["entry"]


@pytest.mark.parametrize(("fault", "expected"), [("all_failed", 202), ("partial_failure", 200)])
def test_a_refresh_feeds_what_succeeded(simulator: Simulator, clock: Clock, fault: str, expected: int) -> None:
    """A refresh that failed in part feeds the FHIR server, one that failed altogether does not."""
    extracts = ("Allergy",) if fault == "partial_failure" else ()
    simulator.script(Fault("refresh", fault, extracts=extracts))
    refresh(simulator, clock)
    assert expected == Reader(simulator).patient().status_code


def test_observations_before_the_first_refresh_are_an_empty_bundle(simulator: Simulator, clock: Clock) -> None:
    """No data is a valid Bundle with a total of 0 and no entry."""
    refresh(simulator, clock)
    patient_id = Reader(simulator).patient_id()
    with Simulator(login_seconds=0) as untouched:
        answer = Reader(untouched).get(f"Observation?patient={patient_id}&category=vital-signs").json()
    assert (r4b.get_fhir_model_class("Bundle").model_validate(answer).total, answer.get("entry")) == (0, None)


def test_other_categories_are_empty(simulator: Simulator, clock: Clock) -> None:
    """Only vital signs are simulated."""
    refresh(simulator, clock)
    reader = Reader(simulator)
    assert reader.get(f"Observation?patient={reader.patient_id()}&category=laboratory").json()["total"] == 0


@pytest.mark.parametrize(
    "bearer", ["", "Bearer", "Bearer x.y.z", "Bearer a", "Basic eDp5", "Bearer \u00fc.\u00fc.\u00fc"]
)
def test_a_bad_token_is_answered_401(simulator: Simulator, bearer: str) -> None:
    """Missing, malformed and forged tokens get an OperationOutcome."""
    answer = Reader(simulator).patient(Authorization=bearer.encode("latin-1"))  # type: ignore[arg-type]
    assert answer.status_code == 401
    assert r4b.get_fhir_model_class("OperationOutcome").model_validate(answer.json()).issue[0].code == "login"


def test_a_token_of_another_simulator_is_answered_401(simulator: Simulator) -> None:
    """Signatures are checked."""
    with Simulator(login_seconds=0) as other:
        assert Reader(simulator).patient(Authorization=Reader(other).bearer).status_code == 401


def test_an_expired_token_is_answered_401(simulator: Simulator, clock: Clock) -> None:
    """A session ends when its token says so."""
    reader = Reader(simulator)
    clock.seconds += 3599
    assert reader.patient().status_code == 202
    clock.seconds += 1
    assert reader.patient().status_code == 401


def test_a_token_opens_its_own_patient_only(simulator: Simulator) -> None:
    """Asking for somebody else is forbidden."""
    reader, other = Reader(simulator), Reader(simulator, OTHER_ICN)
    assert reader.get(f"Patient?identifier={other.subject_id}").status_code == 403
    assert reader.get("Observation?patient=somebody&category=vital-signs").status_code == 403


def test_other_resources_are_not_simulated(simulator: Simulator) -> None:
    """The answer is 404 with an OperationOutcome."""
    answer = Reader(simulator).get("Condition?patient=somebody")
    assert (answer.status_code, answer.json()["resourceType"]) == (404, "OperationOutcome")


def test_a_search_is_cached_for_a_minute_unless_told_otherwise(simulator: Simulator, clock: Clock) -> None:
    """Without `no-cache` a reader sees the data of up to 60 s ago, refresh or not."""
    simulator.completed_earlier(ICN, seconds_ago=7200)
    reader = Reader(simulator)
    relaxed = {"Cache-Control": "max-age=60"}
    old = reader.vital_signs(**relaxed)
    refresh(simulator, clock)
    assert old == reader.vital_signs(**relaxed)
    new = reader.vital_signs()
    assert old["entry"] != new["entry"]
    assert new["entry"] == reader.vital_signs(**relaxed)["entry"]
    refresh(simulator, clock)
    clock.seconds += 60
    assert new["entry"] != reader.vital_signs(**relaxed)["entry"]
