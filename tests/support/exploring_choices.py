"""The choices that there are in a world: what may happen next, as far as the budgets of the scene allow.

==========================  ===========================================================================================
`A go`                      its next moment: an effect is performed, a call is sent (and arrives), a call is answered
`A done`, `A broken`        the same, where the upstream's load has ended just now, well or badly
`A crash`                   its process dies; a call of it that is out goes on at the upstream
`A lose`, `A miss`          the answer of its call is lost, and the call did arrive, or did not
`A refuse`, `A reject`      its call never leaves; its kick-off arrives and is answered with an error
`A overload`                its call is turned away by the guard, and deferred
`A late`                    its kick-off is sent now and arrives later, up to the longest time that a call may take
`A fail`, `A unsure`        its store call fails; the same, but the commit took effect
`A repeat`                  its commit takes effect unanswered, and the adapter repeats it: later, as its next moment
`A lag`                     its claim takes effect, and the replicas that the policy asks for do not follow in time
`A ahead`, `A back`         its next moment, in which the clock of its host leaps by hours
`run A.1`, `again A.1`      a step that A handed over runs; the same, but it stays in the queue: it is delivered twice
`clock poll`, ...           the clock advances to a deadline of the record, or past the age of decisions ("age")
`evict`, `failover`         the store loses the token; the last acknowledged write
`ghost`                     a kick-off that its sender gave up arrives after all
==========================  ===========================================================================================

All but the first line, `run`, `clock` and `ghost` are faults. (`A done` is as calm as `A go`.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from phr_refresh.statemachine.effects import AskStatus, Commit, CommitAll, OpenSession, Pause, StartRefresh
from phr_refresh.statemachine.policy import Policy

from .exploring_moves import LEAPS, Laboratory, Make
from .exploring_upstream import OUTSIDE
from .exploring_world import Process, World
from .samples import HOUR

#: Nobody waits long for a session that somebody else creates: that would only make the same schedules longer.
IMPATIENT = Policy(poll_schedule=(), session_wait=timedelta(milliseconds=100))


@dataclass(frozen=True)
class Scene:
    """Who is about to do what in which world. `faults`, `jumps` and `steps` are the budgets of one schedule.

    `jumps` of the clock, and `steps` that were handed over and run.
    """

    name: str
    flows: dict[str, Make]
    prepare: Callable[[Laboratory, World], World] = lambda lab, world: world
    faults: int = 1
    jumps: int = 1
    steps: int = 1
    policy: Policy = IMPATIENT
    #: Kinds of faults that are tried, None for all.
    only: tuple[str, ...] | None = None
    #: What the clock advances to, None for everything.
    clocks: tuple[str, ...] | None = None

    def begin(self) -> tuple[Laboratory, World]:
        """A laboratory, and the world in which the schedule begins."""
        lab = Laboratory(self.policy, self.steps)
        world = self.prepare(lab, World())
        # What went before is history where it matters to the rules, and nothing else.
        world = world._replace(processes=(), pending=(), before=None, faults=0, jumps=0, spawned=0)
        for name, make in self.flows.items():
            world = lab.start(world, name, make)
        return lab, world

    def tries(self, fault: str) -> bool:
        """Whether faults of this kind are tried."""
        return self.only is None or fault in self.only


def options(scene: Scene, lab: Laboratory, world: World) -> list[str]:
    """The choices that there are now. None is left once every flow has ended or crashed and nothing waits."""
    found: list[str] = []
    may_fail = world.faults < scene.faults
    for process in world.processes:
        if process.is_alive:
            found += [f"{process.name} {what}" for what in _moments(world, process)]
            if may_fail:
                found += [f"{process.name} {what}" for what in _faults(lab, world, process) if scene.tries(what)]
    due = [pending.name for pending in world.pending if pending.due_at <= world.now and world.spawned < lab.steps]
    found += [f"run {name}" for name in due]
    if may_fail and scene.tries("again"):
        found += [f"again {name}" for name in due]
    if any(process.is_alive for process in world.processes) or (world.pending and world.spawned < lab.steps):
        found += _clocks(scene, lab, world)
        if may_fail:
            found += [what for what in _losses(world) if scene.tries(what)]
    return found + (["ghost"] if world.ghosts else [])


def _moments(world: World, process: Process) -> list[str]:
    effect = process.node.effect
    if isinstance(effect, Pause) and process.phase == "pause" and world.now < process.since:
        return []
    if isinstance(effect, AskStatus) and process.phase == "sent" and _may_end(world):
        return ["go", "done"]
    return ["go"]


def _may_end(world: World) -> bool:
    job = world.job
    return job is not None and job.is_running and world.now - job.requested_at < HOUR


def _faults(lab: Laboratory, world: World, process: Process) -> list[str]:
    effect = process.node.effect
    if process.phase in ("pause", "repeat"):
        return ["fail"] if process.phase == "repeat" else []
    # To crash after a mere reading is to crash before it.
    crash = [] if process.node.reads_only and not process.is_calling else ["crash"]
    if isinstance(effect, Pause):
        return crash
    if process.phase == "late":
        return [*crash, "lose"]
    if process.phase == "sent":
        return [*crash, "lose", *LEAPS, *(["broken"] if isinstance(effect, AskStatus) and _may_end(world) else [])]
    if isinstance(effect, OUTSIDE):
        kick_off = ["reject", "late"] if isinstance(effect, StartRefresh) else []
        return [*crash, "refuse", "overload", *([] if isinstance(effect, OpenSession) else ["miss"]), *kick_off, *LEAPS]
    if isinstance(effect, Commit | CommitAll):
        lag = ["lag"] if isinstance(effect, Commit) and effect.is_claim and lab.policy.claim_replicas else []
        return [*crash, "fail", "unsure", "repeat", *lag, *LEAPS]
    return [*crash, "fail", *LEAPS]


def _clocks(scene: Scene, lab: Laboratory, world: World) -> list[str]:
    named = [why for why, _ in lab.moments(world) if scene.clocks is None or why in scene.clocks]
    return [f"clock {why}" for why in named if why == "wake" or world.jumps < scene.jumps]


def _losses(world: World) -> list[str]:
    has_token = world.row is not None and world.row.token is not None
    return [*(["evict"] if has_token else []), *(["failover"] if world.before else [])]
