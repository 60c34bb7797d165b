"""Ports that tell how long their calls take: a seam of its own, so that neither the driver nor an adapter counts.

What they tell are measurements (`Fact.is_measurement`): logs leave them out, metrics are made of them.
"""

import time
from collections.abc import Awaitable
from typing import Protocol, assert_never, runtime_checkable

from ...statemachine.effects import (
    UPSTREAM_OVERLOADED,
    Accepted,
    AnswerLost,
    AskStatus,
    CouldNotAsk,
    Fact,
    NeverSent,
    NotReady,
    OpenSession,
    ReadRecords,
    Records,
    RecordsFailed,
    Refresh,
    Rejected,
    SessionFailed,
    SessionOpened,
    StartRefresh,
    StatusReport,
    Step,
)
from ..logs import tell
from ..ports import Observer, TakesSteps, Upstream, UpstreamAnswer, UpstreamRequest
from ..upstream.guard import GuardedUpstream

_CALLS = {
    OpenSession: "open_session",
    StartRefresh: "start_refresh",
    AskStatus: "ask_status",
    ReadRecords: "read_records",
}


class MeasuredUpstream:
    """`upstream`, with each call told to `observer` as "upstream_called": which, its outcome and reason, its time.

    A guard that has no observer of its own tells this one.
    """

    def __init__(self, upstream: Upstream, observer: Observer) -> None:
        if isinstance(upstream, GuardedUpstream) and upstream.observer is None:
            upstream.observer = observer
        self._upstream = upstream
        self._observer = observer
        self.longest_call = upstream.longest_call

    def call(self, request: UpstreamRequest) -> UpstreamAnswer:
        """See `Upstream.call`."""
        began = time.perf_counter()
        details: dict[str, str | int | float | bool | None] = {"call": _CALLS[type(request)], "outcome": "raised"}
        try:
            answer = self._upstream.call(request)
            outcome, reason = _outcome(answer)
            # What a guard turns away never was a call: its time would hide those of the calls.
            details["outcome"] = "turned_away" if reason == UPSTREAM_OVERLOADED else outcome
            if reason is not None:
                details["reason"] = reason
        finally:
            details["call_seconds"] = time.perf_counter() - began
            tell(self._observer, Fact("upstream_called", details=details, is_measurement=True))
        return answer

    def close(self) -> None:
        """See `Upstream.close`."""
        self._upstream.close()


def _outcome(answer: UpstreamAnswer) -> tuple[str, str | None]:
    match answer:
        case SessionOpened():
            return "opened", None
        case SessionFailed(reason) | RecordsFailed(reason):
            return "failed", reason
        case Accepted():
            return "accepted", None
        case Rejected(reason):
            return "rejected", reason
        case NeverSent(reason):
            return "never_sent", reason
        case AnswerLost(reason):
            return "answer_lost", reason
        case StatusReport(phase):
            return phase.value, None
        case CouldNotAsk(reason):
            return "could_not_ask", reason
        case Records():
            return "read", None
        case NotReady():
            return "not_ready", None
        case _:
            assert_never(answer)


@runtime_checkable
class HasQueue(Protocol):
    """A worker that knows how many steps wait."""

    @property
    def waiting(self) -> int:
        """How many steps wait, delayed ones included."""


class MeasuredWorker:
    """The part of `worker` that flows see, with the length of its queue told to `observer` at each change.

    `ran` is to be called with each step that was run, and how long it took. A worker that has no queue of its own, such
    as one on a broker, tells of its steps alone.
    """

    def __init__(self, worker: TakesSteps, observer: Observer) -> None:
        self._worker = worker
        self._queue = worker if isinstance(worker, HasQueue) else None
        self._observer = observer

    def hand_over(self, step: Step, delay: float = 0.0) -> bool | Awaitable[bool]:
        """See `Worker.hand_over`."""
        taken = self._worker.hand_over(step, delay)
        if self._queue is not None:
            self._tell("step_handed_over", step)
        return taken

    def ran(self, step: Step, seconds: float) -> None:
        """Take note of a step that took `seconds`."""
        self._tell("step_ran", step, step_seconds=seconds)

    def _tell(self, name: str, step: Step, **details: float) -> None:
        if self._queue is not None:
            details["waiting"] = self._queue.waiting
        kind = "refresh" if isinstance(step, Refresh) else "follow"
        tell(self._observer, Fact(name, details={"step": kind, **details}, is_measurement=True))
