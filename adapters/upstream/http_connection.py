"""Connections that prove whether they ever were one, and answers that end in time.

urllib3 and requests report a reset while connecting and a reset after sending by the same exception, and a failed TLS
handshake like a TLS alert that came instead of an answer. Here whatever fails inside `connect()` (name resolution,
TCP, the proxy's tunnel, the TLS handshake) leaves it as `NotConnected`: not one byte of the
request was written by then.
"""

import io
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from time import monotonic
from typing import Any, Final, cast

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

#: Connecting may take this many times the connect time-out in all: one address that does not answer, and TLS.
CONNECT_ROUNDS: Final = 2


class NotConnected(Exception):
    """There is no connection. It derives from nothing that urllib3 or requests catch, so that it arrives as it is."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class _TimedReader(io.RawIOBase):
    """Reads a socket until a deadline. A socket's own time-out starts anew with each byte."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, seconds: float) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        return cast(int | None, self._raw.readinto(buffer))

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        seconds = sock.gettimeout()
        if seconds is not None:
            self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock, seconds))


@contextmanager
def _connecting(connection: HTTPConnection) -> Iterator[None]:
    started, limit = monotonic(), connection.timeout
    try:
        yield
    except Exception as error:
        raise NotConnected(_why_not_connected(error)) from error
    if limit is not None and monotonic() - started > CONNECT_ROUNDS * limit:
        raise NotConnected("connect_timed_out")


class _PlainConnection(HTTPConnection):
    response_class = _TimedResponse

    def connect(self) -> None:
        with _connecting(self):
            super().connect()


class _TlsConnection(HTTPSConnection):
    response_class = _TimedResponse

    def connect(self) -> None:
        with _connecting(self):
            super().connect()


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class ProvableAdapter(HTTPAdapter):
    """The transport of a requests session whose connections are the ones above."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        # A SOCKS proxy brings its own connections: what fails there counts as lost, on the safe side.
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
        return manager

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().cert_verify(*args, **kwargs)  # type: ignore[no-untyped-call, unused-ignore]
        except OSError as error:
            raise NotConnected("tls_failed") from error


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and what it came from, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _why_not_connected(error: BaseException) -> str:
    for cause in causes(error):
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
