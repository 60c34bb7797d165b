"""Seeded faults: small patches of the shipped code that the explorer must notice, each with a scene where it can."""

from dataclasses import dataclass
from typing import Any

from phr_refresh.adapters.driver import Performer
from phr_refresh.adapters.status_polling import extracts
from phr_refresh.statemachine import flows, opening
from phr_refresh.statemachine.draft import Draft
from phr_refresh.statemachine.effects import StartRefresh
from phr_refresh.statemachine.flows import Flows
from phr_refresh.statemachine.opening import Opening
from phr_refresh.statemachine.record import KickOff, RefreshRecord, State

from . import exploring_flow_patches as flow_patches
from . import exploring_patches as patches
from .exploring_choices import Scene
from .exploring_patches import Patch, attribute, finishing, guard, never_leaves, noting, rule, together
from .exploring_scenes import (
    DURABLE,
    closed,
    complete_and_due,
    completed_and_over,
    logout,
    refresh,
    running,
    running_to_its_window,
    session,
    status,
    sweep,
    with_session,
)
from .samples import HOUR, SECOND
from .values import replace


@dataclass(frozen=True)
class Seeded:
    """A fault, the rule that it breaks, and the scene in which it shows."""

    patch: Patch
    rule: str
    scene: Scene


def _scene(
    prepare: Any = None, *, faults: int = 0, jumps: int = 0, only: Any = None, clocks: Any = None, **who: Any
) -> Scene:
    prepared = {} if prepare is None else {"prepare": prepare}
    return Scene("seeded", who, faults=faults, jumps=jumps, steps=0, only=only, clocks=clocks, **prepared)


TWO = _scene(A=refresh, B=refresh)
TWO_LATER = _scene(with_session, jumps=1, A=refresh, B=refresh)
TWO_WITH_SESSION = _scene(with_session, A=refresh, B=refresh)

_TOO_OFTEN = {
    "no compare-and-set, with a session": Seeded(patches.blind_writes, "R1", TWO_WITH_SESSION),
    "the store forgets too early": Seeded(patches.forgetful_store, "R1", _scene(running, jumps=1, A=refresh)),
    "the host's clock instead of the store's": Seeded(
        together(
            attribute(Performer, "_read", patches.loads_by_host_clock),
            attribute(Performer, "_settled", patches.commits_by_host_clock),
        ),
        "R1",
        _scene(closed, faults=1, only=("ahead",), A=refresh),
    ),
    "the host's clock dates the answer to a kick-off": Seeded(
        finishing(StartRefresh, patches.stamps_by_host_clock),
        "R1",
        _scene(with_session, faults=1, jumps=1, only=("back",), A=refresh, B=refresh),
    ),
    "a claimed kick-off may be late": Seeded(
        attribute(Performer, "_in_time", patches.kick_offs_never_too_late), "R1", TWO_LATER
    ),
    "a claim that is found again late is sent": Seeded(
        flow_patches.late_claims_are_sent,
        "R1",
        _scene(
            with_session,
            faults=2,
            jumps=2,
            only=("unsure", "crash"),
            clocks=("deadline", "window"),
            A=refresh,
            B=refresh,
        ),
    ),
    "an unanswered commit counts as made": Seeded(
        attribute(opening, "commit", flow_patches.unanswered_is_committed),
        "R1",
        _scene(with_session, faults=1, only=("fail",), A=refresh, B=refresh),
    ),
    "the kick-off before its claim": Seeded(
        attribute(Flows, "refresh", flow_patches.sends_first), "R1", TWO_WITH_SESSION
    ),
    "a lost answer is sent again": Seeded(
        attribute(Flows, "_kick_off", flow_patches.sends_again), "R1", _scene(faults=1, A=refresh)
    ),
    "a lost answer counts as never sent": Seeded(
        finishing(StartRefresh, patches.lost_is_never_sent),
        "R1",
        _scene(with_session, jumps=1, faults=1, only=("lose",), A=refresh, B=refresh),
    ),
    "an error answer opens the window": Seeded(
        attribute(flows, "event_of", flow_patches.errors_open_the_window),
        "R1",
        _scene(with_session, faults=1, jumps=1, only=("reject",), A=refresh, B=refresh),
    ),
    "nobody looks at the window": Seeded(
        attribute(RefreshRecord, "window_is_open", lambda original: lambda self, now: True),
        "R1",
        _scene(running, jumps=1, A=refresh),
    ),
    "a time-out opens the window": Seeded(
        rule("time_out", window_opens_at=lambda record, event: event.at), "R1", _scene(running, jumps=1, A=refresh)
    ),
    "no unanswered margin": Seeded(
        patches.no_margin,
        "R1",
        _scene(with_session, jumps=2, faults=1, only=("crash",), clocks=("poll", "window"), A=refresh, B=refresh),
    ),
    "the window counts from the claim": Seeded(
        rule("accept", window_opens_at=lambda record, event: record.claimed_at + HOUR),
        "R1",
        _scene(with_session, jumps=2, clocks=("poll", "window"), A=refresh, B=refresh),
    ),
    "the window counts from the end": Seeded(
        together(
            rule("claim", window_opens_at=lambda record, event: event.at),
            rule("accept", window_opens_at=lambda record, event: record.window_opens_at),
            rule("complete", window_opens_at=lambda record, event: event.at + HOUR),
        ),
        "R1",
        _scene(running, jumps=1, A=refresh),
    ),
    "a lost answer ends the doubt": Seeded(
        rule("lose_answer", window_opens_at=lambda record, event: event.window_opens_at),
        "R1",
        _scene(with_session, jumps=2, faults=2, only=("late", "lose"), clocks=("poll", "window"), A=refresh, B=refresh),
    ),
    "a deferred kick-off is sent": Seeded(
        attribute(Flows, "_kick_off", flow_patches.deferred_is_sent),
        "R1",
        _scene(with_session, faults=1, jumps=1, only=("overload",), clocks=("retry",), A=refresh, B=refresh),
    ),
    "a claim that is on no replica is sent": Seeded(
        attribute(Flows, "_kick_off", flow_patches.any_claim_is_replicated),
        "R1",
        replace(
            _scene(with_session, faults=2, only=("lag", "failover"), A=refresh, B=refresh),
            policy=DURABLE,
        ),
    ),
    "a claim without an answer counts as replicated": Seeded(
        attribute(Opening, "__init__", flow_patches.replicated_from_the_start),
        "R1",
        replace(
            _scene(with_session, faults=2, only=("unsure", "failover"), A=refresh, B=refresh),
            policy=DURABLE,
        ),
    ),
    "a sweep writes over what came first": Seeded(
        patches.blind_sweeps, "R1", _scene(complete_and_due, A=refresh, B=sweep, C=refresh)
    ),
    "logout clears the window": Seeded(
        rule("end_session", window_opens_at=lambda record, event: 0), "R1", _scene(running, A=logout, B=refresh)
    ),
}

