"""Kick-off and status over real sockets: adapters/status_polling/phrmgr.py and adapters/http_client.py."""

import logging
import socket
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from phr_refresh.adapters.status_polling.retry_after import retry_after_seconds
from phr_refresh.adapters.upstream.http_client import Answer, HttpClient, NotSent
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.statemachine.effects import (
    Accepted,
    AnswerLost,
    AskStatus,
    CouldNotAsk,
    NeverSent,
    OpenSession,
    Phase,
    ReadRecords,
    Rejected,
    SessionToken,
    StartRefresh,
    StatusReport,
)
from phr_refresh.statemachine.errors import ConfigurationError
from phr_refresh.statemachine.patient import Patient
from support.values import replace
from support.wire import answer, black_hole, certificate, drip, flood, hang_up, raw, reset

ICN = "1012345678V123456"
PATIENT = Patient("ada", ICN, "corr-900123")
CANARIES = (ICN, ICN.lower(), "corr-900123", "app-token-7", "system-key-7", "gateway-key-7")
NOW = 1_900_000_000_000


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def settings(url, **changes):
    values = {
        "app_token": "app-token-7",
        "authorization_key": "system-key-7",
        "api_key": "gateway-key-7",
        "connect_timeout": timedelta(seconds=0.3),
        "read_timeout": timedelta(seconds=0.3),
        "wanted": ("VPR",),
    }
    return MhvSettings(base_url=url, **(values | changes))


@pytest.fixture
def upstream(opened):
    """Makes upstreams that end with the test."""

    def make(url, **changes):
        made = MhvUpstream(settings(url, **changes))
        opened.callback(made.close)
        return made

    return make


def ask(upstream, answered=True):
    return upstream.call(AskStatus(PATIENT, NOW, NOW + 200 if answered else None, NOW + 5000))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@pytest.fixture
def full_backlog(opened):
    """The address of a server whose queue of connections is full: a further one is never answered."""
    server = opened.enter_context(socket.socket())
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    for _ in range(4):
        client = opened.enter_context(socket.socket())
        client.setblocking(False)
        client.connect_ex(server.getsockname())
    return f"http://127.0.0.1:{server.getsockname()[1]}"


# What is sent.


