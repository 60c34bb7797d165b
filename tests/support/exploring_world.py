"""The world that the explorer steps flows through: one patient's row, an upstream, a clock, all in one frozen value.

A `World` is hashable: two orders that lead to equal worlds have the same future, and are followed once. What effects
mean is not written here: the shipped `Performer` (adapters/driver.py) plans them on the two ports below.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from phr_refresh.adapters.ports import Change, ChangeAll, Written
from phr_refresh.adapters.ports import Row as Answer
from phr_refresh.statemachine.codec import decode
from phr_refresh.statemachine.draft import Flow
from phr_refresh.statemachine.effects import Effect, ListDue, Load, LoadAll, Loaded, Step, TokenChange
from phr_refresh.statemachine.patient import UserKey
from phr_refresh.statemachine.record import RefreshRecord, State

from .samples import ADA, NOON, SECOND

#: No call goes on for longer than this: the transport's own limits (`Upstream.longest_call`).
LONGEST_CALL = 30 * SECOND


_decoded = lru_cache(maxsize=4096)(decode)


@lru_cache(maxsize=4096)
def seconds_of(milliseconds: int) -> Fraction:
    """The same time in seconds."""
    return Fraction(milliseconds, 1000)


class Row(NamedTuple):
    """What the store holds."""

    value: bytes
    version: str
    due_at: int | None
    keep_until: int
    token: bytes | None = None
    token_until: int = 0


class Job(NamedTuple):
    """The upstream's one load: for which kick-off, since when, and when it last ended.

    The upstream's rows name no kick-off. So the end of a load that takes longer than a window, where the next kick-off
    never arrived, passes for the end of that: here every load ends within its window, or never.
    """

    refresh_id: str
    requested_at: int
    ended_at: int | None = None
    failed: bool = False

    @property
    def is_running(self) -> bool:
        """Whether it has not ended since it was last requested."""
        return self.ended_at is None or self.ended_at < self.requested_at


class Pending(NamedTuple):
    """A step in the worker's queue. `seen` stands apart: two steps that differ in it compare equal."""

    name: str
    step: Step
    seen: Loaded | None
    due_at: int


class Opening(NamedTuple):
    """A session creation that the upstream is busy with, until `until` at the latest (0: until it is answered)."""

    process: str
    until: int = 0


class Process(NamedTuple):
    """One flow somewhere. `phase` is "" before its effect, else how far the effect has come; `since` is from when."""

    name: str
    node: "Node"
    #: Of its driver: when it asked last, when it heard last, and the store's clock then.
    clocks: tuple[int, int, int] = (0, 0, 0)
    phase: str = ""
    since: int = 0
    written: str = ""
    #: How far the clock of its host is ahead of the store's. It is right until it leaps.
    ahead: int = 0

    @property
    def is_alive(self) -> bool:
        """Whether anything will ever happen here again."""
        return self.phase != "crashed" and self.node.effect is not None

    @property
    def is_calling(self) -> bool:
        """Whether a call of it is on its way."""
        return self.phase in ("sent", "late") and self.is_alive


class World(NamedTuple):
    """Everything, now: first what flows can see of it, then the history that the invariants are about."""

    now: int = NOON
    row: Row | None = None
    #: Until when the session that was last stored is good, 0 once somebody has logged out or the store lost it.
    session_until: int = 0
    #: What the last acknowledged write replaced, and whose it was, as long as a failover can bring it back.
    before: tuple[Row | None, str] | None = None
    writes: int = 0
    processes: tuple[Process, ...] = ()
    pending: tuple[Pending, ...] = ()
    job: Job | None = None
    #: Kick-offs whose sender gave them up, and which may still arrive: whose, and until when.
    ghosts: tuple[tuple[str, int], ...] = ()
    openings: tuple[Opening, ...] = ()
    # What was spent of the budgets.
    faults: int = 0
    jumps: int = 0
    spawned: int = 0
    # The history.
    tokens: int = 0
    #: Whose acknowledged writes the store has lost. Of what they had claimed nobody can know any more.
    robbed: frozenset[str] = frozenset()
    kick_offs: tuple[tuple[str, int], ...] = ()
    #: When each status call went out, when its turn began, and whose it was.
    polls: tuple[tuple[int, int, str], ...] = ()
    overlaps: int = 0
    needless: int = 0
    #: What the upstream has told somebody: (refresh id, "accepted" | "completed" | "failed").
    truths: frozenset[tuple[str, str]] = frozenset()

    @property
    def record(self) -> RefreshRecord:
        """The record that the store still has."""
        if self.row is None or self.row.keep_until <= self.now:
            return RefreshRecord()
        return _decoded(self.row.value)

    def process(self, name: str) -> Process:
        """The process of that name."""
        return next(process for process in self.processes if process.name == name)

    def has_session(self) -> bool:
        """Whether a valid session is stored, as far as the store did its duty."""
        return self.now < self.session_until