_AT_ONCE = {
    "no compare-and-set": Seeded(patches.blind_writes, "R2", TWO),
    "the store takes old decisions": Seeded(patches.old_decisions, "R2", _scene(closed, jumps=1, A=session, B=session)),
    "a commit drops another's token": Seeded(patches.dropping, "R2", _scene(with_session, A=refresh, B=session)),
    "a claimed call may be late": Seeded(
        attribute(Performer, "_in_time", patches.never_too_late), "R2", _scene(jumps=1, A=refresh, B=refresh)
    ),
    "logout clears the creation claim": Seeded(
        rule("end_session", opening_id=lambda record, event: None, opening_until=lambda record, event: 0),
        "R2",
        _scene(A=session, B=logout, C=session),
    ),
    "the creation claim lapses under its call": Seeded(
        noting("session_claim", lambda draft, fields: fields | {"opening_until": draft.now + SECOND}),
        "R2",
        _scene(jumps=1, A=refresh, B=refresh),
    ),
    "nobody looks whose claim it is": Seeded(
        attribute(Opening, "_is_ours", lambda original: lambda self, record: True), "R2", TWO
    ),
    "a failure gives back another's claim": Seeded(
        attribute(Opening, "_failed", flow_patches.answering(flow_patches.any_claim_is_ours)),
        "R2",
        _scene(faults=1, jumps=2, only=("lose",), clocks=("claim", "retry"), A=refresh, B=refresh, C=refresh),
    ),
}

_UNTRUE = {
    "no fence": Seeded(
        guard("same_refresh", says=True), "R3", _scene(running_to_its_window, jumps=1, A=status, B=refresh)
    ),
    "marked as accepted before it is sent": Seeded(
        rule("claim", kick_off=lambda record, event: KickOff.ACCEPTED), "R3", _scene(A=refresh)
    ),
    "resuming forgets a running refresh": Seeded(
        guard("still_running", says=False), "R3", _scene(running, A=logout, B=session)
    ),
    "an earlier load's end is taken": Seeded(
        attribute(extracts, "_if_ours", lambda original: lambda ended, clock, state: state),
        "R3",
        _scene(completed_and_over, jumps=1, A=refresh, B=status),
    ),
}

_FOR_EVER = {
    "the creation claim never lapses": Seeded(
        attribute(Draft, "__init__", patches.claim_lasts_while_read), "R4", _scene(faults=1, A=refresh)
    ),
    "the due index is not updated": Seeded(patches.unlisted, "R4", _scene(A=refresh)),
    "the refresh has no deadline": Seeded(never_leaves(State.REFRESHING), "R4", _scene(A=refresh)),
    "the session has no deadline": Seeded(never_leaves(State.SESSION_CREATED), "R4", _scene(A=session)),
}

_TOO_MANY_POLLS = {
    "polls are not claimed": Seeded(
        together(
            noting("poll_claim", lambda draft, fields: {}),
            attribute(Performer, "_in_time", patches.polls_as_late_as_any),
        ),
        "R6",
        _scene(running, A=status, B=status),
    ),
    "a claimed poll may be late": Seeded(
        attribute(Performer, "_in_time", patches.polls_as_late_as_any),
        "R6",
        _scene(running, jumps=1, A=status, B=status),
    ),
}

SEEDED: dict[str, Seeded] = {**_TOO_OFTEN, **_AT_ONCE, **_UNTRUE, **_FOR_EVER, **_TOO_MANY_POLLS}
