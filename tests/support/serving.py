"""The smallest real servers that a host can be: one on threads, one on asyncio. Who is logged in, a cookie tells."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from phr_refresh import Patient, PhrRefresh, open_store
from phr_refresh.adapters.browser import AsyncHost, Contract, Host, HttpRequest, HttpResponse, HttpStream
from phr_refresh.adapters.simulator import Fault, Simulator
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings

from .samples import UNHURRIED

PREFIX = "/phr/"


def request_of(method: str, target: str, headers: Mapping[str, str], people: Mapping[str, Patient]) -> HttpRequest:
    """The request, of whoever the cookie `session` names; a path outside of the prefix is that of no resource."""
    cookies = SimpleCookie()
    with suppress(CookieError):
        cookies.load(headers.get("cookie", ""))
    user = cookies["session"].value if "session" in cookies else ""
    path = target.partition("?")[0]
    path = path.removeprefix(PREFIX) if path.startswith(PREFIX) else "nowhere"
    return HttpRequest(method, path, people.get(user), user in people, headers)


class Server(ThreadingHTTPServer):
    """Takes connections by the hundred. A client that goes away is nothing to tell."""

    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


@contextmanager
def serving(host: Host, people: Mapping[str, Patient], count: Callable[[], object] = lambda: None) -> Iterator[str]:
    """Serves `host` on threads; gives the URL of the mount point. `count` is called for each request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            count()
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): ", ".join(self.headers.get_all(name) or []) for name in self.headers}
            answer = host.answer(request_of(self.command, self.path, headers, people))
            self.send_response(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            if isinstance(answer, HttpStream):
                self.close_connection = True
                self.send_header("Connection", "close")
            self.end_headers()
            for chunk in [answer.body] if isinstance(answer, HttpResponse) else answer.chunks:
                self.wfile.write(chunk)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_QUERY = answer

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{PREFIX}"
        finally:
            server.shutdown()
            thread.join()


@asynccontextmanager
async def serving_async(
    host: AsyncHost, people: Mapping[str, Patient], count: Callable[[], object] = lambda: None
) -> AsyncIterator[str]:
    """Serves `host` on this event loop, one request for each connection."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                await exchange(reader, writer)
            finally:
                tasks.discard(task)
                writer.close()

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, _ = (await reader.readline()).decode().split(" ")
        headers = await read_headers(reader)
        await reader.readexactly(int(headers.get("content-length", 0)))
        count()
        answer = await host.answer(request_of(method, target, headers, people))
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        if isinstance(answer, HttpResponse):
            writer.write(answer.body)
        else:
            async for chunk in answer.chunks:
                writer.write(chunk)
                await writer.drain()
        await writer.drain()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=512)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}{PREFIX}"
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read_headers(reader: asyncio.StreamReader) -> dict[str, str]:
    """The header fields of a message, by names in lower case."""
    headers: dict[str, str] = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        known = headers.get(name.lower())
        headers[name.lower()] = value.strip() if known is None else f"{known}, {value.strip()}"
    return headers


async def fetch(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """A client that is as cheap as possible: one connection, one request. Headers are given with underscores."""
    authority, _, path = url.removeprefix("http://").partition("/")
    address, _, port = authority.partition(":")
    reader, writer = await asyncio.open_connection(address, int(port))
    try:
        lines = [f"{method} /{path} HTTP/1.1", f"Host: {authority}", "Content-Length: 0", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        status = int((await reader.readline()).split(b" ")[1])
        return status, await read_headers(reader), await reader.read()
    finally:
        writer.close()


@contextmanager
def portal(faults: Sequence[Fault], folder: Path, people: Mapping[str, Patient], **keys: str) -> Iterator[str]:
    """A server with a real store and a real upstream with `faults`; gives its URL. `keys`: see `Simulator`."""
    with Simulator(speed=20, **keys) as simulator:
        for fault in faults:
            simulator.script(fault)
        upstream = MhvUpstream(
            MhvSettings(
                base_url=simulator.url,
                fhir_url=f"{simulator.url}/fhir",
                app_token=simulator.app_token,
                authorization_key=simulator.authorization_key,
            )
        )
        store = open_store(f"sqlite:///{folder / 'store.db'}")
        with closing(PhrRefresh(store=store, upstream=upstream, policy=UNHURRIED)) as phr:
            with serving(Host(phr, contract=Contract(kinds=upstream.kinds)), people) as url:
                yield url
