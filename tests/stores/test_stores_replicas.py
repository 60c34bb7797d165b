"""What a primary that dies takes with it, and what `WAIT` saves: real servers, provoked step by step."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from phr_refresh import Patient, PhrRefresh, Policy, Receipt
from phr_refresh.adapters.ports import ChangeAll, Row, Written
from phr_refresh.adapters.stores import open_async_store, open_store
from phr_refresh.adapters.stores.redis_commands import RedisCommands
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.statemachine.effects import Load, LoadAll
from phr_refresh.statemachine.patient import key_of
from phr_refresh.testing import ScriptedUpstream
from support.redis_servers import LOGIN, Cluster, Node, Watched, wait_until
from support.samples import ADA, UNHURRIED
from support.store_load import next_number, some_keys

pytestmark = pytest.mark.once

KEY = key_of("ada")
#: Long enough for a replica of a busy machine; what is not replicated at all is told of by a shorter one.
LONG, SHORT = 4_000, 100
#: A port that nobody listens on.
NOWHERE = 1


@pytest.fixture(params=["valkey"])
def pair(request: pytest.FixtureRequest, binary_for: Callable[[str], str], tmp_path: Path) -> Iterator[Watched]:
    """A primary and its replica, without sentinels."""
    made = Watched(binary_for(request.param), tmp_path, sentinels=0)
    made.start()
    yield made
    made.stop()


def url_of(node: Node) -> str:
    """For the user who may do the least; answers may take long here."""
    return f"redis://{LOGIN}{node.place}?socket_timeout=20"


def cut_off(replica: Node) -> None:
    """Let the replica look for its primary elsewhere: nothing reaches it from now on."""
    replica.ask("REPLICAOF", "127.0.0.1", NOWHERE)


# What the store says.


def test_a_write_is_told_of_as_replicated_when_it_is(pair):
    """With a replica that follows, yes; with two asked for, no; where none is asked for nobody waits."""
    with closing(open_store(url_of(pair.servers[0]))) as store:
        now = store.call(Load(KEY)).now
        answers = [
            store.call(next_number(key_of(name), Row(None, "", now), replicas=replicas, replicas_wait=wait))
            for name, replicas, wait in (("one", 1, LONG), ("two", 2, SHORT), ("none", 0, 0))
        ]

    assert [True, False, True] == [answer.is_replicated for answer in answers]
    with closing(pair.servers[1].client()) as replica:
        assert 1 == sum(key_of("one").encode() in name for name in replica.keys("*:r:*"))


def test_a_replica_that_hangs_has_nothing(pair):
    """SIGSTOP: the connection stands, nothing is acknowledged; the write took effect, and is not replicated."""
    with closing(open_store(url_of(pair.servers[0]))) as store:
        row = store.call(Load(KEY))
        pair.servers[1].suspend()
        try:
            answer = store.call(next_number(KEY, row, replicas=1, replicas_wait=SHORT))
        finally:
            pair.servers[1].resume()

        assert isinstance(answer, Written)
        assert not answer.is_replicated
        assert b"1" == store.call(Load(KEY)).value


@pytest.mark.parametrize("pair", ["valkey", "redis"], indirect=True)
def test_a_repeated_write_is_not_taken_for_replicated(pair):
    """Sent again after its answer was lost, on a new connection, it changes nothing, and waits for the copies."""
    primary, replica = pair.servers
    with closing(primary.client()) as client:
        seconds, _ = client.time()
        change = next_number(KEY, Row(None, "", seconds * 1000), replicas=1, replicas_wait=SHORT)
        command = RedisCommands().write(change)
        replica.suspend()
        try:
            client.execute_command(*command.in_full())
            with closing(primary.client()) as other, other.pipeline(transaction=False) as pipeline:
                pipeline.execute_command(*command.in_full())
                pipeline.execute_command(*command.then.command)
                written, copies = pipeline.execute()
        finally:
            replica.resume()

    answer = command.then.read(command.read(written), copies)
    assert (Written, False) == (type(answer), answer.is_replicated)


def test_a_lost_race_waits_for_nobody_in_vain(pair):
    """A conflict is a row, whatever WAIT says."""
    with closing(open_store(url_of(pair.servers[0]))) as store:
        row = store.call(Load(KEY))
        store.call(next_number(KEY, row))

        assert b"1" == store.call(next_number(KEY, row, replicas=1, replicas_wait=LONG)).value


def test_scripts_that_were_forgotten_are_waited_for_too(pair):
    """The first EVALSHA of a server says NOSCRIPT: what counts is the copies of the write that took effect."""
    with closing(open_store(url_of(pair.servers[0]))) as store:
        row = store.call(Load(KEY))
        pair.servers[0].ask("SCRIPT", "FLUSH")
        answer = store.call(next_number(KEY, row, replicas=1, replicas_wait=LONG))

        assert answer.is_replicated
        assert b"1" == store.call(Load(KEY)).value


def test_in_a_batch_each_write_waits_for_itself(pair):
    """Those that ask for copies are told, each, whether there are."""
    with closing(open_store(url_of(pair.servers[0]))) as store:
        empty = Row(None, "", store.call(Load(KEY)).now)
        wishes = [(0, 0), (1, LONG), (2, SHORT)]
        answers = store.call(
            ChangeAll(
                tuple(
                    [
                        next_number(key, empty, replicas=replicas, replicas_wait=wait)
                        for key, (replicas, wait) in zip(some_keys(3), wishes, strict=True)
                    ]
                )
            )
        )

    assert [True, True, False] == [answer.is_replicated for answer in answers]


def test_waiting_ends_before_the_client_gives_up(pair):
    """A wait longer than the time-out of the socket would end in an error, and nobody would know what became of it."""
    with closing(open_store(f"redis://{LOGIN}{pair.servers[0].place}?socket_timeout=2")) as store:
        row = store.call(Load(KEY))
        started = time.perf_counter()
        answer = store.call(next_number(KEY, row, replicas=2, replicas_wait=60_000))

    assert not answer.is_replicated
    assert time.perf_counter() - started < 2


def test_the_asyncio_store_waits_too(pair, runner):
    """The same answers."""

    async def work() -> list[bool]:
        store = open_async_store(url_of(pair.servers[0]))
        try:
            empty = Row(None, "", (await store.call(Load(KEY))).now)
            one = await store.call(next_number(KEY, empty, replicas=1, replicas_wait=LONG))
            two = await store.call(next_number(key_of("bob"), empty, replicas=2, replicas_wait=SHORT))
            return [one.is_replicated, two.is_replicated]
        finally:
            await store.close()

    assert [True, False] == runner.run(work())


@pytest.mark.once
def test_in_a_cluster_the_node_of_the_patient_is_waited_for(binary_for, tmp_path):
    """Of three nodes one has a replica: writes to it are replicated, writes to the others are not; moved ones too."""
    cluster = Cluster(binary_for("valkey"), tmp_path)
    cluster.start()
    try:
        cluster.add_replica(cluster.nodes[0])
        keys = some_keys(30)
        with closing(open_store(f"{cluster.url}?socket_timeout=20")) as store:
            rows = store.call(LoadAll(tuple(keys)))
            changes = [
                next_number(key, row, replicas=1, replicas_wait=SHORT) for key, row in zip(keys, rows, strict=True)
            ]
            answers = [store.call(change) for change in changes]
            on_first = _keys_on(cluster.nodes[0])
            assert {key for key, answer in zip(keys, answers, strict=True) if answer.is_replicated} == on_first
            assert 0 < len(on_first) < len(keys)
    finally:
        cluster.stop()


def _keys_on(node: Node) -> set[str]:
    with closing(node.client()) as client:
        return {name.decode().rpartition(":")[2] for name in client.keys("*:r:*")}


# What a lost last write costs.


def visit(
    node: Node, upstream: ScriptedUpstream, *, replicas: int, patient: Patient = ADA, can_reach: bool = True
) -> Receipt:
    """A process refreshes the patient's record, its store on `node`."""
    policy = Policy(
        login_budget=UNHURRIED.login_budget,
        claim_replicas=replicas,
        claim_replicas_wait=timedelta(milliseconds=LONG if can_reach else SHORT),
    )
    with PhrRefresh(store=open_store(url_of(node)), upstream=upstream, worker=InlineWorker(), policy=policy) as phr:
        return phr.refresh(patient)


