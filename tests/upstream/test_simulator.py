"""The simulated upstream: session, refresh and status, in both dialects, over real HTTP."""

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from phr_refresh.adapters.simulator import EXTRACTS, Simulator
from phr_refresh.statemachine.errors import ConfigurationError
from support.clocks import Clock

ICN = "1012345678V123456"
OTHER_ICN = "1098765432V654321"
LONGEST_REFRESH = 6.4


@pytest.fixture
def simulator(clock: Clock) -> Iterator[Simulator]:
    with Simulator(clock=clock, login_seconds=0) as running:
        yield running


def login(
    simulator: Simulator, icn: str = ICN, *, path: str = "/v1/security/login", **changes: Any
) -> requests.Response:
    body = {
        "appId": "103",
        "appToken": simulator.app_token,
        "subject": icn,
        "userType": "PATIENT",
        "authParams": {"PATIENT_SUBJECT_ID_TYPE": "ICN"},
    }
    return requests.post(simulator.url + path, json=body | changes, timeout=10)


def refresh(simulator: Simulator, icn: str = ICN, *, base: str = "/v2", **headers: str) -> requests.Response:
    keys = {"X-Authorization-Key": simulator.authorization_key} | headers
    return requests.post(f"{simulator.url}{base}/phrmgr/refresh/{icn}", json={}, headers=keys, timeout=10)


def status(simulator: Simulator, icn: str = ICN, *, base: str = "/v2", **headers: str) -> requests.Response:
    keys = {"X-Authorization-Key": simulator.authorization_key} | headers
    return requests.get(f"{simulator.url}{base}/phrmgr/status/{icn}", headers=keys, timeout=10)


def rows(simulator: Simulator, icn: str = ICN) -> dict[str, dict[str, Any]]:
    listed = status(simulator, icn).json()["facilityExtractStatusList"]
    return {row["extract"]: row for row in listed}


def claims_of(authorization: str) -> dict[str, Any]:
    middle = authorization.removeprefix("Bearer ").split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    return claims


class TestLogin:
    @pytest.mark.parametrize(
        ("path", "header"),
        [
            ("/v1/security/login", "x-amzn-remapped-authorization"),
            ("/mhvapi/security/v1/login", "authorization"),
        ],
    )
    def test_answers_with_a_token_in_the_header_of_the_path(
        self, simulator: Simulator, clock: Clock, path: str, header: str
    ) -> None:
        """The JWT comes in the gateway's header, or the older one, and tells expiry and an opaque subject."""
        answer = login(simulator, path=path)
        claims = claims_of(answer.headers[header])
        assert answer.status_code == 200
        assert {"iat": int(clock.seconds), "exp": int(clock.seconds) + 3600} == {k: claims[k] for k in ("iat", "exp")}
        assert ICN not in claims["subjectId"]
        assert claims["subjectId"] == claims_of(login(simulator, path=path).headers[header])["subjectId"]

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"appId": "104"}, 401),
            ({"appToken": "wrong"}, 401),
            ({"userType": "DOCTOR"}, 400),
            ({"authParams": None}, 400),
            ({"subject": 7}, 400),
            ({"authParams": {"PATIENT_SUBJECT_ID_TYPE": "SSN"}}, 500),
            ({"subject": "not-an-icn"}, 500),
        ],
    )
    def test_refuses_a_wrong_body(self, simulator: Simulator, change: dict[str, Any], expected: int) -> None:
        """Every field of the login body is checked."""
        answer = login(simulator, **change)
        assert expected == answer.status_code
        assert "x-amzn-remapped-authorization" not in answer.headers

    def test_refuses_a_body_that_is_no_json(self, simulator: Simulator) -> None:
        """A login that cannot be read is a bad request."""
        answer = requests.post(f"{simulator.url}/v1/security/login", data=b"{", timeout=10)
        assert answer.status_code == 400

    def test_answers_500_to_all_but_one_of_simultaneous_logins(self) -> None:
        """While a login of a patient is under way, each further one for the same patient is refused and counted."""
        with Simulator(login_seconds=0.5) as simulator, ThreadPoolExecutor(4) as pool:
            codes = sorted(answer.status_code for answer in pool.map(lambda _: login(simulator), range(4)))
            assert codes == [200, 500, 500, 500]
            assert simulator.calls()["simultaneous_logins"] == 3
            assert [call.outcome for call in simulator.history()].count("simultaneous") == 3
            assert login(simulator).status_code == 200

    def test_lets_different_patients_log_in_at_the_same_time(self) -> None:
        """Only logins of the same patient get in each other's way."""
        with Simulator(login_seconds=0.2) as simulator, ThreadPoolExecutor(2) as pool:
            codes = [answer.status_code for answer in pool.map(lambda icn: login(simulator, icn), (ICN, OTHER_ICN))]
            assert codes == [200, 200]
            assert simulator.calls()["simultaneous_logins"] == 0


