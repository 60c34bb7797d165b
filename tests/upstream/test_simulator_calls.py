"""What the simulator counts, and its own endpoints that tell it and take faults."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from phr_refresh.adapters.simulator import Fault, Simulator
from support.clocks import Clock

ICN = "1012345678V123456"
OTHER_ICN = "1098765432V654321"


@pytest.fixture
def simulator(clock: Clock) -> Iterator[Simulator]:
    with Simulator(clock=clock, login_seconds=0) as running:
        yield running


def call(simulator: Simulator, what: str, icn: str = ICN) -> requests.Response:
    keys = {"X-Authorization-Key": simulator.authorization_key}
    method = "POST" if what == "refresh" else "GET"
    return requests.request(method, f"{simulator.url}/v2/phrmgr/{what}/{icn}", headers=keys, timeout=10)


def test_counts_each_call_per_endpoint_and_patient(simulator: Simulator) -> None:
    """Totals, and the same per pseudonym; the pseudonym is not the ICN."""
    for what, icn in [("refresh", ICN), ("status", ICN), ("status", ICN), ("status", OTHER_ICN)]:
        call(simulator, what, icn)
    expected = {
        "totals": {"login": 0, "refresh": 1, "status": 3, "fhir": 0},
        "simultaneous_logins": 0,
        "duplicate_refreshes": 0,
        "patients": {
            simulator.pseudonym(ICN): {"login": 0, "refresh": 1, "status": 2, "fhir": 0},
            simulator.pseudonym(OTHER_ICN): {"login": 0, "refresh": 0, "status": 1, "fhir": 0},
        },
    }
    assert expected == simulator.calls() == requests.get(f"{simulator.url}/calls", timeout=10).json()


def test_shows_no_icn(simulator: Simulator) -> None:
    """Neither the counts nor the history hold an ICN, and pseudonyms differ between simulators."""
    call(simulator, "refresh")
    shown = requests.get(f"{simulator.url}/calls", timeout=10).text
    shown += requests.get(f"{simulator.url}/history", timeout=10).text
    assert ICN not in shown
    assert simulator.pseudonym(ICN) in shown
    assert simulator.pseudonym(ICN) != Simulator().pseudonym(ICN)


def test_history_lists_calls_in_order_of_arrival(simulator: Simulator, clock: Clock) -> None:
    """Each entry tells when, what, who and how it ended; our own endpoints are not in it."""
    call(simulator, "refresh")
    clock.seconds += 1
    simulator.script(Fault("status", "unauthorized", icn=OTHER_ICN))
    call(simulator, "status", OTHER_ICN)
    listed = requests.get(f"{simulator.url}/history", timeout=10).json()
    expected = [
        {
            "order": 1,
            "arrived_at": 1_700_000_000_000,
            "endpoint": "refresh",
            "patient": simulator.pseudonym(ICN),
            "outcome": "http_200",
            "fault": None,
        },
        {
            "order": 2,
            "arrived_at": 1_700_000_001_000,
            "endpoint": "status",
            "patient": simulator.pseudonym(OTHER_ICN),
            "outcome": "http_401",
            "fault": "unauthorized",
        },
    ]
    assert expected == listed
    assert [entry.order for entry in simulator.history()] == [1, 2]


@pytest.mark.parametrize(("pause", "expected"), [(3599.999, 1), (3600, 0)])
def test_a_second_kick_off_within_the_window_is_a_duplicate(
    simulator: Simulator, clock: Clock, pause: float, expected: int
) -> None:
    """Sixty minutes after the one before it is none any more."""
    call(simulator, "refresh")
    call(simulator, "refresh", OTHER_ICN)
    clock.seconds += pause
    call(simulator, "refresh")
    assert expected == simulator.calls()["duplicate_refreshes"]


def test_the_window_is_measured_from_the_kick_off_before(simulator: Simulator, clock: Clock) -> None:
    """Of three kick-offs 40 minutes apart, two are duplicates."""
    for _number in range(3):
        call(simulator, "refresh")
        clock.seconds += 2400
    assert simulator.calls()["duplicate_refreshes"] == 2


def test_the_window_can_be_set(clock: Clock) -> None:
    """A short window makes a second kick-off after it welcome."""
    with Simulator(clock=clock, window_seconds=5) as simulator:
        call(simulator, "refresh")
        clock.seconds += 5
        call(simulator, "refresh")
        assert simulator.calls()["duplicate_refreshes"] == 0


def test_a_kick_off_that_failed_counts_towards_duplicates(simulator: Simulator) -> None:
    """What was sent was sent, whatever became of it."""
    simulator.script(Fault("refresh", "reset", times=1))
    with pytest.raises(requests.ConnectionError):
        call(simulator, "refresh")
    call(simulator, "refresh")
    assert simulator.calls()["duplicate_refreshes"] == 1


def test_counts_are_exact_under_concurrency(simulator: Simulator) -> None:
    """No call of many threads is lost or counted twice."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: call(simulator, "refresh" if number % 4 == 0 else "status"), range(200)))
    calls = simulator.calls()
    assert (calls["totals"]["refresh"], calls["totals"]["status"], calls["duplicate_refreshes"]) == (50, 150, 49)
    assert list(range(1, 201)) == [entry.order for entry in simulator.history()]


