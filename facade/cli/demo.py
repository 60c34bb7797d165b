"""The demo: the source document's sequence on real HTTP, with its promises checked at the end.

It starts the simulator on a free loopback port, logs patients in at once, polls as their browser tabs would, reads
their vital signs, and logs them in again. What it reports is what the simulator counted.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from phr_refresh.adapters.ports import Records
from phr_refresh.adapters.stores import open_store
from phr_refresh.statemachine.effects import ReadRecords
from phr_refresh.statemachine.errors import StoreUnavailable
from phr_refresh.statemachine.outcomes import Receipt, ReceiptKind, Status
from phr_refresh.statemachine.patient import Patient
from phr_refresh.statemachine.policy import Policy
from phr_refresh.statemachine.record import State

from ..drawing.trace import Recorder, sequence_diagram
from ..mhv import MhvSettings, MhvUpstream
from ..simulator import Fault, Simulator
from ..synchronous import PhrRefresh

#: Simulators of several runs sign alike, so that a session cached by an earlier run opens the FHIR server of the next.
_TOKEN_SECRET = b"phr-refresh demo"
_GIVE_UP_SECONDS = 60.0


@dataclass(slots=True)
class Visit:
    """One patient's visit: who, what is special about them, and what came of it."""

    name: str
    patient: Patient
    role: str
    was_fresh: bool = False
    status: Status | None = None
    seconds: float = 0.0
    login_seconds: float = 0.0
    receipt: Receipt | None = None
    second_receipt: Receipt | None = None
    vitals: Records | None = None
    calls: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Everything that a run showed. `broken` lists the promises that did not hold, in words."""

    visits: list[Visit]
    calls: dict[str, Any]
    seconds: float
    store_url: str
    diagram: str
    broken: list[str]

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints. `patients` counts those with an MHV account."""
        members = [visit for visit in self.visits if visit.patient.is_member]
        return {
            "patients": len(members),
            "completed": sum(visit.status is not None and visit.status.state is State.COMPLETE for visit in members),
            "partial": sum(visit.status is not None and visit.status.partial for visit in members),
            "not_eligible": len(self.visits) - len(members),
            "already_fresh": sum(visit.was_fresh for visit in members),
            "duplicate_refreshes": self.calls["duplicate_refreshes"],
            "simultaneous_logins": self.calls["simultaneous_logins"],
            "upstream_calls": self.calls["totals"],
            "slowest_login_ms": round(max(visit.login_seconds for visit in self.visits) * 1000, 1),
            "seconds": round(self.seconds, 2),
            "broken_promises": self.broken,
        }


#: Called with each visit whose status changed.
Watch = Callable[[Visit], None]