class Node:
    """Where a flow stands after certain answers: a flow cannot be copied, but it can be told the same again."""

    __slots__ = ("_answers", "_children", "_flow", "_make", "effect", "error", "handed", "outcome", "reads_only")

    def __init__(self, make: Callable[[], Flow[Any]], answers: tuple[Any, ...] = (), flow: Flow[Any] | None = None):
        self._make = make
        self._answers = answers
        self._children: dict[Any, Node] = {}
        self.effect: Effect | None = None
        self.outcome: Any = None
        self.error: Exception | None = None
        self.reads_only = False
        self.handed = 0
        self._flow = flow or make()
        for known in answers[-1:] if flow else (None, *answers):
            self._tell(known)

    def after(self, answer: Any) -> "Node":
        """Where it stands once it is told `answer`, or raised it."""
        key = (type(answer), str(answer)) if isinstance(answer, Exception) else answer
        child = self._children.get(key)
        if child is None:
            flow, self._flow = self._flow, None
            child = self._children[key] = Node(self._make, (*self._answers, answer), flow)
            child.reads_only = isinstance(self.effect, Load | LoadAll)
            child.handed = self.handed
        return child

    def _tell(self, answer: Any) -> None:
        assert self._flow is not None
        try:
            self.effect = self._flow.throw(answer) if isinstance(answer, Exception) else self._flow.send(answer)
        except StopIteration as stop:
            self.effect, self.outcome = None, stop.value
        except Exception as error:
            self.effect, self.error = None, error


class Desk:
    """The store and the upstream of the process that is on: ports over `world`, which they replace by a new one."""

    longest_call = LONGEST_CALL / 1000

    def __init__(self) -> None:
        self.world = World()
        self.is_called = False
        self.writer = ""
        #: How far the process's host's clock is ahead, how far it leaps just now, and whether anybody looked at it.
        self.ahead = 0
        self.leap = 0
        self.is_looked_at = False
        #: Whether the replicas do not follow just now.
        self.lags = False

    # The clocks.

    def wall_clock(self) -> int:
        """See `Ports.wall_clock`."""
        self.is_looked_at = True
        return self.world.now + self.ahead

    def monotonic(self) -> Fraction:
        """See `Ports.monotonic`: exact, so that no schedule depends on how a float is rounded."""
        return seconds_of(self.world.now - NOON)

    # The store.

    def call(self, request: Any) -> Any:
        """Store and upstream. What comes of a call to the latter has several moments (exploring_upstream.py)."""
        match request:
            case Load(_, with_token):
                return self._load(with_token=with_token)
            case Change():
                return self._write(request)
            case LoadAll(keys):
                return tuple(self._load(with_token=False) for _ in keys)
            case ChangeAll(changes):
                return tuple(map(self._write, changes))
            case ListDue():
                return self._due()
        self.is_called = True
        return None

    def _load(self, *, with_token: bool) -> Answer:
        now, row = self.world.now, self.world.row
        if row is None or row.keep_until <= now:
            return Answer(None, "", now)
        token = row.token if with_token and row.token_until > now else None
        return Answer(row.value, row.version, now, token)

    def _write(self, change: Change) -> Written | Answer:
        world = self.world
        current = self._load(with_token=False)
        if current.version != change.expected_version or world.now - change.decided_at > change.max_age:
            return current
        token, until = (world.row.token, world.row.token_until) if world.row else (None, 0)
        if change.token_change is TokenChange.PUT:
            token, until = change.token, change.token_expires_at
        elif change.token_change is TokenChange.DROP:
            token = None
        row = Row(change.value, f"v{world.writes + 1}", change.due_at, change.keep_until, token, until)
        good = change.token_expires_at if change.token_change is TokenChange.PUT else world.session_until
        good = 0 if _decoded(change.value).state is State.NO_SESSION else good
        # What is on a replica, a failover to that replica cannot lose, nor anything before it.
        is_replicated = change.replicas > 0 and not self.lags
        before = None if is_replicated else (world.row, self.writer)
        self.world = world._replace(row=row, session_until=good, before=before, writes=world.writes + 1)
        return Written(row.version, world.now, is_replicated or change.replicas == 0)

    def _due(self) -> tuple[UserKey, ...]:
        row, now = self.world.row, self.world.now
        is_due = row is not None and row.due_at is not None and row.due_at <= now < row.keep_until
        return (ADA.key,) if is_due else ()
