"""`Host` and `AsyncHost` do what the contract waits for: in the thread that calls, and on asyncio."""

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar, assert_never

from ...statemachine.outcomes import Receipt, Status
from ...statemachine.patient import Patient, UserKey
from ..ports import Observer, RecordsAnswer
from ..workers.time_limit import TimeLimit, TimeLimitExceeded
from .answers import AsyncHttpStream, HttpRequest, HttpResponse, HttpStream
from .contract import Contract, Exchange, FetchRecords, Handling, Head, Login, ReadStatus, Sleep, Wait

#: Questions to the upstream under way at once. With more of them, nobody waits: workers ask as well.
_ASKING_THREADS: Final = 8


class Refresher(Protocol):
    """The verbs of `PhrRefresh` that the contract, and the hooks of logins and logouts, drive."""

    observer: Observer

    def login(self, patient: Patient) -> Receipt:
        """See `PhrRefresh.login`."""

    def logout(self, who: Patient | str) -> None:
        """See `PhrRefresh.logout`."""

    def status(self, who: Patient | str) -> Status:
        """See `PhrRefresh.status`."""

    def records(self, patient: Patient, kind: str) -> RecordsAnswer:
        """See `PhrRefresh.records`."""


class AsyncRefresher(Protocol):
    """The same of `AsyncPhrRefresh`."""

    observer: Observer

    def login(self, patient: Patient) -> Awaitable[Receipt]:
        """See `AsyncPhrRefresh.login`."""

    def logout(self, who: Patient | str) -> Awaitable[None]:
        """See `AsyncPhrRefresh.logout`."""

    def status(self, who: Patient | str) -> Awaitable[Status]:
        """See `AsyncPhrRefresh.status`."""

    def records(self, patient: Patient, kind: str) -> Awaitable[RecordsAnswer]:
        """See `AsyncPhrRefresh.records`."""


R = TypeVar("R", bound=Refresher | AsyncRefresher)


