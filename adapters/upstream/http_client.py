"""One HTTP call, and the one distinction that rule R1 lives on: did the request leave, or not?

A call ends as an `Answer` (a final status line arrived), as `NotSent` (there provably was no connection to send it on)
or as `Lost` (everything else: it may have arrived).

requests finds the way to each host once: proxies and the CA bundle named in the environment are honoured, as hospitals
need them. Each call then goes straight to the pool of connections that its adapter made, which is most of what a call
costs. Nothing is ever sent twice: no retries, no redirects, no cookies, no credentials out of a netrc file.

urllib3 reports a reset while connecting and a reset after sending by the same exception, and a failed TLS handshake
like a TLS alert that came instead of an answer. Here whatever fails inside `connect()` (name resolution, TCP, the
proxy's tunnel, the TLS handshake) leaves it as `_NotConnected`: not one byte of the request was written by then.
"""

import io
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException, HTTPResponse, parse_headers
from pathlib import Path
from time import monotonic
from typing import Any, Final, Literal, cast

import msgspec
import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import Retry, Timeout
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError, IncompleteRead
from urllib3.util.ssl_ import create_urllib3_context

from ..per_process import PerProcess

#: Connecting may take this many times the connect time-out in all: one address that does not answer, and TLS.
CONNECT_ROUNDS: Final = 2
#: Seconds after which an idle connection is not used again, unless the settings say otherwise.
IDLE_SECONDS: Final = 5.0

