"""Flows under a store's clock that leaps, beside true time, which only goes on."""

from collections import deque
from contextlib import suppress
from typing import TypeVar

from phr_refresh.adapters.driver import Ports, run
from phr_refresh.adapters.session_creation.seal import PlainSeal
from phr_refresh.adapters.stores.memory import MemoryStore
from phr_refresh.statemachine.draft import Flow
from phr_refresh.statemachine.errors import SessionUnavailable
from phr_refresh.statemachine.flows import Flows
from phr_refresh.statemachine.outcomes import Receipt, Status
from phr_refresh.statemachine.policy import Policy

from .fakes import RecordingWorker, Silent
from .reference import Script
from .reference_world import PlayingUpstream
from .samples import ADA, NOON

T = TypeVar("T")


class Leaping:
    """One host. `true_now` is real, `ahead` is how far the store's clock is before it, both in milliseconds.

    `leaps`: one is taken each time the store is called, while there are any, between two effects of a flow.
    """

    def __init__(self) -> None:
        self.true_now, self.ahead = NOON, 0
        self.forward = 0  # all leaps forward so far
        self.highest = NOON  # that the store's clock has ever shown
        self.leaps: deque[int] = deque()
        #: Of each kick-off that may have arrived: all leaps forward before the verb that sent it, and after it.
        self.forwards: list[tuple[int, int]] = []
        self.upstream = PlayingUpstream(lambda: self.true_now, self.wait)
        ids = iter(range(10**6))
        self._flows = Flows(Policy(poll_schedule=()), lambda: f"id{next(ids)}")
        self._ports = Ports(
            store=MemoryStore(clock=self._read_clock),
            upstream=self.upstream,
            worker=RecordingWorker(),
            seal=PlainSeal(),
            observer=Silent(),
            policy=Policy(poll_schedule=()),
            monotonic=lambda: (self.true_now - NOON) / 1000,
            wall_clock=lambda: self.true_now,
        )

    @property
    def store_now(self) -> int:
        return self.true_now + self.ahead

    def wait(self, duration: int) -> None:
        """Let time pass, for both."""
        self.true_now += duration
        self.highest = max(self.highest, self.store_now)

    def leap(self, distance: int) -> None:
        """Set the store's clock forward or back."""
        self.ahead += distance
        self.forward += max(distance, 0)
        self.highest = max(self.highest, self.store_now)

    def _read_clock(self) -> int:
        if self.leaps:
            self.leap(self.leaps.popleft())
        return self.store_now

    def refresh(self, script: Script | None = None) -> Receipt | None:
        """None where the process died."""
        self.upstream.script = script or Script()
        forward = self.forward
        try:
            return self._run(self._flows.refresh(ADA))
        except SystemExit:
            return None
        finally:
            self.forwards += [(forward, self.forward)] * (len(self.upstream.sent) - len(self.forwards))

    def session(self, script: Script) -> None:
        self.upstream.script = script
        with suppress(SessionUnavailable):
            self._run(self._flows.session(ADA))

    def status(self, script: Script | None = None) -> Status:
        """By the patient where there is a script; by key alone nobody is asked."""
        self.upstream.script = script or Script()
        return self._run(self._flows.status(ADA.key, ADA if script else None))

    def logout(self) -> None:
        self._run(self._flows.logout(ADA.key))

    def _run(self, flow: Flow[T]) -> T:
        return run(flow, self._ports)
