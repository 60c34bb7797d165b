"""The driver: performs the effects of a flow on real ports, for sync callers and for asyncio.

What an effect means is written once, in `Performer.plan`: which port to call, and what to make of its answer. The two
runners differ in nothing but `await`.

Two things here protect rule R1 where a process is paused (by the garbage collector, a hypervisor, a laptop's lid): the
time of an outside answer is the store's clock carried forward by this process's monotonic clock, never this host's
wall clock; and a call that was claimed longer ago than `Policy.decision_age` is not sent. What remains is a pause
between that check and the first byte on the wire, which only an upstream with idempotency keys could rule out.
"""

import inspect
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from math import ceil
from typing import Any, TypeVar, assert_never

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
    SessionFailed,
    SessionOpened,
    SessionToken,
    StartRefresh,
    Tell,
)
from ..statemachine.errors import RecordUnreadable, StoreError, StoreUnavailable
from ..statemachine.patient import UserKey
from ..statemachine.policy import Instant, Policy, milliseconds
from ..statemachine.record import RefreshRecord
from .logs import tell as tell
from .ports import AsyncStore, Change, Observer, Row, Seal, Store, TakesSteps, Upstream, Written

T = TypeVar("T")
#: Sees each flow before it runs, and returns what is to run in its place.
Tap = Callable[[Flow[Any]], Flow[Any]]
Plan = tuple[Callable[[], Any], Callable[[Any], Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What effects are performed on. `sleep` is awaited if it gives something to await; `tap` sees each flow first.

    `offload` runs a call to the upstream, elsewhere if its result is to be awaited. `wall_clock` is this host's, in
    milliseconds: only a token's remaining life is told by it. `decode` may remember what it has decoded.
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
    decode: Callable[[bytes], RefreshRecord] = decode


_CONFLICTS = 200
_ROUNDING = 1e-6
_STORE_CALLS = {Load: "load", Commit: "write", ListDue: "due", LoadAll: "load_all", CommitAll: "write_all"}


class Performer:
    """Performs the effects of one run of one flow."""

    __slots__ = ("_asked_at", "_conflicts", "_heard_at", "_now", "_ports")

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._now: Instant = 0
        self._conflicts = 0
        self._asked_at = self._heard_at = ports.monotonic()

    def plan(self, effect: Effect) -> Plan:
        """What to call for `effect`, and what turns the result of that into the effect's answer."""
        ports = self._ports
        match effect:
            case Load(key, with_token):
                self._asked_at = ports.monotonic()
                return partial(ports.store.load, key, with_token=with_token), partial(self._loaded, key)
            case Commit():
                change = self._change(effect)
                self._asked_at = ports.monotonic()
                return partial(ports.store.write, change), partial(self._written, effect)
            case LoadAll(keys):
                return partial(ports.store.load_all, keys), partial(self._all_loaded, keys)
            case CommitAll(commits):
                return partial(ports.store.write_all, [self._change(one) for one in commits]), partial(
                    self._all_written, commits
                )
            case ListDue(limit):
                return partial(ports.store.due, limit), tuple
            case OpenSession(patient):
                opens = partial(ports.upstream.open_session, patient)
                return self._timely(opens, SessionFailed("too_late")), self._opened
            case StartRefresh(patient):
                starts = partial(ports.upstream.start_refresh, patient)
                return self._timely(starts, NeverSent("too_late")), self._kicked_off
            case AskStatus():
                asks = partial(ports.upstream.ask_status, effect)
                seconds = (effect.turn_ends_at - effect.asked_at) / 1000
                return self._timely(asks, CouldNotAsk("too_late"), seconds), self._stamped
            case HandOver(step, delay):
                return partial(ports.worker.hand_over, step, delay), bool
            case Pause(seconds):
                return partial(ports.sleep, seconds), _nothing
            case Tell(fact):
                return partial(self._tell, fact), _nothing
            case _:
                assert_never(effect)

    def _timely(self, call: Callable[[], Any], too_late: Any, seconds: float | None = None) -> Callable[[], Any]:
        """`call`, unless by the time it is run its claim is older than `seconds`, by default `Policy.decision_age`."""
        limit = self._ports.policy.decision_age.total_seconds() if seconds is None else seconds
        ends_at = self._asked_at + limit

        # Looked at where the call is made: it may have waited for a thread.
        def timely() -> Any:
            return too_late if self._ports.monotonic() > ends_at else call()

        return partial(self._ports.offload, timely)

    def _hear(self, now: Instant) -> None:
        self._now = now
        self._heard_at = self._ports.monotonic()

    def _stamped(self, answer: Any) -> Any:
        # From when the store was heard: not ahead of its clock, so that nothing is believed to be over too early.
        elapsed = self._ports.monotonic() - self._heard_at
        return replace(answer, at=self._now + int(elapsed * 1000))

    def _kicked_off(self, answer: Any) -> Any:
        # From when the store was asked: not behind its clock, so that the window counts from after the call.
        elapsed = self._ports.monotonic() - self._asked_at
        return replace(answer, at=self._now + ceil(elapsed * 1000 - _ROUNDING))

    def _opened(self, answer: SessionOpened | SessionFailed) -> SessionOpened | SessionFailed:
        left = answer.token.expires_at - self._ports.wall_clock() if isinstance(answer, SessionOpened) else 0
        answer = self._stamped(answer)
        if isinstance(answer, SessionFailed):
            return answer
        # The life that is left, by the clock that the adapter told it by, from now on by the store's (rule: one clock).
        return replace(answer, token=replace(answer.token, expires_at=answer.at + left))

    def _all_loaded(
        self, keys: Sequence[UserKey], rows: Sequence[Row | RecordUnreadable]
    ) -> tuple[Loaded | RecordUnreadable, ...]:
        return tuple(_or_error(partial(self._loaded, key), row) for key, row in zip(keys, rows, strict=True))

    def _all_written(
        self, commits: Sequence[Commit], answers: Sequence[Written | Row | RecordUnreadable]
    ) -> tuple[Committed | Conflict | RecordUnreadable, ...]:
        # Several sweepers at once are in each other's way all the time: that is no contended record.
        return tuple(
            _or_error(partial(self._written, effect, counts=False), answer)
            for effect, answer in zip(commits, answers, strict=True)
        )

    def _loaded(self, key: UserKey, row: Row) -> Loaded:
        self._hear(row.now)
        record = None if row.value is None else self._ports.decode(row.value)
        token = None if row.token is None else self._unsealed(key, row.token)
        return Loaded(record, row.version, row.now, token)

    def _written(self, effect: Commit, answer: Written | Row, *, counts: bool = True) -> Committed | Conflict:
        if isinstance(answer, Row):
            self._conflicts += counts
            self._tell(Fact("commit_conflicted", effect.key, is_measurement=True))
            if self._conflicts > _CONFLICTS:
                # A store that takes longer than decisions last would keep every flow going for ever.
                raise StoreUnavailable("of the records", "contended")
            return Conflict(self._loaded(effect.key, answer))
        self._hear(answer.now)
        for fact in effect.told:
            self._tell(fact)
        return Committed(answer.version, answer.now, answer.is_replicated)

    def _change(self, effect: Commit) -> Change:
        token, policy = effect.token, self._ports.policy
        return Change(
            key=effect.key,
            value=encode(effect.record),
            expected_version=effect.expected_version,
            decided_at=effect.decided_at,
            max_age=milliseconds(policy.decision_age),
            due_at=effect.due_at,
            keep_until=effect.keep_until,
            token_change=effect.token_change,
            token=None if token is None else self._sealed(effect.key, token),
            token_expires_at=0 if token is None else token.expires_at,
            replicas=policy.claim_replicas if effect.is_claim else 0,
            replicas_wait=milliseconds(policy.claim_replicas_wait) if effect.is_claim else 0,
        )

    def _sealed(self, key: UserKey, token: SessionToken) -> bytes:
        # The key goes in too: a sealed token that somebody copies to another patient's key does not open there.
        plain = {"k": key, "j": token.jwt, "s": token.subject_id, "e": token.expires_at}
        return self._ports.seal.seal(json.dumps(plain, separators=(",", ":")).encode())

    def _unsealed(self, key: UserKey, sealed: bytes) -> SessionToken | None:
        plain = self._ports.seal.unseal(sealed)
        if plain is None:
            return None
        try:
            raw = json.loads(plain)
            token = SessionToken(raw["j"], raw["s"], raw["e"])
            whole = isinstance(token.jwt, str) and isinstance(token.subject_id, str) and type(token.expires_at) is int
            return token if whole and raw["k"] == key else None
        except (ValueError, TypeError, KeyError, RecursionError):
            # Sealed under a setting that this process does not have; the flow tells, and opens another session.
            return None

    def failed(self, effect: Effect, error: Exception) -> Exception:
        """`error`, in which performing `effect` ended; told if it is the store's."""
        if isinstance(error, StoreError):
            reason = error.reason if isinstance(error, StoreUnavailable) else "record_unreadable"
            details = {"call": _STORE_CALLS.get(type(effect), "other"), "reason": reason}
            self._tell(Fact("store_failed", details=details, is_measurement=True))
        return error

    def _tell(self, fact: Fact) -> None:
        tell(self._ports.observer, fact)


def _or_error(read: Callable[[Any], T], answer: Any) -> T | RecordUnreadable:
    """What is read out of a store's answer; one record that cannot be read hides no other."""
    try:
        return answer if isinstance(answer, RecordUnreadable) else read(answer)
    except RecordUnreadable as error:
        return error


def _nothing(_: object) -> None:
    return None


def run(flow: Flow[T], ports: Ports) -> T:
    """Run `flow` to its end in this thread. Raises what the flow raises."""
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
        try:
            call, finish = performer.plan(effect)
            answer = finish(call())
        except Exception as raised:
            error = performer.failed(effect, raised)


async def run_async(flow: Flow[T], ports: Ports) -> T:
    """Run `flow` to its end in this task. Raises what the flow raises; a cancellation ends it between two effects."""
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
        try:
            call, finish = performer.plan(effect)
            value = call()
            answer = finish(await value if inspect.isawaitable(value) else value)
        except Exception as raised:
            error = performer.failed(effect, raised)
