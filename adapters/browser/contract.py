"""The contract: what each request is answered, and how long it waits for that, whoever serves it.

Handlers are generators, as the flows are: they yield what they wait for (`Wait`) and are sent its result, so that hosts
with threads and hosts on asyncio run the same ones (`hosts`). A stream yields its `Head`, then the pieces of its body.
A place to wait in is held by the handler itself, and free when that ends, is closed or is dropped.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.resources import files
from typing import Any, Final

from ...statemachine.effects import Fact
from ...statemachine.errors import ConfigurationError, PhrRefreshError, SessionUnavailable
from ...statemachine.outcomes import Receipt, Status
from ...statemachine.patient import Patient
from ..driver import tell
from ..ports import NotReady, Observer, Records, RecordsAnswer, RecordsFailed
from ..redaction import safe_error
from . import answers
from .answers import JAVASCRIPT, JSON, HttpRequest, HttpResponse, static, wait_of
from .openapi import openapi_json
from .operations import operation_at

_MODULE: Final = files(__package__).joinpath("phr-refresh.js")


@dataclass(frozen=True, slots=True)
class ReadStatus:
    """Gives the `Status` that the store knows.

    With `within`, the one after the upstream was asked, if that is this caller's turn; None if it takes more seconds
    than that. The question then goes on behind: its answer is in the store for who looks next.
    """

    patient: Patient
    within: float | None = None


@dataclass(frozen=True, slots=True)
class Login:
    """Has a refresh started off this request's path, as a login does; gives a `Receipt`."""

    patient: Patient


@dataclass(frozen=True, slots=True)
class FetchRecords:
    """Gives a `RecordsAnswer`."""

    patient: Patient
    kind: str


@dataclass(frozen=True, slots=True)
class Sleep:
    """Lets so many seconds pass."""

    seconds: float


