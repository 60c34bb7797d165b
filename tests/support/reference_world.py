"""Two real `PhrRefresh` on one store, a scripted upstream, and a clock that stands still until it is told to move."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from freezegun.api import FrozenDateTimeFactory
from phr_refresh import PhrRefresh
from phr_refresh.adapters.ports import Change, NotReady, Row, Store, Written
from phr_refresh.adapters.stores.basics import host_clock
from phr_refresh.statemachine.effects import (
    Accepted,
    AnswerLost,
    AskStatus,
    CouldNotAsk,
    KickOffAnswer,
    Load,
    NeverSent,
    OpenSession,
    Phase,
    Rejected,
    SessionFailed,
    SessionOpened,
    StartRefresh,
    StatusReport,
)
from phr_refresh.statemachine.patient import Patient
from phr_refresh.statemachine.policy import Instant, Policy, milliseconds

from .fakes import RecordingWorker, Silent
from .reference import Script, reason_of
from .samples import CURRENT, ICN, NOON, RUNNING, token_until
from .values import replace

#: A record is kept so long that no run of a machine outlives it, unless it means to.
POLICY = Policy(poll_schedule=(), retention=timedelta(days=30), login_budget=timedelta(seconds=30), retry_jitter=0)
FORGOTTEN_AFTER = milliseconds(timedelta(days=40))
# Freezegun's monotonic clock is the time since 1970 as a float; within these years it is exact to a whole second.
START = NOON - milliseconds(timedelta(days=9000))


class PlayingUpstream:
    """Answers each call by `script`, after the time that it takes. `sent`: when kick-offs began and were answered.

    "dies" is no answer: the process that has sent the kick-off ends.
    """

    longest_call = 20.0

    def __init__(self, now: Callable[[], Instant], wait: Callable[[int], None]) -> None:
        self._now = now
        self._wait = wait
        self.forget()

    def forget(self) -> None:
        """Count from nothing."""
        self.script = Script()
        self.opened = self.kick_offs = self.polls = 0
        self.sent: list[tuple[int, int]] = []
        self.asked_at: list[int] = []

    def call(self, request: Any) -> Any:
        match request:
            case OpenSession():
                return self._open_session()
            case StartRefresh():
                return self._start_refresh()
            case AskStatus():
                return self._ask_status()
        return NotReady()

    def _open_session(self) -> SessionOpened | SessionFailed:
        self.opened += 1
        self._wait(self.script.takes)
        if not self.script.has_room:
            return SessionFailed(reason_of(self.script), retry_after=self.script.retry_after)
        if self.script.session_life is None:
            return SessionFailed(reason_of(self.script))
        return SessionOpened(token_until(self._now() + self.script.session_life))

    def _start_refresh(self) -> KickOffAnswer:
        self.kick_offs += 1
        began_at = self._now()
        self._wait(self.script.takes)
        if not self.script.has_room:
            return NeverSent(reason_of(self.script), retry_after=self.script.retry_after)
        if self.script.kick_off != "never_sent":
            self.sent.append((began_at, self._now()))
        if self.script.kick_off == "dies":
            raise SystemExit
        answers = {"accepted": Accepted(), "rejected": Rejected("http_503"), "lost": AnswerLost("timed_out")}
        return answers.get(self.script.kick_off, NeverSent("connection_refused"))

    def _ask_status(self) -> StatusReport | CouldNotAsk:
        self.polls += 1
        self.asked_at.append(self._now())
        self._wait(self.script.takes)
        if self.script.status == "not_asked":
            return CouldNotAsk("http_503", self.script.retry_after)
        phase = Phase(self.script.status)
        return StatusReport(phase, RUNNING if phase is Phase.IN_PROGRESS else CURRENT)

    def close(self) -> None:
        pass


class PinnedStore:
    """A store on a real server, whose clock is made to read what ours does.

    Each answer tells how far the two are apart; the times of the next change are moved by as much. What the server
    does by its own clock alone, forgetting and listing what is due, stays where it is.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ahead = 0

    def call(self, request: Any) -> Any:
        if isinstance(request, Load):
            return self._pinned(self._store.call(request))
        assert isinstance(request, Change), "a real server's clock cannot be moved"
        return self._write(request)

    def _write(self, change: Change) -> Written | Row:
        moved = replace(
            change,
            decided_at=change.decided_at + self._ahead,
            due_at=None if change.due_at is None else change.due_at + self._ahead,
            keep_until=change.keep_until + self._ahead,
            token_expires_at=change.token_expires_at + self._ahead,
        )
        answer = self._store.call(moved)
        return self._pinned(answer) if isinstance(answer, Row) else Written(answer.version, host_clock())

    def close(self) -> None:
        self._store.close()

    def _pinned(self, row: Row) -> Row:
        now = host_clock()
        self._ahead = row.now - now
        return replace(row, now=now)


class TwoHosts:
    """Two hosts over one database, to be closed. `clock` is everybody's, the stores' included."""

    def __init__(self, stores: Sequence[Store], clock: FrozenDateTimeFactory) -> None:
        self.clock = clock
        self.upstream = PlayingUpstream(host_clock, self.wait)
        self.visitors = 0
        self.hosts = [
            PhrRefresh(store=store, upstream=self.upstream, worker=RecordingWorker(), policy=POLICY, observer=Silent())
            for store in stores
        ]

    def begin(self) -> Patient:
        """Turn the clock back to the start; a patient whom nobody has seen."""
        self.clock.move_to(datetime.fromtimestamp(START / 1000, UTC))
        self.upstream.forget()
        self.visitors += 1
        return Patient(f"visitor-{self.visitors}", ICN, "12345")

    def wait(self, duration: int) -> None:
        """Let so many milliseconds pass for everybody."""
        self.clock.tick(timedelta(milliseconds=duration))

    def close(self) -> None:
        for host in self.hosts:
            host.close()


def two_hosts(backend: Any, clock: FrozenDateTimeFactory) -> TwoHosts:
    """Two hosts on the store: each has one of its own, where two stores can see the same data."""
    first = backend.open()
    stores = [first, backend.open() if backend.is_shared else first]
    return TwoHosts(stores if backend.has_our_clock else [PinnedStore(store) for store in stores], clock)
