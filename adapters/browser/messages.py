"""Requests and responses as plain values, and errors as problem details (RFC 9457)."""

import hashlib
import json
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...statemachine.patient import Patient

JSON = "application/json"
PROBLEM = "application/problem+json"
FHIR = "application/fhir+json"
EVENTS = "text/event-stream"
JAVASCRIPT = "text/javascript; charset=utf-8"
#: How long a browser uses what is the same for everybody without asking again.
_STATIC_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What the contract needs to know of a request.

    `path`: below the mount point, such as "status". `headers`: names in lower case, several of one name joined with a
    comma. `patient`: made of the host's own session, of nothing that the browser sends; None where nobody is logged in
    (`is_logged_in` False), or where who is logged in is no patient. `repr` shows no header: cookies are secrets.
    """

    method: str
    path: str
    patient: Patient | None
    is_logged_in: bool
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def etags(self) -> tuple[str, ...]:
        """The tags of If-None-Match without their mark of weakness: the comparison is weak (RFC 9110, 13.1.2)."""
        tags = self.headers.get("if-none-match", "").split(",")
        return tuple(tag.strip().removeprefix("W/") for tag in tags if tag.strip())

    def knows(self, etag: str) -> bool:
        """Whether If-None-Match says that the client has what `etag` (without mark of weakness) stands for."""
        return etag in self.etags or "*" in self.etags


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A whole response. `headers` are pairs; each name comes once."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpStream:
    """A response whose body comes piece by piece. `chunks` has a `close`, which WSGI servers call."""

    status: int
    headers: tuple[tuple[str, str], ...]
    chunks: Iterator[bytes]


class AsyncChunks(Protocol):
    """The pieces of a body. One that is dropped before `aclose` lets go by itself."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """One piece after the other."""

    async def aclose(self) -> None:
        """Let go of what is held for the stream."""


@dataclass(frozen=True, slots=True)
class AsyncHttpStream:
    """The same for asyncio."""

    status: int
    headers: tuple[tuple[str, str], ...]
    chunks: AsyncChunks


def response(
    status: int, body: Any, *, content_type: str = JSON, headers: Mapping[str, str] | None = None
) -> HttpResponse:
    """A response with a JSON body, of which no cache keeps anything: it is about one patient."""
    content = json.dumps(body, separators=(",", ":")).encode()
    fields = {"Content-Type": content_type, "Cache-Control": "no-store", "Content-Length": str(len(content))}
    return HttpResponse(status, tuple((fields | dict(headers or {})).items()), content)


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    retry_after: float | None = None,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> HttpResponse:
    """Problem details. `detail` is one sentence that says what to do; `retry_after` is in seconds."""
    body = {
        "type": f"urn:problem-type:phr-refresh:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "code": code,
        "detail": detail,
    }
    fields = dict(headers or {})
    if retry_after is not None:
        fields["Retry-After"] = whole_seconds(retry_after)
    return response(status, body | members, content_type=PROBLEM, headers=fields)


def static(content: bytes, content_type: str, request: HttpRequest) -> HttpResponse:
    """A response that is the same for everybody until the next release, or 304 for who has it."""
    etag = f'"{digest(content)}"'
    fields = {"Cache-Control": f"public, max-age={_STATIC_SECONDS}", "ETag": etag}
    if request.knows(etag):
        return HttpResponse(304, tuple(fields.items()), b"")
    fields |= {"Content-Type": content_type, "Content-Length": str(len(content))}
    return HttpResponse(200, tuple(fields.items()), content)


def digest(content: bytes) -> str:
    """What tells this content from other content."""
    return hashlib.sha256(content).hexdigest()[:16]


def whole_seconds(seconds: float) -> str:
    """A Retry-After of at least one second (RFC 9110, section 10.2.3)."""
    return str(max(math.ceil(seconds), 1))
