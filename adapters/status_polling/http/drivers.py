"""Who does what the contract needs done: `Host` with threads, `AsyncHost` on asyncio."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Protocol, assert_never

from ....statemachine.outcomes import Receipt, Status
from ....statemachine.patient import Patient, UserKey
from ...ports import RecordsAnswer
from .contract import Contract, Handling
from .messages import AsyncHttpStream, HttpRequest, HttpResponse, HttpStream
from .needs import Login, Need, Pause, ReadRecords, ReadStatus, Send, Streaming, TakePlace


class Refresher(Protocol):
    """The verbs of `PhrRefresh` that the contract drives."""

    def login(self, patient: Patient) -> Receipt:
        """See `PhrRefresh.login`."""

    def status(self, who: Patient | str) -> Status:
        """See `PhrRefresh.status`."""

    def records(self, patient: Patient, kind: str) -> RecordsAnswer:
        """See `PhrRefresh.records`."""


class AsyncRefresher(Protocol):
    """The same of `AsyncPhrRefresh`."""

    def login(self, patient: Patient) -> Awaitable[Receipt]:
        """See `AsyncPhrRefresh.login`."""

    def status(self, who: Patient | str) -> Awaitable[Status]:
        """See `AsyncPhrRefresh.status`."""

    def records(self, patient: Patient, kind: str) -> Awaitable[RecordsAnswer]:
        """See `AsyncPhrRefresh.records`."""


class _Place:
    """One of so many places of those who wait; given back once, at the latest when nothing holds it any more."""

    __slots__ = ("_give_back",)

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back: Callable[[], None] | None = give_back

    def give_back(self) -> None:
        """Let somebody else have it."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()

    __del__ = give_back


class Host:
    """Answers requests in the thread that calls. At most `places` of them wait, or hold a stream open, at once.

    Who finds no place is answered at once: choose fewer places than the server has threads.
    """

    def __init__(
        self,
        refresher: Refresher,
        *,
        contract: Contract | None = None,
        places: int = 8,
        sleep: Callable[[float], object] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refresher = refresher
        self._contract = contract or Contract()
        self._places = threading.BoundedSemaphore(places)
        self._sleep = sleep
        self._monotonic = monotonic

    def answer(self, request: HttpRequest) -> HttpResponse | HttpStream:
        """The answer to `request`. Raises only what is no error of this library."""
        held: list[_Place] = []
        try:
            answer = self._run(self._contract.answer(request), held)
        except BaseException:
            _give_back(held)
            raise
        if isinstance(answer, Streaming):
            return HttpStream(answer.status, answer.headers, _Chunks(self, answer, held))
        _give_back(held)
        return answer

    def _run(self, handling: Handling, held: list[_Place]) -> HttpResponse | Streaming:
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

    def perform(self, need: Need, held: list[_Place]) -> Any:
        """Do what a handler needs done."""
        match need:
            case ReadStatus(patient, may_ask):
                return self._refresher.status(patient if may_ask else patient.user_id)
            case Login(patient):
                return self._refresher.login(patient)
            case ReadRecords(patient, kind):
                return self._refresher.records(patient, kind)
            case TakePlace():
                if not self._places.acquire(blocking=False):
                    return False
                held.append(_Place(self._places.release))
                return True
            case Pause(seconds):
                if seconds > 0:
                    self._sleep(seconds)
                return self._monotonic()
            case Send(chunk):
                return chunk
            case _:
                assert_never(need)


class _Chunks(Iterator[bytes]):
    """The pieces of a stream. `close` is what WSGI servers call, whether the stream was begun or not."""

    def __init__(self, host: Host, streaming: Streaming, held: list[_Place]) -> None:
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
        _give_back(self._held)


class AsyncHost:
    """Answers requests on asyncio: who waits holds no thread. At most `places` wait, or hold a stream open, at once.

    Those who look at one patient at the same moment share one look.
    """

    def __init__(
        self,
        refresher: AsyncRefresher,
        *,
        contract: Contract | None = None,
        places: int = 10_000,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refresher = refresher
        self._contract = contract or Contract()
        self._places = threading.BoundedSemaphore(places)
        self._sleep = sleep
        self._monotonic = monotonic
        self._looks: dict[UserKey, asyncio.Future[Status]] = {}

    async def answer(self, request: HttpRequest) -> HttpResponse | AsyncHttpStream:
        """The answer to `request`. Raises only what is no error of this library."""
        held: list[_Place] = []
        try:
            answer = await self._run(self._contract.answer(request), held)
        except BaseException:
            _give_back(held)
            raise
        if isinstance(answer, Streaming):
            return AsyncHttpStream(answer.status, answer.headers, _AsyncChunks(self, answer, held))
        _give_back(held)
        return answer

    async def _run(self, handling: Handling, held: list[_Place]) -> HttpResponse | Streaming:
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

    async def perform(self, need: Need, held: list[_Place]) -> Any:
        """Do what a handler needs done."""
        match need:
            case ReadStatus(patient, may_ask):
                return await (self._look(patient) if may_ask else self._refresher.status(patient.user_id))
            case Login(patient):
                return await self._refresher.login(patient)
            case ReadRecords(patient, kind):
                return await self._refresher.records(patient, kind)
            case TakePlace():
                if not self._places.acquire(blocking=False):
                    return False
                held.append(_Place(self._places.release))
                return True
            case Pause(seconds):
                if seconds > 0:
                    await self._sleep(seconds)
                return self._monotonic()
            case Send(chunk):
                return chunk
            case _:
                assert_never(need)

    async def _look(self, patient: Patient) -> Status:
        look = self._looks.get(patient.key)
        if look is None:
            look = asyncio.ensure_future(self._refresher.status(patient))
            self._looks[patient.key] = look
            look.add_done_callback(lambda done: self._looked(patient.key, done))
        # One that is cancelled must not take the look from the others.
        return await asyncio.shield(look)

    def _looked(self, key: UserKey, look: asyncio.Future[Status]) -> None:
        del self._looks[key]
        if not look.cancelled():
            # Looked at, so that asyncio does not complain where nobody waits any more.
            look.exception()


class _AsyncChunks(AsyncIterator[bytes]):
    """The pieces of a stream."""

    def __init__(self, host: AsyncHost, streaming: Streaming, held: list[_Place]) -> None:
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
        _give_back(self._held)


def _give_back(held: list[_Place]) -> None:
    for place in held:
        place.give_back()
    held.clear()
