"""The simulator's faults: each kind over real HTTP, and the script that decides when one strikes."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from phr_refresh.adapters.simulator import EXTRACTS, Endpoint, Fault, FaultKind, Simulator
from phr_refresh.statemachine.errors import ConfigurationError
from support.clocks import Clock

ICN = "1012345678V123456"
OTHER_ICN = "1098765432V654321"
LONGEST_REFRESH = 6.4
LONG = 30.0


@pytest.fixture
def simulator(clock: Clock) -> Iterator[Simulator]:
    with Simulator(clock=clock, login_seconds=0) as running:
        yield running


def login(simulator: Simulator, icn: str = ICN, *, timeout: float = LONG) -> requests.Response:
    body = {
        "appId": "103",
        "appToken": simulator.app_token,
        "subject": icn,
        "userType": "PATIENT",
        "authParams": {"PATIENT_SUBJECT_ID_TYPE": "ICN"},
    }
    return requests.post(f"{simulator.url}/v1/security/login", json=body, timeout=timeout)


def refresh(simulator: Simulator, icn: str = ICN, *, timeout: float = LONG) -> requests.Response:
    keys = {"X-Authorization-Key": simulator.authorization_key}
    return requests.post(f"{simulator.url}/v2/phrmgr/refresh/{icn}", json={}, headers=keys, timeout=timeout)


def status(simulator: Simulator, icn: str = ICN, *, timeout: float = LONG) -> requests.Response:
    keys = {"X-Authorization-Key": simulator.authorization_key}
    return requests.get(f"{simulator.url}/v2/phrmgr/status/{icn}", headers=keys, timeout=timeout)


def search(simulator: Simulator, icn: str = ICN, *, timeout: float = LONG) -> requests.Response:
    keys = {"Authorization": login(simulator, icn).headers["x-amzn-remapped-authorization"]}
    return requests.get(f"{simulator.url}/fhir/Patient", headers=keys, timeout=timeout)


def rows(simulator: Simulator) -> dict[str, dict[str, Any]]:
    return {row["extract"]: row for row in status(simulator).json()["facilityExtractStatusList"]}


def is_true_soon(condition: Callable[[], bool]) -> bool:
    """Whether the condition comes true within five seconds."""
    patience = threading.Event()
    return any(condition() or patience.wait(0.01) for _attempt in range(500))


CALLS = {"login": login, "refresh": refresh, "status": status, "fhir": search}
everywhere = pytest.mark.parametrize("endpoint", list(CALLS))


@everywhere
def test_latency_delays_the_answer(simulator: Simulator, endpoint: str) -> None:
    """The answer is the usual one, and comes later."""
    usual = CALLS[endpoint](simulator).status_code
    simulator.script(Fault(endpoint, "latency", seconds=0.1))
    started_at = time.monotonic()
    assert usual == CALLS[endpoint](simulator).status_code
    assert time.monotonic() - started_at >= 0.1


def test_a_slow_login_is_under_way_all_the_time(simulator: Simulator) -> None:
    """A second login of the patient during the first one's latency is simultaneous; stopping cuts the first one."""
    simulator.script(Fault("login", "latency", seconds=LONG))
    with ThreadPoolExecutor(2) as pool:
        logins = [pool.submit(login, simulator) for _number in range(2)]
        assert is_true_soon(lambda: simulator.calls()["totals"]["login"] == 2)
        assert is_true_soon(lambda: simulator.calls()["simultaneous_logins"] == 1)
        simulator.stop()
    errors = [attempt.exception() for attempt in logins]
    assert [requests.ConnectionError] == [type(error) for error in errors if error is not None]


def test_a_delayed_kick_off_takes_effect_on_arrival(simulator: Simulator) -> None:
    """A client that gives up waiting has started the refresh all the same."""
    simulator.script(Fault("refresh", "latency", seconds=LONG))
    with pytest.raises(requests.ReadTimeout):
        refresh(simulator, timeout=0.2)
    assert set(EXTRACTS) == set(rows(simulator))


