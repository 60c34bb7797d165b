"""What a choice of the explorer does to a world: one moment of one flow, or one thing that befalls everybody."""

from collections.abc import Callable
from functools import partial
from typing import Any

from phr_refresh.adapters.driver import Performer, Ports
from phr_refresh.adapters.ports import Written
from phr_refresh.adapters.session_creation.seal import PlainSeal
from phr_refresh.statemachine.draft import Flow
from phr_refresh.statemachine.effects import (
    Accepted,
    AskStatus,
    Commit,
    CommitAll,
    Conflict,
    Effect,
    HandOver,
    Load,
    OpenSession,
    Pause,
    Refresh,
    Rejected,
    SessionOpened,
    Tell,
)
from phr_refresh.statemachine.errors import StoreUnavailable
from phr_refresh.statemachine.flows import Flows
from phr_refresh.statemachine.policy import Policy, milliseconds

from . import exploring_upstream as upstream
from .exploring_upstream import LIFE, LOST, OUTSIDE, OVERLOADED, REFUSED
from .exploring_world import LONGEST_CALL, Desk, Node, Pending, Process, World, seconds_of
from .samples import HOUR, NOON, token_until
from .values import replace

Make = Callable[[Flows], Flow[Any]]
#: How far the clock of a host leaps: further than a window.
LEAPS = {"ahead": 2 * HOUR, "back": -2 * HOUR}
_MOST_KNOWN = 100_000
_NEVER = 1 << 62
#: The store looks at its clock so much after the driver has looked at its own, in milliseconds.
_AWAY = 1


