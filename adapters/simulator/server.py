"""The sockets: HTTP/1.1 with keep-alive over the standard library's threading server, one thread per connection."""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from .messages import Answer, Reply, Request, Silence

_LARGEST_BODY = 1 << 20
_LINGER_ZERO = struct.pack("ii", 1, 0)


class HttpServer(ThreadingHTTPServer):
    """Serves `reply` until closed. Prints nothing, whatever a client does."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], *, reply: Callable[[Request], Reply]) -> None:
        self.reply = reply
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without the reverse name look-up of the base class, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[0], self.server_address[1]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, then serve it in a thread of its own."""
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that has ended."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def close_all(self) -> None:
        """Stop listening and cut every connection, those with a call under way included."""
        self.shutdown()
        self.server_close()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):  # the client was quicker, or it has been reset
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away are part of the game."""


class _Handler(BaseHTTPRequestHandler):
    server: HttpServer
    protocol_version = "HTTP/1.1"
    server_version = "phr-refresh-simulator"
    sys_version = ""
    disable_nagle_algorithm = True
    # Buffered, so that head and body leave in one packet.
    wbufsize = -1

    def _serve(self) -> None:
        request = self._receive()
        if request is None:
            return
        match self.server.reply(request):
            case Answer() as answer:
                self._send(answer)
            case Silence(is_reset=True):
                self._reset()
            case Silence():
                self._hold()

    do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = _serve

    def _receive(self) -> Request | None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal() or int(length) > _LARGEST_BODY:
            self.close_connection = True
            self._send(Answer(411))
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True  # the client went away: this call never arrived
            return None
        url = urlsplit(self.path)
        return Request(
            method=self.command,
            path=unquote(url.path),
            query=dict(parse_qsl(url.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
            target=self.path,
        )

    def _send(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.body)

    def _reset(self) -> None:
        """Send an RST. The socket is detached: the orderly shutdown of the base class would send a FIN first."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        socket.close(self.connection.detach())

    def _hold(self) -> None:
        self.close_connection = True
        while self.connection.recv(65536):
            pass  # whatever else the client sends is not answered either

    def log_message(self, *_: Any) -> None:
        """Print nothing: the base class writes to stderr."""
