"""AsyncPhrRefresh: the public face for asyncio. The same verbs, the same flows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

from phr_refresh.adapters.driver import Ports, Tap, run_async, tell
from phr_refresh.adapters.logs import LogObserver
from phr_refresh.adapters.metrics.measuring import MeasuredUpstream, MeasuredWorker, login_answered
from phr_refresh.adapters.ports import AsyncStore, AsyncWorker, Observer, RecordsAnswer, Seal, Upstream
from phr_refresh.adapters.redaction import safe_error
from phr_refresh.adapters.session_creation.seal import PlainSeal
from phr_refresh.adapters.stores import open_async_store
from phr_refresh.adapters.workers.tasks import TaskWorker
from phr_refresh.adapters.workers.time_limit import DRAIN_SECONDS
from phr_refresh.statemachine.effects import Fact, SessionToken, Step
from phr_refresh.statemachine.errors import ConfigurationError, RecordUnreadable
from phr_refresh.statemachine.outcomes import Explanation, Receipt, ReceiptKind, Status, SweepReport
from phr_refresh.statemachine.patient import Patient, key_of
from phr_refresh.statemachine.policy import Policy

from .assembly import Settings, Silenceable, as_patient, flows_under, key_and_patient

T = TypeVar("T")

#: Upstream calls under way at once; what waits for a thread too long is not sent.
UPSTREAM_THREADS = 16
#: Logins under way at once: with a store that hangs, more of them are not even tried.
MOST_LOGINS = 1000


class AsyncPhrRefresh:
    """Refreshes patients' records at login. One object per event loop; an async context manager.

    See `PhrRefresh` for each method. The upstream's calls block: each is made in one of `UPSTREAM_THREADS` threads.
    """

    def __init__(
        self,
        *,
        store: AsyncStore,
        upstream: Upstream,
        worker: AsyncWorker | None = None,
        policy: Policy | None = None,
        seal: Seal | None = None,
        observer: Observer | None = None,
        tap: Tap | None = None,
    ) -> None:
        """`seal` encrypts cached tokens, by default nothing does. `observer` is told every `Fact`, by default it logs.

        `tap` sees each flow before it runs, such as `statemachine.trace.Recorder.tap`.
        """
        self._policy = policy or Policy()
        self._flows = flows_under(self._policy, upstream)
        self._store = store
        self._worker = worker or TaskWorker()
        self.observer = observer or LogObserver()
        self._upstream = MeasuredUpstream(upstream, self.observer)
        self._measured_worker = MeasuredWorker(self._worker, self.observer)
        self._ports = Ports(
            store=store,
            upstream=self._upstream,
            worker=self._measured_worker,
            seal=seal or PlainSeal(),
            observer=self.observer,
            policy=self._policy,
            tap=tap,
            sleep=asyncio.sleep,
            offload=self._offload,
        )
        self._threads = ThreadPoolExecutor(UPSTREAM_THREADS, thread_name_prefix="phr-refresh-upstream")
        self._logins: set[asyncio.Future[Receipt]] = set()
        self._closed = False
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
        from phr_refresh.adapters.upstream.mhv import MhvUpstream
        from phr_refresh.adapters.upstream.settings import MhvSettings

        settings = Settings.from_env(environ)
        mhv = MhvSettings.from_env() if environ is None else MhvSettings.from_env(environ)
        return cls(
            store=open_async_store(settings.store_url),
            upstream=MhvUpstream(mhv),
            worker=worker,
            policy=policy,
            seal=settings.seal,
            observer=settings.observer,
        )

    async def login(self, patient: Patient) -> Receipt:
        """The login hook: never raises, and returns within `Policy.login_budget`. What is slow goes on behind it."""
        began = time.perf_counter()
        return login_answered(self.observer, await self._login(patient), time.perf_counter() - began)

    async def _login(self, patient: Patient) -> Receipt:
        if self._closed or len(self._logins) >= MOST_LOGINS:
            return self._deferred("closed" if self._closed else "too_many_logins")
        observer = Silenceable(self.observer)
        login = self._begin(run_async(self._flows.login(patient), replace(self._ports, observer=observer)))
        self._logins.add(login)
        login.add_done_callback(self._logins.discard)
        await asyncio.wait({login}, timeout=self._policy.login_budget.total_seconds())
        if not login.done():
            observer.silence()
            return self._deferred("over_budget")
        try:
            return login.result()
        except asyncio.CancelledError:
            # Ours was cancelled, by `close`; a cancellation of the caller comes out of the `wait` above.
            return self._deferred("closed")
        except Exception as error:
            return self._deferred("internal_error", error=safe_error(error))

    def _deferred(self, reason: str, **details: str) -> Receipt:
        tell(self.observer, Fact("login_deferred", details={"reason": reason, **details}, is_warning=True))
        return Receipt(kind=ReceiptKind.DEFERRED, reason=reason)

    async def refresh(self, patient: Patient) -> Receipt:
        """See `PhrRefresh.refresh`. A caller that is cancelled does not cancel the refresh: others wait for it too."""
        return await asyncio.shield(self._begin(run_async(self._flows.refresh(as_patient(patient)), self._ports)))

    async def status(self, who: Patient | str) -> Status:
        """See `PhrRefresh.status`."""
        return await asyncio.shield(self._begin(run_async(self._flows.status(*key_and_patient(who)), self._ports)))

    async def statuses(self, users: Iterable[str]) -> dict[str, Status | RecordUnreadable]:
        """See `PhrRefresh.statuses`."""
        keys = {user: key_of(user) for user in users}
        found = await run_async(self._flows.statuses(list(keys.values())), self._ports)
        return {user: found[key] for user, key in keys.items()}

    async def session(self, patient: Patient) -> SessionToken:
        """See `PhrRefresh.session`. A caller that is cancelled does not cancel the creation: others wait for it too."""
        return await asyncio.shield(self._begin(run_async(self._flows.session(as_patient(patient)), self._ports)))

    async def records(self, patient: Patient, kind: str) -> RecordsAnswer:
        """See `PhrRefresh.records`."""
        token = await self.session(patient)
        return await self._offload(lambda: self._upstream.read_records(kind, token))

    async def logout(self, who: Patient | str) -> None:
        """See `PhrRefresh.logout`."""
        await asyncio.shield(self._begin(run_async(self._flows.logout(key_and_patient(who)[0]), self._ports)))

    async def explain(self, who: Patient | str) -> Explanation:
        """See `PhrRefresh.explain`."""
        return await run_async(self._flows.explain(key_and_patient(who)[0]), self._ports)

    async def sweep(self, limit: int = 1000) -> SweepReport:
        """See `PhrRefresh.sweep`."""
        return await run_async(self._flows.sweep(limit), self._ports)

    async def close(self) -> None:
        """Finish what is due, within a bounded time, and close worker, upstream and store."""
        self._closed = True
        try:
            if self._logins:
                # So that a slow one is handed over.
                await asyncio.wait(self._logins, timeout=DRAIN_SECONDS)
            dropped = await self._worker.close()
            if dropped:
                # No warning: what is dropped waits for its time, and readers of the status take over.
                tell(self.observer, Fact("worker_closed", details={"dropped": dropped}))
            for future in tuple(self._going_on):
                future.cancel()
        finally:
            await self._offload(self._upstream.close)
            self._threads.shutdown(wait=False, cancel_futures=True)
            await self._store.close()

    async def _offload(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Start `work`, which goes on whatever becomes of who waits for it."""
        if self._closed:
            work.close()
            raise ConfigurationError("AsyncPhrRefresh", "it is closed", "make another one")
        future = asyncio.ensure_future(work)
        self._going_on.add(future)
        future.add_done_callback(self._going_on.discard)
        future.add_done_callback(_take_note)
        return future

    async def _run_step(self, step: Step) -> None:
        began = time.perf_counter()
        try:
            await run_async(self._flows.step(step), self._ports)
        except Exception as error:
            details = {"step": type(step).__name__, "error": safe_error(error)}
            tell(self.observer, Fact("step_failed", details=details, is_warning=True))
        self._measured_worker.ran(step, time.perf_counter() - began)

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