@pytest.mark.parametrize(("legacy", "prefix"), [(False, ""), (True, "/mhvapi")])
def test_the_kick_off_is_sent_as_the_upstream_wants_it(wire, upstream, legacy, prefix):
    """POST with an empty object, the keys and the ICN in the path; older bases have a prefix."""
    server = wire(answer(200, {"status": "OK"}))
    assert Accepted() == upstream(server.url, legacy_paths=legacy).call(StartRefresh(PATIENT))
    head, _, body = server.arrived[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    sent = {name.lower(): value for name, value in (line.split(": ") for line in lines)}
    assert (f"POST {prefix}/v2/phrmgr/refresh/{ICN} HTTP/1.1", b"{}") == (first, body)
    expected = {
        "accept": "application/json",
        "content-type": "application/json",
        "user-agent": "phr-refresh",
        "x-authorization-key": "system-key-7",
        "x-api-key": "gateway-key-7",
    }
    assert expected == {name: sent[name] for name in expected}


def test_the_refresh_service_may_lie_elsewhere(wire, upstream):
    """`phrmgr_url` is where kick-off and status go, and without an API key none is sent."""
    server = wire(answer(200, {"status": "OK"}))
    upstream("http://127.0.0.1:1", phrmgr_url=f"{server.url}/base", api_key="").call(StartRefresh(PATIENT))
    assert server.arrived[0].startswith(b"POST /base/v2/phrmgr/refresh/")
    assert b"x-api-key" not in server.arrived[0].lower()


def test_neither_cookies_nor_netrc_credentials_are_sent(wire, upstream, tmp_path, monkeypatch):
    """A cookie that the upstream sets is forgotten, and a netrc file is not looked at."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ada password secret")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server = wire(answer(200, {"status": "OK"}, Set_Cookie="a=b; Path=/"))
    shared = upstream(server.url)
    shared.call(StartRefresh(PATIENT))
    shared.call(StartRefresh(PATIENT))
    assert [] == [word for word in (b"cookie:", b"\nauthorization:") if word in server.arrived[1].lower()]


def test_calls_share_connections(wire, upstream):
    """A second call goes over the connection of the first."""
    server = wire(answer(200, {"status": "OK"}))
    shared = upstream(server.url)
    shared.call(StartRefresh(PATIENT))
    shared.call(StartRefresh(PATIENT))
    assert (2, 2) == (len(server.arrived), len(server.threads))


# What comes of a kick-off.

KICK_OFFS = {
    "OK": (answer(200, {"status": "OK", "description": None, "nextDate": {}}), Accepted()),
    "ok in small letters, 202": (answer(202, {"status": "ok"}), Accepted()),
    "another status": (answer(200, {"status": "BUSY"}), Rejected("status_not_ok")),
    "no status": (answer(200, {}), Rejected("status_not_ok")),
    "a status of the wrong type": (answer(200, {"status": True}), Rejected("status_not_ok")),
    "400": (answer(400), Rejected("http_400")),
    "401": (answer(401), Rejected("http_401")),
    "500": (answer(500, {"status": 500, "error": "x", "path": f"/{ICN}"}), Rejected("http_500")),
    "502": (answer(502), Rejected("http_502")),
    "503": (answer(503, Retry_After="5"), Rejected("http_503")),
    "a gateway gave up waiting": (answer(504), AnswerLost("http_504")),
    "a redirect": (answer(307, Location="/elsewhere"), Rejected("redirected")),
    "a redirect without an end": (flood(302), Rejected("redirected")),
    "500 without an end": (flood(500), Rejected("http_500")),
    "503 that breaks off": (raw(b"HTTP/1.1 503 X\r\nContent-Length: 9\r\n\r\n{"), Rejected("http_503")),
    "garbage for JSON": (answer(200, b"\xff\x00garbage"), AnswerLost("unreadable_answer")),
    "a JSON list": (answer(200, ["OK"]), AnswerLost("unreadable_answer")),
    "a JSON text": (answer(200, "OK"), AnswerLost("unreadable_answer")),
    "JSON without a bottom": (answer(200, b"[" * 200_000), AnswerLost("unreadable_answer")),
    "a number without an end": (answer(200, b'{"status":' + b"1" * 9000 + b"}"), AnswerLost("unreadable_answer")),
    "nothing": (answer(204, b""), AnswerLost("unreadable_answer")),
    "garbage for gzip": (answer(200, b"no gzip", Content_Encoding="gzip"), AnswerLost("unreadable_answer")),
    "100 MB": (flood(200), AnswerLost("unreadable_answer")),
    "no HTTP": (raw(b"SSH-2.0-x\r\n\r\n"), AnswerLost("unreadable_answer")),
    "a header without an end": (raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 99_999), AnswerLost("unreadable_answer")),
    "a body that breaks off": (
        raw(b'HTTP/1.1 200 X\r\nContent-Length: 99\r\n\r\n{"st'),
        AnswerLost("connection_reset"),
    ),
    "reset after reading": (reset, AnswerLost("connection_reset")),
    "closed after reading": (hang_up, AnswerLost("connection_reset")),
    "a black hole": (black_hole, AnswerLost("timed_out")),
    "a dripping status line": (drip(b"HTTP/1.1 2", b"0"), AnswerLost("timed_out")),
    "dripping headers": (drip(b"HTTP/1.1 200 OK\r\nX: ", b"x"), AnswerLost("timed_out")),
    "a dripping body": (drip(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{"), AnswerLost("timed_out")),
    "dripping chunks": (drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"), AnswerLost("timed_out")),
}


@pytest.mark.parametrize(("act", "expected"), KICK_OFFS.values(), ids=KICK_OFFS)
def test_each_answer_to_a_kick_off(wire, upstream, act, expected):
    """Each answer has its outcome, within the time-out, and the request arrived exactly once."""
    server = wire(act)
    assert (expected, 1) == (upstream(server.url).call(StartRefresh(PATIENT)), len(server.arrived))


@pytest.mark.parametrize("act", [reset, hang_up, black_hole], ids=["reset", "closed", "black hole"])
@pytest.mark.parametrize("method", ["start_refresh", "ask"])
def test_a_reused_connection_that_breaks_is_not_sent_on_again(wire, upstream, act, method):
    """On a kept connection that breaks after the request, nothing is silently sent a second time."""
    server = wire(answer(200, {"status": "OK"}), act)
    shared = upstream(server.url)
    shared.call(StartRefresh(PATIENT))
    outcome = shared.call(StartRefresh(PATIENT)) if method == "start_refresh" else ask(shared)
    assert isinstance(outcome, AnswerLost if method == "start_refresh" else CouldNotAsk)
    assert 2 == len(server.arrived)


def test_a_kept_connection_that_was_closed_meanwhile_is_replaced(wire, upstream):
    """A connection that the upstream closed while it was idle is not used: the call goes out once, on a new one."""

    def answer_and_close(server, talk):
        answer(200, {"status": "OK"})(server, talk)
        talk.close()

    server = wire(answer_and_close, answer(200, {"status": "OK"}))
    shared = upstream(server.url)
    shared.call(StartRefresh(PATIENT))
    server.threads[1].join(5)
    assert (Accepted(), 2) == (shared.call(StartRefresh(PATIENT)), len(server.arrived))


def test_a_redirect_is_not_followed(wire, upstream):
    """The ICN goes to no address that an answer names."""
    elsewhere = wire(answer(200, {"status": "OK"}))
    server = wire(answer(308, Location=elsewhere.url))
    assert (Rejected("redirected"), []) == (upstream(server.url).call(StartRefresh(PATIENT)), elsewhere.arrived)


# What provably never left.


def test_a_refused_connection_was_never_sent(upstream):
    """Nobody listens: never sent."""
    assert NeverSent("connection_refused") == upstream(f"http://127.0.0.1:{free_port()}").call(StartRefresh(PATIENT))


def test_an_unknown_host_was_never_sent(upstream):
    """A name that does not resolve: never sent."""
    assert NeverSent("dns_failed") == upstream("http://no-such-host.invalid").call(StartRefresh(PATIENT))


def test_a_connection_that_never_comes_was_never_sent(upstream, full_backlog):
    """The time-out of connecting: never sent."""
    assert NeverSent("connect_timed_out") == upstream(full_backlog).call(StartRefresh(PATIENT))


def test_an_untrusted_certificate_was_never_sent(wire, upstream, tmp_path):
    """A certificate that nobody we trust has signed: never sent, and nothing arrived."""
    server = wire(answer(200, {"status": "OK"}), tls=certificate(tmp_path)[1])
    assert (NeverSent("tls_failed"), []) == (upstream(server.url).call(StartRefresh(PATIENT)), server.arrived)


def test_a_trusted_certificate_is_accepted(wire, upstream, tmp_path):
    """With the authority in the CA bundle of the settings, the same server is spoken to."""
    pem, context = certificate(tmp_path)
    server = wire(answer(200, {"status": "OK"}), tls=context)
    assert Accepted() == upstream(server.url, verify=pem).call(StartRefresh(PATIENT))


def test_a_reset_after_sending_over_tls_is_lost(wire, upstream, tmp_path):
    """Over TLS too, what breaks after the request counts as sent."""
    pem, context = certificate(tmp_path)
    server = wire(reset, tls=context)
    outcome = upstream(server.url, verify=pem).call(StartRefresh(PATIENT))
    assert (AnswerLost("connection_reset"), 1) == (outcome, len(server.arrived))


def test_a_drip_over_tls_ends_in_time(wire, upstream, tmp_path):
    """Over TLS too, the whole answer has one time-out."""
    pem, context = certificate(tmp_path)
    server = wire(drip(b"HTTP/1.1 200 OK\r\nX: ", b"x"), tls=context)
    assert AnswerLost("timed_out") == upstream(server.url, verify=pem).call(StartRefresh(PATIENT))


def raw_listener(opened, act):
    """A listener that does `act` with its one connection, before any request is read."""
    listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))

    def serve():
        try:
            with listener.accept()[0] as sock:
                act(sock)
        except OSError:
            return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    opened.callback(thread.join, 5)
    return listener.getsockname()[1]


HANDSHAKES = {
    "reset": (lambda sock: (sock.recv(10), reset(None, sock)), "connection_reset"),
    "plain text": (lambda sock: (sock.recv(9999), sock.sendall(b"HTTP/1.1 400 no\r\n\r\n")), "tls_failed"),
    "silence": (
        lambda sock: sock.settimeout(5) or [None for _ in iter(lambda: sock.recv(9999), b"")],
        "connect_timed_out",
    ),
}


@pytest.mark.parametrize(("act", "reason"), HANDSHAKES.values(), ids=HANDSHAKES)
def test_a_handshake_that_fails_was_never_sent(opened, upstream, act, reason):
    """Whatever goes wrong before TLS stands, the request was not written."""
    port = raw_listener(opened, act)
    assert NeverSent(reason) == upstream(f"https://127.0.0.1:{port}").call(StartRefresh(PATIENT))


OK = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"OK"}'


def test_over_tls_too_a_connection_with_more_than_the_answer_is_closed(wire, upstream, tmp_path):
    """What TLS has taken off the socket, and no buffer of ours has seen, counts as well (rule R9)."""
    pem, context = certificate(tmp_path)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 8000\r\n\r\n"
    # The rest lies behind what one read takes: io.DEFAULT_BUFFER_SIZE.
    body = b'{"status":"OK"}'.rjust(8192 - len(head))
    first = head.replace(b"8000", str(len(body)).encode()) + body
    server = wire(lambda _, talk: talk.sendall(first + OK), answer(500), tls=context)
    shared = upstream(server.url, verify=pem, connect_timeout=timedelta(seconds=5))
    outcomes = [shared.call(StartRefresh(PATIENT)) for _ in range(2)]
    assert ([Accepted(), Rejected("http_500")], 3) == (outcomes, len(server.threads))


def tunnel(port):
    """An act: answer CONNECT, then carry bytes between the client and the server at `port`."""

    def act(wire, talk):
        with socket.create_connection(("127.0.0.1", port)) as server:
            talk.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

            def back():
                with suppress(OSError):  # either end may hang up first
                    for part in iter(lambda: server.recv(65536), b""):
                        talk.sendall(part)

            thread = threading.Thread(target=back, daemon=True)
            thread.start()
            for part in iter(lambda: talk.recv(65536), b""):
                server.sendall(part)
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)

    return act


def test_tls_inside_tls_is_one_call_for_each_connection(wire, upstream, monkeypatch, tmp_path):
    """Through a proxy that is spoken to by https, each call has its own answer, over a tunnel of its own."""
    pem, context = certificate(tmp_path)
    server = wire(answer(200, {"status": "OK"}), answer(500), tls=context)
    proxy = wire(tunnel(server.listener.getsockname()[1]), tls=context)
    proxied(monkeypatch, proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    shared = upstream(server.url, verify=pem, connect_timeout=timedelta(seconds=5), read_timeout=timedelta(seconds=5))
    outcomes = [shared.call(StartRefresh(PATIENT)) for _ in range(2)]
    assert ([Accepted(), Rejected("http_500")], 2, 2) == (outcomes, len(server.arrived), len(proxy.arrived))


def proxied(monkeypatch, address):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, address)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_away_was_never_sent_to(upstream, monkeypatch, scheme):
    """A proxy of the environment that cannot be reached: never sent."""
    proxied(monkeypatch, f"http://127.0.0.1:{free_port()}")
    assert NeverSent("connection_refused") == upstream(f"{scheme}://mhv.example").call(StartRefresh(PATIENT))


def test_a_proxy_that_refuses_the_tunnel_has_passed_nothing_on(wire, upstream, monkeypatch):
    """The tunnel to a TLS host comes before the request: refused, it was never sent."""
    proxy = wire(answer(403))
    proxied(monkeypatch, proxy.url)
    assert NeverSent("proxy_refused") == upstream("https://mhv.example").call(StartRefresh(PATIENT))
    assert proxy.arrived[0].startswith(b"CONNECT mhv.example:443 ")


def test_a_proxy_that_breaks_after_the_request_has_lost_the_answer(wire, upstream, monkeypatch):
    """A plain request went to the proxy: it may have been passed on."""
    proxy = wire(reset)
    proxied(monkeypatch, proxy.url)
    assert (AnswerLost("connection_reset"), 1) == (
        upstream("http://mhv.example").call(StartRefresh(PATIENT)),
        len(proxy.arrived),
    )


def test_a_malformed_proxy_was_never_sent_to(upstream, monkeypatch):
    """A proxy setting that is no address: never sent."""
    proxied(monkeypatch, "http://")
    assert NeverSent("bad_proxy") == upstream("http://mhv.example").call(StartRefresh(PATIENT))


def test_a_ca_bundle_that_has_gone_was_never_sent_to(upstream, tmp_path):
    """A CA bundle that disappeared after the settings were made: never sent."""
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    made = upstream("https://127.0.0.1:1", verify=str(bundle))
    bundle.unlink()
    assert NeverSent("tls_failed") == made.call(StartRefresh(PATIENT))


def test_connecting_for_too_long_is_not_sent(wire, monkeypatch):
    """A connection that took longer than all of connecting may take is closed unused."""
    server = wire(answer(200))
    ticks = iter([0.0, 99.0, 99.0])
    monkeypatch.setattr("phr_refresh.adapters.upstream.http_client.monotonic", lambda: next(ticks))
    http = HttpClient(connect_seconds=1, read_seconds=1, pool_size=1, verify=True)
    assert NotSent("connect_timed_out") == http.call("GET", server.url, headers={}, max_bytes=10)
    http.close()
    assert [] == server.arrived


# What a status answer means.


def loaded(**changes):
    return {
        "retrievedDate": NOW + 5000,
        "facilityExtractStatusList": [
            {"extract": "VPR", "lastRequested": NOW, "lastCompleted": NOW + 9, "lastSuccessfulCompleted": NOW + 9}
        ],
    } | changes


def test_the_status_is_asked_for_and_judged(wire, upstream):
    """GET with the same headers; the body is judged by its extracts."""
    server = wire(answer(200, loaded()))
    report = ask(upstream(server.url))
    assert (Phase.COMPLETE, NOW + 9) == (report.phase, report.as_of)
    assert server.arrived[0].startswith(f"GET /v2/phrmgr/status/{ICN} ".encode())
    assert b"X-Authorization-Key: system-key-7" in server.arrived[0]


def test_grace_and_tolerance_are_settings(wire, upstream):
    """The settings' grace and tolerance are what the rules are applied with."""
    old = loaded(retrievedDate=NOW + 5000 + 300_000)
    server = wire(answer(200, old))
    phases = [
        ask(upstream(server.url, **changes)).phase
        for changes in ({}, {"throttle_grace": timedelta(seconds=4)}, {"clock_tolerance": timedelta(minutes=6)})
    ]
    assert [Phase.IN_PROGRESS, Phase.COMPLETE, Phase.COMPLETE] == phases


STATUS_ANSWERS = {
    "500": (answer(500), CouldNotAsk("http_500")),
    "503, later": (answer(503, Retry_After="7"), CouldNotAsk("http_503", 7.0)),
    "429, much later": (answer(429, Retry_After="99999999999999"), CouldNotAsk("http_429", 3600.0)),
    "503, garbage": (answer(503, Retry_After="soon"), CouldNotAsk("http_503")),
    "404": (answer(404), CouldNotAsk("http_404")),
    "202": (answer(202), CouldNotAsk("http_202")),
    "a redirect": (answer(302, Location="/"), CouldNotAsk("redirected")),
    "garbage": (answer(200, b"<html>"), CouldNotAsk("unreadable_answer")),
    "the wrong shape": (answer(200, {}), CouldNotAsk("unreadable_answer")),
    "100 MB": (flood(200), CouldNotAsk("unreadable_answer")),
    "a black hole": (black_hole, CouldNotAsk("timed_out")),
    "a reset": (reset, CouldNotAsk("connection_reset")),
}


@pytest.mark.parametrize(("act", "expected"), STATUS_ANSWERS.values(), ids=STATUS_ANSWERS)
def test_a_status_call_that_fails_says_nothing_about_the_refresh(wire, upstream, act, expected):
    """Anything but a readable 200 is "could not ask", with the wait that the upstream asked for."""
    assert expected == ask(upstream(wire(act).url))


HTTP_CODES = {
    "500": (answer(500), True, StatusReport(Phase.IN_PROGRESS)),
    "200": (answer(200, b"done"), True, StatusReport(Phase.COMPLETE)),
    "200 after a lost kick-off": (answer(200), False, StatusReport(Phase.IN_PROGRESS)),
    "502": (answer(502), True, CouldNotAsk("http_502")),
    "503": (answer(503, Retry_After="3"), True, CouldNotAsk("http_503", 3.0)),
    "504": (answer(504), True, CouldNotAsk("http_504")),
    "404": (answer(404), True, CouldNotAsk("http_404")),
    "a redirect": (answer(301), True, CouldNotAsk("redirected")),
    "a black hole": (black_hole, True, CouldNotAsk("timed_out")),
}


@pytest.mark.parametrize(("act", "answered", "expected"), HTTP_CODES.values(), ids=HTTP_CODES)
def test_the_http_code_dialect(wire, upstream, act, answered, expected):
    """500 is "not yet", 200 "complete" of an accepted kick-off, and the rest "could not ask"."""
    assert expected == ask(upstream(wire(act).url, dialect="http-code"), answered)


def test_asking_where_nobody_listens(upstream):
    """A refused connection is "could not ask"."""
    assert CouldNotAsk("connection_refused") == ask(upstream(f"http://127.0.0.1:{free_port()}"))


# Retry-After.

AT = datetime(2030, 1, 1, tzinfo=UTC)
RETRY_AFTER = {
    None: None,
    "": None,
    "0": 0.0,
    " 30 ": 30.0,
    "3601": 3600.0,
    "9" * 5000: 3600.0,
    "-1": None,
    "1.5": None,
    "1e3": None,
    "\u0663": None,
    "soon": None,
    "Tue, 01 Jan 2030 00:01:00 GMT": 60.0,
    "Tuesday, 01-Jan-30 00:01:00 GMT": 60.0,
    "Tue Jan  1 00:01:00 2030": 60.0,
    "Tue, 01 Jan 2030 00:01:00 -0000": 60.0,
    "Tue, 01 Jan 2030 02:01:00 +0200": 60.0,
    "Mon, 31 Dec 2029 23:59:59 GMT": 0.0,
    "Tue, 01 Jan 2999 00:00:00 GMT": 3600.0,
    "Tue, 99 Jan 2030 00:01:00 GMT": None,
    "Tue, 01 Jan 2030 00:01:00 GMT" + " " * 70 + "x": None,
}


@pytest.mark.parametrize(("header", "expected"), RETRY_AFTER.items(), ids=lambda value: repr(value)[:40])
def test_retry_after(header, expected):
    """Seconds and HTTP-dates give 0 to 3600 s; anything outside the grammar gives nothing."""
    assert expected == retry_after_seconds(header, now=AT)


# What nobody may see.

FAILURES = [act for act, _ in KICK_OFFS.values()] + [answer(200, loaded(facilityExtractStatusList=7))]


def exposed(caplog):
    """The records that hold a canary, in any of their parts or as they were printed."""
    held = [record for record in caplog.records if any(word in repr(vars(record)) for word in CANARIES)]
    return held, [word for word in CANARIES if word in caplog.text]


@pytest.fixture
def all_at_debug(caplog):
    for name in [None, *logging.getLogger().manager.loggerDict]:
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


@pytest.mark.parametrize("act", FAILURES, ids=range(len(FAILURES)))
def test_no_record_shows_identifiers_or_keys(wire, upstream, all_at_debug, act):
    """With every logger at DEBUG, no failure puts an identifier or key in a record, a repr or an answer."""
    made = upstream(wire(act).url)
    outcomes = [made.call(StartRefresh(PATIENT)), ask(made), made.call(OpenSession(PATIENT))]
    assert ([], []) == exposed(all_at_debug)
    assert all_at_debug.records
    assert [] == [word for word in CANARIES if word in repr([made, outcomes])]


@pytest.mark.parametrize("where", ["refused", "unknown", "full", "tls"])
def test_no_record_shows_identifiers_where_nothing_was_sent(
    wire, upstream, all_at_debug, full_backlog, tmp_path, where
):
    """The same where there was no connection."""
    url = {
        "refused": f"http://127.0.0.1:{free_port()}",
        "unknown": "http://no-such-host.invalid",
        "full": full_backlog,
        "tls": wire(answer(200), tls=certificate(tmp_path)[1]).url,
    }[where]
    made = upstream(url)
    outcomes = [made.call(StartRefresh(PATIENT)), ask(made), made.call(OpenSession(PATIENT))]
    assert ([], []) == exposed(all_at_debug)
    assert [] == [word for word in CANARIES if word in repr(outcomes)]


def test_the_outcomes_of_a_call_show_neither_headers_nor_body(wire):
    """An answer's repr shows its status only."""
    http = HttpClient(connect_seconds=1, read_seconds=1, pool_size=1, verify=True)
    outcome = http.call("GET", wire(answer(200, ICN.encode(), X_Icn=ICN)).url, headers={}, max_bytes=99)
    http.close()
    assert "Answer(status=200, cut='', <headers and body withheld>)" == repr(outcome)
    assert isinstance(outcome, Answer)


# The upstream as a whole.


def test_the_longest_call_follows_from_the_time_outs(upstream):
    """Twice the time-out of connecting and that of reading: 25 s by default, less than the claim on a session."""
    made = upstream("http://127.0.0.1:1", connect_timeout=timedelta(seconds=5), read_timeout=timedelta(seconds=15))
    assert 25.0 == made.longest_call


def test_without_a_fhir_address_no_records_are_read(upstream):
    """Reading records without the server's address names the setting."""
    with pytest.raises(ConfigurationError) as caught:
        upstream("http://127.0.0.1:1").call(ReadRecords("vitals", SessionToken("jwt", "subject", 0)))
    assert "MhvSettings.fhir_url (PHR_REFRESH_FHIR_URL): it is not set; set it." == str(caught.value)


def test_settings_can_be_replaced_whole():
    """Settings that were checked once are checked again, and equal, when they are copied."""
    made = settings("http://127.0.0.1:1/base/")
    assert made == replace(made)
