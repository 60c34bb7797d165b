"""The driver: performs the effects of a flow on real ports, for sync callers and for asyncio.

What an effect means is written once, in `_STEPS`: which port to ask, and what to make of its reply. `steps` is the loop
over a flow; the two runners differ in nothing but `await`.

Two things here protect rule R1 where a process is paused (by the garbage collector, a hypervisor, a laptop's lid): the
time of an outside answer is the store's clock carried forward by this process's monotonic clock, never this host's
wall clock; and a call that was claimed longer ago than `Policy.decision_age` is not sent. What remains is a pause
between that check and the first byte on the wire, which only an upstream with idempotency keys could rule out.
"""

import inspect
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from math import ceil
from typing import Any, Final, TypeVar

from msgspec import MsgspecError, msgpack
from msgspec.structs import replace

from ..statemachine.codec import decode, encode
from ..statemachine.draft import Flow
from ..statemachine.effects import (
    AskStatus,
    Commit,
    CommitAll,
    Committed,
    Conflict,
    CouldNotAsk,
    Effect,
    Fact,
    HandOver,
    ListDue,
    Load,
    LoadAll,
    Loaded,
    NeverSent,
    OpenSession,
    Pause,
    ReadRecords,
    SessionFailed,
    SessionOpened,
    SessionToken,
    StartRefresh,
    Tell,
)
from ..statemachine.errors import RecordUnreadable, StoreError, StoreUnavailable
from ..statemachine.patient import UserKey
from ..statemachine.policy import Instant, Policy
from .logs import tell as tell
from .ports import AsyncStore, Change, ChangeAll, Observer, Row, Seal, Store, TakesSteps, Upstream, Written

