"""Stepping: runs flows against a fake world, one effect at a time, so that a test can interleave and crash them.

`World` is the store, the upstream, the worker and the clock of everybody. Each `Stepper` is a process that runs one
flow and stands still before its next effect until the test lets it go on. An outside call has two moments: it `begin`s
(the upstream has received it) and it is answered by the next `step`. `explore` finds every reachable order.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from phr_refresh.statemachine.codec import decode, encode
from phr_refresh.statemachine.draft import Flow
from phr_refresh.statemachine.effects import (
    Accepted,
    AskStatus,
    Commit,
    CommitAll,
    Committed,
    Conflict,
    CouldNotAsk,
    Effect,
    Fact,
    HandOver,
    KickOffAnswer,
    ListDue,
    Load,
    LoadAll,
    Loaded,
    OpenSession,
    Pause,
    Phase,
    SessionFailed,
    SessionOpened,
    SessionToken,
    StartRefresh,
    StatusReport,
    Step,
    Tell,
    TokenChange,
)
from phr_refresh.statemachine.errors import RecordUnreadable, StoreUnavailable
from phr_refresh.statemachine.flows import Flows
from phr_refresh.statemachine.patient import Patient, UserKey
from phr_refresh.statemachine.policy import Policy, milliseconds
from phr_refresh.statemachine.record import RefreshRecord

from .samples import ADA, CURRENT, HOUR, NOON, RUNNING, token_until
from .values import replace

#: Effects, more than twice those of a flow that waits for a session as long as it may.
LONGEST_FLOW = 2_500
OUTSIDE = (OpenSession, StartRefresh, AskStatus)
DONE = StatusReport(Phase.COMPLETE, CURRENT, NOON)
GOING_ON = StatusReport(Phase.IN_PROGRESS, RUNNING)


@dataclass
class Row:
    """What the store holds of one patient."""

    value: bytes
    version: str
    due_at: int | None
    keep_until: int
    token: SessionToken | None = None


@dataclass
class World:
    """One store, one upstream, one worker, one clock. Scripts are answers in order; when empty, all goes well."""

    #: Without jitter: pauses are as long as they are.
    policy: Policy = field(default_factory=lambda: Policy(poll_schedule=(), retry_jitter=0))
    now: int = NOON
    rows: dict[UserKey, Row] = field(default_factory=dict)
    sessions: deque[SessionFailed | SessionOpened] = field(default_factory=deque)
    kick_off_answers: deque[KickOffAnswer] = field(default_factory=deque)
    statuses: deque[StatusReport | CouldNotAsk] = field(default_factory=deque)
    #: How many of the next store calls fail.
    store_failures: int = 0
    worker_is_full: bool = False
    #: How many of the next claims reach no replica.
    unreplicated: int = 0
    handed: list[tuple[Step, float]] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    #: When each call reached the upstream.
    opened: list[int] = field(default_factory=list)
    kick_offs: list[int] = field(default_factory=list)
    polls: list[int] = field(default_factory=list)
    opening: int = 0
    overlaps: int = 0
    trips: int = 0

    def __post_init__(self) -> None:
        self._versions = count(1)
        self._ids = count(1)
        self._tokens = count(1)
        self.flows = Flows(self.policy, lambda: f"id{next(self._ids)}")

    # What tests say and see.

    def stepper(self, flow: Flow[Any]) -> "Stepper":
        """A process that runs `flow`, standing before its first effect."""
        return Stepper(self, flow)

    def run(self, flow: Flow[Any]) -> Any:
        """What `flow` returns when nobody comes between."""
        return self.stepper(flow).run()

    def refresh(self, patient: Patient = ADA, **options: Any) -> "Stepper":
        """A process that refreshes."""
        return self.stepper(self.flows.refresh(patient, **options))

    def record(self, patient: Patient = ADA) -> RefreshRecord:
        """The stored record."""
        return decode(self.rows[patient.key].value)

    def put(self, record: RefreshRecord, *, token: SessionToken | None = None, patient: Patient = ADA) -> None:
        """Store `record` as if a flow had."""
        self.rows[patient.key] = Row(encode(record), f"v{next(self._versions)}", None, self.now + 100 * HOUR, token)

    def logged_in(self, patient: Patient = ADA) -> Any:
        """Take the patient through session and kick-off; the receipt."""
        return self.run(self.flows.refresh(patient))

    def told(self, name: str) -> list[Fact]:
        """The facts of that name, in order."""
        return [fact for fact in self.facts if fact.name == name]

    # What effects do.

    def arrives(self, effect: Effect) -> None:
        """The upstream has received a call."""
        match effect:
            case OpenSession():
                self.opened.append(self.now)
                self.overlaps += self.opening > 0
                self.opening += 1
            case StartRefresh():
                self.kick_offs.append(self.now)
            case AskStatus():
                self.polls.append(self.now)

    def perform(self, effect: Effect) -> Any:
        """The answer to `effect`."""
        if isinstance(effect, Load | Commit | LoadAll | CommitAll | ListDue):
            self.trips += 1
            if self.store_failures:
                self.store_failures -= 1
                raise StoreUnavailable("fake", "scripted")
        match effect:
            case Load(key, with_token):
                return self._loaded(key, with_token=with_token)
            case Commit():
                return self._commit(effect)
            case LoadAll(keys):
                return tuple(self._or_error(lambda key=key: self._loaded(key)) for key in keys)
            case CommitAll(commits):
                return tuple(self._commit(one) for one in commits)
            case ListDue(limit):
                due = [(row.due_at, key) for key, row in self.rows.items() if row.due_at and row.due_at <= self.now]
                return tuple(key for _, key in sorted(due)[:limit])
            case HandOver(step, delay):
                if not self.worker_is_full:
                    self.handed.append((step, delay))
                return not self.worker_is_full
            case Pause(seconds):
                self.now += int(seconds * 1000)
            case Tell(fact):
                self.facts.append(fact)
            case _:
                return self._answered(effect)
        return None

    def _answered(self, effect: Effect) -> Any:
        answer: Any = DONE
        match effect:
            case OpenSession():
                self.opening -= 1
                token = token_until(self.now + HOUR // 4, f"jwt-{next(self._tokens)}")
                answer = self.sessions.popleft() if self.sessions else SessionOpened(token)
            case StartRefresh():
                answer = self.kick_off_answers.popleft() if self.kick_off_answers else Accepted()
            case AskStatus() if self.statuses:
                answer = self.statuses.popleft()
        return replace(answer, at=self.now)

    def _or_error(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except RecordUnreadable as error:
            return error

    def _loaded(self, key: UserKey, *, with_token: bool = False) -> Loaded:
        row = self.rows.get(key)
        if row is None or row.keep_until <= self.now:
            return Loaded(None, "", self.now)
        token = row.token if row.token and row.token.expires_at > self.now else None
        return Loaded(decode(row.value), row.version, self.now, token if with_token else None)

    def _commit(self, change: Commit) -> Committed | Conflict:
        current = self._loaded(change.key)
        too_old = self.now - change.decided_at > milliseconds(self.policy.decision_age)
        if current.version != change.expected_version or too_old:
            return Conflict(current)
        old = self.rows.get(change.key)
        token = old.token if old and change.token_change is TokenChange.KEEP else change.token
        version = f"v{next(self._versions)}"
        self.rows[change.key] = Row(encode(change.record), version, change.due_at, change.keep_until, token)
        self.facts.extend(change.told)
        lags = change.is_claim and self.unreplicated > 0
        self.unreplicated -= lags
        return Committed(version, self.now, is_replicated=not lags)


class Stepper:
    """One process that runs one flow. `effect` is what it does next, None when it is done."""

    def __init__(self, world: World, flow: Flow[Any]) -> None:
        self.world = world
        self.effect: Effect | None = None
        self.outcome: Any = None
        self.error: Exception | None = None
        self.seen: list[str] = []
        self._flow = flow
        self._begun = False
        self._go_on(lambda: flow.send(None))

    @property
    def is_done(self) -> bool:
        """Whether the flow has ended, or crashed."""
        return self.effect is None

    def begin(self) -> None:
        """Let the upstream receive the outside call that is next."""
        assert isinstance(self.effect, OUTSIDE), f"{self.effect} is no outside call"
        assert not self._begun, "it has begun already"
        self._begun = True
        self.world.arrives(self.effect)

    def step(self, *, lose_answer: bool = False) -> None:
        """Perform the next effect. `lose_answer`: of a commit that took effect, the flow hears of a conflict."""
        effect = self.effect
        assert effect is not None, "the flow is done"
        assert len(self.seen) < LONGEST_FLOW, "the flow goes round in circles"
        if isinstance(effect, OUTSIDE) and not self._begun:
            self.begin()
        self._begun = False
        try:
            answer = self.world.perform(effect)
        except Exception as error:
            failure = error
            self.seen.append(repr(failure))
            self._go_on(lambda: self._flow.throw(failure))
            return
        if lose_answer and isinstance(answer, Committed):
            answer = Conflict(self.world.perform(Load(effect.key)))
        self.seen.append(repr(answer))
        self._go_on(lambda: self._flow.send(answer))

    def move(self) -> None:
        """Half a step: an outside call begins, anything else is performed."""
        if isinstance(self.effect, OUTSIDE) and not self._begun:
            self.begin()
        else:
            self.step()

    def until(self, kind: type, *, nth: int = 1) -> "Stepper":
        """Go on until the `nth` effect of this kind is next."""
        for turn in range(nth):
            if turn:
                self.step()
            while not isinstance(self.effect, kind):
                assert self.effect is not None, f"the flow ended without {kind.__name__}"
                self.step()
        return self

    def run(self) -> Any:
        """Go on to the end; what the flow returns. Raises what it raises."""
        while self.effect is not None:
            self.step()
        if self.error is not None:
            raise self.error
        return self.outcome

    def crash(self) -> None:
        """The process is gone: nothing more happens here."""
        if self._begun and isinstance(self.effect, OpenSession):
            self.world.opening -= 1
        self.effect = None

    def standing(self) -> tuple[object, ...]:
        """All that this process's future depends on."""
        return (tuple(self.seen), self._begun, self.effect is None)

    def _go_on(self, resume: Callable[[], Effect]) -> None:
        try:
            self.effect = resume()
        except StopIteration as stop:
            self.effect, self.outcome = None, stop.value
        except Exception as error:
            self.effect, self.error = None, error