class _AnyHost(ABC, Generic[R]):
    """What both have in common: all but the waiting."""

    _default_places: ClassVar[int]

    def __init__(
        self,
        refresher: R,
        *,
        contract: Contract | None = None,
        places: int | None = None,
        sleep: Callable[[float], object] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`sleep`: where time is not to pass, as in tests; what it gives is awaited where the host is on asyncio."""
        self._refresher = refresher
        self._contract = contract or Contract()
        self._places = threading.BoundedSemaphore(self._default_places if places is None else places)
        self._sleep = sleep or self._let_pass
        self._monotonic = monotonic
        self._prepare()

    @abstractmethod
    def _let_pass(self, seconds: float) -> object:
        """See `Sleep`."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make what questions to the upstream need."""

    @abstractmethod
    def _ask(self, patient: Patient, within: float) -> Any:
        """See `ReadStatus`."""

    def _begin(self, request: HttpRequest) -> Handling:
        return self._contract.answer(Exchange(request, self._places, self._monotonic, self._refresher.observer))

    def _start(self, wait: Wait) -> Any:
        """The result of what `wait` names; for `AsyncHost`, what to await for it."""
        match wait:
            case ReadStatus(patient, within):
                return self._refresher.status(patient.user_id) if within is None else self._ask(patient, within)
            case Login(patient):
                return self._refresher.login(patient)
            case FetchRecords(patient, kind):
                return self._refresher.records(patient, kind)
            case Sleep(seconds):
                return self._sleep(seconds)
            case _:
                assert_never(wait)


def _resume(step: Callable[[Any], Any], value: Any) -> Any:
    """What a handling yields next, or returns, once it has been given `value` by `step`: its `send` or `throw`."""
    try:
        return step(value)
    except StopIteration as stop:
        return stop.value


class Host(_AnyHost[Refresher]):
    """Answers requests in the thread that calls. At most `places` of them wait, or hold a stream open, at once.

    Who finds no place is answered at once: choose fewer places than the server has threads. Thread-safe; it survives a
    fork that comes before the first request. `refresher` stays the caller's to close.
    """

    _default_places = 8

    def _let_pass(self, seconds: float) -> None:
        time.sleep(seconds)

    def _prepare(self) -> None:
        self._asking = TimeLimit(threads=_ASKING_THREADS, queue_limit=0)

    def answer(self, request: HttpRequest) -> HttpResponse | HttpStream:
        """The answer to `request`. Raises only what is no error of this library."""
        handling = self._begin(request)
        answer: HttpResponse | Head = self._run(handling)
        if isinstance(answer, HttpResponse):
            return answer
        return HttpStream(answer.status, answer.headers, _Chunks(self._run, handling))

    def _run(self, handling: Handling) -> Any:
        """Run `handling` to its response, or to the next piece of one."""
        wait = _resume(handling.send, None)
        while isinstance(wait, Wait):
            try:
                result = self._start(wait)
            except BaseException as error:
                wait = _resume(handling.throw, error)
            else:
                wait = _resume(handling.send, result)
        return wait

    def _ask(self, patient: Patient, within: float) -> Status | None:
        try:
            return self._asking.call(lambda: self._refresher.status(patient), seconds=within)
        except TimeLimitExceeded:
            return None


class _Chunks(Iterator[bytes]):
    """The pieces of a stream. `close` is what WSGI servers call, whether the stream was begun or not."""

    def __init__(self, run: Callable[[Handling], bytes | None], handling: Handling) -> None:
        self._run = run
        self._handling = handling

    def __next__(self) -> bytes:
        chunk = self._run(self._handling)
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Let go of the place."""
        self._handling.close()


class AsyncHost(_AnyHost[AsyncRefresher]):
    """Answers requests on asyncio: who waits holds no thread. At most `places` wait, or hold a stream open, at once.

    One object per event loop. Those who find at the same moment that it is time to ask the upstream about one patient
    share the question.
    """

    _default_places = 10_000

    async def _let_pass(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _prepare(self) -> None:
        self._questions: dict[UserKey, asyncio.Future[Status]] = {}

    async def answer(self, request: HttpRequest) -> HttpResponse | AsyncHttpStream:
        """The answer to `request`. Raises only what is no error of this library."""
        handling = self._begin(request)
        answer: HttpResponse | Head = await self._run(handling)
        if isinstance(answer, HttpResponse):
            return answer
        return AsyncHttpStream(answer.status, answer.headers, _AsyncChunks(self._run, handling))

    async def _run(self, handling: Handling) -> Any:
        """See `Host._run`."""
        wait = _resume(handling.send, None)
        while isinstance(wait, Wait):
            try:
                result = await self._start(wait)
            except BaseException as error:
                wait = _resume(handling.throw, error)
            else:
                wait = _resume(handling.send, result)
        return wait

    async def _ask(self, patient: Patient, within: float) -> Status | None:
        question = self._questions.get(patient.key)
        if question is None:
            question = asyncio.ensure_future(self._refresher.status(patient))
            self._questions[patient.key] = question
            question.add_done_callback(lambda done: self._answered(patient.key, done))
        # Not wait_for: who stops to wait must not take the answer from the others, nor from the record.
        await asyncio.wait({question}, timeout=within)
        return question.result() if question.done() and not question.cancelled() else None

    def _answered(self, key: UserKey, question: asyncio.Future[Status]) -> None:
        del self._questions[key]
        if not question.cancelled():
            # Looked at, so that asyncio does not complain where nobody waits any more.
            question.exception()


class _AsyncChunks(AsyncIterator[bytes]):
    """The pieces of a stream."""

    def __init__(self, run: Callable[[Handling], Awaitable[bytes | None]], handling: Handling) -> None:
        self._run = run
        self._handling = handling

    async def __anext__(self) -> bytes:
        chunk = await self._run(self._handling)
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Let go of the place."""
        self._handling.close()