def test_a_request_that_never_came_whole_is_not_counted(simulator: Simulator) -> None:
    """A client that goes away in the middle of the body has not called."""
    host, port = simulator.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"POST /v2/phrmgr/refresh/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{}")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert simulator.calls()["totals"]["refresh"] == 0


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"Transfer-Encoding: chunked", b"HTTP/1.1 411 "),
        (b"Content-Length: -1", b"HTTP/1.1 411 "),
        (b"Content-Length: 99999999", b"HTTP/1.1 411 "),
    ],
)
def test_a_body_of_unknown_length_is_refused(simulator: Simulator, head: bytes, expected: bytes) -> None:
    """The answer is 411 and the connection ends."""
    host, port = simulator.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"POST /v2/phrmgr/refresh/1 HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
        assert expected == client.recv(65536)[: len(expected)]


def test_a_connection_is_kept_alive(simulator: Simulator) -> None:
    """Two requests go over one connection."""
    host, port = simulator.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        for _number in range(2):
            client.sendall(b"DELETE /faults HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 204 ")


def test_faults_can_be_scripted_and_cleared_over_http(simulator: Simulator) -> None:
    """Another process says what goes wrong, with all of the fault's fields, and when it is over."""
    fault = {"endpoint": "status", "kind": "http_error", "icn": ICN, "status": 429, "retry_after": "9", "times": 5}
    scripted = requests.post(f"{simulator.url}/faults", json=fault, timeout=10)
    assert (scripted.status_code, scripted.json()) == (201, {"endpoint": "status", "kind": "http_error"})
    struck = call(simulator, "status")
    assert (struck.status_code, struck.headers["Retry-After"]) == (429, "9")
    assert requests.delete(f"{simulator.url}/faults", timeout=10).status_code == 204
    assert call(simulator, "status").status_code == 200


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("{", "The body is not JSON; send one object with endpoint and kind."),
        ("\udc80", "The body is not JSON; send one object with endpoint and kind."),
        ("[" * 100_000, "The body is not JSON; send one object with endpoint and kind."),
        ("[]", None),
        ('{"kind": "hang"}', None),
        ('{"endpoint": "status", "kind": "hang", "colour": "red"}', None),
        (
            '{"endpoint": "status", "kind": ["hang"]}',
            (
                "Fault.kind: it is unknown; choose from latency, hang, reset, lost_answer, http_error, unauthorized, "
                "garbage, bad_token, partial_failure, all_failed, throttled, empty_list."
            ),
        ),
    ],
)
def test_a_wrong_fault_over_http_is_refused_with_one_sentence(
    simulator: Simulator, body: str, sentence: str | None
) -> None:
    """The answer is 400 and says what to send."""
    shape = (
        "Fault: it is not an object with endpoint, kind and known fields; use body, endpoint, extracts, icn, kind, "
        "processed, retry_after, seconds, status, times."
    )
    answer = requests.post(f"{simulator.url}/faults", data=body.encode("utf-8", "surrogateescape"), timeout=10)
    assert (400, {"error": sentence or shape}) == (answer.status_code, answer.json())


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("PUT", "/faults"), ("GET", "/v2/phrmgr/refresh")])
def test_an_unknown_path_is_404_and_not_counted(simulator: Simulator, method: str, path: str) -> None:
    """Neither the upstream nor the simulator has it."""
    assert requests.request(method, simulator.url + path, timeout=10).status_code == 404
    assert simulator.history() == []


def test_a_wrong_method_is_405(simulator: Simulator) -> None:
    """Reading the kick-off's path starts nothing."""
    keys = {"X-Authorization-Key": simulator.authorization_key}
    url = f"{simulator.url}/v2/phrmgr/refresh/{ICN}"
    assert requests.get(url, headers=keys, timeout=10).status_code == 405
    assert call(simulator, "status").json()["facilityExtractStatusList"] == []


def test_keeps_port_and_patients_over_a_restart(simulator: Simulator) -> None:
    """An outage refuses connections; afterwards everything is as it was."""
    url = simulator.url
    call(simulator, "refresh")
    before: Any = call(simulator, "status").json()
    simulator.stop()
    with pytest.raises(requests.ConnectionError):
        call(simulator, "status")
    simulator.start()
    assert (url, before) == (simulator.url, call(simulator, "status").json())


def test_an_idle_connection_does_not_outlive_the_simulator(simulator: Simulator) -> None:
    """A pooled connection is cut by `stop`: nobody answers after an outage has begun."""
    with requests.Session() as pooled:
        pooled.get(f"{simulator.url}/calls", timeout=10)
        simulator.stop()
        with pytest.raises(requests.ConnectionError):
            pooled.get(f"{simulator.url}/calls", timeout=10)


def test_stopping_and_starting_twice_is_harmless() -> None:
    """Both are safe to repeat."""
    simulator = Simulator()
    simulator.stop()
    assert simulator.start().url == simulator.start().url
    simulator.stop()
    simulator.stop()


def test_prints_nothing(simulator: Simulator, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither calls, nor nonsense, nor clients that go away leave a word on the terminal."""
    host, port = simulator.url.removeprefix("http://").split(":")
    for nonsense in (b"\r\n\r\n", b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", json.dumps({}).encode()):
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(nonsense)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
    call(simulator, "status")
    assert tuple(capfd.readouterr()) == ("", "")
