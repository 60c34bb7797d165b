"""One HTTP call over requests, and the one distinction that rule R1 lives on: did the request leave, or not?

A call ends as an `Answer` (a status line arrived), as `NotSent` (there provably was no connection to send it on:
`http_connection` tells) or as `Lost` (everything else: it may have arrived).

Nothing is ever sent twice: no retries, no redirects, no cookies, no credentials out of a netrc file. Proxies and the CA
bundle named in the environment are honoured, as hospitals need them.
"""

import json
import os
import ssl
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException
from http.cookiejar import DefaultCookiePolicy
from typing import Literal

import requests
from urllib3.exceptions import HTTPError, IncompleteRead

from .http_connection import CONNECT_ROUNDS, NotConnected, ProvableAdapter, causes

_CHUNK_BYTES = 65_536


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
            parsed = json.loads(self.body)
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
    """The request may have arrived; no status line came back."""

    reason: str


Outcome = Answer | NotSent | Lost


class HttpClient:
    """Makes calls over one pool of connections. Thread-safe; after a fork the child makes its own pool.

    `connect_seconds` bounds each attempt to connect, `read_seconds` the WHOLE answer from its first byte awaited to
    its last, so that an upstream that drips cannot hold a thread. A call's request is sent, if at all, within
    `CONNECT_ROUNDS * connect_seconds`; what took longer to connect (many addresses, a slow resolver) is not sent.
    `longest_call` is the sum: after so many seconds the upstream is no longer working for this call.
    """

    def __init__(self, *, connect_seconds: float, read_seconds: float, pool_size: int, verify: str | Literal[True]):
        self.longest_call = CONNECT_ROUNDS * connect_seconds + read_seconds
        self._timeout = (connect_seconds, read_seconds)
        self._pool_size = pool_size
        self._verify = verify
        self._owner = os.getpid()
        self._session = _new_session(pool_size)

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
        sent = None if body is None else json.dumps(body).encode()
        try:
            response = self._own_session().request(
                method, url, headers=dict(headers), data=sent, stream=True, timeout=self._timeout, verify=self._verify
            )
        except NotConnected as error:
            return NotSent(error.reason)
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema):
            # The settings have checked our own URL: what is left is a malformed proxy in the environment.
            return NotSent("bad_proxy")
        except (requests.RequestException, HTTPError, HTTPException, OSError, ValueError) as error:
            return Lost(_why_lost(error))
        with closing(response):
            read, cut = _read_body(response, max_bytes)
        return Answer(response.status_code, response.headers, read, cut)

    def close(self) -> None:
        """Close idle connections."""
        self._session.close()

    def _own_session(self) -> requests.Session:
        # A socket shared with a parent process could hand one patient's answer to another's call.
        if self._owner != os.getpid():
            self._session = _new_session(self._pool_size)
            self._owner = os.getpid()
        return self._session


def _read_body(response: requests.Response, max_bytes: int) -> tuple[bytes, str]:
    parts = bytearray()
    # The default of urllib3 2; version 1.26 takes a body that breaks off for a whole one.
    response.raw.enforce_content_length = True
    try:
        for chunk in response.iter_content(_CHUNK_BYTES):
            parts += chunk
            if len(parts) > max_bytes:
                return b"", "too_large"
    except (requests.RequestException, HTTPError, HTTPException, OSError, ValueError) as error:
        return b"", _why_lost(error)
    return bytes(parts), ""


def _new_session(pool_size: int) -> requests.Session:
    session = _Session()
    session.headers.clear()
    session.headers["Accept-Encoding"] = "identity"
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.auth = _no_credentials
    adapter = ProvableAdapter(max_retries=0, pool_connections=4, pool_maxsize=pool_size)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    # Without an auth of its own, requests looks for one in the user's netrc file.
    return request


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        # Not `allow_redirects=False`: with that, requests still reads the whole body, however long, to find `next`.
        return None


def _why_lost(error: BaseException) -> str:
    for cause in causes(error):
        match cause:
            case TimeoutError():
                return "timed_out"
            case ConnectionError() | IncompleteRead() | ssl.SSLEOFError():
                return "connection_reset"
            case ssl.SSLError():
                return "tls_failed"
    return "unreadable_answer"