Wait = ReadStatus | Login | FetchRecords | Sleep
#: Returns the status.
Looking = Generator[Wait, Any, Status]


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a response whose body comes piece by piece."""

    status: int
    headers: tuple[tuple[str, str], ...]


#: Returns a whole response; None at the end of a stream, whose head and pieces it has yielded.
Handling = Generator[Wait | Head | bytes, Any, HttpResponse | None]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request, and what its host lends it until it is answered. `monotonic` tells the time in seconds."""

    request: HttpRequest
    places: threading.BoundedSemaphore
    monotonic: Callable[[], float]
    observer: Observer

    @contextmanager
    def place(self, *, is_needed: bool = True) -> Iterator[bool]:
        """Whether there is a place to wait in; it is given back at the end."""
        has_place = is_needed and self.places.acquire(blocking=False)
        try:
            yield has_place
        finally:
            if has_place:
                self.places.release()


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

    def answer(self, exchange: Exchange) -> Handling:
        """The handling of a request. Errors of the library come back as problems; others are the host's to see."""
        try:
            answer = yield from self._routed(exchange)
        except PhrRefreshError as error:
            answer = answers.error_answer(error)
            if answer.status == 500:
                tell(exchange.observer, Fact("request_failed", details={"error": safe_error(error)}, is_warning=True))
        return replace(answer, body=b"") if answer and exchange.request.method == "HEAD" else answer

    def _routed(self, exchange: Exchange) -> Handling:
        request = exchange.request
        operation, kind = operation_at(request.path)
        if operation is None:
            return answers.NO_SUCH_RESOURCE
        if request.method not in operation.methods:
            return answers.method_not_allowed(operation.methods)
        if operation.is_public:
            return _PUBLIC[operation.name](self, request)
        if not request.is_logged_in:
            return answers.NOT_LOGGED_IN
        patient = request.patient
        if patient is None or not patient.is_member:
            return answers.NOT_ELIGIBLE
        return (yield from _HANDLERS[operation.name](self, exchange, patient, kind))

    def _refresh(self, _: Exchange, patient: Patient, __: str) -> Handling:
        receipt: Receipt = yield Login(patient)
        if receipt.reason == "store_unavailable":
            return answers.store_unavailable()
        status: Status = yield ReadStatus(patient)
        return answers.refresh_answer(receipt, status)

    def _records(self, _: Exchange, patient: Patient, kind: str) -> Handling:
        if self.kinds is not None and kind not in self.kinds:
            return answers.NO_SUCH_RECORDS
        status = yield from self._look(patient)
        if status.under_way and status.as_of is None:
            return answers.not_yet(status)
        try:
            answer: RecordsAnswer = yield FetchRecords(patient, kind)
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

    def _status(self, exchange: Exchange, patient: Patient, _: str) -> Handling:
        request = exchange.request
        status = yield from self._look(patient)
        asked = wait_of(request.headers.get("prefer"))
        applied = None if asked is None else min(asked, int(self.longest_wait.total_seconds()))
        if applied and not self._is_over(status, 0):
            # A host whose places are taken answers at once: the client asks again, as it was told to.
            with exchange.place() as has_place:
                if has_place:
                    status = yield from self._news(exchange, patient, status, applied)
                else:
                    applied = None
        return answers.status_answer(status, request, waited=applied)

    def _news(self, exchange: Exchange, patient: Patient, status: Status, seconds: float) -> Looking:
        """The status once it has settled or `seconds` have passed; for a client that knows it, once anything is new."""
        known = exchange.request.etags
        waits_for_end = known in ((), ("*",))
        began_at = now = exchange.monotonic()
        ends_at = began_at + seconds
        while not self._is_over(status, now - began_at) and now < ends_at:
            if not waits_for_end and answers.etag_of(status) not in known:
                break
            status = yield from self._next_look(exchange, patient, status, ends_at)
            now = exchange.monotonic()
        return status

    def _events(self, exchange: Exchange, patient: Patient, _: str) -> Handling:
        status = yield from self._look(patient)
        seen = exchange.request.headers.get("last-event-id")
        if not status.under_way and seen == answers.event_id(status):
            return answers.STREAM_IS_OVER
        if exchange.request.method == "HEAD":
            return answers.STREAM
        with exchange.place(is_needed=not self._is_over(status, 0)) as has_place:
            yield Head(answers.STREAM.status, answers.STREAM.headers)
            began_at = now = last_sent = exchange.monotonic()
            # Without a place the stream is one event long, and the browser connects again by itself.
            ends_at = began_at + (self.longest_stream.total_seconds() if has_place else 0)
            yield answers.reconnection_time(status)
            while True:
                if answers.event_id(status) != seen:
                    seen, last_sent = answers.event_id(status), now
                    yield answers.event(status)
                if self._is_over(status, now - began_at) or now >= ends_at:
                    return None
                if now - last_sent >= self.heartbeat.total_seconds():
                    last_sent = now
                    yield answers.HEARTBEAT
                # An outage of the store is waited out: a browser that connects again and is told 503 never comes back.
                with suppress(PhrRefreshError):
                    status = yield from self._next_look(exchange, patient, status, ends_at)
                now = exchange.monotonic()

    def _next_look(self, exchange: Exchange, patient: Patient, status: Status, ends_at: float) -> Looking:
        """The status after as long as its own next check takes, but not after `ends_at`."""
        least, most = self.shortest_look.total_seconds(), self.longest_look.total_seconds()
        look_in = min(max(answers.seconds_to_next_check(status), least), most)
        yield Sleep(max(min(look_in, ends_at - exchange.monotonic()), 0))
        return (yield from self._look(patient, ends_at - exchange.monotonic()))

    def _look(self, patient: Patient, seconds: float = float("inf")) -> Looking:
        """The status. If it is time to, the upstream is asked first, and waited for, for `seconds` at most."""
        status: Status = yield ReadStatus(patient)
        within = min(seconds, self.longest_ask.total_seconds())
        if within <= 0 or not answers.is_due(status):
            return status
        asked: Status | None = yield ReadStatus(patient, within)
        return asked or (yield ReadStatus(patient))

    def _is_over(self, status: Status, waited: float) -> bool:
        """Whether there is nothing to wait for, after so many seconds."""
        is_settling = waited < self.settling.total_seconds() and answers.may_begin(status)
        return not status.under_way and not is_settling


_HANDLERS: Final[Mapping[str, Callable[[Contract, Exchange, Patient, str], Handling]]] = {
    "status": Contract._status,
    "events": Contract._events,
    "refresh": Contract._refresh,
    "records": Contract._records,
}
#: What needs no login: it says nothing about anybody.
_PUBLIC: Final[Mapping[str, Callable[[Contract, HttpRequest], HttpResponse]]] = {
    "openapi.json": lambda contract, request: static(openapi_json(contract.kinds), JSON, request),
    "phr-refresh.js": lambda _, request: static(_MODULE.read_bytes(), JAVASCRIPT, request),
}
