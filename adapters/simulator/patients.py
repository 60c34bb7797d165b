"""The upstream's patients: who is logging in, which refreshes ran, what their extracts say, what was fed to FHIR."""

import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ...statemachine.policy import Instant
from . import extracts
from .extracts import EXTRACTS, Load, Outcome
from .tokens import subject_id_of

_ICN = re.compile(r"[0-9]{10}V[0-9]{6}")
_THROTTLE_MS = 12 * 3600 * 1000


def is_icn(text: str) -> bool:
    """Whether `text` has the form of an ICN: 10 digits, "V", 6 digits."""
    return _ICN.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Feed:
    """What the FHIR server was last given for a patient: the `number`-th refresh that ended with data, at `fed_at`."""

    number: int
    fed_at: Instant


@dataclass(slots=True)
class _Course:
    """One patient's refreshes so far. `feeds` are the ends of those that bring data, future ones included."""

    refreshes: int = 0
    loads: dict[str, Load] = field(default_factory=dict)
    feeds: list[Instant] = field(default_factory=list)


class Patients:
    """All patients, made up as they are asked for. Thread-safe. Instants are epoch milliseconds.

    Whatever is random depends on `seed`, the ICN and the number of the refresh alone, never on the order of calls.
    """

    def __init__(self, *, seed: int, speed: float) -> None:
        self._lock = threading.Lock()
        self._seed = seed
        self._speed = speed
        self._courses: dict[str, _Course] = {}
        self._icns: dict[str, str] = {}
        self._logging_in: set[str] = set()

    def dice(self, icn: str, purpose: str) -> random.Random:
        """A random generator that is the same each time it is asked for."""
        return random.Random(f"{self._seed}:{icn}:{purpose}")  # noqa: S311 - repeatable on purpose, no secret

    @contextmanager
    def logging_in(self, icn: str) -> Iterator[bool]:
        """Be the one login of this patient that is under way; False if there is another."""
        with self._lock:
            alone = icn not in self._logging_in
            self._logging_in.add(icn)
            self._icns[subject_id_of(icn)] = icn
        try:
            yield alone
        finally:
            if alone:
                with self._lock:
                    self._logging_in.discard(icn)

    def icn_of(self, subject_id: str) -> str | None:
        """The patient behind a `subjectId` that was given out before."""
        with self._lock:
            return self._icns.get(subject_id)

    def refresh(self, icn: str, *, now: Instant, failing: frozenset[str], throttled: bool) -> dict[str, Instant]:
        """Request every extract that is not under way already, unless `throttled`. Returns when each may be next."""
        with self._lock:
            course = self._courses.setdefault(icn, _Course())
            if not throttled:
                self._begin(icn, course, now=now, failing=failing)
            return {
                name: (course.loads[name].requested_at if name in course.loads else now) + _THROTTLE_MS
                for name in EXTRACTS
            }

    def _begin(self, icn: str, course: _Course, *, now: Instant, failing: frozenset[str]) -> None:
        course.refreshes += 1
        dice = self.dice(icn, f"refresh {course.refreshes}")
        loads = {}
        # The upstream lists its rows in no particular order: a new one with each refresh.
        for name in dice.sample(EXTRACTS, len(EXTRACTS)):
            old = course.loads.get(name)
            # Thrown for each extract, used or not, so that the others' durations do not depend on this one.
            new = extracts.begin(
                name,
                start=now,
                speed=self._speed,
                fails=name in failing,
                dice=dice,
                before=old.outcome(now) if old else Outcome(),
            )
            loads[name] = new if old is None or old.is_settled(now) else old
        started_any = any(load not in course.loads.values() for load in loads.values())
        course.loads = loads
        if started_any and any(load.error is None for load in loads.values()):
            course.feeds.append(max(load.ends_at for load in loads.values()))

    def completed_earlier(self, icn: str, *, at: Instant) -> None:
        """Let a refresh of this patient have ended well at `at`, and forget every other one."""
        dice = self.dice(icn, "completed earlier")
        loads = {name: extracts.settled(name, ended_at=at, dice=dice) for name in EXTRACTS}
        with self._lock:
            self._courses[icn] = _Course(refreshes=1, loads=loads, feeds=[at])
            self._icns[subject_id_of(icn)] = icn

    def rows(self, icn: str, *, now: Instant) -> list[dict[str, Any]]:
        """The status rows: none for a patient who was never refreshed."""
        return [extracts.row(name, load, icn=icn, now=now) for name, load in self._loads(icn).items()]

    def is_complete(self, icn: str, *, now: Instant) -> bool:
        """Whether every extract has settled and at least one of them well."""
        loads = self._loads(icn).values()
        return all(load.is_settled(now) for load in loads) and any(load.has_succeeded(now) for load in loads)

    def _loads(self, icn: str) -> dict[str, Load]:
        with self._lock:
            course = self._courses.get(icn)
            return course.loads if course else {}

    def feed(self, icn: str, *, now: Instant) -> Feed | None:
        """What FHIR holds for this patient; None before the first refresh that brought data has ended."""
        with self._lock:
            course = self._courses.get(icn)
            fed = [at for at in course.feeds if at <= now] if course else []
        return Feed(len(fed), max(fed)) if fed else None
