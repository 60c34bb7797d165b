"""The contract: what each request is answered, whoever serves it.

Handlers are generators, as the flows are: they yield what they need done and are sent its result, so that hosts with
threads and hosts on asyncio run the same ones (`drivers`). They read no clock: `Pause` tells the time.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from ....statemachine.errors import (
    ConfigurationError,
    NotEligible,
    PhrRefreshError,
    RecordUnreadable,
    SessionUnavailable,
    StoreUnavailable,
)
from ....statemachine.outcomes import Receipt, ReceiptKind, Status
from ....statemachine.patient import Patient
from ...ports import NotReady, Records, RecordsAnswer, RecordsFailed
from .bodies import etag_of, failure_body, moment, progress_of, seconds_to_next_check, status_body
from .events import HEADERS, event_id, events
from .messages import FHIR, HttpRequest, HttpResponse, problem, response, whole_seconds
from .needs import Login, Need, Pause, ReadRecords, ReadStatus, Streaming, TakePlace
from .openapi import document
from .prefer import wait_of

Handling = Generator[Need, Any, HttpResponse | Streaming]
_METHODS: Final = {"status": "GET", "events": "GET", "refresh": "POST", "records": "GET", "openapi.json": "GET"}
#: Seconds that a client is asked to leave a store alone that is down.
_STORE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """Answers requests. `longest_wait` caps `Prefer: wait=N`; proxies in between must be more patient than that."""

    longest_wait: timedelta = timedelta(seconds=30)
    longest_stream: timedelta = timedelta(minutes=5)
    heartbeat: timedelta = timedelta(seconds=15)
    #: While a request waits, its patient's record is looked at this often at most and at least.
    shortest_look: timedelta = timedelta(milliseconds=250)
    longest_look: timedelta = timedelta(seconds=1)

    def answer(self, request: HttpRequest) -> Handling:
        """The handling of a request. Errors of the library come back as problems; others are the host's to see."""
        try:
            answer = yield from self._checked(request)
        except PhrRefreshError as error:
            answer = _problem_of(error)
        if request.method == "HEAD" and isinstance(answer, HttpResponse):
            return HttpResponse(answer.status, answer.headers, b"")
        return answer

    def _checked(self, request: HttpRequest) -> Handling:
        name, _, kind = request.path.strip("/").partition("/")
        allowed = _METHODS.get(name)
        if allowed is None or bool(kind) != (name == "records"):
            return problem(404, "no_such_resource", "There is nothing here; openapi.json lists what there is.")
        methods = (allowed, "HEAD") if allowed == "GET" else (allowed,)
        if request.method not in methods:
            allow = ", ".join(methods)
            return problem(405, "method_not_allowed", f"Use {allow}.", headers={"Allow": allow})
        if name == "openapi.json":
            return response(200, document(), headers={"Cache-Control": "public, max-age=3600"})
        if not request.is_logged_in:
            challenge = {"WWW-Authenticate": 'Session realm="portal"'}
            return problem(401, "not_logged_in", "Log in first.", headers=challenge)
        patient = request.patient
        if patient is None or not patient.is_member:
            return problem(403, "not_eligible", "There is no MHV account, so there are no records to refresh.")
        handlers: dict[str, Callable[[], Handling]] = {
            "status": lambda: self._status(request, patient),
            "events": lambda: self._events(request, patient),
            "refresh": lambda: self._refresh(patient),
            "records": lambda: self._records(patient, kind),
        }
        return (yield from handlers[name]())

    def _status(self, request: HttpRequest, patient: Patient) -> Handling:
        status: Status = yield ReadStatus(patient)
        asked = wait_of(request.headers.get("prefer"))
        applied = None if asked is None else min(float(asked), self.longest_wait.total_seconds())
        if applied is not None and status.under_way:
            # A host whose places are taken answers at once: the client asks again, as it was told to.
            if (yield TakePlace()):
                status = yield from self._news(patient, status, applied, request.etags)
            else:
                applied = None
        return _status_response(status, request, applied)

    def _news(
        self, patient: Patient, status: Status, seconds: float, known: tuple[str, ...]
    ) -> Generator[Need, Any, Status]:
        """The status once it has settled or `seconds` have passed; for a client that knew it, once anything is new."""
        now: float = yield Pause(0)
        ends_at = now + seconds
        told = etag_of(status)
        while status.under_way and now < ends_at and (not known or told in known):
            now = yield Pause(min(self.look_in(status), ends_at - now))
            status = yield ReadStatus(patient)
            told = etag_of(status)
        return status

    def look_in(self, status: Status) -> float:
        """Seconds until a request that waits looks again."""
        least, most = self.shortest_look.total_seconds(), self.longest_look.total_seconds()
        return min(max(seconds_to_next_check(status), least), most)

    def _events(self, request: HttpRequest, patient: Patient) -> Handling:
        status: Status = yield ReadStatus(patient)
        seen = request.headers.get("last-event-id")
        if not status.under_way and seen == event_id(status):
            return HttpResponse(204, (("Cache-Control", "no-store"),), b"")
        # Without a place the stream is one event long, and the browser connects again by itself.
        lasts = self.longest_stream if (yield TakePlace()) else timedelta(0)
        needs = events(patient, status, seen=seen, lasts=lasts, heartbeat=self.heartbeat, look_in=self.look_in)
        return Streaming(200, HEADERS, needs)

    def _refresh(self, patient: Patient) -> Handling:
        receipt: Receipt = yield Login(patient)
        if receipt.reason == "store_unavailable":
            raise StoreUnavailable("of the records", "not reached")
        status: Status = yield ReadStatus(patient, may_ask=False)
        retry_after = None
        if receipt.retry_at is not None and status.read_at is not None:
            retry_after = (receipt.retry_at - status.read_at).total_seconds()
        if receipt.kind is ReceiptKind.FRESH or receipt.reason == "window_closed":
            detail = "The records were refreshed within the last hour; try again when Retry-After has passed."
            retry_at, failure = moment(receipt.retry_at), failure_body(status)
            return problem(429, "window_closed", detail, retry_after=retry_after, retry_at=retry_at, failure=failure)
        # A login that took too long goes on behind: what was asked for is on its way.
        if receipt.kind is ReceiptKind.DEFERRED and receipt.reason != "over_budget":
            detail = "The records cannot be refreshed now; try again when Retry-After has passed."
            return problem(503, receipt.reason or "deferred", detail, retry_after=retry_after or _STORE_SECONDS)
        result = "joined" if receipt.kind is ReceiptKind.IN_PROGRESS else "started"
        headers = {"Location": "status", "Retry-After": whole_seconds(seconds_to_next_check(status))}
        return response(202, {"result": result, "status": status_body(status)}, headers=headers)

    def _records(self, patient: Patient, kind: str) -> Handling:
        status: Status = yield ReadStatus(patient)
        if status.under_way and status.as_of is None:
            return _not_yet(status)
        answer: RecordsAnswer = yield ReadRecords(patient, kind)
        match answer:
            case Records(bundle):
                return response(200, bundle, content_type=FHIR, headers=_age_headers(status))
            case RecordsFailed(reason):
                detail = "The records cannot be read now; try again when Retry-After has passed."
                return problem(502, "records_unavailable", detail, retry_after=_STORE_SECONDS, reason=reason)
            case NotReady():
                # Reading them may have been what started the first refresh.
                status = yield ReadStatus(patient, may_ask=False)
                return _not_yet(status) if status.under_way else _none_at_all(status)


