"""Requests and responses as plain values, and what becomes of statuses, receipts, records and errors.

HTTP as RFC 9110 has it, with problem details (RFC 9457), `Prefer: wait` (RFC 7240) and Server-Sent Events (HTML
Standard, section 9.2). Nothing here waits or reads a clock.
"""

import hashlib
import json
import math
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from ...statemachine.errors import (
    ConfigurationError,
    NotEligible,
    PhrRefreshError,
    RecordUnreadable,
    SessionUnavailable,
    StoreUnavailable,
)
from ...statemachine.outcomes import Receipt, ReceiptKind, Status
from ...statemachine.patient import Patient
from ...statemachine.record import ExtractState, State

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
FHIR: Final = "application/fhir+json"
EVENT_STREAM: Final = "text/event-stream"
JAVASCRIPT: Final = "text/javascript; charset=utf-8"
#: How long a browser uses what is the same for everybody without asking again.
_STATIC_SECONDS: Final = 3600
_NO_HEADERS: Final[Mapping[str, str]] = {}
_NO_STORE: Final = {"Cache-Control": "no-store"}
#: Of every response: the browser takes the body for what its Content-Type says, and for nothing else.
_NO_SNIFFING: Final = {"X-Content-Type-Options": "nosniff"}
#: Seconds that a client is asked to leave alone what is down, where nothing tells when it will be up.
_OUTAGE_SECONDS: Final = 5.0
#: While a session is being created nothing tells when it will be there.
_OPENING_SECONDS: Final = 1.0
#: Milliseconds after which a browser whose stream ended connects again.
_RECONNECT_MS: Final = 2000

# Requests and responses.


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


def response(status: int, headers: Mapping[str, str], body: bytes = b"") -> HttpResponse:
    """A response with these headers, and those that all of ours have."""
    return HttpResponse(status, tuple({**headers, **_NO_SNIFFING}.items()), body)


def json_response(
    status: int, body: Any, headers: Mapping[str, str] = _NO_HEADERS, *, content_type: str = JSON
) -> HttpResponse:
    """A response with a JSON body, of which no cache keeps anything: it is about one patient."""
    content = json.dumps(body, separators=(",", ":")).encode()
    fields = {"Content-Type": content_type, **_NO_STORE, "Content-Length": str(len(content))}
    return response(status, {**fields, **headers}, content)


def problem(status: int, code: str, detail: str, headers: Mapping[str, str] = _NO_HEADERS, **more: Any) -> HttpResponse:
    """Problem details. `detail` is one sentence that says what to do; `more` are further members."""
    body = {
        "type": f"urn:problem-type:phr-refresh:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "code": code,
        "detail": detail,
    }
    return json_response(status, body | more, headers, content_type=PROBLEM)


def static(content: bytes, content_type: str, request: HttpRequest) -> HttpResponse:
    """A response that is the same for everybody until the next release, or 304 for who has it."""
    etag = f'"{digest(content)}"'
    fields = {"Cache-Control": f"public, max-age={_STATIC_SECONDS}", "ETag": etag}
    if request.knows(etag):
        return response(304, fields)
    return response(200, fields | {"Content-Type": content_type, "Content-Length": str(len(content))}, content)


def digest(content: bytes) -> str:
    """What tells this content from other content."""
    return hashlib.sha256(content).hexdigest()[:16]


def whole_seconds(seconds: float) -> str:
    """A Retry-After of at least one second (RFC 9110, section 10.2.3)."""
    return str(max(math.ceil(seconds), 1))


# Prefer.

_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
# Elements of the list are separated by commas, but not by those inside quoted strings.
_ELEMENT: Final = re.compile(rf'(?:[^",]|{_QUOTED})+', re.DOTALL)
# Parameters come after semicolons; `wait` has none that mean anything.
_PREFERENCE: Final = re.compile(rf"\s*({_WORD})\s*(?:=\s*({_WORD}|{_QUOTED})\s*)?(?:;.*)?", re.DOTALL)
_SECONDS: Final = re.compile(r"[0-9]+")
#: More than anybody waits; what is longer counts as this.
_MOST_DIGITS: Final = 9
#: Nobody prefers so much: what is longer is not read to its end.
_MOST_CHARACTERS: Final = 1000


def wait_of(header: str | None) -> int | None:
    """The seconds of `Prefer: wait=N`; None where there is no such preference, or none that can be read.

    The first one counts (RFC 7240, section 2). What cannot be read is ignored, as preferences may be.

    >>> wait_of("respond-async, wait=10"), wait_of('Wait = "3"; foo=bar'), wait_of("wait=soon"), wait_of(None)
    (10, 3, None, None)
    """
    for element in _ELEMENT.findall((header or "")[:_MOST_CHARACTERS]):
        preference = _PREFERENCE.fullmatch(element)
        if preference is not None and preference[1].lower() == "wait":
            seconds = (preference[2] or "").strip('"')
            if not _SECONDS.fullmatch(seconds):
                return None
            return int(seconds) if len(seconds) <= _MOST_DIGITS else 10**_MOST_DIGITS
    return None


