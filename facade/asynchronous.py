"""AsyncPhrRefresh: the public face for asyncio. The same verbs, the same flows."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

from phr_refresh.adapters.driver import Ports, run_async, tell
from phr_refresh.adapters.logs import LogObserver
from phr_refresh.adapters.ports import AsyncStore, AsyncUpstream, Observer, Seal
from phr_refresh.adapters.redaction import safe_error
from phr_refresh.adapters.session_creation.sealing import PlainSeal
from phr_refresh.adapters.stores import open_async_store
from phr_refresh.adapters.workers.tasks import TaskWorker
from phr_refresh.statemachine.effects import SessionToken, Step
from phr_refresh.statemachine.facts import Fact
from phr_refresh.statemachine.outcomes import Explanation, Receipt, ReceiptKind, Status, SweepReport
from phr_refresh.statemachine.patient import Patient
from phr_refresh.statemachine.policy import Policy
from phr_refresh.statemachine.trace import Tap

from .assembly import Settings, Silenceable, flows_under, key_and_patient

T = TypeVar("T")


class AsyncPhrRefresh:
    """Refreshes patients' records at login. One object per event loop; an async context manager.

    See `PhrRefresh` for each method. An upstream that blocks is given as `ThreadedUpstream(upstream)`.
    """

    def __init__(
        self,
        *,
        store: AsyncStore,
        upstream: AsyncUpstream,
        worker: TaskWorker | None = None,
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
        self._upstream = upstream
        self._worker = worker or TaskWorker()
        self._observer = observer or LogObserver()
        self._ports = Ports(
            store=store,
            upstream=upstream,
            worker=self._worker,
            seal=seal or PlainSeal(),
            observer=self._observer,
            policy=self._policy,
            tap=tap,
            sleep=asyncio.sleep,
        )
        self._going_on: set[asyncio.Future[Any]] = set()
        self._worker.start(self._run_step)

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] | None = None, *, worker: TaskWorker | None = None, policy: Policy | None = None
    ) -> AsyncPhrRefresh:
        """From the environment, as `PhrRefresh.from_env`."""
        from phr_refresh.adapters.settings import MhvSettings
        from phr_refresh.adapters.threaded_upstream import ThreadedUpstream
        from phr_refresh.adapters.upstream import MhvUpstream

        settings = Settings.from_env(environ)
        mhv = MhvSettings.from_env() if environ is None else MhvSettings.from_env(environ)
        return cls(
            store=open_async_store(settings.store_url),
            upstream=ThreadedUpstream(MhvUpstream(mhv)),
            worker=worker,
            policy=policy,
            seal=settings.seal,
            observer=settings.observer,
        )

    async def login(self, patient: Patient) -> Receipt:
        """The login hook: never raises, and returns within `Policy.login_budget`. What is slow goes on behind it."""
        observer = Silenceable(self._observer)
        login = self._begin(run_async(self._flows.login(patient), replace(self._ports, observer=observer)))
        await asyncio.wait({login}, timeout=self._policy.login_budget.total_seconds())
        if not login.done():
            observer.silence()
            self._tell("login_deferred", reason="store_slow")
            return Receipt(kind=ReceiptKind.DEFERRED, reason="store_slow")
        try:
            return login.result()
        except Exception as error:
            self._tell("login_deferred", reason="internal_error", error=safe_error(error))
            return Receipt(kind=ReceiptKind.DEFERRED, reason="internal_error")

    async def refresh(self, patient: Patient) -> Receipt:
        """See `PhrRefresh.refresh`. A caller that is cancelled does not cancel the refresh: others wait for it too."""
        return await asyncio.shield(self._begin(run_async(self._flows.refresh(patient), self._ports)))

    async def status(self, who: Patient | str) -> Status:
        """See `PhrRefresh.status`."""
        return await run_async(self._flows.status(*key_and_patient(who)), self._ports)

    async def session(self, patient: Patient) -> SessionToken:
        """See `PhrRefresh.session`. A caller that is cancelled does not cancel the creation: others wait for it too."""
        return await asyncio.shield(self._begin(run_async(self._flows.session(patient), self._ports)))

    async def logout(self, who: Patient | str) -> None:
        """See `PhrRefresh.logout`."""
        await run_async(self._flows.logout(key_and_patient(who)[0]), self._ports)

    async def explain(self, who: Patient | str) -> Explanation:
        """See `PhrRefresh.explain`."""
        return await run_async(self._flows.explain(key_and_patient(who)[0]), self._ports)

    async def sweep(self, limit: int = 1000) -> SweepReport:
        """See `PhrRefresh.sweep`."""
        return await run_async(self._flows.sweep(limit), self._ports)

    async def close(self) -> None:
        """Finish what is due, within a bounded time, and close worker, upstream and store."""
        dropped = await self._worker.close()
        if dropped:
            # No warning: what is dropped waits for its time, and readers of the status take over.
            tell(self._observer, Fact("worker_closed", details={"dropped": dropped}))
        for future in tuple(self._going_on):
            future.cancel()
        await self._upstream.close()
        await self._store.close()

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Start `work`, which goes on whatever becomes of who waits for it."""
        future = asyncio.ensure_future(work)
        self._going_on.add(future)
        future.add_done_callback(self._going_on.discard)
        future.add_done_callback(_take_note)
        return future

    async def _run_step(self, step: Step) -> None:
        try:
            await run_async(self._flows.step(step), self._ports)
        except Exception as error:
            self._tell("step_failed", step=type(step).__name__, error=safe_error(error), again=False)

    def _tell(self, name: str, **details: str | int | bool) -> None:
        tell(self._observer, Fact(name, details=details, is_warning=True))

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
