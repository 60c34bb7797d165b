"""Clients that go away while they wait: they give back their place, and take nothing from anybody else."""

import http.client
import threading
from typing import Any

import pytest
import requests
from phr_refresh import Patient
from phr_refresh.starlette import PhrRefreshStarlette
from phr_refresh.statemachine.effects import AskStatus, OpenSession, Phase, StatusReport
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from support.asgi import PATIENCE_SECONDS, served
from support.fakes import ScriptedUpstream
from support.samples import ADA, UNHURRIED


class Endless(ScriptedUpstream):
    """Its refreshes never end."""

    def call(self, request: Any) -> Any:
        """Still running."""
        if not isinstance(request, AskStatus):
            return super().call(request)
        return StatusReport(Phase.IN_PROGRESS)


def patient_of(request: Request) -> Patient | None:
    """Everybody is ada."""
    return ADA


class Watched:
    """An app that tells of the request with the query "watched" when it begins, and when it ends, however it does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.begun, self.ended = threading.Event(), threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_watched = scope.get("query_string") == b"watched"
        if is_watched:
            self.begun.set()
        try:
            await self._app(scope, receive, send)
        finally:
            if is_watched:
                self.ended.set()


def app_of(phr: PhrRefreshStarlette) -> Watched:
    """A portal where everybody is logged in."""

    async def log_in(request: Request) -> Response:
        await phr.logged_in(request)
        return Response(status_code=204)

    routes = [phr.mount("/phr"), Route("/login", log_in, methods=["POST"])]
    return Watched(Starlette(routes=routes, lifespan=phr.lifespan))


def opened(url: str, path: str, **headers: str) -> http.client.HTTPConnection:
    """A connection that has sent its request, which is watched, and has read nothing yet."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_SECONDS)
    connection.request("GET", f"{path}?watched", headers=headers)
    return connection


def log_in(url: str) -> None:
    """Log in, and see the refresh under way: the login only hands it over."""
    requests.post(f"{url}/login", timeout=PATIENCE_SECONDS)
    while requests.get(f"{url}/phr/status", timeout=PATIENCE_SECONDS).status_code != 202:
        pass


def has_place(url: str) -> bool:
    """Whether somebody who would wait a second for news finds a place. It waits that second only if so."""
    answer = requests.get(f"{url}/phr/status", headers={"Prefer": "wait=1"}, timeout=PATIENCE_SECONDS)
    assert 202 == answer.status_code
    return "Preference-Applied" in answer.headers


def one_place(**block: Any) -> PhrRefreshStarlette:
    """phr-refresh with a place for one who waits, which nothing else than a disconnect ends within the hour."""
    upstream = Endless()
    settings = {"patient_of": patient_of, "store": "memory://", "upstream": upstream, "policy": UNHURRIED}
    return PhrRefreshStarlette(settings | {"places": 1, "longest_wait": 3600} | block)


@pytest.mark.parametrize(("path", "headers"), [("/phr/status", {"Prefer": "wait=3600"}), ("/phr/events", {})])
def test_who_goes_gives_the_place_back(path: str, headers: dict[str, str]) -> None:
    """A client that drops its connection while it waits, or in the middle of a stream, has its request ended."""
    app = app_of(one_place())
    with served(app) as url:
        log_in(url)
        connection = opened(url, path, **headers)
        assert app.begun.wait(PATIENCE_SECONDS)
        for _ in range(10):
            # Each takes as long as the first look of the other: by then that one waits.
            requests.get(f"{url}/phr/status", timeout=PATIENCE_SECONDS)
        assert (False, False) == (has_place(url), app.ended.is_set())
        connection.close()
        assert app.ended.wait(PATIENCE_SECONDS)
        assert has_place(url)


def test_a_stream_is_read_until_the_client_goes() -> None:
    """What was sent before the client went away has arrived: the first event of the stream."""
    app = app_of(one_place())
    with served(app) as url:
        log_in(url)
        connection = opened(url, "/phr/events")
        answer = connection.getresponse()
        assert "text/event-stream" == answer.headers["Content-Type"]
        lines = [answer.readline() for _ in range(3)]
        assert [True, True] == [b"retry: " in lines[0], b"event: status\n" == lines[2]]
        answer.close()
        connection.close()
        assert app.ended.wait(PATIENCE_SECONDS)


def test_a_shutdown_does_not_wait_for_streams() -> None:
    """uvicorn ends what still goes on after its time-out, and the app's lifespan ends in order."""
    phr = one_place()
    with served(app_of(phr)) as url:
        log_in(url)
        connection = opened(url, "/phr/events")
        assert b"retry: " in connection.getresponse().readline()
    connection.close()
    assert phr._running is None


class Gated(ScriptedUpstream):
    """Opens sessions when it is let to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked, self.may_go_on = threading.Event(), threading.Event()

    def call(self, request: Any) -> Any:
        """Once it may go on."""
        if not isinstance(request, OpenSession):
            return super().call(request)
        self.is_asked.set()
        assert self.may_go_on.wait(PATIENCE_SECONDS)
        return super().call(request)


def test_who_goes_takes_no_session_along() -> None:
    """A client goes away while its request opens the session: it is opened once, for who comes next."""
    upstream = Gated()
    app = app_of(one_place(upstream=upstream))
    with served(app) as url:
        connection = opened(url, "/phr/records/vitals")
        assert upstream.is_asked.wait(PATIENCE_SECONDS)
        connection.close()
        assert app.ended.wait(PATIENCE_SECONDS)
        upstream.may_go_on.set()
        while (answer := requests.get(f"{url}/phr/records/vitals", timeout=PATIENCE_SECONDS)).status_code != 200:
            assert 202 == answer.status_code
    assert 1 == upstream.opened


def test_who_goes_takes_no_refresh_along() -> None:
    """A refresh that was asked for by a client that has gone is started, once."""
    upstream = Gated()
    app = app_of(one_place(upstream=upstream))
    with served(app) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_SECONDS)
        connection.request("POST", "/phr/refresh")
        assert upstream.is_asked.wait(PATIENCE_SECONDS)
        connection.close()
        upstream.may_go_on.set()
        while requests.get(f"{url}/phr/status", timeout=PATIENCE_SECONDS).json()["state"] != "complete":
            pass
    assert (1, 1) == (upstream.opened, upstream.kick_offs)