def fail_over(pair: Watched) -> Node:
    """The primary dies, its replica becomes the primary."""
    primary, replica = pair.servers
    primary.kill()
    replica.ask("REPLICAOF", "NO", "ONE")
    wait_until(lambda: replica.ask("ROLE")[0] == b"master", what="the replica is the primary")
    return replica


def test_without_wait_a_lost_claim_costs_one_more_kick_off(pair):
    """The claim was acknowledged and dies with the primary: the next login kicks off once more, and never again."""
    upstream = ScriptedUpstream()
    cut_off(pair.servers[1])

    first = visit(pair.servers[0], upstream, replicas=0)
    promoted = fail_over(pair)
    receipts = [visit(promoted, upstream, replicas=0) for _ in range(3)]

    assert "started" == first.kind
    assert 2 == upstream.kick_offs
    assert ["started", "joined", "joined"] == [receipt.kind for receipt in receipts]


def test_only_patients_whose_claim_was_lost_are_kicked_off_again(pair):
    """Those whose claims had reached the replica are not touched."""
    upstream = ScriptedUpstream()
    patients = [Patient(f"user {number}", f"101234567{number}V123456", f"{number}1") for number in range(6)]
    for number, patient in enumerate(patients):
        if number == 4:
            wait_until(lambda: pair.servers[0].ask("WAIT", 1, 10), what="the replica is up to date")
            wait_until(lambda: len(_keys_on(pair.servers[1])) == 4, what="it has the first four")
            cut_off(pair.servers[1])
        visit(pair.servers[0], upstream, replicas=0, patient=patient)

    promoted = fail_over(pair)
    kinds = [visit(promoted, upstream, replicas=0, patient=patient).kind for patient in patients]

    assert ["joined"] * 4 + ["started"] * 2 == kinds
    assert len(patients) + 2 == upstream.kick_offs


def test_with_wait_a_lost_claim_costs_nothing(pair):
    """A claim that no replica has is given back: nothing is sent, so what dies with the primary is no kick-off."""
    upstream = ScriptedUpstream()
    cut_off(pair.servers[1])

    first = visit(pair.servers[0], upstream, replicas=1, can_reach=False)
    assert 0 == upstream.kick_offs
    promoted = fail_over(pair)
    receipts = [visit(promoted, upstream, replicas=0) for _ in range(3)]

    assert ("deferred", "never_sent") == (first.kind, first.reason)
    assert 1 == upstream.kick_offs
    assert ["started", "joined", "joined"] == [receipt.kind for receipt in receipts]


def test_with_wait_an_acknowledged_claim_survives(pair):
    """What was sent is known to the replica: after the failover nobody sends it again."""
    upstream = ScriptedUpstream()

    first = visit(pair.servers[0], upstream, replicas=1)
    receipts = [visit(fail_over(pair), upstream, replicas=0)]

    assert ("started", ["joined"]) == (first.kind, [receipt.kind for receipt in receipts])
    assert first.refresh_id == receipts[0].refresh_id
    assert 1 == upstream.kick_offs