Moves = tuple[tuple[int, str], ...]
Scene = tuple[World, list[Stepper]]


def replay(make: Callable[[], Scene], moves: Moves) -> Scene:
    """The scene after `moves`."""
    world, steppers = make()
    for index, kind in moves:
        if kind == "crash":
            steppers[index].crash()
        elif kind == "lose":
            steppers[index].step(lose_answer=True)
        else:
            steppers[index].move()
        # Nobody else sees these two: where in the order they come makes no difference.
        while isinstance(steppers[index].effect, Tell | HandOver):
            steppers[index].step()
    return world, steppers


def explore(
    make: Callable[[], Scene], *, crashes: int = 0, losses: int = 0
) -> Iterator[tuple[Moves, World, list[Stepper]]]:
    """Every end that any order of the processes' moves leads to.

    Up to `crashes` processes crash on the way, and up to `losses` commits take effect while their flow hears of a
    conflict. Two orders that lead to the same standing of everybody are followed once.
    """
    seen: set[object] = set()
    waiting: list[Moves] = [()]
    while waiting:
        moves = waiting.pop()
        world, steppers = replay(make, moves)
        kinds = [kind for _, kind in moves]
        standing = (kinds.count("crash"), kinds.count("lose"), *_standing(world, steppers))
        if standing in seen:
            continue
        seen.add(standing)
        going = [index for index, stepper in enumerate(steppers) if not stepper.is_done]
        if not going:
            yield moves, world, steppers
        for index in going:
            waiting.append((*moves, (index, "move")))
            if kinds.count("crash") < crashes:
                waiting.append((*moves, (index, "crash")))
            if kinds.count("lose") < losses and isinstance(steppers[index].effect, Commit):
                waiting.append((*moves, (index, "lose")))


def _standing(world: World, steppers: list[Stepper]) -> tuple[object, ...]:
    """All that what may still happen depends on."""
    rows = str({key: (row.value, row.token is None) for key, row in world.rows.items()})
    counted = (world.now, world.opening, world.overlaps, tuple(world.kick_offs), tuple(world.polls))
    return (rows, *counted, *(stepper.standing() for stepper in steppers))