T = TypeVar("T")
#: Sees each flow before it runs, and returns what is to run in its place.
Tap = Callable[[Flow[Any]], Flow[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What effects are performed on. `sleep` is awaited if it gives something to await; `tap` sees each flow first.

    `offload` runs a call to the upstream, elsewhere if its result is to be awaited. `wall_clock` is this host's, in
    milliseconds: only a token's remaining life is told by it.
    """

    store: Store | AsyncStore
    upstream: Upstream
    worker: TakesSteps
    seal: Seal
    observer: Observer
    policy: Policy
    sleep: Callable[[float], Awaitable[None] | None] = time.sleep
    offload: Callable[[Callable[[], Any]], Any] = lambda call: call()
    monotonic: Callable[[], float] = lambda: time.monotonic()
    wall_clock: Callable[[], Instant] = lambda: round(datetime.now(UTC).timestamp() * 1000)
    tap: Tap | None = None


_CONFLICTS: Final = 200
_ROUNDING: Final = 1e-6
_STORE_CALLS: Final = {Load: "load", Commit: "write", ListDue: "due", LoadAll: "load_all", CommitAll: "write_all"}


class Performer:
    """Performs the effects of one run of one flow: `ask` the port, then `finish` what it replied."""

    __slots__ = ("_asked_at", "_conflicts", "_heard_at", "_now", "_ports")

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._now: Instant = 0
        self._conflicts = 0
        self._asked_at = self._heard_at = ports.monotonic()

    def ask(self, effect: Effect) -> Any:
        """The reply of the port that `effect` is for; something to await where that port is asynchronous."""
        return _STEPS[type(effect)][0](self, effect)

    def finish(self, effect: Effect, reply: Any) -> Any:
        """The answer to `effect`, made of its port's reply."""
        return _STEPS[type(effect)][1](self, effect, reply)

    # The store.

    def _load(self, effect: Load) -> Any:
        self._asked_at = self._ports.monotonic()
        return self._ports.store.call(effect)

    def _loaded(self, effect: Load, row: Row) -> Loaded:
        return self._read(effect.key, row)

    def _read(self, key: UserKey, row: Row) -> Loaded:
        self._hear(row.now)
        record = None if row.value is None else decode(row.value)
        token = None if row.token is None else self._unsealed(key, row.token)
        return Loaded(record, row.version, row.now, token)

    def _commit(self, effect: Commit) -> Any:
        change = self._change(effect)
        self._asked_at = self._ports.monotonic()
        return self._ports.store.call(change)

    def _committed(self, effect: Commit, reply: Written | Row) -> Committed | Conflict:
        if isinstance(reply, Row):
            self._conflicts += 1
            if self._conflicts > _CONFLICTS:
                # A store that takes longer than decisions last would keep every flow going for ever.
                raise StoreUnavailable("of the records", "contended")
        return self._settled(effect, reply)

    def _settled(self, effect: Commit, reply: Written | Row) -> Committed | Conflict:
        if isinstance(reply, Row):
            self._tell(Fact("commit_conflicted", effect.key, is_measurement=True))
            return Conflict(self._read(effect.key, reply))
        self._hear(reply.now)
        for fact in effect.told:
            self._tell(fact)
        return Committed(reply.version, reply.now, reply.is_replicated)

    def _ask_store(self, effect: LoadAll | ListDue) -> Any:
        return self._ports.store.call(effect)

    def _all_loaded(
        self, effect: LoadAll, rows: Sequence[Row | RecordUnreadable]
    ) -> tuple[Loaded | RecordUnreadable, ...]:
        return tuple(_or_error(partial(self._read, key), row) for key, row in zip(effect.keys, rows, strict=True))

    def _commit_all(self, effect: CommitAll) -> Any:
        return self._ports.store.call(ChangeAll(tuple(map(self._change, effect.commits))))

    def _all_committed(
        self, effect: CommitAll, replies: Sequence[Written | Row | RecordUnreadable]
    ) -> tuple[Committed | Conflict | RecordUnreadable, ...]:
        # Several sweepers at once are in each other's way all the time: that is no contended record.
        return tuple(
            _or_error(partial(self._settled, commit), reply)
            for commit, reply in zip(effect.commits, replies, strict=True)
        )

    def _change(self, effect: Commit) -> Change:
        token, policy = effect.token, self._ports.policy
        return Change(
            key=effect.key,
            value=encode(effect.record),
            expected_version=effect.expected_version,
            decided_at=effect.decided_at,
            max_age=policy.ms.decision_age,
            due_at=effect.due_at,
            keep_until=effect.keep_until,
            token_change=effect.token_change,
            token=None if token is None else self._sealed(effect.key, token),
            token_expires_at=0 if token is None else token.expires_at,
            replicas=policy.claim_replicas if effect.is_claim else 0,
            replicas_wait=policy.ms.claim_replicas_wait if effect.is_claim else 0,
        )

    def _sealed(self, key: UserKey, token: SessionToken) -> bytes:
        # The key goes in too: a sealed token that somebody copies to another patient's key does not open there.
        return self._ports.seal.seal(msgpack.encode((key, token.jwt, token.subject_id, token.expires_at)))

    def _unsealed(self, key: UserKey, sealed: bytes) -> SessionToken | None:
        plain = self._ports.seal.unseal(sealed)
        try:
            owner, jwt, subject_id, expires_at = msgpack.decode(plain or b"", type=tuple[str, str, str, int])
        except (MsgspecError, ValueError):
            # Sealed under a setting that this process does not have; the flow tells, and opens another session.
            return None
        return SessionToken(jwt, subject_id, expires_at) if owner == key else None

    # The upstream.

    def _open_session(self, effect: OpenSession) -> Any:
        return self._in_time(effect, SessionFailed("too_late"))

    def _start_refresh(self, effect: StartRefresh) -> Any:
        return self._in_time(effect, NeverSent("too_late"))

    def _ask_status(self, effect: AskStatus) -> Any:
        return self._in_time(effect, CouldNotAsk("too_late"), (effect.turn_ends_at - effect.asked_at) / 1000)

    def _read_records(self, effect: ReadRecords) -> Any:
        return self._ports.offload(partial(self._ports.upstream.call, effect))

    def _in_time(self, effect: Any, too_late: Any, seconds: float | None = None) -> Any:
        """Call the upstream, unless by then the claim on it is older than `seconds`, by default `decision_age`."""
        ports = self._ports
        limit = ports.policy.decision_age.total_seconds() if seconds is None else seconds
        ends_at = self._asked_at + limit

        # Looked at where the call is made: it may have waited for a thread.
        def call() -> Any:
            return too_late if ports.monotonic() > ends_at else ports.upstream.call(effect)

        return ports.offload(call)

    def _hear(self, now: Instant) -> None:
        self._now = now
        self._heard_at = self._ports.monotonic()

    def _stamped(self, effect: Effect, answer: Any) -> Any:
        # From when the store was heard: not ahead of its clock, so that nothing is believed to be over too early.
        elapsed = self._ports.monotonic() - self._heard_at
        return replace(answer, at=self._now + int(elapsed * 1000))

    def _kicked_off(self, effect: StartRefresh, answer: Any) -> Any:
        # From when the store was asked: not behind its clock, so that the window counts from after the call.
        elapsed = self._ports.monotonic() - self._asked_at
        return replace(answer, at=self._now + ceil(elapsed * 1000 - _ROUNDING))

    def _opened(self, effect: OpenSession, answer: SessionOpened | SessionFailed) -> SessionOpened | SessionFailed:
        left = answer.token.expires_at - self._ports.wall_clock() if isinstance(answer, SessionOpened) else 0
        answer = self._stamped(effect, answer)
        if isinstance(answer, SessionFailed):
            return answer
        # Converts the expiry from the host's clock to the store's.
        return replace(answer, token=replace(answer.token, expires_at=answer.at + left))

    # The worker, time, and whoever listens.

    def _hand_over(self, effect: HandOver) -> Any:
        return self._ports.worker.hand_over(effect.step, effect.delay)

    def _pause(self, effect: Pause) -> Any:
        return self._ports.sleep(effect.seconds)

    def _tell_fact(self, effect: Tell) -> None:
        self._tell(effect.fact)

    def _as_it_is(self, effect: Effect, reply: Any) -> Any:
        return reply

    def failed(self, effect: Effect, error: Exception) -> Exception:
        """`error`, in which performing `effect` ended; told if it is the store's."""
        if isinstance(error, StoreError):
            reason = error.reason if isinstance(error, StoreUnavailable) else "record_unreadable"
            details = {"call": _STORE_CALLS.get(type(effect), "other"), "reason": reason}
            self._tell(Fact("store_failed", details=details, is_measurement=True))
        return error

    def _tell(self, fact: Fact) -> None:
        tell(self._ports.observer, fact)


#: For each effect: what asks its port, and what makes the answer of the reply. A test holds it against `Effect`.
_STEPS: Final[dict[type, tuple[Callable[[Performer, Any], Any], Callable[[Performer, Any, Any], Any]]]] = {
    Load: (Performer._load, Performer._loaded),
    Commit: (Performer._commit, Performer._committed),
    LoadAll: (Performer._ask_store, Performer._all_loaded),
    CommitAll: (Performer._commit_all, Performer._all_committed),
    ListDue: (Performer._ask_store, Performer._as_it_is),
    OpenSession: (Performer._open_session, Performer._opened),
    StartRefresh: (Performer._start_refresh, Performer._kicked_off),
    AskStatus: (Performer._ask_status, Performer._stamped),
    ReadRecords: (Performer._read_records, Performer._as_it_is),
    HandOver: (Performer._hand_over, Performer._as_it_is),
    Pause: (Performer._pause, Performer._as_it_is),
    Tell: (Performer._tell_fact, Performer._as_it_is),
}


def _or_error(read: Callable[[Any], T], answer: Any) -> T | RecordUnreadable:
    """What is read out of a store's answer; one record that cannot be read hides no other."""
    try:
        return answer if isinstance(answer, RecordUnreadable) else read(answer)
    except RecordUnreadable as error:
        return error


def steps(flow: Flow[T], ports: Ports, first: Any = None) -> Generator[Any, Any, T]:
    """The loop over `flow`: yields what a port gave, is sent what that comes to, and returns what the flow does.

    Raises what the flow raises. What is thrown in is the failure of the port that was asked last. `first` is the reply
    to the first effect, a `Load`, where the store was asked before.
    """
    performer = Performer(ports)
    flow = ports.tap(flow) if ports.tap else flow
    answer: Any = None
    error: Exception | None = None
    while True:
        try:
            effect = flow.send(answer) if error is None else flow.throw(error)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        answer, error = None, None
        ask, finish = _STEPS[type(effect)]
        try:
            was_asked = first is not None and type(effect) is Load
            reply, first = first if was_asked else (yield ask(performer, effect)), None
            answer = finish(performer, effect, reply)
        except Exception as raised:
            error = performer.failed(effect, raised)


def run(flow: Flow[T], ports: Ports, first: Any = None) -> T:
    """Run `flow` to its end in this thread. Raises what the flow raises. `first`: see `steps`."""
    loop = steps(flow, ports, first)
    reply: Any = None
    try:
        while True:
            reply = loop.send(reply)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def run_async(flow: Flow[T], ports: Ports, first: Any = None) -> T:
    """Run `flow` to its end in this task. Raises what the flow raises; a cancellation ends it between two effects."""
    loop = steps(flow, ports, first)
    try:
        return await go_on(loop, loop.send(None))
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def go_on(loop: Generator[Any, Any, T], reply: Any) -> T:
    """Run `loop`, of `steps`, to its end in this task from where it yielded `reply`."""
    try:
        while True:
            if inspect.isawaitable(reply):
                try:
                    reply = await reply
                except Exception as error:
                    reply = loop.throw(error)
                    continue
            reply = loop.send(reply)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