@everywhere
def test_a_hung_call_is_never_answered(simulator: Simulator, endpoint: str) -> None:
    """The call is counted at once and logged as hung; the client runs into its own time-out."""
    simulator.script(Fault(endpoint, "hang"))
    with pytest.raises(requests.ReadTimeout):
        CALLS[endpoint](simulator, timeout=0.2)
    assert is_true_soon(lambda: simulator.history()[-1].outcome == "hung")


def test_stopping_cuts_hung_calls(simulator: Simulator) -> None:
    """Whoever still waits sees the connection end when the simulator stops."""
    simulator.script(Fault("status", "hang"))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(status, simulator)
        assert is_true_soon(lambda: simulator.calls()["totals"]["status"] == 1)
        simulator.stop()
        with pytest.raises(requests.ConnectionError):
            waiting.result()


@pytest.mark.parametrize(("processed", "expected"), [(False, 0), (True, len(EXTRACTS))])
@pytest.mark.parametrize("kind", ["hang", "http_error", "garbage"])
def test_some_faults_can_strike_after_the_effect(
    simulator: Simulator, kind: str, processed: bool, expected: int
) -> None:
    """A gateway may hang or fail before the refresh was started, or after it."""
    simulator.script(Fault("refresh", kind, processed=processed, status=504))
    try:
        refresh(simulator, timeout=0.2)
    except requests.ReadTimeout:
        assert kind == "hang"
    assert expected == len(rows(simulator))


@everywhere
def test_a_reset_call_is_counted_but_takes_no_effect(simulator: Simulator, endpoint: str) -> None:
    """The client sees an RST, the log a reset call, the patient nothing."""
    simulator.script(Fault(endpoint, "reset"))
    with pytest.raises(requests.ConnectionError, match="Connection reset by peer"):
        CALLS[endpoint](simulator)
    last = simulator.history()[-1]
    assert (endpoint, "reset", "reset") == (last.endpoint, last.outcome, last.fault)
    assert simulator.calls()["totals"][endpoint] == 1
    simulator.clear_faults()
    assert rows(simulator) == {}


def test_a_lost_answer_leaves_the_refresh_started(simulator: Simulator) -> None:
    """The client sees the same RST as for a reset, but the refresh runs."""
    simulator.script(Fault("refresh", "lost_answer"))
    with pytest.raises(requests.ConnectionError, match="Connection reset by peer"):
        refresh(simulator)
    assert simulator.history()[-1].outcome == "lost_answer"
    assert set(EXTRACTS) == set(rows(simulator))


def test_a_reset_connection_does_not_harm_the_next_one(simulator: Simulator) -> None:
    """A pooled client goes on over a new connection."""
    keys = {"X-Authorization-Key": simulator.authorization_key}
    simulator.script(Fault("status", "reset", times=1))
    with requests.Session() as pooled:
        with pytest.raises(requests.ConnectionError):
            pooled.get(f"{simulator.url}/v2/phrmgr/status/{ICN}", headers=keys, timeout=LONG)
        answer = pooled.get(f"{simulator.url}/v2/phrmgr/status/{ICN}", headers=keys, timeout=LONG)
    assert answer.status_code == 200


@everywhere
@pytest.mark.parametrize("retry_after", [None, 7, "-1", "Wed, 21 Oct 2037 07:28:00 GMT", "soon"])
def test_an_http_error_says_what_it_is_told_to(
    simulator: Simulator, endpoint: str, retry_after: str | int | None
) -> None:
    """Status, Retry-After (also a nonsensical one) and body are the fault's."""
    simulator.script(Fault(endpoint, "http_error", status=502, retry_after=retry_after, body="<h1>Bad Gateway</h1>"))
    answer = CALLS[endpoint](simulator)
    expected = None if retry_after is None else str(retry_after)
    assert (502, expected, "<h1>Bad Gateway</h1>") == (
        answer.status_code,
        answer.headers.get("Retry-After"),
        answer.text,
    )


@everywhere
def test_unauthorized_is_401_in_spite_of_the_right_key(simulator: Simulator, endpoint: str) -> None:
    """Keys can be withdrawn at any time."""
    simulator.script(Fault(endpoint, "unauthorized"))
    assert CALLS[endpoint](simulator).status_code == 401


