"""Ours: PhrRefresh and AsyncPhrRefresh, as a login service embeds them.

Facts go to a logger that nobody listens to, as by default. Where clients come at once, the workers of production run
the steps. Otherwise the caller runs them, so that the time until everything is recorded is known.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from phr_refresh import AsyncPhrRefresh, Patient, PhrRefresh, Policy, open_async_store, open_store
from phr_refresh.adapters.ports import Runner, UpstreamAnswer, UpstreamRequest
from phr_refresh.adapters.workers.tasks import TaskWorker
from phr_refresh.adapters.workers.threads import ThreadWorker
from phr_refresh.statemachine.effects import (
    Accepted,
    AskStatus,
    OpenSession,
    Phase,
    SessionOpened,
    SessionToken,
    StartRefresh,
    StatusReport,
    Step,
)
from phr_refresh.statemachine.record import ExtractProgress, ExtractState

from ..place import EXTRACTS, SESSION_SECONDS, Place, Upstream

#: The poll of a patient is due long before a run goes on to it: a busy machine's clocks are read late.
SETTLES_SECONDS = 0.05
_QUICK = timedelta(seconds=SETTLES_SECONDS)
#: By so much older than the answer is what it tells of.
_LAG_MILLISECONDS = 50
_LOOK_SECONDS = 0.05
#: No login of a run is given up: on a busy machine that would look fast.
_UNHURRIED = timedelta(seconds=30)


class UpstreamPort:
    """The counting upstream as our port."""

    longest_call = 1.0

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def call(self, request: UpstreamRequest) -> UpstreamAnswer:
        """See `Upstream.call`. No benchmark reads records."""
        match request:
            case OpenSession():
                jwt = self._upstream.open_session()
                return SessionOpened(SessionToken(jwt, "subject-1", round((time.time() + SESSION_SECONDS) * 1000)))
            case StartRefresh():
                self._upstream.start_refresh()
                return Accepted()
            case AskStatus(asked_at=asked_at):
                self._upstream.ask_status()
                at = asked_at - _LAG_MILLISECONDS
                extracts = tuple(ExtractProgress(name, ExtractState.CURRENT, at) for name in EXTRACTS)
                return StatusReport(Phase.COMPLETE, extracts, at)
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to let go of."""


def patient_of(user: str) -> Patient:
    """A synthetic patient."""
    return Patient(user, "1012345678V123456", "12345")


def _policy(place: Place) -> Policy:
    return (
        Policy(login_budget=_UNHURRIED)
        if place.is_concurrent
        else Policy(login_budget=_UNHURRIED, poll_interval=_QUICK, poll_schedule=())
    )


class ByHand:
    """A worker whose steps the caller runs: those of a login at once, those of following when asked to."""

    never_waits = True

    def __init__(self) -> None:
        self.now: list[Step] = []
        self.later: dict[str, Step] = {}
        self.run: Runner = lambda step: None

    def start(self, run: Runner) -> None:
        """See `Worker.start`."""
        self.run = run

    def hand_over(self, step: Step, delay: float = 0.0) -> bool:
        """Takes every step."""
        if delay > 0:
            self.later[step.patient.user_id] = step
        else:
            self.now.append(step)
        return True

    def close(self) -> int:
        """Drops what waits."""
        return 0


class Ours:
    """PhrRefresh."""

    def __init__(self, place: Place) -> None:
        self._by_hand = None if place.is_concurrent else ByHand()
        self._worker = self._by_hand or ThreadWorker()
        self._phr = PhrRefresh(
            store=open_store(place.url),
            upstream=UpstreamPort(place.upstream),
            worker=self._worker,
            policy=_policy(place),
        )

    def login(self, user: str) -> None:
        """See `Contestant.login`."""
        self._phr.login(patient_of(user))
        while self._by_hand and self._by_hand.now:
            self._by_hand.run(self._by_hand.now.pop())

    def status(self, user: str) -> str:
        """See `Contestant.status`."""
        return self._phr.status(patient_of(user)).state.value

    def finish(self, user: str) -> None:
        """See `Contestant.finish`."""
        if self._by_hand:
            self._by_hand.run(self._by_hand.later.pop(user))

    def logout(self, user: str) -> None:
        """See `Contestant.logout`."""
        self._phr.logout(patient_of(user))

    def drain(self) -> None:
        """See `Contestant.drain`: the polls of who was logged in come seconds later, into others' runs."""
        while isinstance(self._worker, ThreadWorker) and self._worker.waiting:
            time.sleep(_LOOK_SECONDS)

    def forget(self, patient: Patient) -> None:
        """Drop what is still to be done for a patient, as a process that ends drops it."""
        if self._by_hand:
            self._by_hand.later.pop(patient.user_id, None)

    def close(self) -> None:
        """See `Contestant.close`."""
        self._phr.close()


class AsyncByHand(TaskWorker):
    """`ByHand` for asyncio."""

    def __init__(self) -> None:
        super().__init__()
        self.now: list[Step] = []
        self.later: dict[str, Step] = {}
        self.run: Callable[[Step], Awaitable[None]]

    def start(self, run: Callable[[Step], Awaitable[None]]) -> None:
        """See `TaskWorker.start`."""
        self.run = run

    def hand_over(self, step: Step, delay: float = 0.0) -> bool:
        """Takes every step."""
        if delay > 0:
            self.later[step.patient.user_id] = step
        else:
            self.now.append(step)
        return True


class AsyncOurs:
    """AsyncPhrRefresh."""

    def __init__(self, place: Place) -> None:
        self._by_hand = None if place.is_concurrent else AsyncByHand()
        self._worker = self._by_hand or TaskWorker()
        self._phr = AsyncPhrRefresh(
            store=open_async_store(place.url),
            upstream=UpstreamPort(place.upstream),
            worker=self._worker,
            policy=_policy(place),
        )

    async def login(self, user: str) -> None:
        """See `Contestant.login`."""
        await self._phr.login(patient_of(user))
        while self._by_hand and self._by_hand.now:
            await self._by_hand.run(self._by_hand.now.pop())

    async def status(self, user: str) -> str:
        """See `Contestant.status`."""
        return (await self._phr.status(patient_of(user))).state.value

    async def finish(self, user: str) -> None:
        """See `Contestant.finish`."""
        if self._by_hand:
            await self._by_hand.run(self._by_hand.later.pop(user))

    async def logout(self, user: str) -> None:
        """See `Contestant.logout`."""
        await self._phr.logout(patient_of(user))

    async def drain(self) -> None:
        """See `Ours.drain`."""
        while self._worker.waiting:
            await asyncio.sleep(_LOOK_SECONDS)

    async def close(self) -> None:
        """See `Contestant.close`."""
        await self._phr.close()


def open_ours(place: Place) -> Ours:
    """Ours, for threads."""
    return Ours(place)


def open_async_ours(place: Place) -> AsyncOurs:
    """Ours, for asyncio; to be opened in its loop."""
    return AsyncOurs(place)
