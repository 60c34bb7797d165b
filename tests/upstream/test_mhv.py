"""The JWT login: adapters/session_creation/mhv.py."""

import json
import logging
import threading
import time
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.statemachine.effects import OpenSession, SessionFailed, SessionOpened
from phr_refresh.statemachine.patient import Patient

ICN = "1012345678V123456"
PATIENT = Patient("ada", ICN, "corr-900123")
HOUR = 3600
REMAPPED = "x-amzn-remapped-authorization"


def token(**claims):
    """A JWT that nobody's key verifies, for a subject and the next half hour unless `claims` say otherwise."""
    given = {"subjectId": "4711", "exp": int(time.time()) + HOUR // 2} | claims
    return jwt.encode({name: value for name, value in given.items() if value is not None}, "k" * 32)


@pytest.fixture
def server():
    """An HTTP server that keeps each request and answers with `status`, `headers` and `body`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            served.requests.append((self.path, dict(self.headers), json.loads(body)))
            self.send_response(served.status)
            for name, value in served.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(served.body)))
            self.end_headers()
            self.wfile.write(served.body)

        def log_message(self, *args):
            """Nothing."""

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.daemon_threads = True
    served.requests, served.status, served.headers, served.body = [], 200, {}, b"{}"
    served.url = f"http://127.0.0.1:{served.server_port}"
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()


@pytest.fixture
def upstream(server, monkeypatch):
    """Makes upstreams that talk to the server, past any proxy of this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = []

    def make(**changes):
        values = {"app_token": "app-token-7", "authorization_key": "system-key-7"} | changes
        made.append(MhvUpstream(MhvSettings(base_url=server.url, read_timeout=timedelta(seconds=5), **values)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def opened(server, upstream, value, header=REMAPPED):
    server.headers = {header: value}
    return upstream().call(OpenSession(PATIENT))


@pytest.mark.parametrize(("legacy", "path"), [(False, "/v1/security/login"), (True, "/mhvapi/security/v1/login")])
def test_the_login_is_sent_as_the_upstream_wants_it(server, upstream, legacy, path):
    """The body names the patient by ICN; the gateway's key is sent, the system key is not."""
    server.headers = {REMAPPED: f"Bearer {token()}"}
    upstream(legacy_paths=legacy, api_key="gateway-key-7").call(OpenSession(PATIENT))
    sent_path, headers, body = server.requests[0]
    expected = {
        "appId": "103",
        "appToken": "app-token-7",
        "subject": ICN,
        "userType": "PATIENT",
        "authParams": {"PATIENT_SUBJECT_ID_TYPE": "ICN"},
    }
    assert (path, expected) == (sent_path, body)
    assert ("application/json", "gateway-key-7", None) == (
        headers["Content-Type"],
        headers["x-api-key"],
        headers.get("X-Authorization-Key"),
    )


@pytest.mark.parametrize("header", [REMAPPED, "X-Amzn-Remapped-Authorization", "Authorization"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_the_token_is_taken_out_of_the_header(server, upstream, header, scheme):
    """Behind a gateway or not, the bearer token opens the session, 20 s less than it says."""
    ends = int(time.time()) + HOUR // 2
    made = token(exp=ends)
    answer = opened(server, upstream, f"{scheme} {made}", header)
    assert (made, "4711", (ends - 20) * 1000) == (
        answer.token.reveal(),
        answer.token.subject_id,
        answer.token.expires_at,
    )


def test_the_gateways_header_goes_before_the_older_one(server, upstream):
    """Where both headers come, the remapped one holds the token."""
    made = token()
    server.headers = {"Authorization": "Bearer other", REMAPPED: f"Bearer {made}"}
    assert made == upstream().call(OpenSession(PATIENT)).token.reveal()


@pytest.mark.parametrize(
    "exp", [None, int(time.time()) + 40 * HOUR, 10**40, 1e308], ids=["none", "far", "huge", "float"]
)
def test_a_session_lasts_an_hour_at_most(server, upstream, exp):
    """Without an expiry, or with one far away, the session ends in an hour, less 20 s."""
    before = int(time.time() * 1000)
    answer = opened(server, upstream, f"Bearer {token(exp=exp)}")
    after = int(time.time() * 1000)
    assert before <= answer.token.expires_at - (HOUR - 20) * 1000 <= after


def test_the_early_expiry_is_a_setting(server, upstream):
    """A token counts as expired as much earlier as the settings say."""
    ends = int(time.time()) + HOUR // 2
    server.headers = {REMAPPED: f"Bearer {token(exp=ends)}"}
    answer = upstream(token_early_expiry=timedelta(minutes=1)).call(OpenSession(PATIENT))
    assert (ends - 60) * 1000 == answer.token.expires_at


@pytest.mark.parametrize("left", [-HOUR, 0, 19])
def test_a_token_that_is_over_as_it_begins_opens_nothing(server, upstream, left):
    """A token that has expired, or will within 20 s, is no session."""
    assert SessionFailed("token_expired") == opened(server, upstream, f"Bearer {token(exp=int(time.time()) + left)}")


def segment(text):
    return jwt.utils.base64url_encode(text.encode()).decode()


HEAD = segment('{"alg":"none"}')
BAD_TOKENS = {
    "no header": "",
    "no bearer": "Basic YTpi",
    "a bearer of nothing": "Bearer ",
    "no JWT": "Bearer abc",
    "garbage": "Bearer a.b.c",
    "no JSON": f"Bearer {HEAD}.{segment('hello')}.",
    "a JSON list": f"Bearer {HEAD}.{segment('[1]')}.",
    "JSON without a bottom": f"Bearer {HEAD}.{segment('[' * 9000)}.",
    "no subject": f"Bearer {token(subjectId=None)}",
    "a blank subject": f"Bearer {token(subjectId=' ')}",
    "a subject of the wrong type": f"Bearer {token(subjectId=['4711'])}",
    "a subject that is true": f"Bearer {token(subjectId=True)}",
    "a subject with a line break": f"Bearer {token(subjectId='a' + chr(10) + 'b')}",
    "an expiry in words": "Bearer " + HEAD + "." + segment('{"subjectId": "1", "exp": "soon"}') + ".",
    "an expiry that is true": f"Bearer {token(exp=True)}",
    "an expiry that is no number": "Bearer " + HEAD + "." + segment('{"subjectId": "1", "exp": NaN}') + ".",
    "an expiry without an end": "Bearer " + HEAD + "." + segment('{"subjectId": "1", "exp": -Infinity}') + ".",
    "a token without an end": f"Bearer {token(extra='x' * 20_000)}",
}


@pytest.mark.parametrize("value", BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_a_bad_token_opens_nothing(server, upstream, value):
    """A missing, malformed or incomplete token is told by one code."""
    assert SessionFailed("bad_token") == opened(server, upstream, value)


def test_a_numeric_subject_is_a_subject(server, upstream):
    """A subject id that came as a number is used as text."""
    assert "4711" == opened(server, upstream, f"Bearer {token(subjectId=4711)}").token.subject_id


@pytest.mark.parametrize(("status", "reason"), [(401, "http_401"), (500, "http_500"), (302, "redirected")])
def test_any_other_status_opens_nothing(server, upstream, status, reason):
    """Where the upstream refuses, a token in the header does not count."""
    server.status = status
    server.headers = {REMAPPED: f"Bearer {token()}", "Location": "/elsewhere"}
    assert (SessionFailed(reason), 1) == (upstream().call(OpenSession(PATIENT)), len(server.requests))


def test_a_body_too_long_takes_nothing_from_the_token(server, upstream):
    """The token came in the header; the body may be what it likes."""
    server.body = b"x" * 5_000
    server.headers = {REMAPPED: f"Bearer {token()}"}
    assert isinstance(upstream(max_answer_bytes=1_000).call(OpenSession(PATIENT)), SessionOpened)


def test_a_refused_connection_opens_nothing(server, upstream):
    """Where nobody listens, the code says so."""
    made = upstream()
    server.shutdown()
    server.server_close()
    assert SessionFailed("connection_refused") == made.call(OpenSession(PATIENT))


@pytest.mark.parametrize("value", [f"Bearer {token()}", f"Bearer {token(subjectId=None)}"], ids=["good", "bad"])
def test_no_record_shows_the_token_the_keys_or_the_patient(server, upstream, caplog, value):
    """With every logger at DEBUG, neither token nor identifier is in any record, nor in the answer's repr."""
    for name in [None, *logging.getLogger().manager.loggerDict]:
        caplog.set_level(logging.DEBUG, logger=name)
    answer = opened(server, upstream, value)
    shown = repr(answer) + caplog.text + "".join(repr(vars(record)) for record in caplog.records)
    secrets = (ICN, "corr-900123", "app-token-7", "system-key-7", value.split()[1], value.split(".")[1])
    assert [] == [word for word in secrets if word in shown]
