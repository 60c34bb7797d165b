"""Which connection a call goes over, and that no answer is another patient's: adapters/upstream/http_client.py."""

import io
import json
import os
import socket
import time

import jwt
import pytest
from phr_refresh.adapters.session_creation.mhv import MhvSessions
from phr_refresh.adapters.upstream import http_client
from phr_refresh.adapters.upstream.http_client import HttpClient, NotSent
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.statemachine.effects import SessionFailed, SessionOpened
from phr_refresh.statemachine.patient import Patient
from support.wire import answer, certificate, drip, raw

ADA = Patient("ada", "1012345678V123456", "corr-900123")
BOB = Patient("bob", "1087654321V654321", "corr-900321")
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def session(of, body=b"{}", **headers):
    """The bytes of an answer that opens a session for the subject `of`."""
    token = jwt.encode({"subjectId": of, "exp": int(time.time()) + 1800}, "k" * 32)
    given = {"x-amzn-remapped-authorization": f"Bearer {token}", "Content-Length": len(body)} | headers
    lines = ["HTTP/1.1 200 X", *(f"{name}: {value}" for name, value in given.items() if value is not None)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def sends(*parts):
    """An act: send `parts` as one message, and keep the connection."""
    return lambda wire, talk: talk.sendall(b"".join(parts))


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def http(opened):
    """Makes clients that end with the test."""

    def make(**changes):
        made = HttpClient(**{"connect_seconds": 1, "read_seconds": 1, "pool_size": 1, "verify": True} | changes)
        opened.callback(made.close)
        return made

    return make


def sessions(http, server):
    return MhvSessions(MhvSettings(base_url=server.url, app_token="a", authorization_key="b"), http)


def subjects(answers):
    """Whose session each of `answers` opened, or why none."""
    return [one.token.subject_id if isinstance(one, SessionOpened) else one.reason for one in answers]


INTERIM = {
    "100": [CONTINUE],
    "102": [PROCESSING],
    "103": [EARLY],
    "102 and 103, several times": [PROCESSING, EARLY, CONTINUE, PROCESSING, EARLY],
}


@pytest.mark.parametrize("interim", INTERIM.values(), ids=INTERIM)
def test_two_patients_behind_interim_answers_each_get_their_own(wire, http, interim):
    """An interim answer is none: over one connection, each patient reads their own final answer (RFC 9110, 15.2)."""
    server = wire(sends(*interim, session("ada")), sends(*interim, session("bob")))
    both = sessions(http(), server)
    assert ["ada", "bob"] == subjects([both.open_session(ADA), both.open_session(BOB)])
    assert (2, 2) == (len(server.arrived), len(server.threads))


def test_an_interim_answer_may_come_apart_from_the_final_one(wire, http):
    """What is skipped may have come in a message of its own, and the final answer after it."""

    def act(wire, talk):
        talk.sendall(EARLY)
        talk.sendall(session("ada"))

    assert ["ada"] == subjects([sessions(http(), wire(act)).open_session(ADA)])


UNEXPECTED = {
    "the answer twice": ([session("ada"), session("ada")], "ada"),
    "more body than was said": ([session("ada", b"{}more", **{"Content-Length": 2})], "ada"),
    "a body where there is none": ([session("ada", b"{}").replace(b"200 X", b"204 X")], "ada"),
    "two lengths": (
        [session("ada", b"2\r\n{}\r\n0\r\n\r\n", **{"Content-Length": 2, "Transfer-Encoding": "chunked"})],
        "ada",
    ),
    "another protocol": ([b"HTTP/1.1 101 Switching Protocols\r\n\r\n", session("ada")], "unreadable_answer"),
    "interim answers without an end": ([EARLY] * 999, "unreadable_answer"),
    "lengths that differ": (
        [session("ada").replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\n")],
        "unreadable_answer",
    ),
}


@pytest.mark.parametrize(("parts", "first"), UNEXPECTED.values(), ids=UNEXPECTED)
def test_a_connection_over_which_anything_unexpected_came_is_closed(wire, http, parts, first):
    """The next patient's call goes over a new connection, where nothing of the first one's is left."""
    server = wire(sends(*parts), sends(session("bob")))
    both = sessions(http(), server)
    assert [first, "bob"] == subjects([both.open_session(ADA), both.open_session(BOB)])
    assert (2, 3) == (len(server.arrived), len(server.threads))


def test_a_second_answer_that_tls_holds_back_is_nobodys(wire, http, tmp_path):
    """What came in the first answer's TLS record and was not read yet shows on no socket: it is looked for."""
    pem, context = certificate(tmp_path)
    head = len(session("ada", b"x" * 7000)) - 7000
    whole = session("ada", b"x" * (io.DEFAULT_BUFFER_SIZE - head))
    server = wire(sends(whole, session("ada")), sends(session("bob")), tls=context)
    both = sessions(http(verify=pem), server)
    assert ["ada", "bob"] == subjects([both.open_session(ADA), both.open_session(BOB)])
    assert (io.DEFAULT_BUFFER_SIZE, 3) == (len(whole), len(server.threads))


def test_an_answer_that_is_too_long_takes_its_connection_with_it(wire, http):
    """What was not read of one answer is not read as the next."""
    server = wire(answer(200, b"x" * 200_000), answer(200, b"y"))
    client = http()
    bodies = [client.call("GET", server.url, headers={}, max_bytes=50).body for _ in range(2)]
    assert ([b"", b"y"], 3) == (bodies, len(server.threads))


def test_interim_answers_that_drip_end_in_time(wire, http):
    """Interim answers do not start the time limit anew."""
    server = wire(drip(b"", PROCESSING[:1]), drip(CONTINUE, b"H"))
    client = sessions(http(read_seconds=0.3), server)
    assert [SessionFailed("timed_out")] * 2 == [client.open_session(ADA), client.open_session(BOB)]


def test_an_error_behind_an_interim_answer_is_that_error(wire, http):
    """The final answer's status counts."""
    server = wire(raw(EARLY + b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"))
    assert SessionFailed("http_503") == sessions(http(), server).open_session(ADA)


@pytest.mark.parametrize(("pause", "connections"), [(4.9, 1), (5.1, 2)])
def test_a_connection_that_was_idle_too_long_is_not_used_again(wire, http, monkeypatch, pause, connections):
    """A firewall may have forgotten it: what is sent over it would be lost, and a kick-off with its window."""
    now = [100.0]
    monkeypatch.setattr(http_client, "monotonic", lambda: now[0])
    server, client = wire(answer(200)), http(idle_seconds=5)
    client.call("POST", server.url, headers={}, body={}, max_bytes=9)
    now[0] += pause
    client.call("POST", server.url, headers={}, body={}, max_bytes=9)
    assert (2, connections) == (len(server.arrived), len(server.threads) - 1)


def test_a_request_leaves_as_one_message_over_a_connection_that_is_kept_alive(wire, http, monkeypatch):
    """TCP keep-alive is on, so that a peer that has gone is noticed; head and body leave together, and at once."""
    options, sent = [], []
    address = wire(answer(200)).url.removeprefix("http://")

    class Socket(socket.socket):
        def setsockopt(self, *option):
            options.append(option)
            super().setsockopt(*option)

        def sendall(self, data):
            sent.append(data)
            super().sendall(data)

    monkeypatch.setattr(socket, "socket", Socket)
    http().call("POST", f"http://{address}/", headers={}, body={"a": 1}, max_bytes=9)
    assert {(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)} <= set(options)
    ours = [data for data in sent if not data.startswith(b"HTTP/1.1 200")]
    assert [(b"POST ", b'{"a":1}')] == [(data[:5], data[-7:]) for data in ours]


def test_one_proxy_leads_to_several_hosts(wire, http, monkeypatch):
    """Through one proxy, the answers of several hosts come over one connection, behind interim ones as well."""
    proxy = wire(sends(EARLY, session("ada")), sends(EARLY, session("bob")), sends(session("ada")), answer(403))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, proxy.url)
    client = http()
    urls = ["http://one.example/a", "http://one.example/b", "http://two.example/c"]
    assert [200] * 3 == [client.call("GET", url, headers={}, max_bytes=9).status for url in urls]
    assert (urls, 2) == ([request.split(b" ")[1].decode() for request in proxy.arrived], len(proxy.threads))
    assert NotSent("proxy_refused") == client.call("GET", "https://three.example/d", headers={}, max_bytes=9)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_process_does_not_share_its_parents_connections(wire, http):
    """After a fork, the child talks over connections of its own, and the parent goes on over its own."""
    server, client = wire(answer(200)), http()
    client.call("GET", server.url, headers={}, max_bytes=10)
    child = os.fork()
    if child == 0:
        status = client.call("GET", server.url, headers={}, max_bytes=10).status
        client.close()
        os._exit(status != 200)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert (200, 3) == (client.call("GET", server.url, headers={}, max_bytes=10).status, len(server.threads))


def test_bodies_are_json(wire, http):
    """A body is sent as JSON, with its length."""
    server = wire(answer(200))
    http().call("POST", server.url, headers={}, body={"a": [1, "\u00e9"]}, max_bytes=9)
    head, _, body = server.arrived[0].partition(b"\r\n\r\n")
    assert ({"a": [1, "\u00e9"]}, True) == (json.loads(body), b"content-length: %d" % len(body) in head.lower())
