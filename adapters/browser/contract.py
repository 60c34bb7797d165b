"""The contract: what each request is answered, whoever serves it.

Handlers are generators, as the flows are: they yield what they need done and are sent its result, so that hosts with
threads and hosts on asyncio run the same ones (`Host`, `AsyncHost`). They read no clock: `Pause` tells the time.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

from ...statemachine.effects import Fact
from ...statemachine.errors import ConfigurationError, PhrRefreshError, SessionUnavailable
from ...statemachine.outcomes import Receipt, Status
from ...statemachine.patient import Patient
from ..ports import NotReady, Records, RecordsAnswer, RecordsFailed
from ..redaction import safe_error
from . import answers
from .assets import browser_module
from .bodies import etag_of, may_begin, seconds_to_next_check
from .events import HEADERS, event_id, events
from .messages import HttpRequest, HttpResponse
from .needs import Login, Need, Pause, ReadRecords, ReadStatus, Streaming, TakePlace, Tell
from .openapi import openapi_document
from .operations import operation_at
from .prefer import wait_of

T = TypeVar("T")
Needing = Generator[Need, Any, T]
Handling = Needing[HttpResponse | Streaming]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """Answers requests. All of it is immutable; one serves all threads.

    `longest_wait` caps `Prefer: wait=N`, in whole seconds; proxies in between must be more patient than that.
    `longest_ask`: how long a request that asks the upstream waits for it. `shortest_look` and `longest_look`: how often
    a request that waits looks at its patient's record. `settling`: how long it gives what a login has handed over to
    begin. `kinds`: the records there are; None where the upstream knows.
    """

    longest_wait: timedelta = timedelta(seconds=30)
    longest_stream: timedelta = timedelta(minutes=5)
    heartbeat: timedelta = timedelta(seconds=15)
    longest_ask: timedelta = timedelta(seconds=2)
    shortest_look: timedelta = timedelta(milliseconds=250)
    longest_look: timedelta = timedelta(seconds=1)
    settling: timedelta = timedelta(seconds=2)
    kinds: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.longest_wait < timedelta(0):
            raise ConfigurationError("Contract.longest_wait", "it is negative", "give 0 or more")

    def answer(self, request: HttpRequest) -> Handling:
        """The handling of a request. Errors of the library come back as problems; others are the host's to see."""
        try:
            answer = yield from self._routed(request)
        except PhrRefreshError as error:
            answer = answers.error_answer(error)
            if answer.status == 500:
                yield Tell(Fact("request_failed", details={"error": safe_error(error)}, is_warning=True))
        if request.method == "HEAD" and isinstance(answer, HttpResponse):
            return HttpResponse(answer.status, answer.headers, b"")
        return answer

    def _routed(self, request: HttpRequest) -> Handling:
        operation, kind = operation_at(request.path)
        if operation is None:
            return answers.no_such_resource()
        if request.method not in operation.methods:
            return answers.method_not_allowed(operation.methods)
        if operation.name in _PUBLIC:
            return _PUBLIC[operation.name](self, request)
        if not request.is_logged_in:
            return answers.not_logged_in()
        patient = request.patient
        if patient is None or not patient.is_member:
            return answers.not_eligible()
        return (yield from _HANDLERS[operation.name](self, request, patient, kind))

    def _status(self, request: HttpRequest, patient: Patient, _: str) -> Handling:
        status: Status = yield self._look_at(patient)
        asked = wait_of(request.headers.get("prefer"))
        applied = None if asked is None else min(asked, int(self.longest_wait.total_seconds()))
        if applied and not self._is_over(status, 0):
            # A host whose places are taken answers at once: the client asks again, as it was told to.
            if (yield TakePlace()):
                status = yield from self._news(patient, status, applied, request.etags)
            else:
                applied = None
        return answers.status_answer(status, request, waited=applied)

    def _look_at(self, patient: Patient, seconds: float | None = None) -> ReadStatus:
        longest = self.longest_ask.total_seconds()
        return ReadStatus(patient, within=longest if seconds is None else min(seconds, longest))

    def _news(self, patient: Patient, status: Status, seconds: float, known: tuple[str, ...]) -> Needing[Status]:
        """The status once it has settled or `seconds` have passed; for a client that knows it, once anything is new."""
        began_at: float = yield Pause(0)
        now, ends_at = began_at, began_at + seconds
        told = etag_of(status)
        while not self._is_over(status, now - began_at) and now < ends_at and (told in known or known in ((), ("*",))):
            now = yield Pause(min(self.look_in(status), ends_at - now))
            status = yield self._look_at(patient, max(ends_at - now, 0))
            told = etag_of(status)
        return status

    def _is_over(self, status: Status, waited: float) -> bool:
        """Whether there is nothing to wait for, after so many seconds."""
        return not status.under_way and (waited >= self.settling.total_seconds() or not may_begin(status))

    def look_in(self, status: Status) -> float:
        """Seconds until a request that waits looks again."""
        least, most = self.shortest_look.total_seconds(), self.longest_look.total_seconds()
        return min(max(seconds_to_next_check(status), least), most)

    def _events(self, request: HttpRequest, patient: Patient, _: str) -> Handling:
        status: Status = yield self._look_at(patient)
        seen = request.headers.get("last-event-id")
        if not status.under_way and seen == event_id(status):
            return HttpResponse(204, (("Cache-Control", "no-store"),), b"")
        if request.method == "HEAD":
            return HttpResponse(200, HEADERS, b"")
        # Without a place the stream is one event long, and the browser connects again by itself.
        lasts = self.longest_stream if not self._is_over(status, 0) and (yield TakePlace()) else timedelta(0)
        look = self._look_at(patient)
        return Streaming(
            200,
            HEADERS,
            events(
                status,
                look,
                seen=seen,
                lasts=lasts,
                heartbeat=self.heartbeat,
                look_in=self.look_in,
                is_over=self._is_over,
            ),
        )

    def _refresh(self, request: HttpRequest, patient: Patient, _: str) -> Handling:
        receipt: Receipt = yield Login(patient)
        if receipt.reason == "store_unavailable":
            return answers.store_unavailable()
        status: Status = yield ReadStatus(patient)
        return answers.refresh_answer(receipt, status)

    def _records(self, request: HttpRequest, patient: Patient, kind: str) -> Handling:
        if self.kinds is not None and kind not in self.kinds:
            return answers.no_such_records()
        status: Status = yield self._look_at(patient)
        if status.under_way and status.as_of is None:
            return answers.not_yet(status)
        try:
            answer: RecordsAnswer = yield ReadRecords(patient, kind)
        except SessionUnavailable as error:
            return answers.no_session(error, status)
        match answer:
            case Records(bundle):
                return answers.records_answer(bundle, status)
            case RecordsFailed(reason):
                return answers.records_failed(reason)
            case NotReady():
                # Whether one is on its way that nobody has claimed yet, only the login knows; it hands one over if not.
                receipt: Receipt = yield Login(patient)
                status = yield ReadStatus(patient)
                return answers.no_records(receipt, status)


_HANDLERS: Final[Mapping[str, Callable[[Contract, HttpRequest, Patient, str], Handling]]] = {
    "status": Contract._status,
    "events": Contract._events,
    "refresh": Contract._refresh,
    "records": Contract._records,
}
#: What needs no login: it says nothing about anybody.
_PUBLIC: Final[Mapping[str, Callable[[Contract, HttpRequest], HttpResponse]]] = {
    "openapi.json": lambda contract, request: openapi_document(request, contract.kinds),
    "phr-refresh.js": lambda contract, request: browser_module(request),
}
