"""The rules R1, R2, R3, R4 and R6 in every order of two flows, and of three, whatever crashes and gets lost.

`PHR_REFRESH_EXPLORE=full` explores them under larger budgets, for about an hour, and prints the counts (`pytest -s`).
"""

import os
from collections.abc import Iterator

import pytest
from phr_refresh.statemachine.outcomes import ReceiptKind
from phr_refresh.statemachine.record import NEVER_SENT, TIMED_OUT, KickOff, State
from support.exploring import Exploration, Violation, broken_by, explore, reach, replay, wander
from support.exploring_choices import Scene
from support.exploring_faults import SEEDED
from support.exploring_moves import Laboratory
from support.exploring_report import as_test, mermaid
from support.exploring_rules import once_per_window, undisturbed
from support.exploring_scenes import DURABLE_PAIRS, PAIRS, TRIPLES, refresh, scene_named
from support.exploring_world import World
from support.samples import ADA, MARGIN, WINDOW
from support.values import replace

pytestmark = pytest.mark.once

IS_FULL = os.environ.get("PHR_REFRESH_EXPLORE") == "full"
#: Of each exploration; more than any needs, on a machine of which it has a core to itself.
MOST = 50_000_000 if IS_FULL else 400_000
RANDOM_STEPS = 10_000_000 if IS_FULL else 21_000


def budgeted(scenes: tuple[Scene, ...], *budgets: tuple[int, int], without: tuple[str, ...] = ()) -> Iterator[Scene]:
    """Each scene, save those in `without`, under each of the budgets: how many faults, how many leaps of the clock."""
    for scene in scenes:
        if scene.name not in without:
            yield from (replace(scene, faults=faults, jumps=jumps) for faults, jumps in budgets)


_LARGE = (
    "session-session",
    "refresh-session",
    "login-login-logout",
    "refresh-session-logout",
    "status-status-logout, running",
)
_CALM = ("window ends", "overdue", "orphaned")
#: Every fault there is at every moment there is, and every leap of the clock; both at once where that is soon done.
USUAL = (
    *budgeted(PAIRS, (1, 0), without=_LARGE[:1]),
    *budgeted(PAIRS, (0, 1), without=_LARGE),
    *budgeted(DURABLE_PAIRS, (1, 0)),
    *budgeted(tuple(scene for scene in PAIRS if scene.name.endswith(_CALM)), (1, 1)),
    *budgeted(TRIPLES, (1, 0), without=_LARGE),
)
FULL = (
    *budgeted((*PAIRS, *DURABLE_PAIRS), (1, 1), (2, 0)),
    *budgeted(TRIPLES, (1, 0), (0, 1)),
)


def named(scene: Scene) -> str:
    """The scene's name and its budgets, for the name of a test."""
    return f"{scene.name}, {scene.faults} faults, {scene.jumps} leaps"


def story(found: Exploration) -> str:
    """What was explored, and each violation as a diagram and as a test."""
    shown = [f"{mermaid(violation)}\n\n{as_test(violation)}" for violation in found.violations]
    return "\n\n".join([str(found), *shown])


@pytest.mark.parametrize("scene", FULL if IS_FULL else USUAL, ids=named)
def test_every_order_keeps_the_rules(scene: Scene) -> None:
    """In each world that any schedule of the scene leads to, every rule holds; none was left out."""
    found = explore(scene, most=MOST)
    print(found, flush=True)
    assert [] == found.violations, story(found)
    assert found.is_whole, str(found)


@pytest.mark.parametrize("scene", TRIPLES, ids=lambda scene: scene.name)
def test_random_orders_of_three_flows_keep_the_rules(scene: Scene) -> None:
    """Three flows with up to three faults and three leaps of the clock, in orders that a seed chooses."""
    steps = RANDOM_STEPS // len(TRIPLES) + 1
    found = wander(replace(scene, faults=3, jumps=3, steps=2), seed=len(scene.name), steps=steps)
    print(found, flush=True)
    assert [] == found.violations, story(found)


# What has to give where not everything can be had.


def test_a_claim_whose_process_died_before_the_call_is_never_sent_and_times_out() -> None:
    """Recovery and R1 cannot both be had there: nobody can know that the call was not sent. R1 is kept."""
    scene = scene_named("refresh-status, orphaned", faults=0, jumps=2, steps=1)
    lab, start = scene.begin()
    claim, ends = start.record, set()
    assert (KickOff.CLAIMED, ()) == (claim.kick_off, start.kick_offs)
    for world, _ in reach(scene, lab, start, Exploration(scene)):
        assert [] == [at for _, at in world.kick_offs if at < claim.window_opens_at]
        if claim.refresh_id == world.record.refresh_id and not any(item.is_alive for item in world.processes):
            ends.add(world)
    assert len(ends) > 10
    assert start.record.claimed_at == start.now == claim.window_opens_at - WINDOW - MARGIN
    for world in ends:
        check_times_out(lab, world)