# What is always the same.

NO_SUCH_RESOURCE: Final = problem(404, "no_such_resource", "There is nothing here; openapi.json lists what there is.")
NO_SUCH_RECORDS: Final = problem(404, "no_such_records", "There are no records of this kind.")
#: RFC 9110 wants a challenge with a 401; browsers do nothing about one of this scheme.
NOT_LOGGED_IN: Final = problem(401, "not_logged_in", "Log in first.", {"WWW-Authenticate": 'Session realm="portal"'})
#: Somebody is logged in who has no MHV account (rule R8).
NOT_ELIGIBLE: Final = problem(403, "not_eligible", "There is no MHV account, so there are no records to refresh.")
#: The browser has seen the end of its stream: it does not connect again.
STREAM_IS_OVER: Final = response(204, _NO_STORE)
#: A stream, without its events. Else nginx would hold these back until its buffer is full.
STREAM: Final = response(200, {"Content-Type": EVENT_STREAM, **_NO_STORE, "X-Accel-Buffering": "no"})


def method_not_allowed(methods: tuple[str, ...]) -> HttpResponse:
    """The path is one of ours, the method is not."""
    allow = ", ".join(methods)
    return problem(405, "method_not_allowed", f"Use {allow}.", {"Allow": allow})


# The status.


def status_answer(status: Status, request: HttpRequest, *, waited: int | None) -> HttpResponse:
    """`waited`: the seconds of `Prefer: wait` that were applied."""
    headers = {"ETag": f"W/{etag_of(status)}", "Vary": "Prefer"}
    if waited is not None:
        headers["Preference-Applied"] = f"wait={waited}"
    if status.under_way:
        # Never 304, which stands for a 200 (RFC 9110, 15.4.5): who waits for the end has to see that it is not there.
        return _under_way(status, headers)
    if request.knows(etag_of(status)):
        return response(304, headers | _NO_STORE)
    return json_response(200, status_body(status), headers)


def _under_way(status: Status, headers: Mapping[str, str]) -> HttpResponse:
    progress = {"Retry-After": whole_seconds(seconds_to_next_check(status)), "X-Progress": _progress_of(status)}
    return json_response(202, status_body(status), {**headers, **progress})


def status_body(status: Status) -> dict[str, Any]:
    """The status as a JSON object; `openapi` has its schema."""
    return {
        "state": status.state.value,
        "under_way": status.under_way,
        "since": _moment(status.since),
        "as_of": _moment(status.as_of),
        "stale": _is_stale(status),
        "partial": status.partial,
        "refresh_id": status.refresh_id,
        "claimed_at": _moment(status.claimed_at),
        "extracts": [
            {"name": item.name, "state": item.state.value, "succeeded_at": _moment(item.succeeded_at)}
            for item in status.extracts
        ],
        "failure": _failure_body(status),
        "next_check_at": _moment(status.next_check_at),
    }


def etag_of(status: Status) -> str:
    """An entity tag without its mark of weakness. Weak: the time of the next check alone is no news."""
    told = {name: value for name, value in status_body(status).items() if name != "next_check_at"}
    return f'"{digest(json.dumps(told).encode())}"'


def may_begin(status: Status) -> bool:
    """Whether a login could start something now, so that what one has just handed over may not show yet."""
    failure = status.failure
    is_barred = failure is not None and failure.retry_at is not None and _seconds_until(failure.retry_at, status) != 0
    return status.state is not State.COMPLETE and not is_barred


def is_due(status: Status) -> bool:
    """Whether it is time to ask the upstream: whose turn that is, the store decides."""
    return _seconds_until(status.next_check_at, status) == 0


def seconds_to_next_check(status: Status) -> float:
    """Seconds until asking again can first tell something new: by the policy, and by the time already spent."""
    seconds = _seconds_until(status.next_check_at, status)
    return _OPENING_SECONDS if seconds is None else seconds


def _seconds_until(at: datetime | None, status: Status) -> float | None:
    """Seconds from when `status` was so until `at`, 0 if that is past; None where either is not known."""
    if at is None or status.read_at is None:
        return None
    return max((at - status.read_at).total_seconds(), 0.0)


def _moment(value: datetime | None) -> str | None:
    """ISO 8601 in UTC, to the millisecond."""
    return None if value is None else value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _failure_body(status: Status) -> dict[str, Any] | None:
    failure = status.failure
    if failure is None:
        return None
    return {"code": failure.code, "at": _moment(failure.at), "retry_at": _moment(failure.retry_at)}


def _is_stale(status: Status) -> bool:
    """Whether what is shown may be out of date: only `complete` promises that it is not.

    A refresh recorded while nobody was logged in counts too, once the next login resumes it.
    """
    return status.state is not State.COMPLETE


def _progress_of(status: Status) -> str:
    """A sentence for X-Progress, as FHIR's asynchronous requests have it; at most 100 characters."""
    if status.state is not State.REFRESHING:
        return "not begun"
    ended = sum(item.state is not ExtractState.IN_PROGRESS for item in status.extracts)
    return f"{ended} of {len(status.extracts)} extracts ended" if status.extracts else "refresh requested"


