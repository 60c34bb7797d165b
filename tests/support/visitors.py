"""Patients who log in, one after the other, on several threads, and what they and their pages were told."""

import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from phr_refresh import Patient, PhrRefresh, State
from phr_refresh.statemachine.errors import StoreUnavailable

from .store_load import Crowd

PATIENCE_SECONDS = 120.0
#: A page that gives up; the refresh goes on without it.
POLLS = 100


@dataclass
class Visits:
    """`probes`: when the store was asked for one record, in seconds of this process's clock, and whether it answered.

    `errors` are those of status and refresh, by reason; `split`: completed patients whose next refresh was not fresh.
    """

    logins: Counter[str] = field(default_factory=Counter)
    slowest_login: float = 0.0
    raised_by_login: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    completed: int = 0
    unfinished: int = 0
    split: int = 0
    probes: list[tuple[float, bool]] = field(default_factory=list)

    @property
    def without_a_store(self) -> float:
        """Seconds from the last good probe before the first bad one to the first good one after the last bad one."""
        bad = [at for at, is_good in self.probes if not is_good]
        good = [at for at, is_good in self.probes if is_good]
        if not bad:
            return 0.0
        return min(at for at in good if at > bad[-1]) - max(at for at in good if at < bad[0])


def visitor(number: int) -> Patient:
    """A synthetic patient."""
    return Patient(f"visitor {number}", f"{1_000_000_000 + number}V{number % 1_000_000:06}", f"{number + 1}")


class Visitors(Crowd):
    """Threads, each of which lets a new patient log in and watches the status to its end; one more probes the store."""

    def __init__(self, phr: PhrRefresh, *, threads: int) -> None:
        super().__init__([*(partial(self._run, number) for number in range(threads)), self._probe])
        self.visits = Visits()
        self._phr = phr
        self._step = threads

    def wait_for(self, more: int) -> None:
        """Come back when so many more visits have ended well."""
        self._wait_for(more, lambda: self.visits.completed, seconds=PATIENCE_SECONDS)

    def _run(self, number: int) -> None:
        while not self._ends.is_set():
            self._visit(visitor(number))
            number += self._step

    def _visit(self, patient: Patient) -> None:
        started = time.perf_counter()
        try:
            receipt = self._phr.login(patient)
        except Exception as error:
            self.visits.raised_by_login.append(repr(error))
            return
        took = time.perf_counter() - started
        told = f"{receipt.kind} ({receipt.reason})" if receipt.reason else str(receipt.kind)
        with self._lock:
            self.visits.slowest_login = max(self.visits.slowest_login, took)
            self.visits.logins[told] += 1
        self._watch(patient)

    def _watch(self, patient: Patient) -> None:
        for _ in range(POLLS):
            if self._ends.is_set():
                return
            try:
                if self._phr.status(patient).state == State.COMPLETE:
                    receipt = self._phr.refresh(patient)
                    with self._lock:
                        self.visits.completed += 1
                        self.visits.split += receipt.kind != "fresh"
                    return
            except StoreUnavailable as error:
                with self._lock:
                    self.visits.errors[error.reason] += 1
            self._ends.wait(0.02)
        with self._lock:
            self.visits.unfinished += 1

    def _probe(self) -> None:
        while not self._ends.is_set():
            try:
                self._phr.status("nobody in particular")
                is_good = True
            except StoreUnavailable:
                is_good = False
            self.visits.probes.append((time.perf_counter(), is_good))
            self._ends.wait(0.01)