class TestKickOff:
    @pytest.mark.parametrize("base", ["/v2", "/mhvapi/v2"])
    def test_is_accepted_and_tells_when_each_extract_may_be_next(
        self, simulator: Simulator, clock: Clock, base: str
    ) -> None:
        """The answer is OK, without a description, with a date 12 hours ahead for each extract."""
        answer = refresh(simulator, base=base).json()
        assert (answer["status"], answer["description"]) == ("OK", None)
        assert set(EXTRACTS) == set(answer["nextDate"])
        twelve_hours = clock.milliseconds + 12 * 3600 * 1000
        assert all(twelve_hours <= at <= twelve_hours + 30 for at in answer["nextDate"].values())

    @pytest.mark.parametrize("call", [refresh, status])
    def test_needs_the_system_key(self, simulator: Simulator, call: Any) -> None:
        """A wrong system key is answered with 401 and starts nothing."""
        answer = call(simulator, **{"X-Authorization-Key": "wrong"})
        assert answer.status_code == 401
        assert rows(simulator) == {}

    @pytest.mark.parametrize("icn", ["123", "1012345678v123456", "1012345678V1234567"])
    def test_answers_500_to_a_bad_icn(self, simulator: Simulator, clock: Clock, icn: str) -> None:
        """A malformed ICN is neither a 400 nor a 404 but a 500 with four fields."""
        answer = refresh(simulator, icn)
        expected = {
            "timestamp": clock.milliseconds,
            "status": 500,
            "error": "Internal Server Error",
            "path": f"/v2/phrmgr/refresh/{icn}",
        }
        assert (500, expected) == (answer.status_code, answer.json())

    @pytest.mark.parametrize(("key", "expected"), [("right", 200), ("wrong", 403)])
    def test_passes_the_gateway_with_its_key_only(self, key: str, expected: int) -> None:
        """With an API key set, the gateway's paths ask for it, and the older ones do not."""
        with Simulator(api_key="right", login_seconds=0) as simulator:
            assert expected == refresh(simulator, **{"x-api-key": key}).status_code
            assert expected == status(simulator, **{"x-api-key": key}).status_code
            assert login(simulator).status_code == 403
            assert refresh(simulator, base="/mhvapi/v2").status_code == 200

    def test_does_not_request_again_what_is_under_way(self, simulator: Simulator, clock: Clock) -> None:
        """A second kick-off during a load leaves that load alone and requests the extracts that had settled."""
        refresh(simulator)
        before = rows(simulator)
        clock.seconds += 1.2
        refresh(simulator)
        after = rows(simulator)
        assert before["VPR"]["lastRequested"] == after["VPR"]["lastRequested"]
        assert before["Allergy"]["lastRequested"] < after["Allergy"]["lastRequested"]


