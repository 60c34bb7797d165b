"""Brown-out: a limit of calls at once and a circuit breaker in front of the upstream, for this process.

No library: those that there are either keep their state in a store with a round trip at each call, or are asyncio's
alone, and none tells whom it turns away when to come again.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ...statemachine.effects import (
    UPSTREAM_OVERLOADED,
    AnswerLost,
    AskStatus,
    CouldNotAsk,
    Fact,
    NeverSent,
    OpenSession,
    ReadRecords,
    Rejected,
    SessionFailed,
    StartRefresh,
)
from ...statemachine.errors import ConfigurationError
from ..logs import tell
from ..ports import Observer, Upstream, UpstreamAnswer, UpstreamRequest

#: Reasons, beside "http_5...", that tell of an upstream in trouble. Any other answer is one: it says that it is there.
_OUTAGES: Final = (
    "timed_out",
    "connect_timed_out",
    "connection_refused",
    "connection_reset",
    "unreachable",
    "dns_failed",
    "tls_failed",
    "proxy_refused",
    "unreadable_answer",
)
#: Calls that a patient who comes again makes: session, kick-off, a status.
_CALLS_EACH: Final = 3
#: Seconds of a call, before one was timed.
_USUAL_CALL: Final = 0.5
_SHORTEST_SLOT: Final = 0.001
#: Seconds that turns are given out ahead. Then the next round of them begins.
_HORIZON: Final = 240.0
#: How often `open_for` is doubled while the upstream stays away.
_DOUBLINGS: Final = 3


@dataclass(frozen=True, slots=True)
class Ticket:
    """A call that was let through."""

    began: float
    is_probe: bool


class Guard:
    """Says who may call. Open once half of the last calls failed; then, after a while, one call is let through to see.

    Thread-safe. `monotonic` gives seconds. `told` hears "upstream_guard_opened" and "upstream_guard_closed".
    """

    def __init__(
        self,
        *,
        concurrency: int,
        failures: int,
        open_for: float,
        monotonic: Callable[[], float],
        told: Callable[[Fact], None],
    ) -> None:
        if concurrency < 1 or failures < 1 or not open_for > 0:
            raise ConfigurationError("the guard of the upstream", "a limit of it is not positive", "give 1 or more")
        self._concurrency = concurrency
        self._failures = failures
        self._open_for = open_for
        self._monotonic = monotonic
        self._told = told
        self._lock = threading.Lock()
        #: Of the last calls, whether each failed.
        self._last: deque[bool] = deque(maxlen=2 * failures)
        self._busy = 0
        self._is_probed = False
        self._openings = 0
        self._opened_at = self._open_until = self._last_turn = 0.0
        self._call_seconds = _USUAL_CALL

    def enter(self) -> Ticket | float:
        """A ticket, to be given back by `leave`; or the seconds after which the caller may come again."""
        with self._lock:
            now = self._monotonic()
            is_open = self._openings > 0
            if (self._is_probed or now < self._open_until) if is_open else self._busy >= self._concurrency:
                return self._turn(now)
            self._is_probed = is_open
            self._busy += 1
            return Ticket(now, is_probe=is_open)

    def leave(self, ticket: Ticket, *, failed: bool) -> None:
        """The call has ended."""
        with self._lock:
            now = self._monotonic()
            self._busy -= 1
            self._call_seconds += (now - ticket.began - self._call_seconds) / 10
            fact = self._judged(ticket, now, failed=failed)
        if fact is not None:
            self._told(fact)

    def _judged(self, ticket: Ticket, now: float, *, failed: bool) -> Fact | None:
        if ticket.is_probe:
            self._is_probed = False
            return self._open(now) if failed else self._close(now)
        if self._openings:
            # It began before, and what it says is known.
            return None
        self._last.append(failed)
        return self._open(now) if sum(self._last) >= self._failures else None

    def _open(self, now: float) -> Fact:
        lasts = self._open_for * 2 ** min(self._openings, _DOUBLINGS)
        self._opened_at = self._opened_at if self._openings else now
        self._openings += 1
        self._open_until = now + lasts
        return Fact(
            "upstream_guard_opened", details={"open_seconds": lasts, "openings": self._openings}, is_warning=True
        )

    def _close(self, now: float) -> Fact:
        self._openings = 0
        self._last.clear()
        return Fact("upstream_guard_closed", details={"open_seconds": now - self._opened_at})

    def _turn(self, now: float) -> float:
        """Seconds until a turn that nobody else was given: as far apart as the upstream takes for a patient."""
        slot = max(_CALLS_EACH * self._call_seconds / self._concurrency, _SHORTEST_SLOT)
        first = max(now, self._open_until if self._openings else now)
        is_over = not first <= self._last_turn < first + _HORIZON
        self._last_turn = (first if is_over else self._last_turn) + slot
        return self._last_turn - now


class GuardedUpstream:
    """`upstream`, of which at most `concurrency` calls run at once, and to which none goes while it is in trouble.

    Once `failures` of the last twice as many calls failed (time-outs, 5xx, no connection; no 4xx: that is an answer),
    it stays open for `open_for` seconds, then one call may try; each time that one fails, the time doubles, up to
    eightfold. What is turned away is answered at once: `UPSTREAM_OVERLOADED`, with the seconds after which to come
    again, each patient at another time.

    For one process: a fleet of 10 of them has 10 times the calls. Reading records goes past it, to the FHIR server.
    `observer` is told when it opens and closes; where it is None, that of the `PhrRefresh` which the guard serves.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        concurrency: int = 20,
        failures: int = 10,
        open_for: float = 30.0,
        observer: Observer | None = None,
        monotonic: Callable[[], float] = lambda: time.monotonic(),
    ) -> None:
        self.observer = observer
        self.upstream = upstream
        self.longest_call = upstream.longest_call
        self._guard = Guard(
            concurrency=concurrency, failures=failures, open_for=open_for, monotonic=monotonic, told=self._tell
        )

    def _tell(self, fact: Fact) -> None:
        if self.observer is not None:
            tell(self.observer, fact)

    def call(self, request: UpstreamRequest) -> UpstreamAnswer:
        """See `Upstream.call`."""
        if isinstance(request, ReadRecords):
            return self.upstream.call(request)
        ticket = self._guard.enter()
        if not isinstance(ticket, Ticket):
            return _turned_away(request, ticket)
        failed = True
        try:
            answer = self.upstream.call(request)
            failed = _is_outage(answer)
            return answer
        finally:
            self._guard.leave(ticket, failed=failed)

    def close(self) -> None:
        """See `Upstream.close`."""
        self.upstream.close()


def _turned_away(request: OpenSession | StartRefresh | AskStatus, seconds: float) -> UpstreamAnswer:
    match request:
        case OpenSession():
            return SessionFailed(UPSTREAM_OVERLOADED, retry_after=seconds)
        case StartRefresh():
            return NeverSent(UPSTREAM_OVERLOADED, retry_after=seconds)
        case AskStatus():
            return CouldNotAsk(UPSTREAM_OVERLOADED, seconds)


def _is_outage(answer: object) -> bool:
    match answer:
        case SessionFailed(reason) | Rejected(reason) | NeverSent(reason) | AnswerLost(reason) | CouldNotAsk(reason):
            return reason in _OUTAGES or reason.startswith("http_5")
    return False