def check_times_out(lab: Laboratory, world: World) -> None:
    """The claim in `world` counts as timed out from its deadline on, blocks its window to the end, and no longer."""
    deadline, opens_at = world.record.deadline_at, world.record.window_opens_at
    late = world._replace(now=max(world.now, deadline))
    seen = undisturbed(lab, late, "reader", lambda flows: flows.status(ADA.key)).processes[0].node.outcome
    if late.now < opens_at:
        assert (State.STALE, TIMED_OUT) == (seen.state, seen.failure.code)
        last = undisturbed(lab, world._replace(now=opens_at - 1), "last", refresh)
        assert (ReceiptKind.DEFERRED, ()) == (last.processes[0].node.outcome.kind, last.kick_offs)
    # A session call that failed meanwhile may have earned a pause of its own.
    after = max(world.now, opens_at, world.record.retry_at)
    first = undisturbed(lab, world._replace(now=after), "first", refresh)
    assert ["first-1"] == [refresh_id for refresh_id, _ in first.kick_offs]


def without_mercy(lab: Laboratory, world: World) -> str | None:
    """R1, though the store lost what it had acknowledged."""
    return once_per_window(lab, world._replace(robbed=frozenset()))


def test_a_store_that_loses_an_acknowledged_claim_costs_one_more_kick_off() -> None:
    """No code on our side can know of it, as adapters/stores/redis_commands.py says; it is one, and no more."""
    scene = replace(scene_named("refresh-refresh, with a session", faults=1, jumps=0, steps=0), only=("failover",))
    found = explore(scene, always={"R1": without_mercy})
    assert ["R1"] == [violation.rule for violation in found.violations]
    assert "failover" in found.violations[0].choices
    assert [] == explore(scene).violations


@pytest.mark.parametrize("scene", DURABLE_PAIRS, ids=lambda scene: scene.name)
def test_a_claim_on_a_replica_costs_none(scene: Scene) -> None:
    """With `Policy.claim_replicas` a failover costs no second kick-off, without mercy, whatever else goes wrong."""
    only = ("failover", "lag", "unsure", "repeat", "crash")
    found = explore(replace(scene, faults=2, jumps=0, steps=1, only=only), always={"R1": without_mercy}, most=MOST)
    print(found, flush=True)
    assert [] == found.violations, story(found)
    assert found.is_whole, str(found)


def test_a_claim_that_is_not_replicated_is_given_back() -> None:
    """Nothing is sent, the window stays open, and the step comes again after a pause; so R4 holds, too."""
    scene = replace(DURABLE_PAIRS[0], flows={"A": refresh}, faults=1, jumps=0, steps=0, only=("lag",))
    lab, start = scene.begin()
    lagged = {
        world
        for world, _ in reach(scene, lab, start, Exploration(scene))
        if world.faults and not any(process.is_alive for process in world.processes)
    }
    assert 1 == len(lagged)
    (world,) = lagged
    outcome = world.process("A").node.outcome
    assert ((), ReceiptKind.DEFERRED, NEVER_SENT) == (world.kick_offs, outcome.kind, outcome.reason)
    assert world.record.window_is_open(world.now)
    assert world.now < world.record.retry_at


def _is_going_on(world: World) -> bool:
    return any(process.is_alive for process in world.processes)


# The explorer itself.


def test_a_schedule_can_be_replayed() -> None:
    """The list of choices that a violation is reported with leads to the same world again."""
    scene = scene_named("status-status, running", faults=0, jumps=0, steps=1)
    choices = ["A go", "A go", "A go", "B go", "A done", "A go"]
    *_, (choice, before, after, broken) = replay(scene, choices)
    assert ("A go", None) == (choice, broken)
    assert (State.REFRESHING, State.COMPLETE) == (before.record.state, after.record.state)
    again = list(replay(scene, choices))[-1][2]
    assert (after.row, after.polls, after.truths) == (again.row, again.polls, again.truths)


def test_a_choice_that_there_is_not_is_refused() -> None:
    """A schedule that the code no longer allows is told from one that is harmless."""
    scene = scene_named("status-status, running", faults=0, jumps=0, steps=1)
    with pytest.raises(AssertionError, match="'A crash' is no choice here"):
        list(replay(scene, ["A crash"]))


def test_a_violation_is_shown_as_a_diagram_and_as_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The diagram tells what happened; the test, pasted, fails with the fault and passes without it."""
    seeded = SEEDED["polls are not claimed"]
    pasted: dict[str, object] = {"scene_named": scene_named, "broken_by": broken_by}
    with monkeypatch.context() as patches:
        seeded.patch(patches)
        violation = explore(scene_named("status-status, running", faults=0, jumps=0, steps=0)).violations[0]
        assert "A->>upstream: ask the status" in mermaid(violation)
        assert "R6 broken: a status call went out 0 s after another's turn" in mermaid(violation)
        exec(as_test(violation), pasted)
        test = pasted["test_schedule_that_broke_r6"]
        assert callable(test)
        with pytest.raises(AssertionError):
            test()
    test()


def test_a_shortest_schedule_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the schedules that are shorter by a choice breaks anything."""
    seeded = SEEDED["no compare-and-set"]
    seeded.patch(monkeypatch)
    violation: Violation = explore(seeded.scene).violations[0]
    assert 6 == len(violation.choices)
    assert [None] * 5 == [broken for *_, broken in replay(violation.scene, violation.choices[:-1])]
    assert [] == explore(seeded.scene, most=5).violations
