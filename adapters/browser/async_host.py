"""`AsyncHost` does what the contract needs done, on asyncio."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Protocol, assert_never

from ...statemachine.outcomes import Receipt, Status
from ...statemachine.patient import Patient, UserKey
from ..driver import tell
from ..ports import Observer, RecordsAnswer
from .bodies import is_due
from .contract import Contract, Handling
from .messages import AsyncHttpStream, HttpRequest, HttpResponse
from .needs import Login, Need, Pause, ReadRecords, ReadStatus, Send, Streaming, TakePlace, Tell
from .places import Place, give_back

#: How many wait at once, unless the host says otherwise.
PLACES: Final = 10_000


class AsyncRefresher(Protocol):
    """The verbs of `AsyncPhrRefresh` that the contract drives."""

    observer: Observer

    def login(self, patient: Patient) -> Awaitable[Receipt]:
        """See `AsyncPhrRefresh.login`."""

    def status(self, who: Patient | str) -> Awaitable[Status]:
        """See `AsyncPhrRefresh.status`."""

    def records(self, patient: Patient, kind: str) -> Awaitable[RecordsAnswer]:
        """See `AsyncPhrRefresh.records`."""


class AsyncHost:
    """Answers requests on asyncio: who waits holds no thread. At most `places` wait, or hold a stream open, at once.

    One object per event loop. Those who find at the same moment that it is time to ask the upstream about one patient
    share the question.
    """

    def __init__(
        self,
        refresher: AsyncRefresher,
        *,
        contract: Contract | None = None,
        places: int | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refresher = refresher
        self._contract = contract or Contract()
        self._places = threading.BoundedSemaphore(PLACES if places is None else places)
        self._sleep = sleep
        self._monotonic = monotonic
        self._questions: dict[UserKey, asyncio.Future[Status]] = {}

    async def answer(self, request: HttpRequest) -> HttpResponse | AsyncHttpStream:
        """The answer to `request`. Raises only what is no error of this library."""
        held: list[Place] = []
        try:
            answer = await self._run(self._contract.answer(request), held)
        except BaseException:
            give_back(held)
            raise
        if isinstance(answer, Streaming):
            return AsyncHttpStream(answer.status, answer.headers, _AsyncChunks(self, answer, held))
        give_back(held)
        return answer

    async def _run(self, handling: Handling, held: list[Place]) -> HttpResponse | Streaming:
        result: Any = None
        error: Exception | None = None
        while True:
            try:
                need = handling.send(result) if error is None else handling.throw(error)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            result, error = None, None
            try:
                result = await self.perform(need, held)
            except Exception as raised:
                error = raised

    async def perform(self, need: Need, held: list[Place]) -> Any:
        """Do what a handler needs done."""
        match need:
            case ReadStatus(patient, within):
                return await self._look(patient, within)
            case Login(patient):
                return await self._refresher.login(patient)
            case ReadRecords(patient, kind):
                return await self._refresher.records(patient, kind)
            case TakePlace():
                if not self._places.acquire(blocking=False):
                    return False
                held.append(Place(self._places.release))
                return True
            case Pause(seconds):
                if seconds > 0:
                    await self._sleep(seconds)
                return self._monotonic()
            case Tell(fact):
                return tell(self._refresher.observer, fact)
            case Send(chunk):
                return chunk
            case _:
                assert_never(need)

    async def _look(self, patient: Patient, within: float) -> Status:
        status = await self._refresher.status(patient.user_id)
        if within <= 0 or not is_due(status):
            return status
        # Not wait_for: who stops to wait must not take the answer from the others, nor from the record.
        question = self._question(patient)
        done, _ = await asyncio.wait({question}, timeout=within)
        if not done or question.cancelled():
            return await self._refresher.status(patient.user_id)
        return question.result()

    def _question(self, patient: Patient) -> asyncio.Future[Status]:
        question = self._questions.get(patient.key)
        if question is None:
            question = asyncio.ensure_future(self._refresher.status(patient))
            self._questions[patient.key] = question
            question.add_done_callback(lambda done: self._answered(patient.key, done))
        return question

    def _answered(self, key: UserKey, question: asyncio.Future[Status]) -> None:
        del self._questions[key]
        if not question.cancelled():
            # Looked at, so that asyncio does not complain where nobody waits any more.
            question.exception()


class _AsyncChunks(AsyncIterator[bytes]):
    """The pieces of a stream."""

    def __init__(self, host: AsyncHost, streaming: Streaming, held: list[Place]) -> None:
        self._host = host
        self._needs = streaming.needs
        self._held = held
        self._result: Any = None
        self._error: Exception | None = None

    async def __anext__(self) -> bytes:
        try:
            while True:
                need = self._needs.send(self._result) if self._error is None else self._needs.throw(self._error)
                self._result = self._error = None
                if isinstance(need, Send):
                    return need.chunk
                try:
                    self._result = await self._host.perform(need, self._held)
                except Exception as raised:
                    self._error = raised
        except StopIteration:
            await self.aclose()
            raise StopAsyncIteration from None
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Let go of the place."""
        self._needs.close()
        give_back(self._held)
