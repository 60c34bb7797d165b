"""`Host` does what the contract needs done, in the thread that calls."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, assert_never

from ...statemachine.outcomes import Receipt, Status
from ...statemachine.patient import Patient
from ..driver import tell
from ..ports import Observer, RecordsAnswer
from ..workers.time_limit import TimeLimit, TimeLimitExceeded
from .bodies import is_due
from .contract import Contract, Handling
from .messages import HttpRequest, HttpResponse, HttpStream
from .needs import Login, Need, Pause, ReadRecords, ReadStatus, Send, Streaming, TakePlace, Tell
from .places import Place, give_back

#: Questions to the upstream under way at once. With more of them, nobody waits: workers ask as well.
_ASKING_THREADS: Final = 8

#: How many wait at once, unless the host says otherwise.
PLACES: Final = 8


class Refresher(Protocol):
    """The verbs of `PhrRefresh` that the contract drives."""

    observer: Observer

    def login(self, patient: Patient) -> Receipt:
        """See `PhrRefresh.login`."""

    def status(self, who: Patient | str) -> Status:
        """See `PhrRefresh.status`."""

    def records(self, patient: Patient, kind: str) -> RecordsAnswer:
        """See `PhrRefresh.records`."""


class Host:
    """Answers requests in the thread that calls. At most `places` of them wait, or hold a stream open, at once.

    Who finds no place is answered at once: choose fewer places than the server has threads. Thread-safe; it survives a
    fork that comes before the first request. `refresher` stays the caller's to close.
    """

    def __init__(
        self,
        refresher: Refresher,
        *,
        contract: Contract | None = None,
        places: int | None = None,
        sleep: Callable[[float], object] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refresher = refresher
        self._contract = contract or Contract()
        self._places = threading.BoundedSemaphore(PLACES if places is None else places)
        self._asking = TimeLimit(threads=_ASKING_THREADS, queue_limit=0)
        self._sleep = sleep
        self._monotonic = monotonic

    def answer(self, request: HttpRequest) -> HttpResponse | HttpStream:
        """The answer to `request`. Raises only what is no error of this library."""
        held: list[Place] = []
        try:
            answer = self._run(self._contract.answer(request), held)
        except BaseException:
            give_back(held)
            raise
        if isinstance(answer, Streaming):
            return HttpStream(answer.status, answer.headers, _Chunks(self, answer, held))
        give_back(held)
        return answer

    def _run(self, handling: Handling, held: list[Place]) -> HttpResponse | Streaming:
        result: Any = None
        error: Exception | None = None
        while True:
            try:
                need = handling.send(result) if error is None else handling.throw(error)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            result, error = None, None
            try:
                result = self.perform(need, held)
            except Exception as raised:
                error = raised

    def perform(self, need: Need, held: list[Place]) -> Any:
        """Do what a handler needs done."""
        match need:
            case ReadStatus(patient, within):
                return self._look(patient, within)
            case Login(patient):
                return self._refresher.login(patient)
            case ReadRecords(patient, kind):
                return self._refresher.records(patient, kind)
            case TakePlace():
                if not self._places.acquire(blocking=False):
                    return False
                held.append(Place(self._places.release))
                return True
            case Pause(seconds):
                if seconds > 0:
                    self._sleep(seconds)
                return self._monotonic()
            case Tell(fact):
                return tell(self._refresher.observer, fact)
            case Send(chunk):
                return chunk
            case _:
                assert_never(need)

    def _look(self, patient: Patient, within: float) -> Status:
        status = self._refresher.status(patient.user_id)
        if within <= 0 or not is_due(status):
            return status
        try:
            return self._asking.call(lambda: self._refresher.status(patient), seconds=within)
        except TimeLimitExceeded:
            return self._refresher.status(patient.user_id)


class _Chunks(Iterator[bytes]):
    """The pieces of a stream. `close` is what WSGI servers call, whether the stream was begun or not."""

    def __init__(self, host: Host, streaming: Streaming, held: list[Place]) -> None:
        self._host = host
        self._needs = streaming.needs
        self._held = held
        self._result: Any = None
        self._error: Exception | None = None

    def __next__(self) -> bytes:
        try:
            while True:
                need = self._needs.send(self._result) if self._error is None else self._needs.throw(self._error)
                self._result = self._error = None
                if isinstance(need, Send):
                    return need.chunk
                try:
                    self._result = self._host.perform(need, self._held)
                except Exception as raised:
                    self._error = raised
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the place."""
        self._needs.close()
        give_back(self._held)
