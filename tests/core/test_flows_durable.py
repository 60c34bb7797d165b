"""Claims that must be on a replica before the kick-off is sent (`Policy.claim_replicas`)."""

from datetime import timedelta
from typing import Any

import pytest
from phr_refresh import ConfigurationError, Policy, ReceiptKind, State
from phr_refresh.adapters.driver import Ports, run
from phr_refresh.adapters.ports import Change, Written
from phr_refresh.adapters.session_creation.seal import PlainSeal
from phr_refresh.adapters.stores.memory import MemoryStore
from phr_refresh.statemachine.effects import Commit, Refresh
from phr_refresh.statemachine.flows import Flows
from phr_refresh.statemachine.record import KickOff
from support.fakes import RecordingWorker, ScriptedUpstream, Silent
from support.samples import ADA, NOON, SECOND
from support.stepping import World

DURABLE = Policy(claim_replicas=2, claim_replicas_wait=timedelta(milliseconds=300), retry_jitter=0)


def test_the_claim_is_marked_and_nothing_else_is() -> None:
    """Of all commits of a lifecycle just one waits for replicas."""
    world, marks = World(policy=DURABLE), []
    stepper = world.refresh()
    while stepper.effect is not None:
        if isinstance(stepper.effect, Commit):
            marks.append((stepper.effect.is_claim, "refresh_claimed" in [fact.name for fact in stepper.effect.told]))
        stepper.step()
    assert [(False, False), (True, True), (False, False)] == marks


def test_a_claim_that_is_on_no_replica_sends_nothing() -> None:
    """It is given back: nothing is sent, the window is open, and the worker has the step for after a pause."""
    world = World(policy=DURABLE, unreplicated=1)
    receipt = world.refresh(wait=False).run()
    assert (ReceiptKind.DEFERRED, "never_sent", []) == (receipt.kind, receipt.reason, world.kick_offs)
    record = world.record()
    assert (State.STALE, "never_sent", 1) == (record.state, record.failure.code, record.failures)
    assert record.window_is_open(NOON)
    assert [(Refresh(ADA), 2.0)] == world.handed
    assert ["not_replicated"] == [fact.details["reason"] for fact in world.told("kick_off_not_sent")]


def test_the_next_try_sends_it() -> None:
    """Once the replicas follow again."""
    world = World(policy=DURABLE, unreplicated=1)
    world.refresh(wait=False).run()
    world.now += 2 * SECOND
    assert ReceiptKind.STARTED is world.refresh(wait=False).run().kind
    assert [NOON + 2 * SECOND] == world.kick_offs


def test_a_claim_that_is_replicated_is_sent() -> None:
    """As without the policy."""
    world = World(policy=DURABLE)
    assert ReceiptKind.STARTED is world.refresh().run().kind
    assert (1, KickOff.ACCEPTED) == (len(world.kick_offs), world.record().kick_off)


@pytest.mark.parametrize(("policy", "kick_offs"), [(DURABLE, 0), (Policy(), 1)], ids=["durable", "default"])
def test_a_claim_whose_answer_was_lost_is_on_no_replica_that_we_know_of(policy: Policy, kick_offs: int) -> None:
    """It is found in the store, which is enough without the policy, and with it is not."""
    world = World(policy=policy)
    stepper = world.refresh(wait=False).until(Commit, nth=2)
    claim = stepper.effect
    world.perform(claim)
    world.store_failures = 1
    stepper.run()
    assert kick_offs == len(world.kick_offs)


class Followed:
    """A store that notes how many replicas each change asks for, and has as many as a test says."""

    def __init__(self, *, replicas: int) -> None:
        self.store = MemoryStore(clock=lambda: NOON)
        self.replicas = replicas
        self.asked: list[tuple[int, int]] = []

    def call(self, change: Any) -> Any:
        if not isinstance(change, Change):
            return self.store.call(change)
        self.asked.append((change.replicas, change.replicas_wait))
        answer = self.store.call(change)
        if isinstance(answer, Written):
            return Written(answer.version, answer.now, self.replicas >= change.replicas)
        return answer


@pytest.mark.parametrize(("replicas", "kind"), [(2, ReceiptKind.STARTED), (1, ReceiptKind.DEFERRED)])
def test_the_driver_asks_the_store_for_them(replicas: int, kind: ReceiptKind) -> None:
    """The claim's change carries the number and the wait in milliseconds; what the store says of it decides."""
    store, upstream = Followed(replicas=replicas), ScriptedUpstream()
    ports = Ports(
        store=store,  # type: ignore[arg-type]
        upstream=upstream,
        worker=RecordingWorker(),
        seal=PlainSeal(),
        observer=Silent(),
        policy=DURABLE,
    )
    ids = iter("abcdef")
    receipt = run(Flows(DURABLE, lambda: next(ids)).refresh(ADA), ports)
    assert (kind, int(kind is ReceiptKind.STARTED)) == (receipt.kind, upstream.kick_offs)
    assert [(0, 0), (2, 300), (0, 0)] == store.asked


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"claim_replicas": -1}, "Policy.claim_replicas: it is negative; give 0 or more."),
        ({"claim_replicas": 1.5}, "Policy.claim_replicas: it is not a number of the right kind; give 0 or more."),
        (
            {"claim_replicas": 1, "claim_replicas_wait": timedelta(seconds=5)},
            "Policy.claim_replicas_wait: it is not shorter than decision_age; give a shorter one.",
        ),
        ({"retry_jitter": -0.1}, "Policy.retry_jitter: it is negative; give 0 or more."),
    ],
)
def test_a_policy_that_cannot_be_is_refused(wrong: dict[str, object], message: str) -> None:
    """A wait as long as decisions last would let every claim be too old to send."""
    with pytest.raises(ConfigurationError) as raised:
        Policy(**wrong)
    assert message == str(raised.value)