# The status as Server-Sent Events (HTML Standard, section 9.2).

#: A comment: proxies close what is silent, and a client that is gone shows only when it is written to.
HEARTBEAT: Final = b":\n\n"


def event_id(status: Status) -> str:
    """What Last-Event-ID says of a client that has seen `status`: its entity tag."""
    return etag_of(status).strip('"')


def event(status: Status) -> bytes:
    """An event named `status`, with the JSON of `GET status`."""
    data = json.dumps(status_body(status), separators=(",", ":"))
    return f"event: status\nid: {event_id(status)}\ndata: {data}\n\n".encode()


def reconnection_time(status: Status) -> bytes:
    """When to connect again: a stream that ends at once must not be asked for more often than a status."""
    return f"retry: {max(_RECONNECT_MS, round(seconds_to_next_check(status) * 1000))}\n\n".encode()


# Refresh and records.


def refresh_answer(receipt: Receipt, status: Status) -> HttpResponse:
    """What a patient who asked for a refresh is told; `status` was read after `receipt` was had."""
    seconds = _seconds_until(receipt.retry_at, status)
    failure = _failure_body(status)
    if receipt.kind is ReceiptKind.FRESH or receipt.reason == "window_closed":
        what, retry_at = "The last refresh was not long enough ago", _moment(receipt.retry_at)
        return _later(429, "window_closed", what, seconds, retry_at=retry_at, failure=failure)
    # A login that took too long goes on behind: what was asked for is on its way, unless there is nothing to do.
    goes_on = receipt.reason == "over_budget" and status.state is not State.COMPLETE
    if receipt.kind is ReceiptKind.DEFERRED and not goes_on:
        what = "The records cannot be refreshed now"
        return _later(503, receipt.reason or "deferred", what, seconds, failure=failure)
    result = "joined" if receipt.kind is ReceiptKind.IN_PROGRESS else "started"
    headers = {"Location": "status", "Retry-After": whole_seconds(seconds_to_next_check(status))}
    return json_response(202, {"result": result, "status": status_body(status)}, headers)


def records_answer(bundle: Mapping[str, object], status: Status) -> HttpResponse:
    """The Bundle as it came; headers say how old it is."""
    headers = {"PHR-State": status.state.value, "PHR-Stale": "?1" if _is_stale(status) else "?0"}
    if (as_of := _moment(status.as_of)) is not None:
        headers["PHR-As-Of"] = as_of
    if status.failure is not None:
        headers["PHR-Failure"] = status.failure.code
    return json_response(200, bundle, headers, content_type=FHIR)


def no_records(receipt: Receipt, status: Status) -> HttpResponse:
    """The FHIR server does not know the patient: the first data are on their way, or nobody is bringing any."""
    if status.under_way or receipt.kind in (ReceiptKind.HANDED_OVER, ReceiptKind.IN_PROGRESS):
        return not_yet(status)
    # After a refresh that ended well the FHIR server will know, in seconds; after one that failed, the window decides.
    seconds = None if receipt.kind is ReceiptKind.FRESH else _seconds_until(receipt.retry_at, status)
    what = "There are no records yet, and none are on their way"
    return _later(503, "no_records_yet", what, seconds, failure=_failure_body(status))


def not_yet(status: Status) -> HttpResponse:
    """The first data are on their way."""
    return _under_way(status, {})


def records_failed(reason: str) -> HttpResponse:
    """The FHIR server did not give the records; `reason` is a code."""
    return _later(502, "records_unavailable", "The records cannot be read now", reason=reason)


def no_session(error: SessionUnavailable, status: Status | None = None) -> HttpResponse:
    """There is no session to read records with. `status`: by whose clock it is told when to try again."""
    seconds = _seconds_until(error.retry_at, status) if status else None
    what, retry_at = "The upstream gives no session now", _moment(error.retry_at)
    return _later(503, "session_unavailable", what, seconds, reason=error.reason, retry_at=retry_at)


def store_unavailable() -> HttpResponse:
    """Nothing can be told."""
    return _later(503, "store_unavailable", "The state cannot be read now")


def _later(status: int, code: str, what: str, seconds: float | None = None, **members: Any) -> HttpResponse:
    """A problem that passes: `seconds` say when, where that is known."""
    after = {"Retry-After": whole_seconds(_OUTAGE_SECONDS if seconds is None else seconds)}
    return problem(status, code, f"{what}; try again when Retry-After has passed.", after, **members)


def error_answer(error: PhrRefreshError) -> HttpResponse:
    """An error as a problem. A 500 is one that somebody has to look at."""
    match error:
        case NotEligible():
            return NOT_ELIGIBLE
        case StoreUnavailable():
            return store_unavailable()
        case SessionUnavailable():
            return no_session(error)
        case RecordUnreadable():
            return problem(500, "record_unreadable", "The stored state cannot be read; call the people who run this.")
        case ConfigurationError(setting="MhvSettings.records"):
            return NO_SUCH_RECORDS
        case _:
            return problem(500, "internal_error", "This failed; call the people who run this.")
