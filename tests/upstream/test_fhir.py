"""Reading the FHIR server: adapters/fhir.py."""

import json
import logging
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from phr_refresh.adapters.ports import NotReady, Records, RecordsFailed
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.statemachine.effects import ReadRecords, SessionToken

SUBJECT = "subject id/4711&x"
TOKEN = SessionToken("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln", SUBJECT, 1_900_000_000_000)


def bundle(*resources, **fields):
    return {
        "resourceType": "Bundle",
        "total": len(resources),
        "entry": [{"resource": item} for item in resources],
    } | fields


def outcome(diagnostics):
    return {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "diagnostics": diagnostics}]}


PATIENT = {"resourceType": "Patient", "id": "p-1"}
HEART_RATE = {"resourceType": "Observation", "id": "o-1"}
FOUND = (200, bundle(PATIENT))


@pytest.fixture
def server():
    """A FHIR server that answers a search for each resource type with what `answers` holds."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            served.requests.append((self.path, dict(self.headers)))
            status, body = served.answers[urlsplit(self.path).path.removeprefix("/fhir/")]
            text = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args):
            """Nothing."""

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.daemon_threads = True
    served.requests, served.answers = [], {"Patient": FOUND, "Observation": (200, bundle(HEART_RATE))}
    threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


def made(url, **changes):
    values = {"app_token": "app-token-7", "authorization_key": "system-key-7", "api_key": "gateway-key-7"}
    return MhvUpstream(MhvSettings(base_url="http://127.0.0.1:1", fhir_url=url, **(values | changes)))


@pytest.fixture
def vitals(server, monkeypatch):
    """Reads the vital signs from the server, past any proxy of this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    upstream = made(f"http://127.0.0.1:{server.server_port}/fhir/", max_bundle_bytes=10_000)
    yield lambda: upstream.call(ReadRecords("vitals", TOKEN))
    upstream.close()


def test_the_vital_signs_are_found_by_the_subject(server, vitals):
    """Patient by identifier, then observations by patient: the bundle comes back as it was."""
    assert Records(bundle(HEART_RATE), 1) == vitals()
    asked = [(urlsplit(path).path, parse_qs(urlsplit(path).query)) for path, _ in server.requests]
    expected = [
        ("/fhir/Patient", {"identifier": [SUBJECT]}),
        ("/fhir/Observation", {"patient": ["p-1"], "category": ["vital-signs"]}),
    ]
    assert expected == asked


def test_each_search_goes_past_the_cache_with_the_token(server, vitals):
    """Both calls carry the bearer token, the gateway's key and `no-cache`; the system key stays home."""
    vitals()
    names = ("Authorization", "Cache-Control", "x-api-key", "X-Authorization-Key")
    expected = (f"Bearer {TOKEN.jwt}", "no-cache", "gateway-key-7", None)
    assert [expected, expected] == [tuple(headers.get(name) for name in names) for _, headers in server.requests]


NO_VITALS = {
    "202": ("Patient", (202, outcome("not yet")), NotReady()),
    "HAPI-1363": ("Patient", (500, outcome("HAPI-1363: no patient, or several")), NotReady()),
    "no patient": ("Patient", (200, bundle()), NotReady()),
    "202 for observations": ("Observation", (202, outcome("not yet")), NotReady()),
    "another 500": ("Patient", (500, outcome("HAPI-0389: broken")), RecordsFailed("http_500")),
    "500 of no JSON": ("Patient", (500, b"HAPI-1363"), RecordsFailed("http_500")),
    "500 without issues": ("Patient", (500, {"issue": [7, None]}), RecordsFailed("http_500")),
    "401": ("Patient", (401, {}), RecordsFailed("http_401")),
    "a redirect": ("Patient", (302, {}), RecordsFailed("redirected")),
    "two patients": ("Patient", (200, bundle(PATIENT, PATIENT)), RecordsFailed("several_patients")),
    "two by the total": ("Patient", (200, bundle(PATIENT, total=2)), RecordsFailed("several_patients")),
    "one by the total only": ("Patient", (200, bundle(total=1)), RecordsFailed("unreadable_answer")),
    "entries of the wrong type": (
        "Patient",
        (200, bundle(entry=[7, None], total=1)),
        RecordsFailed("unreadable_answer"),
    ),
    "a patient without an id": (
        "Patient",
        (200, bundle({"resourceType": "Patient"})),
        RecordsFailed("unreadable_answer"),
    ),
    "an id that is a path": ("Patient", (200, bundle(PATIENT | {"id": "../x"})), RecordsFailed("unreadable_answer")),
    "no bundle": ("Patient", (200, PATIENT), RecordsFailed("unreadable_answer")),
    "garbage": ("Observation", (200, b"<html>"), RecordsFailed("unreadable_answer")),
    "a bundle too large": ("Observation", (200, bundle(x="x" * 20_000)), RecordsFailed("too_large")),
    "observations: 503": ("Observation", (503, {}), RecordsFailed("http_503")),
}


@pytest.mark.parametrize(("resource", "answer", "expected"), NO_VITALS.values(), ids=NO_VITALS)
def test_each_answer_without_vital_signs(server, vitals, resource, answer, expected):
    """What is not there yet is told from what went wrong."""
    server.answers[resource] = answer
    assert expected == vitals()


@pytest.mark.parametrize(
    ("fields", "total"), [({"total": 42}, 42), ({"total": -1}, 1), ({"total": True}, 1), ({"total": None}, 1)]
)
def test_the_total_is_the_servers_or_that_of_the_page(server, vitals, fields, total):
    """A total that is a number counts; otherwise the entries of this page do."""
    server.answers["Observation"] = (200, bundle(HEART_RATE, **fields))
    assert total == vitals().total


def test_a_bundle_without_entries_is_empty(server, vitals):
    """A patient without vital signs has an empty bundle, not an error."""
    server.answers["Observation"] = (200, {"resourceType": "Bundle", "total": 0})
    assert 0 == vitals().total


def test_a_server_that_is_away_is_a_failure():
    """Where nobody listens, the code says so."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    upstream = made(f"http://127.0.0.1:{port}")
    assert RecordsFailed("connection_refused") == upstream.call(ReadRecords("vitals", TOKEN))
    upstream.close()


@pytest.mark.parametrize(
    "answer", [(200, bundle(PATIENT)), (401, {}), (500, outcome("subject 4711"))], ids=["good", "401", "500"]
)
def test_no_record_shows_the_token_or_an_id(server, vitals, caplog, answer):
    """With every logger at DEBUG, neither token nor ids nor records are in any record or repr."""
    for name in [None, *logging.getLogger().manager.loggerDict]:
        caplog.set_level(logging.DEBUG, logger=name)
    server.answers["Patient"] = answer
    shown = repr(vitals()) + caplog.text + "".join(repr(vars(record)) for record in caplog.records)
    assert caplog.records
    assert [] == [word for word in (TOKEN.jwt, "4711", "p-1", "o-1", "gateway-key-7") if word in shown]