@everywhere
def test_garbage_is_200_without_json(simulator: Simulator, endpoint: str) -> None:
    """The code says success, the body cannot be read."""
    simulator.script(Fault(endpoint, "garbage"))
    answer = CALLS[endpoint](simulator)
    assert answer.status_code == 200
    with pytest.raises(requests.exceptions.JSONDecodeError):
        answer.json()


def test_garbage_can_be_chosen(simulator: Simulator) -> None:
    """JSON of the wrong shape is garbage, too."""
    simulator.script(Fault("status", "garbage", body="[1]"))
    assert status(simulator).json() == [1]


@pytest.mark.parametrize(("body", "expected"), [(None, None), ("not-a-jwt", "Bearer not-a-jwt")])
def test_a_bad_token_is_none_or_cannot_be_decoded(simulator: Simulator, body: str | None, expected: str | None) -> None:
    """The login succeeds, but its header is missing or holds no JWT."""
    simulator.script(Fault("login", "bad_token", body=body))
    answer = login(simulator)
    assert (200, expected) == (answer.status_code, answer.headers.get("x-amzn-remapped-authorization"))


def test_a_partial_failure_ends_the_named_extracts_in_error(simulator: Simulator, clock: Clock) -> None:
    """A failed load counts as completed, not as successful, and its message is escaped and leaks internals."""
    simulator.completed_earlier(ICN, seconds_ago=7200)
    before = rows(simulator)["VPR"]["lastSuccessfulCompleted"]
    simulator.script(Fault("refresh", "partial_failure", extracts=("VPR", "Allergy")))
    refresh(simulator)
    clock.seconds += LONGEST_REFRESH
    listed = rows(simulator)
    assert {"VPR", "Allergy"} == {name for name, row in listed.items() if row["loadStatus"] == "ERROR"}
    vpr = listed["VPR"]
    assert (before, True) == (vpr["lastSuccessfulCompleted"], vpr["upToDate"])
    assert vpr["lastCompleted"] > vpr["lastRequested"] > before
    assert "&lt;error&gt; site " in vpr["errorMessage"]
    assert "<" not in vpr["errorMessage"]


def test_when_all_extracts_fail_the_other_dialect_never_says_200(clock: Clock) -> None:
    """There, a failed refresh looks like one that never ends; a later one that goes well ends it."""
    with Simulator(clock=clock, dialect="http-code") as simulator:
        simulator.script(Fault("refresh", "all_failed", times=1))
        codes = []
        for _number in range(2):
            refresh(simulator)
            clock.seconds += LONGEST_REFRESH
            codes.append(status(simulator).status_code)
        assert codes == [500, 200]


def test_all_failed_is_an_error_in_every_row(simulator: Simulator, clock: Clock) -> None:
    """No extract has ever succeeded."""
    simulator.script(Fault("refresh", "all_failed"))
    refresh(simulator)
    clock.seconds += LONGEST_REFRESH
    assert {("ERROR", None, 0)} == {
        (row["loadStatus"], row["lastSuccessfulCompleted"], row["recordCount"]) for row in rows(simulator).values()
    }


def test_a_throttled_kick_off_is_accepted_and_changes_nothing(simulator: Simulator) -> None:
    """The rows stay those of the refresh before, and the next date follows from that one."""
    simulator.completed_earlier(ICN, seconds_ago=7200)
    before = rows(simulator)
    simulator.script(Fault("refresh", "throttled"))
    answer = refresh(simulator)
    assert (answer.status_code, answer.json()["status"]) == (200, "OK")
    assert before["VPR"]["lastRequested"] + 12 * 3_600_000 == answer.json()["nextDate"]["VPR"]
    assert before == rows(simulator)


def test_an_empty_list_hides_the_rows(simulator: Simulator) -> None:
    """The refresh runs, but its status shows no extracts for as long as the fault lasts."""
    refresh(simulator)
    simulator.script(Fault("status", "empty_list", times=2))
    assert [0, 0, len(EXTRACTS)] == [len(rows(simulator)) for _call in range(3)]


