"""The rules R1 to R4 and R6 as predicates over a world's history: each gives None, or what is wrong.

A call whose claim the store had acknowledged and lost again (`World.robbed`) is left out of R1, R2 and R6: no code
outside of the store can know of it. All other calls keep the rules among themselves. With `Policy.claim_replicas`
nothing is left out of R1.
"""

from collections.abc import Callable
from itertools import pairwise

from phr_refresh.statemachine.effects import AskStatus
from phr_refresh.statemachine.errors import PhrRefreshError
from phr_refresh.statemachine.outcomes import ReceiptKind
from phr_refresh.statemachine.policy import milliseconds
from phr_refresh.statemachine.record import TIMED_OUT, KickOff, State

from .exploring_moves import LEAPS, Laboratory, Make
from .exploring_upstream import LIFE
from .exploring_world import World
from .samples import ADA, HOUR

Predicate = Callable[[Laboratory, World], str | None]
_UNREPORTED = ("all_extracts_failed",)


def once_per_window(lab: Laboratory, world: World) -> str | None:
    """R1: no two kick-offs arrive within one window."""
    if len(world.kick_offs) < 2:
        return None
    window = milliseconds(lab.policy.refresh_window)
    robbed = frozenset() if lab.policy.claim_replicas else world.robbed
    times = sorted(at for whose, at in world.kick_offs if whose.rpartition("-")[0] not in robbed)
    close = [(later - earlier) / 1000 for earlier, later in pairwise(times) if later - earlier < window]
    return f"two kick-offs arrived {close[0]:g} s apart" if close else None


def one_session_at_a_time(lab: Laboratory, world: World) -> str | None:
    """R2: session creations never overlap, and none begins while a valid session is stored."""
    if world.overlaps:
        return "two session creations overlapped"
    return "a session was created beside a valid one" if world.needless else None


def truth(lab: Laboratory, world: World) -> str | None:
    """R3: what the record says of its refresh, the upstream has said of that very refresh."""
    record = world.record
    # Where the store lost a claim, the refresh of this window has two kick-offs, and the upstream tells of either.
    told = {word for whose, word in world.truths if world.robbed or whose == record.refresh_id}
    if record.state is State.COMPLETE and record.completed_at is None:
        return "complete without an end"
    if record.completed_at is not None and "completed" not in told:
        return f"complete, but nobody was told the end of {record.refresh_id}"
    failed = record.failure is not None and record.failure.code in _UNREPORTED
    if failed and "failed" not in told:
        return f"failed, but nobody was told so of {record.refresh_id}"
    if record.failure is not None and record.failure.code == TIMED_OUT and record.failure.at > world.now:
        return "timed out before its deadline"
    if record.kick_off is KickOff.ACCEPTED and "accepted" not in told:
        return f"accepted, but nobody was told so of {record.refresh_id}"
    return None


def shared_polls(lab: Laboratory, world: World) -> str | None:
    """R6: each status call has a turn of its own, and none goes out within a poll interval of an earlier call's turn.

    Two calls can be closer than that where the earlier one's process was paused: its turn was there all the same.
    """
    if len(world.polls) < 2:
        return None
    interval = milliseconds(lab.policy.poll_interval)
    polls = [(sent, turn) for sent, turn, whose in world.polls if whose not in world.robbed]
    close = [sent - turn for (_, turn), (sent, _) in pairwise(polls) if sent - turn < interval]
    return f"a status call went out {close[0] / 1000:g} s after another's turn" if close else None


def no_surprise(lab: Laboratory, world: World) -> str | None:
    """Flows raise nothing but this package's own errors."""
    for process in world.processes:
        error = process.node.error
        if error is not None and not isinstance(error, PhrRefreshError):
            return f"{process.name} raised {type(error).__name__}"
    return None


def never_stuck(lab: Laboratory, world: World) -> str | None:
    """R4: the next reading, and the next sweep, leave each waiting state in time, and the next window's login starts.

    Asked only where every flow has ended or crashed.
    """
    policy = lab.policy
    window = milliseconds(policy.refresh_window) + milliseconds(policy.unanswered_margin)
    bounds = {
        State.REFRESHING: milliseconds(policy.refresh_deadline),
        # A host's clock that is set back just while a token passes through stretches the token's life by as much.
        State.SESSION_CREATED: LIFE + max(LEAPS.values()),
        State.COMPLETE: window,
    }
    state = world.record.state
    if state in bounds:
        later = World(now=world.now + bounds[state], row=world.row, writes=world.writes)
        read = undisturbed(lab, later, "reader", lambda flows: flows.status(ADA.key))
        swept = undisturbed(lab, later, "sweeper", lambda flows: flows.sweep(1))
        if state in (read.record.state, swept.record.state):
            return f"{state.label} for ever, {'read' if state is read.record.state else 'swept'} or not"
    # Without the writes of the reader: what a crashed reader left must not matter either.
    later = World(now=world.now + window + 2 * HOUR, row=world.row, writes=world.writes)
    began = undisturbed(lab, later, "next", lambda flows: flows.refresh(ADA, wait=False))
    outcome = began.processes[0].node.outcome
    if outcome is None or outcome.kind is not ReceiptKind.STARTED:
        return f"the next login's refresh does not start ({outcome and outcome.reason})"
    return None


def undisturbed(lab: Laboratory, world: World, name: str, make: Make, *, word: str = "go") -> World:
    """The world after a flow that nobody comes between; whatever it hands over is left lying."""
    world = lab.start(world._replace(processes=()), name, make)
    for _ in range(60):
        process = world.processes[0]
        if not process.is_alive:
            return world
        if process.phase == "pause":
            world = world._replace(now=max(world.now, process.since))
        asks = isinstance(process.node.effect, AskStatus) and process.phase == "sent"
        world = lab.apply(world, f"{name} {word if asks else 'go'}")
    raise AssertionError(f"{name} goes round in circles")


ALWAYS: dict[str, Predicate] = {
    "R1": once_per_window,
    "R2": one_session_at_a_time,
    "R3": truth,
    "R6": shared_polls,
    "errors": no_surprise,
}
AT_THE_END: dict[str, Predicate] = {"R4": never_stuck}