class Laboratory:
    """Performs choices. The same choices in the same world always lead to equal worlds."""

    def __init__(self, policy: Policy, steps: int = 2) -> None:
        self.policy = policy
        #: How many of the steps that are handed over run at all.
        self.steps = steps
        self.desk = Desk()
        self._age = milliseconds(policy.decision_age) + 1
        self._roots: dict[Any, Node] = {}
        self._known: dict[tuple[World, str], World | None] = {}
        self._ports = Ports(
            store=self.desk,  # type: ignore[arg-type]
            upstream=self.desk,  # type: ignore[arg-type]
            worker=None,  # type: ignore[arg-type]
            seal=PlainSeal(),
            observer=lambda fact: None,
            policy=policy,
            monotonic=self.desk.monotonic,  # type: ignore[arg-type]
            wall_clock=self.desk.wall_clock,
        )

    def start(self, world: World, name: str, make: Make, key: object = None) -> World:
        """A process `name` that stands before the first effect of its flow."""
        node = self._roots.get((name, key))
        if node is None:

            def begin() -> Flow[Any]:
                numbers = iter(range(1, 100))
                return make(Flows(self.policy, lambda: f"{name}-{next(numbers)}"))

            node = self._roots[name, key] = Node(begin)
        process = Process(name, node, (world.now - NOON, world.now - NOON, 0))
        world = world._replace(processes=(*world.processes, process))
        return self._settle(world, process)

    def apply(self, world: World, choice: str) -> World:
        """The world after `choice`; the very same one where the choice makes no difference."""
        who, _, what = choice.partition(" ")
        if who == "clock":
            return self._advance(world, dict(self.moments(world))[what])
        if who == "run":
            return self._run(world, what, again=False)
        if who == "again":
            return self._run(world, what, again=True)
        if who == "evict":
            row = world.row and world.row._replace(token=None, token_until=0)
            return world._replace(row=row, session_until=0, faults=world.faults + 1)
        if who == "failover":
            assert world.before is not None, "there is no write to lose"
            row, whose = world.before
            lost = world._replace(row=row, before=None, session_until=0)
            return lost._replace(robbed=world.robbed | {whose}, faults=world.faults + 1)
        if who == "ghost":
            return upstream.kicked_off(world._replace(ghosts=world.ghosts[1:]), world.ghosts[0][0])
        # The others neither see this moment nor are seen by it: for all their standings it is performed once.
        process = world.process(who)
        alone = world._replace(processes=(process,))
        if (alone, what) not in self._known:
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            after = self._alone(alone, process, what)
            self._known[alone, what] = None if after is alone else after
        after = self._known[alone, what]
        return _put(after._replace(processes=world.processes), after.processes[0]) if after else world

    def _alone(self, world: World, process: Process, what: str) -> World:
        if what in LEAPS:
            return self._leap(world, process, LEAPS[what])
        if what not in ("go", "done"):
            world = world._replace(faults=world.faults + 1)
        return self._moment(world, process, what)

    def moments(self, world: World) -> list[tuple[str, int]]:
        """What the clock may advance to, with the reason. While a call is out, it may last as long as calls do."""
        record, now = world.record, world.now
        calling = [process.since + LONGEST_CALL for process in world.processes if process.is_calling]
        latest = min(calling, default=_NEVER)
        named = (
            ("poll", record.next_poll_at),
            ("deadline", record.deadline_at),
            ("claim", record.opening_until),
            ("session", record.session_expires_at or 0),
            ("window", record.window_opens_at),
            ("retry", record.retry_at),
            ("step", min((pending.due_at for pending in world.pending if pending.due_at > now), default=0)),
            ("age", now + self._age),
            ("wake", min((process.since for process in world.processes if process.phase == "pause"), default=0)),
        )
        found = {at: why for why, at in named if now < at <= latest}
        return [(why, at) for at, why in found.items()]

    # What happens to everybody.

    def _advance(self, world: World, now: int) -> World:
        is_wake = any(process.phase == "pause" and process.since == now for process in world.processes)
        openings = tuple(opening for opening in world.openings if not 0 < opening.until <= now)
        ghosts = tuple(ghost for ghost in world.ghosts if ghost[1] >= now)
        return world._replace(now=now, jumps=world.jumps + (not is_wake), openings=openings, ghosts=ghosts)

    def _run(self, world: World, name: str, *, again: bool) -> World:
        pending = next(pending for pending in world.pending if pending.name == name)
        left = tuple(other for other in world.pending if again or other is not pending)
        spawned = world.spawned + 1
        world = world._replace(pending=left, spawned=spawned, faults=world.faults + again)
        if spawned >= self.steps:
            world = world._replace(pending=())
        step = pending.step
        if isinstance(step, Refresh):
            step = replace(step, seen=pending.seen)
        names = [process.name for process in world.processes]
        # Each delivery is a process of its own, with ids of its own.
        while again and (not name.endswith("'") or name in names):
            name += "'"
        return self.start(world, name, lambda flows: flows.step(step), pending)

    # One moment of one process.

    def _moment(self, world: World, process: Process, what: str) -> World:
        if what == "crash":
            return self._crash(world, process)
        effect = process.node.effect
        if isinstance(effect, OUTSIDE):
            if process.phase == "":
                return self._send(world, process, effect, what)
            return self._answer(world, process, effect, what)
        if isinstance(effect, Pause):
            if process.phase == "":
                until = world.now + int(effect.seconds * 1000)
                return _put(world, process._replace(phase="pause", since=until))
            return self._told(world, process, None)
        return self._store(world, process, effect, what)

    def _leap(self, world: World, process: Process, by: int) -> World:
        """Its next moment, in which its host's clock leaps. If nobody looks at it, it may as well leap later."""
        self.desk.leap, self.desk.is_looked_at = by, False
        after = self._moment(world, process, "go")
        self.desk.leap = 0
        if not self.desk.is_looked_at:
            return world
        leapt = after.process(process.name)
        leapt = leapt._replace(ahead=leapt.ahead + by) if leapt.is_alive else leapt
        return _put(after._replace(faults=after.faults + 1), leapt)

    def _crash(self, world: World, process: Process) -> World:
        gone = process._replace(phase="crashed", clocks=(0, 0, 0), since=0, written="", ahead=0)
        return _put(upstream.crashed(world, process), gone)

    def _performer(self, world: World, process: Process) -> Performer:
        self.desk.world, self.desk.writer = world, process.name
        self.desk.ahead = process.ahead + self.desk.leap
        performer = Performer(self._ports)
        asked, heard, performer._now = process.clocks
        performer._asked_at, performer._heard_at = seconds_of(asked), seconds_of(heard)  # type: ignore[assignment]
        return performer

    def _store(self, world: World, process: Process, effect: Effect, what: str) -> World:
        # What was not answered may be on no replica yet.
        self.desk.lags = what in ("lag", "unsure", "repeat")
        if what == "repeat":
            before = world
            self._performer(world, process).ask(effect)
            world = self.desk.world
            clocks = (world.now - NOON - _AWAY, *process.clocks[1:])
            process = process._replace(phase="repeat", clocks=clocks, written=world.row.version if world.row else "")
            return _put(world, process) if world.writes > before.writes else before
        performer = self._performer(world, process)
        if what == "fail":
            if isinstance(effect, Load | Commit):
                performer._asked_at = self._ports.monotonic()
            answer: Any = StoreUnavailable("stepped", "no answer")
        elif what == "unsure":
            performer.ask(effect)
            answer = StoreUnavailable("stepped", "no answer")
        else:
            repeated = process.phase == "repeat" and world.row and world.row.version == process.written
            reply = self._repeated(process, effect) if repeated else performer.ask(effect)
            answer = performer.finish(effect, reply)
        asked = process.clocks[0] if process.phase == "repeat" else int(performer._asked_at * 1000) - _AWAY
        clocks = (asked, int(performer._heard_at * 1000), performer._now)
        return self._told(self.desk.world, process._replace(clocks=clocks), answer)

    def _repeated(self, process: Process, effect: Effect) -> Any:
        # By now the replicas have followed.
        if isinstance(effect, Commit) and effect.is_claim and self.policy.claim_replicas:
            self.desk.world = self.desk.world._replace(before=None)
        written = Written(process.written, self.desk.world.now)
        return [written] if isinstance(effect, CommitAll) else written

    def _send(self, world: World, process: Process, effect: Effect, what: str) -> World:
        performer = self._performer(world, process)
        finish = partial(performer.finish, effect)
        self.desk.is_called = False
        answer = performer.ask(effect)
        if not self.desk.is_called:
            # The driver found that it is too late for this call.
            return self._told(world, process, finish(answer))
        if what == "overload":
            return self._told(world, process, finish(OVERLOADED[type(effect)]))
        if what == "refuse":
            return self._told(world, process, finish(REFUSED[type(effect)]))
        if what == "miss":
            return self._told(world, process, finish(LOST[type(effect)]))
        if what == "reject":
            world = upstream.kicked_off(world, f"{process.name}-1", refused=True)
            return self._told(world, process, finish(Rejected("http_503")))
        sent = process._replace(phase="late" if what == "late" else "sent", since=world.now)
        return _put(world, sent) if what == "late" else upstream.reached(_put(world, sent), sent, effect)

    def _answer(self, world: World, process: Process, effect: Effect, what: str) -> World:
        if process.phase == "late" and what == "go":
            sent = process._replace(phase="sent")
            return upstream.reached(_put(world, sent), sent, effect)
        if process.phase == "late":
            world = upstream.abandoned(world, process)
        if isinstance(effect, OpenSession):
            world = upstream.opened(world, process)
        if what in ("done", "broken"):
            world = upstream.ended(world, failed=what == "broken")
        finish = partial(self._performer(world, process).finish, effect)
        if what == "lose":
            return self._told(world, process, finish(LOST[type(effect)]))
        if isinstance(effect, OpenSession):
            # The adapter tells the end by its host's clock as it was before it leaps, if it does.
            token = token_until(world.now + process.ahead + LIFE, f"jwt-{world.tokens}")
            return self._told(world, process, finish(SessionOpened(token)))
        if isinstance(effect, AskStatus):
            report = upstream.report_of(world.job, effect, world.now)
            return self._told(upstream.told(world, report), process, finish(report))
        truths = world.truths | {(f"{process.name}-1", "accepted")}
        return self._told(world._replace(truths=truths), process, finish(Accepted()))

    def _told(self, world: World, process: Process, answer: Any) -> World:
        process = process._replace(node=process.node.after(answer), phase="", since=0, written="")
        if isinstance(answer[0] if type(answer) is tuple and answer else answer, Conflict):
            process.node.reads_only = True
        return self._settle(world, process)

    def _settle(self, world: World, process: Process) -> World:
        """Let it do what nobody else sees at once: where in the order that comes makes no difference."""
        while isinstance(process.node.effect, Tell | HandOver):
            effect, node, answer = process.node.effect, process.node, None
            if isinstance(effect, HandOver):
                answer = True
                if world.spawned < self.steps:
                    due_at = world.now + int(effect.delay * 1000)
                    seen = effect.step.seen if isinstance(effect.step, Refresh) else None
                    pending = Pending(f"{process.name}.{node.handed + 1}", effect.step, seen, due_at)
                    world = world._replace(pending=(*world.pending, pending))
            child = node.after(answer)
            child.handed = node.handed + isinstance(effect, HandOver)
            process = process._replace(node=child)
        if process.node.effect is None:
            process = process._replace(clocks=(0, 0, 0), ahead=0)
        return _put(world, process)


def _put(world: World, process: Process) -> World:
    processes = tuple(process if other.name == process.name else other for other in world.processes)
    return world._replace(processes=processes)