class TestStatus:
    @pytest.mark.parametrize("icn", [ICN, "nonsense"])
    def test_answers_200_with_an_empty_list_before_any_refresh(
        self, simulator: Simulator, clock: Clock, icn: str
    ) -> None:
        """A patient never loaded, or an id that is none, looks like success with nothing in it."""
        answer = status(simulator, icn)
        expected = {
            "patient": {
                "identifier": icn,
                "assigningFacility": "200M",
                "assigningAuthority": "USVHA",
                "typeCode": "NI",
                "icn": True,
            },
            "retrievedDate": clock.milliseconds,
            "lastRefreshDate": None,
            "facilityExtractStatusList": [],
        }
        assert (200, expected) == (answer.status_code, answer.json())
        assert answer.headers["Cache-Control"] == "no-store"

    def test_lists_all_extracts_as_requested_right_after_the_kick_off(self, simulator: Simulator, clock: Clock) -> None:
        """All eight rows are there at once, requested within 30 ms, none of them completed."""
        refresh(simulator)
        listed = rows(simulator)
        assert set(EXTRACTS) == set(listed)
        assert all(0 <= row["lastRequested"] - clock.milliseconds <= 30 for row in listed.values())
        assert {(None, None, None, False)} == {
            (row["lastCompleted"], row["lastSuccessfulCompleted"], row["loadStatus"], row["upToDate"])
            for row in listed.values()
        }

    @pytest.mark.parametrize(
        ("extract", "shortest", "longest"),
        [
            ("VPR", 4.1, 4.7),
            ("ImagingStudy", 1.4, 6.3),
            ("MASAppointments", 1.6, 3.1),
            ("Allergy", 0.6, 1.1),
            ("ChemistryHematology", 0.3, 0.4),
        ],
    )
    def test_extracts_take_as_long_as_recorded(
        self, simulator: Simulator, clock: Clock, extract: str, shortest: float, longest: float
    ) -> None:
        """Each extract settles by itself, after a time within its recorded range."""
        refresh(simulator)
        clock.seconds += shortest - 0.01
        assert rows(simulator)[extract]["lastCompleted"] is None
        clock.seconds += longest - shortest + 0.05
        row = rows(simulator)[extract]
        assert shortest * 1000 - 1 <= row["lastCompleted"] - row["lastRequested"] <= longest * 1000 + 1
        assert row["lastCompleted"] == row["lastSuccessfulCompleted"] == row["lastModified"]
        assert (row["loadStatus"], row["errorMessage"], row["upToDate"], row["icn"]) == ("OK", None, True, ICN)

    def test_speed_divides_the_durations(self, clock: Clock) -> None:
        """At speed 10 a refresh is over in a tenth of the time."""
        with Simulator(clock=clock, speed=10) as simulator:
            refresh(simulator)
            clock.seconds += LONGEST_REFRESH / 10
            assert {"OK"} == {row["loadStatus"] for row in rows(simulator).values()}

    def test_follows_the_system_clock_by_default(self) -> None:
        """Without a clock of the test's own, time passes by itself."""
        with Simulator(speed=1000) as simulator:
            refresh(simulator)
            assert any(all(row["loadStatus"] == "OK" for row in rows(simulator).values()) for _attempt in range(1000))

    def test_shows_the_old_outcome_while_a_new_load_is_under_way(self, simulator: Simulator, clock: Clock) -> None:
        """A running load is a request newer than the completion, which is still the one of the load before."""
        simulator.completed_earlier(ICN, seconds_ago=7200)
        completed_at = clock.milliseconds - 7_200_000
        refresh(simulator)
        row = rows(simulator)["VPR"]
        assert (completed_at, completed_at, "OK", False) == (
            row["lastCompleted"],
            row["lastSuccessfulCompleted"],
            row["loadStatus"],
            row["upToDate"],
        )
        assert row["lastRequested"] >= clock.milliseconds

    def test_a_preset_past_is_settled_and_still_called_up_to_date(self, simulator: Simulator, clock: Clock) -> None:
        """A refresh that ended long ago shows its age in the times only, and counts as no call."""
        simulator.completed_earlier(ICN, seconds_ago=18 * 3600)
        assert simulator.calls()["totals"] == {"login": 0, "refresh": 0, "status": 0, "fhir": 0}
        listed = rows(simulator).values()
        assert {(clock.milliseconds - 18 * 3_600_000, True)} == {
            (row["lastSuccessfulCompleted"], row["upToDate"]) for row in listed
        }
        assert all(row["lastRequested"] < row["lastCompleted"] for row in listed)

    def test_the_same_seed_gives_the_same_durations(self, clock: Clock) -> None:
        """What is random follows from the seed and the patient, and differs between seeds."""

        def recorded(seed: int) -> dict[str, dict[str, Any]]:
            start = clock.seconds
            with Simulator(clock=clock, seed=seed) as simulator:
                refresh(simulator)
                clock.seconds += LONGEST_REFRESH
                result = rows(simulator)
            clock.seconds = start
            return result

        assert recorded(1) == recorded(1)
        assert recorded(1) != recorded(2)

    def test_patients_do_not_share_their_rows(self, simulator: Simulator) -> None:
        """A kick-off of one patient shows in no other patient's status."""
        refresh(simulator)
        assert rows(simulator, OTHER_ICN) == {}


class TestHttpCodeDialect:
    def test_answers_500_until_the_refresh_is_complete(self, clock: Clock) -> None:
        """There, the code alone tells: 500 before the end, 200 after it."""
        with Simulator(clock=clock, dialect="http-code") as simulator:
            codes = [status(simulator).status_code]
            refresh(simulator)
            codes.append(status(simulator).status_code)
            clock.seconds += LONGEST_REFRESH
            codes.append(status(simulator, base="/mhvapi/v2").status_code)
            refresh(simulator)
            codes.append(status(simulator).status_code)
            assert codes == [500, 500, 200, 500]


class TestSettings:
    def test_a_wrong_dialect_is_refused_with_the_choices(self) -> None:
        """The sentence names the setting and what to use."""
        with pytest.raises(ConfigurationError) as raised:
            Simulator(dialect="esperanto")  # type: ignore[arg-type]
        assert str(raised.value) == "Simulator.dialect: it is unknown; use extracts or http-code."

    def test_a_speed_of_zero_is_refused(self) -> None:
        """Durations cannot be divided by zero."""
        with pytest.raises(ConfigurationError) as raised:
            Simulator(speed=0)
        assert str(raised.value) == "Simulator.speed: it is not positive; give 1.0 for the recorded durations."