class Demo:
    """One run: `patients` log in at once, each with `tabs` browser tabs. `watch` is called from several threads.

    `store_url` None: a new SQLite file.
    """

    def __init__(self, watch: Watch, *, patients: int = 5, tabs: int = 3, store_url: str | None = None) -> None:
        self._watch = watch
        self._tabs = tabs
        self._store_url = store_url
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._visits = _cast(patients)
        self._recorder = Recorder(self._visits[0].patient.key)

    def run(self) -> DemoResult:
        """Run it; raises what a store raises that cannot be used."""
        began = time.monotonic()
        with ExitStack() as stack:
            simulator = stack.enter_context(Simulator(token_secret=_TOKEN_SECRET))
            url = self._store_url or f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory())}/demo.db"
            upstream = MhvUpstream(MhvSettings(**simulator.settings, pool_size=64))
            phr = stack.enter_context(PhrRefresh(store=open_store(url), upstream=upstream, tap=self._recorder.tap))
            self._prepare(phr, simulator)
            self._recorder.happenings.clear()
            for visit in self._visits:
                self._watch(visit)
            self._all_at_once(lambda visit: self._visit(phr, visit))
            before = simulator.calls()
            self._all_at_once(lambda visit: self._come_again(phr, upstream, visit))
            calls = simulator.calls()
            for visit in self._visits:
                visit.calls = calls["patients"].get(simulator.pseudonym(visit.patient.icn), {})
        broken = self._broken(calls)
        if calls["totals"]["refresh"] != before["totals"]["refresh"]:
            broken.append("a second login inside the window made a second refresh call")
        diagram = sequence_diagram(self._recorder.happenings)
        shown = self._store_url or "a new SQLite file"
        return DemoResult(self._visits, calls, time.monotonic() - began, shown, diagram, broken)

    def _prepare(self, phr: PhrRefresh, simulator: Simulator) -> None:
        """Script the special patients; and let the new simulator know whom an earlier run has refreshed."""
        for visit in self._visits:
            icn = visit.patient.icn
            visit.was_fresh = phr.status(visit.patient.user_id).state in (State.COMPLETE, State.REFRESHING)
            if visit.was_fresh:
                simulator.completed_earlier(icn, seconds_ago=1)
            elif visit.role == _PARTIAL:
                simulator.script(Fault("refresh", "partial_failure", icn=icn, extracts=("ImagingStudy",)))
            elif visit.role == _LOST:
                simulator.script(Fault("refresh", "lost_answer", icn=icn))

    def _all_at_once(self, work: Callable[[Visit], None]) -> None:
        with ThreadPoolExecutor(len(self._visits)) as pool:
            try:
                list(pool.map(work, self._visits))
            except BaseException:
                # Interrupted, or nobody reads what is shown: the tabs must not go on polling.
                self._stop.set()
                raise

    def _visit(self, phr: PhrRefresh, visit: Visit) -> None:
        began = time.monotonic()
        visit.receipt = phr.login(visit.patient)
        visit.login_seconds = time.monotonic() - began
        with ThreadPoolExecutor(self._tabs) as tabs:
            list(tabs.map(lambda _: self._poll(phr, visit, began), range(self._tabs)))

    def _poll(self, phr: PhrRefresh, visit: Visit, began: float) -> None:
        """One browser tab: asks every second until there is nothing more to wait for."""
        while time.monotonic() - began < _GIVE_UP_SECONDS and not self._stop.is_set():
            try:
                status = phr.status(visit.patient)
            except StoreUnavailable:
                # As a page does: the next poll may fare better. What never comes is a broken promise in the end.
                self._stop.wait(1.0)
                continue
            with self._lock:
                if visit.status is None or visit.status.state is not State.COMPLETE:
                    visit.status, visit.seconds = status, time.monotonic() - began
                self._watch(visit)
            if not status.eligible or status.state in (State.COMPLETE, State.STALE):
                return
            # The worker has not begun: ask again soon, as a page does that has just loaded.
            self._stop.wait(1.0 if status.state is State.REFRESHING else 0.1)

    def _come_again(self, phr: PhrRefresh, upstream: MhvUpstream, visit: Visit) -> None:
        """Read the vital signs through the cached session, and log in again inside the window."""
        first = visit is self._visits[0]
        if visit.patient.is_member:
            token = phr.session(visit.patient)
            answer = upstream.call(ReadRecords("vitals", token))
            visit.vitals = answer if isinstance(answer, Records) else None
            if first:
                self._recorder.note("Login->>FHIR: GET Observation, category vital-signs, with the token")
                total = visit.vitals.total if visit.vitals else 0
                self._recorder.note(f"FHIR-->>Login: searchset Bundle, {total} observations")
                self._recorder.note("Note over Browser,Store: A second login inside the window of one hour")
        visit.second_receipt = phr.login(visit.patient)

    def _broken(self, calls: dict[str, Any]) -> list[str]:
        broken = [f"{visit.name}: {problem}" for visit in self._visits for problem in _problems(visit)]
        if calls["duplicate_refreshes"]:
            broken.append(f"{calls['duplicate_refreshes']} duplicate refreshes reached the upstream")
        if calls["simultaneous_logins"]:
            broken.append(f"{calls['simultaneous_logins']} sessions were created at the same time for one patient")
        return broken


_PARTIAL, _LOST, _OUTSIDER = "one extract fails", "kick-off answer lost", "no MHV account"


def _cast(patients: int) -> list[Visit]:
    """`patients` with an MHV account, the last two of them (if there are three) special, and one without."""
    roles = [""] * patients
    if patients >= 3:
        roles[-2:] = [_PARTIAL, _LOST]
    visits = [_visitor(number, role) for number, role in enumerate(roles, 1)]
    return [*visits, _visitor(patients + 1, _OUTSIDER)]


def _visitor(number: int, role: str) -> Visit:
    # Obviously synthetic, and the same in every run, so that a second run finds what the first one stored.
    member = None if role == _OUTSIDER else str(9_000_000 + number)
    user_id = "demo-outsider" if role == _OUTSIDER else f"demo-{number}{f'-{role}' if role else ''}"
    return Visit(f"patient {number}", Patient(user_id, f"{number:010}V{number:06}", member), role)


def _problems(visit: Visit) -> Iterator[str]:
    """The promises that did not hold for one patient."""
    status, calls = visit.status, visit.calls
    if not visit.patient.is_member:
        if visit.receipt is None or visit.receipt.kind is not ReceiptKind.NOT_ELIGIBLE or calls:
            yield "somebody without an MHV account was not turned away at once"
        return
    if status is None or status.state is not State.COMPLETE:
        yield f"the refresh did not complete, it is {status.state.label if status else 'unknown'}"
    elif (visit.role == _PARTIAL) is not status.partial:
        yield "a failed extract was not told, or told where there is none"
    if calls.get("refresh", 0) != (0 if visit.was_fresh else 1):
        yield f"{calls.get('refresh', 0)} refresh calls were made"
    if calls.get("login", 0) > 1:
        yield f"{calls['login']} sessions were created"
    if calls.get("status", 0) > visit.seconds / Policy().poll_interval.total_seconds() + 1:
        yield f"{calls['status']} status calls were made in {visit.seconds:.1f} s"
    if visit.vitals is None or visit.vitals.total == 0:
        yield "no vital signs could be read"
    if visit.second_receipt is None or visit.second_receipt.kind is not ReceiptKind.FRESH:
        yield "the second login did not find the data fresh"