def _status_response(status: Status, request: HttpRequest, applied: float | None) -> HttpResponse:
    headers = {"ETag": f"W/{etag_of(status)}", "Vary": "Prefer"}
    if applied is not None:
        headers["Preference-Applied"] = f"wait={applied:.0f}"
    if status.under_way:
        headers |= _progress_headers(status)
        return response(202, status_body(status), headers=headers)
    # Only of a 200: a client that waits for the end has to see that it is not there yet.
    if etag_of(status) in request.etags or "*" in request.etags:
        return HttpResponse(304, (*headers.items(), ("Cache-Control", "no-store")), b"")
    return response(200, status_body(status), headers=headers)


def _progress_headers(status: Status) -> dict[str, str]:
    return {"Retry-After": whole_seconds(seconds_to_next_check(status)), "X-Progress": progress_of(status)}


def _not_yet(status: Status) -> HttpResponse:
    return response(202, status_body(status), headers=_progress_headers(status))


def _none_at_all(status: Status) -> HttpResponse:
    failure = status.failure
    wait = (
        (failure.retry_at - status.read_at).total_seconds() if failure and failure.retry_at and status.read_at else None
    )
    detail = "There are no records yet, and none are on their way; ask for a refresh when Retry-After has passed."
    return problem(503, "no_records_yet", detail, retry_after=wait or _STORE_SECONDS, failure=failure_body(status))


def _age_headers(status: Status) -> dict[str, str]:
    """How old the records are: the Bundle itself is passed on as it came."""
    headers = {"PHR-State": status.state.value, "PHR-Stale": "?1" if status_body(status)["stale"] else "?0"}
    if (as_of := moment(status.as_of)) is not None:
        headers["PHR-As-Of"] = as_of
    if status.failure is not None:
        headers["PHR-Failure"] = status.failure.code
    return headers


def _problem_of(error: PhrRefreshError) -> HttpResponse:
    match error:
        case NotEligible():
            return problem(403, "not_eligible", "There is no MHV account, so there are no records to refresh.")
        case StoreUnavailable():
            detail = "The state cannot be read now; try again when Retry-After has passed."
            return problem(503, "store_unavailable", detail, retry_after=_STORE_SECONDS)
        case SessionUnavailable():
            detail = "The upstream gives no session now; try again when Retry-After has passed."
            return problem(503, "session_unavailable", detail, retry_after=_STORE_SECONDS)
        case RecordUnreadable():
            return problem(500, "record_unreadable", "The stored state cannot be read; call the people who run this.")
        case ConfigurationError(setting="MhvSettings.records"):
            return problem(404, "no_such_records", "There are no records of this kind.")
        case _:
            return problem(500, "internal_error", "This failed; call the people who run this.")
