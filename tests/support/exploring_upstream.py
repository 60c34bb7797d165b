"""The upstream of the explorer's world: what a call does that reaches it, and what is heard of one that does not."""

from typing import Any

from phr_refresh.adapters.status_polling import extracts
from phr_refresh.statemachine.effects import (
    UPSTREAM_OVERLOADED,
    AnswerLost,
    AskStatus,
    CouldNotAsk,
    Effect,
    NeverSent,
    OpenSession,
    Phase,
    SessionFailed,
    StartRefresh,
    StatusReport,
)

from .exploring_world import LONGEST_CALL, Job, Opening, Process, World
from .samples import HOUR, SECOND

#: Of a session.
LIFE = HOUR // 4
GRACE = 10 * SECOND
#: Here all clocks agree. With the default of two minutes an end shortly before a claim counts as one after it.
TOLERANCE = 0
OUTSIDE = (OpenSession, StartRefresh, AskStatus)
LOST: dict[type, Any] = {
    OpenSession: SessionFailed("timed_out"),
    StartRefresh: AnswerLost("timed_out"),
    AskStatus: CouldNotAsk("timed_out"),
}
REFUSED: dict[type, Any] = {
    OpenSession: SessionFailed("connection_refused"),
    StartRefresh: NeverSent("connection_refused"),
    AskStatus: CouldNotAsk("connection_refused"),
}
OVERLOADED: dict[type, Any] = {
    OpenSession: SessionFailed(UPSTREAM_OVERLOADED, retry_after=10.0),
    StartRefresh: NeverSent(UPSTREAM_OVERLOADED, retry_after=10.0),
    AskStatus: CouldNotAsk(UPSTREAM_OVERLOADED, 10.0),
}


def reached(world: World, process: Process, effect: Effect) -> World:
    """The world once the call has arrived."""
    if isinstance(effect, OpenSession):
        openings = (*world.openings, Opening(process.name))
        if process.name in world.robbed:
            return world._replace(openings=openings)
        beside = [opening for opening in world.openings if opening.process not in world.robbed]
        overlaps, needless = world.overlaps + bool(beside), world.needless + world.has_session()
        return world._replace(openings=openings, overlaps=overlaps, needless=needless)
    if isinstance(effect, AskStatus):
        return world._replace(polls=(*world.polls, (world.now, effect.asked_at, process.name)))
    return kicked_off(world, f"{process.name}-1")


def kicked_off(world: World, refresh_id: str, *, refused: bool = False) -> World:
    """The world once a kick-off has arrived; `refused`: the upstream answers it with an error and loads nothing."""
    world = world._replace(kick_offs=(*world.kick_offs, (refresh_id, world.now)))
    if refused:
        return world
    job = Job(refresh_id, world.now, world.job and world.job.ended_at, bool(world.job and world.job.failed))
    return world._replace(job=job)


def abandoned(world: World, process: Process) -> World:
    """The world once the sender of a kick-off that is still on its way has stopped waiting for it."""
    return world._replace(ghosts=(*world.ghosts, (f"{process.name}-1", process.since + LONGEST_CALL)))


def crashed(world: World, process: Process) -> World:
    """The world once the caller has died: its call goes on, up to the longest time that one may take."""
    until = process.since + LONGEST_CALL
    openings = tuple(item._replace(until=until) if item.process == process.name else item for item in world.openings)
    world = world._replace(openings=openings)
    return abandoned(world, process) if process.phase == "late" else world


def opened(world: World, process: Process) -> World:
    """The world once a session has been created."""
    openings = tuple(item for item in world.openings if item.process != process.name)
    return world._replace(openings=openings, tokens=world.tokens + 1)


def ended(world: World, *, failed: bool) -> World:
    """The world once the load has ended."""
    assert world.job is not None, "there is no load"
    return world._replace(job=world.job._replace(ended_at=world.now, failed=failed))


def told(world: World, report: StatusReport | CouldNotAsk) -> World:
    """The world once somebody was told how the load stands."""
    job = world.job
    if job is None or job.is_running or not isinstance(report, StatusReport) or report.phase is Phase.IN_PROGRESS:
        return world
    return world._replace(truths=world.truths | {(job.refresh_id, "failed" if job.failed else "completed")})


def report_of(job: Job | None, question: AskStatus, now: int) -> StatusReport | CouldNotAsk:
    """What the shipped judgement makes of the rows that the upstream would answer now."""
    rows = []
    if job is not None:
        row = {"extract": "VPR", "lastRequested": job.requested_at}
        if job.ended_at is not None:
            row |= {"lastCompleted": job.ended_at}
            row |= {} if job.failed else {"lastSuccessfulCompleted": job.ended_at}
        rows.append(row)
    body = {"retrievedDate": now, "facilityExtractStatusList": rows}
    return extracts.judge(body, wanted=("VPR",), question=question, grace=GRACE, tolerance=TOLERANCE)