def test_a_fault_strikes_its_patient_only(simulator: Simulator) -> None:
    """Others are served as usual, FHIR included."""
    for endpoint in Endpoint:
        if endpoint != Endpoint.LOGIN:
            simulator.script(Fault(endpoint, FaultKind.UNAUTHORIZED, icn=ICN))
    calls = (refresh, status, search)
    assert [call(simulator).status_code for call in calls] == [401, 401, 401]
    assert 401 not in [call(simulator, OTHER_ICN).status_code for call in (refresh, status)]
    assert simulator.history()[-3].fault == "unauthorized"
    search(simulator, OTHER_ICN)
    assert simulator.history()[-1].fault is None


def test_faults_strike_so_many_times_in_the_order_scripted(simulator: Simulator) -> None:
    """The first that fits strikes alone; once used up, the next one does."""
    simulator.script(Fault("status", "http_error", status=503, times=2))
    simulator.script(Fault("status", "unauthorized", times=1))
    assert [status(simulator).status_code for _call in range(4)] == [503, 503, 401, 200]


def test_a_limited_fault_strikes_exactly_so_often_under_concurrency(simulator: Simulator) -> None:
    """Ten faults meet ten of forty calls, whichever come first."""
    simulator.script(Fault("status", "http_error", times=10))
    with ThreadPoolExecutor(8) as pool:
        codes = [answer.status_code for answer in pool.map(lambda _: status(simulator), range(40))]
    assert (codes.count(503), codes.count(200)) == (10, 30)


def test_cleared_faults_strike_no_more(simulator: Simulator) -> None:
    """After `clear_faults` all is well."""
    simulator.script(Fault("status", "unauthorized"))
    simulator.clear_faults()
    assert status(simulator).status_code == 200


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"endpoint": "logout"}, "Fault.endpoint: it is unknown; choose from login, refresh, status, fhir."),
        ({"kind": "bad_token"}, "Fault.kind: bad_token happens at login only; set endpoint to login."),
        ({"times": 0}, "Fault.times: it is not a positive integer; give 1 or more, or leave it out."),
        ({"seconds": -1}, "Fault.seconds: it is not a duration; give 0 or more seconds."),
        ({"seconds": float("nan")}, "Fault.seconds: it is not a duration; give 0 or more seconds."),
        ({"status": 200}, "Fault.status: it is no error; give one from 400 to 599."),
        ({"retry_after": 1.5}, "Fault.retry_after: it is neither a text nor an integer; give the header's value."),
        ({"body": b"x"}, "Fault.body: it is not a text; give the body as one text."),
        ({"icn": 7}, "Fault.icn: it is not a text; give an ICN, or leave it out."),
        ({"processed": 1}, "Fault.processed: it is not a boolean; give true or false."),
        (
            {"processed": True, "kind": "reset"},
            "Fault.processed: it does not go with reset; use it with garbage, hang, http_error.",
        ),
        (
            {"extracts": ("VPR",)},
            (
                "Fault.extracts: it goes with partial_failure, and partial_failure with it; "
                "name the extracts that fail, or use another kind."
            ),
        ),
    ],
)
def test_a_wrong_fault_is_refused_with_one_sentence(wrong: dict[str, Any], sentence: str) -> None:
    """The sentence names the field, the problem and the remedy."""
    with pytest.raises(ConfigurationError) as raised:
        Fault(**{"endpoint": "status", "kind": "hang"} | wrong)
    assert sentence == str(raised.value)


def test_a_fault_takes_plain_names_and_hides_the_patient() -> None:
    """Names become enum members, lists tuples; `repr` does not show the ICN."""
    fault = Fault("refresh", "partial_failure", icn=ICN, extracts=["VPR"])  # type: ignore[arg-type]
    assert (fault.endpoint, fault.kind, fault.extracts) == (Endpoint.REFRESH, FaultKind.PARTIAL_FAILURE, ("VPR",))
    assert ICN not in repr(fault)
