"""Requests and responses as plain values, and errors as problem details (RFC 9457)."""

import json
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from ....statemachine.patient import Patient

JSON = "application/json"
PROBLEM = "application/problem+json"
FHIR = "application/fhir+json"
EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What the contract needs to know of a request.

    `path`: below the mount point, such as "status". `headers`: names in lower case, several of one name joined with a
    comma. `patient`: made of the host's own session, of nothing that the browser sends; None where nobody is logged in
    (`is_logged_in` False), or where who is logged in is no patient.
    """

    method: str
    path: str
    patient: Patient | None
    is_logged_in: bool
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def etags(self) -> tuple[str, ...]:
        """The tags of If-None-Match without their mark of weakness: the comparison is weak (RFC 9110, 13.1.2)."""
        tags = self.headers.get("if-none-match", "").split(",")
        return tuple(tag.strip().removeprefix("W/") for tag in tags if tag.strip())


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


@dataclass(frozen=True, slots=True)
class AsyncHttpStream:
    """The same for asyncio. `chunks` has an `aclose`; one that is dropped lets go by itself."""

    status: int
    headers: tuple[tuple[str, str], ...]
    chunks: AsyncIterator[bytes]


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
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    fields = dict(headers or {})
    if retry_after is not None:
        fields["Retry-After"] = whole_seconds(retry_after)
    return response(status, body | members, content_type=PROBLEM, headers=fields)


def whole_seconds(seconds: float) -> str:
    """A Retry-After of at least one second (RFC 9110, section 10.2.3)."""
    return str(max(math.ceil(seconds), 1))
