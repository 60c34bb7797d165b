"""Faults of the upstream on real sockets: HTTP and HTTPS fronts before the simulator, which let one call go wrong."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Final, Literal
from urllib.parse import urlsplit

Place = Literal["session", "kick-off", "status"]
_PLACES: Final[Mapping[str, Place]] = {"login": "session", "refresh": "kick-off", "status": "status"}


@dataclass(frozen=True)
class Reply:
    """What the simulator answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Call:
    """One request that arrived whole. `pass_on` lets it take effect; an act then says something, or nothing."""

    handler: "_Handler"
    pass_on: Callable[[], Reply]
    over: threading.Event
    #: Bytes of body that the act got rid of.
    sent: int = 0

    def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a complete answer."""
        self.write(head(status, {"Content-Length": str(len(body)), **(headers or {})}) + body)

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self.handler.connection.sendall(data)

    def hang_up(self) -> None:
        """Take no other request on this connection."""
        self.handler.close_connection = True

    def wait_for_the_client(self) -> None:
        """Until the client goes away."""
        self.hang_up()
        while self.handler.connection.recv(65_536):
            pass


Act = Callable[[Call], None]


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """Status line and headers."""
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


@dataclass(frozen=True)
class Arrival:
    """A request that was read whole."""

    place: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    at: int


class Front(ThreadingHTTPServer):
    """An HTTP server before the simulator at `behind`; over TLS where `tls` is set, which may change at any time."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, behind: str, now: Callable[[], int], *, tls: ssl.SSLContext | None = None) -> None:
        self.behind, self.now, self.tls = behind, now, tls
        self.fault: tuple[str, Act] | None = None
        self.arrivals: list[Arrival] = []
        self.bytes_sent = 0
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server_port}"
        self._listen()

    def server_bind(self) -> None:
        """Bind without a reverse name look-up."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[0], self.server_address[1]

    @contextmanager
    def striking(self, place: str, act: Act) -> Iterator[None]:
        """Let `act` happen to every call at `place`."""
        self.fault = place, act
        yield
        self.fault = None

    @contextmanager
    def speaking(self, tls: ssl.SSLContext | None) -> Iterator[None]:
        """Present another certificate, or none, on connections from now on; those that are open end."""
        usual, self.tls = self.tls, tls
        self.cut()
        yield
        self.tls = usual
        self.cut()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody listens, and what was connected is cut."""
        self.shutdown()
        self._loop.join()
        # The port stays ours: bound again at once, to a socket that does not listen.
        address, placeholder = self.socket.getsockname(), socket.socket()
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.close()
        self.cut()
        placeholder.bind(address)
        self.socket = placeholder
        yield
        self.server_activate()
        self._listen()

    def _listen(self) -> None:
        self._loop = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._loop.start()

    def cut(self) -> None:
        """End every connection."""
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def act_on(self, handler: "_Handler", body: bytes) -> None:
        """Serve one request."""
        place = next((name for part, name in _PLACES.items() if f"/{part}" in handler.path), "other")
        self.arrivals.append(Arrival(place, handler.path, dict(handler.headers), self.now()))
        call = Call(handler, lambda: self._pass_on(handler, body), self._over)
        try:
            if self.fault and self.fault[0] == place:
                self.fault[1](call)
            else:
                as_it_is(call)
        finally:
            self.bytes_sent += call.sent

    def _pass_on(self, handler: "_Handler", body: bytes) -> Reply:
        target = urlsplit(self.behind)
        with closing(HTTPConnection(str(target.hostname), target.port, timeout=20)) as connection:
            connection.request(handler.command, handler.path, body=body, headers=dict(handler.headers))
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.getheaders()), answer.read())

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.tls is None:
            _Handler(request, client_address, self)
            return
        with closing(self.tls.wrap_socket(request, server_side=True)) as talk:
            with self._lock:
                self._open.add(talk)
            try:
                _Handler(talk, client_address, self)
            finally:
                with self._lock:
                    self._open.discard(talk)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        with suppress(OSError):
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away are the point here."""

    def close(self) -> None:
        """Stop, and end every connection."""
        self._over.set()
        self.shutdown()
        self._loop.join()
        self.server_close()
        self.cut()


class _Handler(BaseHTTPRequestHandler):
    server: Front
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        self.server.act_on(self, self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    do_GET = do_POST = _serve

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


class Fronts:
    """The front for sessions and the one for kick-off and status."""

    def __init__(self, behind: str, now: Callable[[], int], *, tls: ssl.SSLContext | None = None) -> None:
        self.sessions, self.phrmgr = Front(behind, now, tls=tls), Front(behind, now, tls=tls)

    def at(self, place: str) -> Front:
        """The front that takes the calls at `place`."""
        return self.sessions if place == "session" else self.phrmgr

    def kick_offs(self, icn: str) -> list[int]:
        """When kick-offs of a patient arrived, whatever became of them."""
        return [item.at for item in self.phrmgr.arrivals if item.place == "kick-off" and icn in item.path]

    def close(self) -> None:
        """Stop both."""
        self.sessions.close()
        self.phrmgr.close()


def as_it_is(call: Call) -> None:
    """Nothing goes wrong."""
    reply = call.pass_on()
    call.answer(reply.status, reply.body, kept(reply))


def kept(reply: Reply) -> dict[str, str]:
    """Its headers, but for the length."""
    return {name: value for name, value in reply.headers.items() if name.lower() != "content-length"}
