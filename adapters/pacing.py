"""Learning when to poll: what one process counts of how long refreshes took, on its way to the store and back.

The store keeps the counts of all processes, in one place, halved whenever they are `MOST`: what was long ago counts
less and less. A process brings its own there, and takes the sum along, after a step of its worker: when it has counted
`FULL`, or `PERIOD_SECONDS` after the last time. So no login and no reader of a status waits for that, and it is one
round trip to some hundreds.

Learned from is what the upstream's own times tell. The time at which an end was seen would teach a schedule its own
lag: whatever it does not look at, it would never see. So an upstream that tells no times (the dialect "http-code")
teaches nothing, nor does a refresh that timed out, or ended after its deadline: it can have ended at any time.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from ..statemachine.facts import Fact
from ..statemachine.flows import Flows
from ..statemachine.pacing import Durations, learned
from ..statemachine.policy import Policy, milliseconds
from .observers import tell
from .ports import Observer
from .redaction import safe_error

#: Refreshes that the store keeps at most. Enough for one in a hundred to be seen often.
MOST: Final = 2000
FULL: Final = 100
PERIOD_SECONDS: Final = 60.0
# A new schedule is computed when the store knows so much more, or less, than at the last one.
_NEWS: Final = 1.1


class PollLearning:
    """An observer that counts, and passes everything on to `observer`. Thread-safe, with no lock that a fork may hold.

    `policy` is the one without a schedule. A process that is killed takes along what it has not merged.
    """

    def __init__(
        self, observer: Observer, policy: Policy, *, monotonic: Callable[[], float] = lambda: time.monotonic()
    ) -> None:
        self._observer = observer
        self._policy = policy
        self._monotonic = monotonic
        self._longest = milliseconds(policy.refresh_deadline)
        # Bounded, for a process that runs no steps and so takes nothing to the store.
        self._waiting: deque[int] = deque(maxlen=MOST)
        self._next_at = monotonic()
        self._known = 0

    def __call__(self, fact: Fact) -> None:
        """Count `fact`, if it is the end of a refresh whose duration is known."""
        seconds = fact.details.get("upstream_seconds") if fact.name == "refresh_completed" else None
        if isinstance(seconds, float) and seconds * 1000 <= self._longest:
            self._waiting.append(round(seconds * 1000))
        self._observer(fact)

    def take(self) -> Sequence[int] | None:
        """The counts to be merged with the store's, if it is time to; perhaps of no refresh at all."""
        now = self._monotonic()
        if now < self._next_at and len(self._waiting) < FULL:
            return None
        self._next_at = now + PERIOD_SECONDS
        return Durations.of(self._drain()).counts

    def _drain(self) -> list[int]:
        # Others may add, or take, meanwhile.
        found: list[int] = []
        try:
            while True:
                found.append(self._waiting.popleft())
        except IndexError:
            return found

    def failed(self, error: Exception) -> None:
        """The store did not take the counts: they are lost, nothing else."""
        tell(self._observer, Fact("durations_not_merged", details={"error": safe_error(error)}))

    def taught(self, flows: Flows, kept: Sequence[int]) -> Flows:
        """`flows` with the schedule that `kept`, the store's counts, teach. It may compute for some 50 ms."""
        durations = Durations(tuple(kept))
        if self._known / _NEWS < durations.total < self._known * _NEWS:
            return flows
        self._known = durations.total
        schedule = learned(durations, self._policy)
        if schedule == flows.policy.poll_schedule_ms:
            return flows
        first = schedule[0] / 1000 if schedule else None
        details = {"refreshes": durations.total, "checks": len(schedule), "first_check_seconds": first}
        tell(self._observer, Fact("polling_learned", details=details))
        return replace(flows, policy=replace(self._policy, poll_schedule_ms=schedule))
