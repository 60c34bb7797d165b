"""AsyncPhrRefresh: the public face for asyncio. The same verbs, the same flows."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from phr_refresh.adapters.driver import go_on, run_async, steps
from phr_refresh.adapters.ports import AsyncStore, AsyncWorker, Observer, RecordsAnswer, Row
from phr_refresh.adapters.stores import open_async_store
from phr_refresh.adapters.workers.tasks import TaskWorker
from phr_refresh.adapters.workers.time_limit import DRAIN_SECONDS
from phr_refresh.statemachine.draft import Flow
from phr_refresh.statemachine.effects import Load, SessionToken, Step
from phr_refresh.statemachine.errors import RecordUnreadable, StoreError
from phr_refresh.statemachine.outcomes import Explanation, Receipt, Status, SweepReport
from phr_refresh.statemachine.patient import Patient
from phr_refresh.statemachine.policy import Policy

from .assembly import Face, Settings, Silenceable, as_patient, key_and_patient, keys_of

T = TypeVar("T")

#: Upstream calls under way at once; what waits for a thread too long is not sent.
UPSTREAM_THREADS = 16
#: Logins under way at once: with a store that hangs, more of them are not even tried.
MOST_LOGINS = 1000


class AsyncPhrRefresh(Face[AsyncStore, AsyncWorker]):
    """Refreshes patients' records at login. One object per event loop; an async context manager.

    See `PhrRefresh` for each method. The upstream's calls block: each is made in one of `UPSTREAM_THREADS` threads. A
    caller that is cancelled cancels nothing that others may wait for.
    """

    def _new_worker(self) -> AsyncWorker:
        return TaskWorker()

    def _set_up(self) -> None:
        self._ports = replace(self._ports, sleep=asyncio.sleep, offload=self._offload)
        self._threads = ThreadPoolExecutor(UPSTREAM_THREADS, thread_name_prefix="phr-refresh-upstream")
        self._reading = 0
        self._logins: set[asyncio.Future[Receipt]] = set()
        self._going_on: set[asyncio.Future[Any]] = set()
        self._worker.start(self._run_step)

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        worker: AsyncWorker | None = None,
        policy: Policy | None = None,
    ) -> AsyncPhrRefresh:
        """From the environment, as `PhrRefresh.from_env`."""
        settings = Settings.from_env(environ)
        return cls(
            store=open_async_store(settings.store_url),
            upstream=settings.upstream(environ),
            worker=worker,
            policy=policy,
            seal=settings.seal,
            observer=settings.observer,
        )

    async def login(self, patient: Patient) -> Receipt:
        """The login hook: never raises, and returns within `Policy.login_budget`. What is slow goes on behind it."""
        began = time.perf_counter()
        return self._answered(await self._login(patient), began)

    async def _login(self, patient: Patient) -> Receipt:
        if self._closed or len(self._logins) + self._reading >= MOST_LOGINS:
            return self._deferred("closed" if self._closed else "too_many_logins")
        budget = self._policy.login_budget.total_seconds()
        ends_at = time.monotonic() + budget
        try:
            try:
                row = await self._read_within(budget, patient)
            except asyncio.CancelledError:
                # Whoever waited is gone, but the patient did log in.
                if not self._closed:
                    self._begin_login(patient, None, self.observer)
                raise
            if row is not None and self._hands_over_at_once:
                return await run_async(self._flows.login(patient), self._ports, row)
        except Exception as error:
            return self._failed(error)
        if self._closed:
            return self._deferred("closed")
        observer = Silenceable(self.observer)
        login = self._begin_login(patient, row, observer)
        await asyncio.wait({login}, timeout=max(ends_at - time.monotonic(), 0))
        if not login.done():
            observer.silence()
            return self._deferred("over_budget")
        try:
            return login.result()
        except asyncio.CancelledError:
            # Ours was cancelled, by `close`; a cancellation of the caller comes out of the `wait` above.
            return self._deferred("closed")
        except Exception as error:
            return self._failed(error)

    def _begin_login(self, patient: Patient, row: Row | None, observer: Observer) -> asyncio.Future[Receipt]:
        login = self._begin(run_async(self._flows.login(patient), replace(self._ports, observer=observer), row))
        self._logins.add(login)
        login.add_done_callback(self._logins.discard)
        return login

    async def _read_within(self, seconds: float, patient: Patient) -> Row | None:
        """The patient's record; None where it does not come in time, or not at all: the login's flow tells of that."""
        if not patient.is_member:
            return None
        self._reading += 1
        try:
            async with asyncio.timeout(seconds):
                return cast("Row", await self._store.call(Load(patient.key)))
        except (TimeoutError, StoreError):
            return None
        finally:
            self._reading -= 1

    async def refresh(self, patient: Patient) -> Receipt:
        """See `PhrRefresh.refresh`."""
        return await self._run(self._flows.refresh(as_patient(patient)))

    async def status(self, who: Patient | str) -> Status:
        """See `PhrRefresh.status`."""
        return await self._run(self._flows.status(*key_and_patient(who)))

    async def statuses(self, users: Iterable[str]) -> dict[str, Status | RecordUnreadable]:
        """See `PhrRefresh.statuses`."""
        keys = keys_of(users)
        found = await self._run(self._flows.statuses(list(keys.values())))
        return {user: found[key] for user, key in keys.items()}

    async def session(self, patient: Patient) -> SessionToken:
        """See `PhrRefresh.session`."""
        return await self._run(self._flows.session(as_patient(patient)))

    async def records(self, patient: Patient, kind: str) -> RecordsAnswer:
        """See `PhrRefresh.records`."""
        return await self._run(self._flows.records(as_patient(patient), kind))

    async def logout(self, who: Patient | str) -> None:
        """See `PhrRefresh.logout`."""
        await self._run(self._flows.logout(key_and_patient(who)[0]))

    async def explain(self, who: Patient | str) -> Explanation:
        """See `PhrRefresh.explain`."""
        return await self._run(self._flows.explain(key_and_patient(who)[0]))

    async def sweep(self, limit: int = 1000) -> SweepReport:
        """See `PhrRefresh.sweep`."""
        return await self._run(self._flows.sweep(limit))

    async def close(self) -> None:
        """Finish what is due, within a bounded time, and close worker, upstream and store."""
        self._closed = True
        try:
            if self._logins:
                # So that a slow one is handed over.
                await asyncio.wait(self._logins, timeout=DRAIN_SECONDS)
            self._tell_dropped(await self._worker.close())
            for future in tuple(self._going_on):
                future.cancel()
        finally:
            await self._offload(self._upstream.close)
            self._threads.shutdown(wait=False, cancel_futures=True)
            await self._store.close()

    async def _offload(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _run(self, flow: Flow[T]) -> T:
        """Run `flow`. Its first look at the store, all there is for a settled patient, is the caller's own.

        What comes after goes on if the caller is cancelled: others may wait for it, too.
        """
        self._check_open()
        loop = steps(flow, self._ports)
        try:
            reply = next(loop)
            if inspect.isawaitable(reply):
                try:
                    reply = loop.send(await reply)
                except StoreError as error:
                    reply = loop.throw(error)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        work = self._begin(go_on(loop, reply))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if work.cancelled():
                # By `close`: the caller's own cancellation leaves the work alone.
                self._check_open()
            raise

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Start `work`, which goes on whatever becomes of who waits for it."""
        future = asyncio.ensure_future(work)
        self._going_on.add(future)
        future.add_done_callback(self._going_on.discard)
        future.add_done_callback(_take_note)
        return future

    async def _run_step(self, step: Step) -> None:
        began, failure = time.perf_counter(), None
        try:
            await run_async(self._flows.step(step), self._ports)
        except Exception as error:
            failure = error
        self._ran(step, began, failure)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _take_note(future: asyncio.Future[Any]) -> None:
    """Look at how a future ended that perhaps nobody waits for any more, so that asyncio does not complain about it."""
    if not future.cancelled():
        future.exception()
