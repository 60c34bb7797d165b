"""Headless Chromium, a server whose answers a test scripts, and a portal of the standard library's HTTP server."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

import pytest
from phr_refresh import Patient
from phr_refresh.adapters.browser import Host, HttpRequest, HttpResponse

MODULE = files("phr_refresh.adapters.browser").joinpath("phr-refresh.js").read_bytes()
#: Milliseconds that a page may take for anything: far more than it does.
PATIENCE_MS = 30_000


def chromium() -> str:
    """The path of a Chromium; skips the test where there is none, or no Playwright, and fails it in CI."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        path = None
    if path is None and os.environ.get("CI"):
        pytest.fail("chromium or playwright is missing: in CI the browser module is tested in a browser")
    if path is None:
        pytest.skip("no chromium, or no playwright, here")
    return path


@contextmanager
def open_browser() -> Iterator[Any]:
    """A headless Chromium."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it arrived. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: `body` is JSON, or text as it is. `cut`: the connection is closed without any."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


Answerer = Callable[[Asked], Reply]


class ScriptedServer:
    """Answers below /phr/ as the test says, notes every request, and serves an empty page at any other path.

    `answer` may wait: each request has a thread of its own. `asked(name)` are the requests for one endpoint so far.
    """

    def __init__(self) -> None:
        self.answer: Answerer = lambda asked: Reply(404)
        self.page = ""
        self.page_headers: dict[str, str] = {}
        self._asked: list[Asked] = []
        self._news = threading.Condition()
        self._server = _serve(self._handle)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def script(self, *replies: Reply) -> None:
        """Answer GET status with these, in this order; the last one stays."""
        left = list(replies)
        lock = threading.Lock()

        def answer(asked: Asked) -> Reply:
            with lock:
                return left.pop(0) if len(left) > 1 else left[0]

        self.answer = answer

    def asked(self, name: str = "status") -> list[Asked]:
        """The requests for `name` so far."""
        with self._news:
            return [asked for asked in self._asked if asked.path == f"/phr/{name}"]

    def wait_for(self, count: int, name: str = "status") -> list[Asked]:
        """The same once there are `count` of them."""
        with self._news:
            found = self._news.wait_for(lambda: len(self.asked(name)) >= count, PATIENCE_MS / 1000)
        assert found, f"only {len(self.asked(name))} requests for {name}"
        return self.asked(name)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        asked = Asked(handler.command, handler.path, {name.lower(): value for name, value in handler.headers.items()})
        if asked.path == "/phr/phr-refresh.js":
            return _send(handler, 200, MODULE, {"Content-Type": "text/javascript"})
        if not asked.path.startswith("/phr/"):
            page = f"<!doctype html><html lang=en><link rel=icon href='data:,'><body>{self.page}"
            headers = {"Content-Type": "text/html; charset=utf-8"} | self.page_headers
            return _send(handler, 200, page.encode(), headers)
        with self._news:
            self._asked.append(asked)
            self._news.notify_all()
        reply = self.answer(asked)
        if reply.cut:
            handler.close_connection = True
            return None
        body = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
        return _send(handler, reply.status, b"" if reply.status in (204, 304) else body.encode(), reply.headers)


class Portal:
    """A portal on `Host`: a cookie says who is logged in. Serves GET /as/USER, which logs in, and /phr/...."""

    def __init__(self, host: Host, people: dict[str, Patient]) -> None:
        self._host = host
        self._people = people
        self.asked: list[str] = []
        self._server = _serve(self._handle)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.path.startswith("/as/"):
            cookie = f"user={handler.path.removeprefix('/as/')}; Path=/; HttpOnly"
            return _send(handler, 200, b"<!doctype html>", {"Content-Type": "text/html", "Set-Cookie": cookie})
        user = handler.headers.get("Cookie", "").removeprefix("user=")
        headers = {name.lower(): value for name, value in handler.headers.items()}
        path = handler.path.removeprefix("/phr/")
        self.asked.append(path)
        request = HttpRequest(handler.command, path, self._people.get(user), user in self._people, headers)
        answer = self._host.answer(request)
        assert isinstance(answer, HttpResponse)
        return _send(handler, answer.status, answer.body, dict(answer.headers))


def _serve(handle: Callable[[BaseHTTPRequestHandler], None]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            handle(self)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A browser that goes away is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
    # An answer may bring a Date of its own.
    handler.send_response_only(status)
    if "Date" not in headers:
        handler.send_header("Date", handler.date_time_string())
    for name, value in headers.items():
        if name != "Content-Length":
            handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def status_of(state: str, **changes: Any) -> dict[str, Any]:
    """The JSON of GET status, with `changes`."""
    fields: dict[str, Any] = {
        "state": state,
        "under_way": state == "refreshing",
        "since": "2030-01-01T12:00:00.000Z",
        "as_of": None,
        "stale": state != "complete",
        "partial": False,
        "refresh_id": "r1",
        "claimed_at": "2030-01-01T12:00:00.000Z",
        "extracts": [],
        "failure": None,
        "next_check_at": None,
    }
    return fields | changes


def extracts(**states: str) -> list[dict[str, Any]]:
    """Extracts by name and state."""
    return [{"name": name, "state": state, "succeeded_at": None} for name, state in states.items()]


def told(state: str, *, etag: str | None = None, after: str | None = None, **changes: Any) -> Reply:
    """The answer that says `state`: 202 while a refresh is under way, 200 else."""
    body = status_of(state, **changes)
    under_way = body["under_way"]
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    if etag:
        headers["ETag"] = etag
    if after or under_way:
        headers["Retry-After"] = after or "1"
    return Reply(202 if under_way else 200, body, headers)


def problem(status: int, code: str, **headers: str) -> Reply:
    """Problem details."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"code": code, "status": status}, {"Content-Type": "application/problem+json"} | fields)