_CHUNK_BYTES: Final = 65_536
#: So many interim answers (1xx) may come before the final one.
_MOST_INTERIM: Final = 20
_SWITCHING_PROTOCOLS: Final = 101
_NO_RETRIES: Final = Retry(total=False, redirect=False)
_KEEP_ALIVE: Final = [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
_FAILURES: Final = (requests.RequestException, HTTPError, HTTPException, OSError, ValueError)


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """A status line and headers arrived. `cut` is empty if the body did too, else a reason code."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: str = ""

    @property
    def code(self) -> str:
        """The reason code of an answer that is not the hoped-for one: "redirected", or such as "http_503"."""
        return "redirected" if 300 <= self.status < 400 else f"http_{self.status}"

    def json_object(self) -> Mapping[str, object] | None:
        """The body as a JSON object; None if it is anything else, or incomplete."""
        if self.cut:
            return None
        try:
            parsed = msgspec.json.decode(self.body)
        except (ValueError, RecursionError):
            return None
        return parsed if isinstance(parsed, dict) else None

    def __repr__(self) -> str:
        return f"Answer(status={self.status}, cut={self.cut!r}, <headers and body withheld>)"


@dataclass(frozen=True, slots=True)
class NotSent:
    """There was no connection, so not a byte of the request left this host."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The request may have arrived; no final status line came back."""

    reason: str


Outcome = Answer | NotSent | Lost


class HttpClient:
    """Makes calls over one pool of connections. Thread-safe; after a fork the child makes its own pool.

    `connect_seconds` bounds each attempt to connect, `read_seconds` the WHOLE answer from its first byte awaited to
    its last, so that an upstream that drips cannot hold a thread. A call's request is sent, if at all, within
    `CONNECT_ROUNDS * connect_seconds`; what took longer to connect (many addresses, a slow resolver) is not sent.
    `longest_call` is the sum: after so many seconds the upstream is no longer working for this call.

    A connection that was idle for more than `idle_seconds` is not used again: a firewall may have forgotten it without
    a word, and what is sent over it is lost.
    """

    def __init__(
        self,
        *,
        connect_seconds: float,
        read_seconds: float,
        idle_seconds: float = IDLE_SECONDS,
        pool_size: int,
        verify: str | Literal[True],
    ) -> None:
        self.longest_call = CONNECT_ROUNDS * connect_seconds + read_seconds
        self._timeout = Timeout(connect=connect_seconds, read=read_seconds)
        self._ways = PerProcess(lambda: _Ways(idle_seconds, pool_size, verify))

    def call(
        self,
        method: Literal["GET", "HEAD", "POST"],
        url: str,
        *,
        headers: Mapping[str, str],
        body: Mapping[str, object] | None = None,
        max_bytes: int,
    ) -> Outcome:
        """Make one call, once. `body` is sent as JSON; of the answer at most `max_bytes` are read. Does not raise."""
        scheme, _, rest = url.partition("://")
        host, _, path = rest.partition("/")
        try:
            pool, target = self._ways.get().to(f"{scheme}://{host}/")
        except (requests.RequestException, HTTPError, ValueError):
            # The settings have checked our own URL: what is left is a malformed proxy in the environment.
            return NotSent("bad_proxy")
        except OSError:
            # There is no such CA bundle (any more).
            return NotSent("tls_failed")
        try:
            response = pool.urlopen(
                method,
                target + path,
                body=None if body is None else msgspec.json.encode(body),
                headers=headers,
                timeout=self._timeout,
                retries=_NO_RETRIES,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                # Version 1.26 of urllib3 takes a body that breaks off for a whole one, unless it is told.
                enforce_content_length=True,
            )
        except _NotConnected as error:
            return NotSent(error.reason)
        except _FAILURES as error:
            return Lost(_why_lost(error))
        with closing(response):
            return Answer(response.status, response.headers, *_read_body(response, max_bytes))

    def close(self) -> None:
        """Close idle connections."""
        ways = self._ways.take()
        if ways is not None:
            ways.close()


def _read_body(response: Any, max_bytes: int) -> tuple[bytes, str]:
    parts = bytearray()
    try:
        for chunk in response.stream(_CHUNK_BYTES, decode_content=True):
            parts += chunk
            if len(parts) > max_bytes:
                return b"", "too_large"
    except _FAILURES as error:
        return b"", _why_lost(error)
    return bytes(parts), ""


# Connections that prove whether they ever were one, and are not used again after anything unexpected.


class _NotConnected(Exception):
    """There is no connection. It derives from nothing that urllib3 catches, so that it arrives as it is."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class _TimedReader(io.RawIOBase):
    """Reads a socket until a deadline, or until it is over. A socket's own time-out starts anew with each byte."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, seconds: float) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = monotonic() + seconds
        self.is_over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.is_over:
            return 0
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        return cast(int | None, self._raw.readinto(buffer))

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    """A final answer that ends in time. `http.client` takes 102 and 103 for one, and the real one for the next."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._sock = sock
        self._reader = _TimedReader(self.fp.detach(), sock, sock.gettimeout() or 0)
        self.fp = io.BufferedReader(self._reader)

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_MOST_INTERIM + 1):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200:
                return version, status, reason
            if status == _SWITCHING_PROTOCOLS:
                break
            parse_headers(self.fp)
        raise HTTPException("no final answer")

    def begin(self) -> None:
        super().begin()
        # Where an answer with both headers ends, its sender and we may disagree (RFC 9112, section 6.3). And what TLS
        # inside TLS (a proxy spoken to by https) holds back cannot be seen.
        is_unclear = "Transfer-Encoding" in self.headers and "Content-Length" in self.headers
        self.will_close = self.will_close or is_unclear or not isinstance(self._sock, socket.socket)

    def _close_conn(self) -> None:
        self._reader.is_over = True
        if self.fp is not None and (
            self.fp.peek(1) or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending())
        ):
            # More came than the answer: shut down, the connection counts as dropped where the next call looks at it.
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        super()._close_conn()  # type: ignore[misc]


class _Connection(HTTPConnection):
    response_class = _Response
    used_at = 0.0
    _parts: list[bytes] | None = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        # Head and body leave as one message: two cost a tenth of a call more, and two records over TLS.
        self._parts = []
        try:
            super().request(*args, **kwargs)
            request = b"".join(self._parts)
        finally:
            self._parts = None
        self.send(request)

    def send(self, data: Any) -> None:
        if self._parts is None:
            super().send(data)
        else:
            self._parts.append(data)

    def connect(self) -> None:
        began, limit = monotonic(), self.timeout
        try:
            super().connect()
        except Exception as error:
            raise _NotConnected(_why_not_connected(error)) from error
        self.used_at = monotonic()
        if limit is not None and self.used_at - began > CONNECT_ROUNDS * limit:
            raise _NotConnected("connect_timed_out")


class _Pool(HTTPConnectionPool):
    idle_seconds = IDLE_SECONDS

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection: Any = super()._get_conn(timeout)
        if connection.sock is not None and monotonic() - connection.used_at > self.idle_seconds:
            connection.close()
        return connection

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.used_at = monotonic()
        super()._put_conn(conn)


@cache
def _ours(kind: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
    """A pool as `kind` (plain, TLS, either of them through a SOCKS proxy), of connections as above."""
    connection = type("Connection", (_Connection, kind.ConnectionCls), {})
    return type("Pool", (_Pool, kind), {"ConnectionCls": connection})


class _Ways(HTTPAdapter):
    """The way to each host, found once: its pool of connections, and what precedes a path in the request line."""

    def __init__(self, idle_seconds: float, pool_size: int, verify: str | Literal[True]) -> None:
        self._idle_seconds = idle_seconds
        self._verify = verify
        self._found: dict[str, tuple[_Pool, str]] = {}
        super().__init__(pool_connections=4, pool_maxsize=pool_size)

    def to(self, origin: str) -> tuple[_Pool, str]:
        """Raises what requests says of a malformed proxy, and `OSError` without a CA bundle."""
        found = self._found.get(origin)
        if found is None:
            found = self._found[origin] = self._find(origin)
        return found

    def _find(self, origin: str) -> tuple[_Pool, str]:
        request = requests.Request("GET", origin).prepare()
        with requests.Session() as session:
            given = session.merge_environment_settings(origin, {}, True, self._verify, None)
        self._verify = cast(str | Literal[True], given["verify"])
        pool: Any = self.get_connection_with_tls_context(request, self._verify, given["proxies"])
        pool.idle_seconds = self._idle_seconds
        return pool, self.request_url(request, given["proxies"])

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        # Read here, the CA bundle need not be read again for each connection.
        return host, {"ssl_context": _tls(verify)} if host["scheme"] == "https" else {}

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, socket_options=_KEEP_ALIVE)
        _make_ours(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        is_known = proxy in self.proxy_manager
        if proxy.lower().startswith("https"):
            kwargs["proxy_ssl_context"] = _tls(self._verify)
        manager = super().proxy_manager_for(proxy, **kwargs, socket_options=_KEEP_ALIVE)
        if not is_known:
            _make_ours(manager)
        return manager


def _make_ours(manager: Any) -> None:
    manager.pool_classes_by_scheme = {scheme: _ours(kind) for scheme, kind in manager.pool_classes_by_scheme.items()}


def _tls(verify: str | Literal[True]) -> ssl.SSLContext:
    context = create_urllib3_context()
    bundle = DEFAULT_CA_BUNDLE_PATH if verify is True else verify
    is_folder = Path(bundle).is_dir()
    context.load_verify_locations(cafile=None if is_folder else bundle, capath=bundle if is_folder else None)
    return context


# What an error means.


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and what it came from, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _why_lost(error: BaseException) -> str:
    for cause in _causes(error):
        match cause:
            case TimeoutError():
                return "timed_out"
            case ConnectionError() | IncompleteRead() | ssl.SSLEOFError():
                return "connection_reset"
            case ssl.SSLError():
                return "tls_failed"
    return "unreadable_answer"


def _why_not_connected(error: BaseException) -> str:
    for cause in _causes(error):
        match cause:
            case socket.gaierror():
                return "dns_failed"
            case TimeoutError():
                return "connect_timed_out"
            case ssl.SSLError():
                return "tls_failed"
            case ConnectionRefusedError():
                return "connection_refused"
            case ConnectionResetError() | BrokenPipeError():
                return "connection_reset"
            case OSError() if str(cause).startswith("Tunnel connection failed"):
                return "proxy_refused"
    return "unreachable"
