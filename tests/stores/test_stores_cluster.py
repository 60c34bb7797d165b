"""Redis Cluster, three real nodes: slots that move, nodes that die or hang, while callers go on."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from phr_refresh.adapters.ports import ChangeAll, Row, Store, Written
from phr_refresh.adapters.stores import open_async_store, open_store
from phr_refresh.adapters.stores.keys import RedisKeys
from phr_refresh.adapters.stores.redis_cluster import Look, Routing
from phr_refresh.statemachine.effects import ListDue, Load, LoadAll
from phr_refresh.statemachine.errors import StoreUnavailable
from phr_refresh.statemachine.patient import UserKey, key_of
from redis.crc import key_slot
from support.redis_servers import LOGIN, PASSWORD, Cluster, Node, wait_until
from support.store_load import next_number, some_keys, under_load

pytestmark = pytest.mark.once

KEYS = RedisKeys()
KEY = key_of("ada")


@pytest.fixture
def cluster(fleets: Any) -> Cluster:
    """A cluster that other tests use too."""
    return fleets.cluster()


@pytest.fixture
def own_cluster(binary_for: Callable[[str], str], tmp_path: Path) -> Iterator[Cluster]:
    """A cluster for this test alone, which may break it."""
    made = Cluster(binary_for("valkey"), tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def store(cluster: Cluster) -> Iterator[Store]:
    """A store on the shared cluster."""
    with closing(open_store(cluster.url)) as opened:
        yield opened


@pytest.fixture
def own_store(own_cluster: Cluster) -> Iterator[Store]:
    """A store on this test's own cluster."""
    with closing(open_store(own_cluster.url)) as opened:
        yield opened


def slot_of(key: UserKey) -> int:
    """Where the patient lies."""
    return key_slot(KEYS.record(key).encode())


def key_on(cluster: Cluster, node: Node) -> UserKey:
    """A patient who lies on `node`."""
    return next(key for key in some_keys(1000) if cluster.owner(slot_of(key)) is node)


def increment(store: Store, key: UserKey = KEY) -> int:
    """Add one to the number in the record."""
    row = store.call(Load(key))
    assert isinstance(store.call(next_number(key, row)), Written)
    return int(row.value or 0) + 1


def reason_of(call: Callable[[], object]) -> str:
    """The reason of the `StoreUnavailable` that `call` raises."""
    with pytest.raises(StoreUnavailable) as raised:
        call()
    return raised.value.reason


# Slots that move.


@pytest.mark.once
@pytest.mark.parametrize("how", ["key by key", "atomically"])
def test_slots_move_under_load_and_nothing_is_lost(cluster, store, how):
    """Busy slots move from node to node while eight threads write: no write is lost or doubled.

    Callers see no error, but for those who meet a slot that is on its way for longer than they are made to wait.
    """
    keys = some_keys(12)
    slots = sorted({slot_of(key) for key in keys})
    moves = 0
    with under_load(store, keys, threads=8) as load:
        load.wait_for(200)
        for turn in range(3):
            for place, slot in enumerate(slots):
                target = cluster.nodes[(place + turn) % len(cluster.nodes)]
                if cluster.owner(slot) is not target:
                    if how == "atomically":
                        cluster.move_atomically(slot, target)
                    else:
                        cluster.move(slot, target, halfway=lambda: load.wait_for(3))
                    moves += 1
                load.wait_for(20)

    assert moves >= len(slots)
    assert set(load.tally.errors) <= {"cluster_resharding"}
    assert load.tally.errors.total() < load.tally.calls / 20
    assert {key: load.tally.written[key] for key in keys} == {key: int(store.call(Load(key)).value) for key in keys}
    assert set(keys) == set(store.call(ListDue(100)))
    print(f"\n{moves} slots moved {how}: {load.tally.calls} writes, errors {dict(load.tally.errors)}")


@pytest.mark.once
def test_slots_move_under_the_load_of_tasks(cluster, runner):
    """The same for the asyncio store: ASKING goes with its command, whichever of many connections they take."""
    keys = some_keys(8)
    slots = sorted({slot_of(key) for key in keys})
    written: Counter[UserKey] = Counter()
    errors: Counter[str] = Counter()
    halted = asyncio.Event()

    async def add(store: Any, key: UserKey) -> None:
        while not halted.is_set():
            try:
                row = await store.call(Load(key))
                answer = await store.call(next_number(key, row))
                written[key] += isinstance(answer, Written)
            except StoreUnavailable as error:
                errors[error.reason] += 1
            await asyncio.sleep(0)

    def move() -> None:
        for turn in range(3):
            for place, slot in enumerate(slots):
                target = cluster.nodes[(place + turn) % len(cluster.nodes)]
                if cluster.owner(slot) is not target:
                    cluster.move(slot, target, halfway=lambda: time.sleep(0.02))

    async def work() -> dict[UserKey, int]:
        store = open_async_store(f"{cluster.url}?socket_timeout=20&socket_connect_timeout=20")
        try:
            tasks = [asyncio.create_task(add(store, key)) for key in keys for _ in range(3)]
            await asyncio.to_thread(move)
            halted.set()
            await asyncio.gather(*tasks)
            return {key: int((await store.call(Load(key))).value) for key in keys}
        finally:
            await store.close()

    found = runner.run(work())
    assert found == dict(written)
    assert set(errors) <= {"cluster_resharding"}
    assert errors.total() < written.total() / 20


@pytest.mark.parametrize("how", ["threads", "asyncio"])
def test_a_node_that_is_new_is_followed(own_cluster, own_store, runner, how):
    """A slot on its way to a node that keeps nothing yet, and is in no list of slots: it is asked, and then known."""
    new = Node(own_cluster._binary, own_cluster._folder / "new", own_cluster._lines)
    new.start()
    first = own_cluster.nodes[0]
    new.ask("CLUSTER", "MEET", "127.0.0.1", first.port, first.other_port)
    own_cluster.nodes.append(new)
    wait_until(
        lambda: all(b":%d@" % new.port in node.ask("CLUSTER", "NODES") for node in own_cluster.nodes), what="met"
    )
    wait_until(lambda: b"cluster_state:ok" in new.ask("CLUSTER", "INFO"), what="it takes part")
    increment(own_store)
    seen = []

    async def load() -> None:
        store = open_async_store(own_cluster.url)
        try:
            seen.append((await store.call(Load(KEY))).value)
        finally:
            await store.close()

    def look() -> None:
        if how == "threads":
            seen.append(own_store.call(Load(KEY)).value)
        else:
            runner.run(load())

    own_cluster.move(slot_of(KEY), new, halfway=look)
    look()

    assert [b"1", b"1"] == seen
    assert 2 == increment(own_store)


def test_a_claim_is_waited_for_where_its_slot_has_gone(own_cluster, own_store):
    """A write with WAIT to a slot that has moved is told of as replicated where the new node has a replica."""
    replicated, alone = own_cluster.nodes[0], own_cluster.nodes[1]
    replica = own_cluster.add_replica(replicated)
    key, other = key_on(own_cluster, alone), key_on(own_cluster, replicated)
    rows = {one: own_store.call(Load(one)) for one in (key, other)}
    # A replica is told by its primary where a slot is now.
    own_cluster.nodes.remove(replica)
    own_cluster.move(slot_of(key), replicated)
    own_cluster.move(slot_of(other), alone)
    own_cluster.nodes.append(replica)

    answers = [own_store.call(next_number(one, rows[one], replicas=1, replicas_wait=200)) for one in (key, other)]
    assert [True, False] == [answer.is_replicated for answer in answers]
    assert [b"1", b"1"] == [own_store.call(Load(one)).value for one in (key, other)]


def test_a_slot_half_moved_loses_no_entry_that_is_due(cluster, store):
    """While records are on one node and the due index on another, nobody is taken for forgotten."""
    same_slot = [key for key in some_keys(3000) if slot_of(key) == slot_of(KEY)][:5]
    for key in (KEY, *same_slot):
        increment(store, key)
    seen = []

    def look() -> None:
        try:
            seen.append(set(store.call(ListDue(100))))
        except StoreUnavailable as error:
            seen.append(error.reason)

    source = cluster.owner(slot_of(KEY))
    cluster.move(slot_of(KEY), next(node for node in cluster.nodes if node is not source), halfway=look)

    assert seen in (["cluster_resharding"], [{KEY, *same_slot}])
    assert {KEY, *same_slot} == set(store.call(ListDue(100)))


def test_a_patient_on_the_way_is_found(cluster, store):
    """A record that has left its old node already is read from the new one, and written there."""
    increment(store)
    seen = []
    source = cluster.owner(slot_of(KEY))
    target = next(node for node in cluster.nodes if node is not source)
    cluster.move(slot_of(KEY), target, halfway=lambda: seen.append(store.call(Load(KEY)).value))

    assert [b"1"] == seen
    assert 2 == increment(store)
    assert 2 == int(store.call(Load(KEY)).value)


def test_a_batch_goes_where_things_lie(cluster, store):
    """Patients whose slots have moved meanwhile are followed, each one; the answers keep their order."""
    keys = some_keys(600)
    store.call(
        ChangeAll(
            tuple([next_number(key, row) for key, row in zip(keys, store.call(LoadAll(tuple(keys))), strict=True)])
        )
    )
    for key in keys[:4]:
        source = cluster.owner(slot_of(key))
        cluster.move(slot_of(key), next(node for node in cluster.nodes if node is not source))

    rows = store.call(LoadAll(tuple(keys)))
    answers = store.call(ChangeAll(tuple([next_number(key, row) for key, row in zip(keys, rows, strict=True)])))

    assert {b"1"} == {row.value for row in rows}
    assert {Written} == {type(answer) for answer in answers}
    assert [answer.version for answer in answers] == [row.version for row in store.call(LoadAll(tuple(keys)))]


# Nodes that die, and nodes that hang.


def test_patients_of_other_nodes_go_on(own_cluster, own_store):
    """A dead node takes its own patients with it, at once and with a reason, as long as the cluster allows."""
    for node in own_cluster.nodes:
        node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
    dead, alive = own_cluster.nodes[1], own_cluster.nodes[2]
    lost, kept = key_on(own_cluster, dead), key_on(own_cluster, alive)
    increment(own_store, lost)
    dead.kill()

    assert "connection_failed" == reason_of(lambda: own_store.call(Load(lost)))
    assert 1 == increment(own_store, kept)
    assert reason_of(lambda: own_store.call(ListDue(5))) in ("connection_failed", "cluster_unavailable")


def test_a_cluster_that_is_down_says_so(own_cluster, own_store):
    """Where slots are not served and the cluster wants all of them, every node refuses."""
    kept = key_on(own_cluster, own_cluster.nodes[2])
    own_store.call(Load(kept))
    own_cluster.nodes[0].kill()
    wait_until(lambda: b"cluster_state:fail" in own_cluster.nodes[2].ask("CLUSTER", "INFO"), what="the cluster is down")

    assert "cluster_unavailable" == reason_of(lambda: own_store.call(Load(kept)))


HURRIED = "?socket_timeout=0.5&socket_connect_timeout=0.5"
#: What one call may take that waits for one time-out, and what one that then asks three nodes in vain where things lie.
ONE_TIME_OUT, FOUR_TIME_OUTS = 0.95, 2.45


def calls_of(store: Any, key: UserKey, keys: list[UserKey]) -> dict[str, Callable[[], Any]]:
    """A call about one patient, one about many, and one about all shards."""
    return {
        "load": lambda: store.call(Load(key)),
        "write": lambda: store.call(next_number(key, Row(None, "", 0), replicas=1, replicas_wait=100)),
        "load_all": lambda: store.call(LoadAll(tuple(keys))),
        "due": lambda: store.call(ListDue(9)),
    }


@pytest.mark.parametrize("call", ["load", "write", "load_all", "due"])
def test_a_node_that_hangs_costs_one_time_out(own_cluster, call):
    """However many commands: a caller waits for one time-out, and patients of other nodes for nothing."""
    with closing(open_store(f"{own_cluster.url}{HURRIED}")) as store:
        keys = some_keys(300)
        store.call(LoadAll(tuple(keys)))
        hanging = own_cluster.nodes[0]
        key, other = key_on(own_cluster, hanging), key_on(own_cluster, own_cluster.nodes[2])
        hanging.suspend()
        for _ in range(2):
            started = time.perf_counter()
            assert "timed_out" == reason_of(calls_of(store, key, keys)[call])
            assert time.perf_counter() - started < ONE_TIME_OUT
            started = time.perf_counter()
            store.call(Load(other))
            assert time.perf_counter() - started < 0.45
        hanging.resume()

        assert 300 == len(store.call(LoadAll(tuple(keys))))


@pytest.mark.parametrize("call", ["load", "write", "load_all", "due"])
def test_a_cluster_that_hangs_costs_a_time_out_for_each_node(own_cluster, call):
    """One who meets it asks each node in vain where things lie; those who come meanwhile wait for one time-out."""
    with closing(open_store(f"{own_cluster.url}{HURRIED}")) as store:
        keys = some_keys(300)
        store.call(LoadAll(tuple(keys)))
        for node in own_cluster.nodes:
            node.suspend()
        took = []

        def wait() -> str:
            started = time.perf_counter()
            reason = reason_of(calls_of(store, KEY, keys)[call])
            took.append(time.perf_counter() - started)
            return reason

        with ThreadPoolExecutor(6) as threads:
            reasons = list(threads.map(lambda _: wait(), range(6)))
        for node in own_cluster.nodes:
            node.resume()

        assert ["timed_out"] * 6 == reasons
        assert max(took) < FOUR_TIME_OUTS
        assert 5 == sum(seconds < ONE_TIME_OUT for seconds in took)
        assert 300 == len(store.call(LoadAll(tuple(keys))))


def test_a_node_that_hangs_costs_one_time_out_under_asyncio(own_cluster, runner):
    """The same for the asyncio store, whose tasks meet it at the same time."""

    async def work() -> list[float]:
        store = open_async_store(f"{own_cluster.url}{HURRIED}")
        keys = some_keys(300)
        try:
            await store.call(LoadAll(tuple(keys)))
            own_cluster.nodes[0].suspend()

            async def wait() -> float:
                started = time.perf_counter()
                with pytest.raises(StoreUnavailable, match="timed_out"):
                    await store.call(LoadAll(tuple(keys)))
                return time.perf_counter() - started

            return await asyncio.gather(*(wait() for _ in range(3)))
        finally:
            own_cluster.nodes[0].resume()
            await store.close()

    assert max(runner.run(work())) < ONE_TIME_OUT


def test_a_cluster_that_hangs_at_first_is_waited_for_once(own_cluster):
    """Those who wait while one tries to connect are told what that one met."""
    with closing(open_store(f"{own_cluster.url}{HURRIED}")) as store:
        for node in own_cluster.nodes:
            node.suspend()
        started = time.perf_counter()
        with ThreadPoolExecutor(6) as threads:
            reasons = list(threads.map(lambda _: reason_of(lambda: store.call(Load(KEY))), range(6)))
        took = time.perf_counter() - started
        for node in own_cluster.nodes:
            node.resume()

        assert ["timed_out"] * 6 == reasons
        assert took < FOUR_TIME_OUTS
        wait_until(lambda: _answers(store), what="it answers again")


def test_what_was_met_at_first_is_forgotten_once_it_is_connected():
    """A later time-out is told to those whom it meets, and to nobody as what the first connection met."""
    node = SimpleNamespace(name="a:1", host="a", port=1)
    cluster = SimpleNamespace(
        get_node_from_key=lambda _: node,
        get_primaries=lambda: [node],
        nodes_manager=SimpleNamespace(startup_nodes={}),
    )
    routing = Routing(lambda host, port: node, seconds=60)
    routing.refuse(redis.ConnectionError("at first"))
    with pytest.raises(redis.ConnectionError, match="at first"):
        routing.check()
    routing._until = 0.0
    steps = routing.steps(cluster, [(("EVALSHA", "sha", 1, "key"),)])
    next(steps)

    assert Look("a:1", [("a", 1)]) == steps.send([[redis.TimeoutError("later")]])
    with pytest.raises(redis.TimeoutError, match="later"):
        steps.send([])
    routing.check()


def _answers(store: Store) -> bool:
    try:
        return store.call(Load(KEY)).value is None
    except StoreUnavailable:
        return False


@pytest.mark.once
def test_a_replica_takes_over(own_cluster, own_store):
    """A primary dies under load: after the cluster has made its replica the primary, all goes on by itself."""
    primary = own_cluster.nodes[0]
    for node in own_cluster.nodes:
        node.ask("CONFIG", "SET", "cluster-replica-validity-factor", "0")
    own_cluster.add_replica(primary)
    keys = [key for key in some_keys(40) if own_cluster.owner(slot_of(key)) is primary][:4]
    with under_load(own_store, keys, threads=4, pause=0.002) as load:
        load.wait_for(100)
        primary.kill()
        load.wait_for(100)

    assert set(load.tally.errors) <= {"connection_failed", "cluster_unavailable"}
    for key in keys:
        most = load.tally.written[key] + load.tally.open_writes[key]
        assert int(own_store.call(Load(key)).value) <= most
    print(load.tally)


# Around it.


def test_tasks_queue_for_a_connection_to_each_node(cluster, runner):
    """Of two hundred tasks at the same moment every one is answered, over three connections to each node."""

    async def work() -> int:
        store = open_async_store(f"{cluster.url}?max_connections=3&socket_timeout=20&socket_connect_timeout=20")
        try:
            return len(await asyncio.gather(*(store.call(Load(key)) for key in some_keys(200))))
        finally:
            await store.close()

    assert 200 == runner.run(work())
    for node in cluster.nodes:
        assert int(node.ask("INFO", "stats")["total_connections_received"]) > 0


def test_a_fork_uses_connections_of_its_own(store):
    """A store that was used before a fork works on both sides of it."""
    increment(store)
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(increment(store))
        except BaseException:
            os._exit(99)

    assert 2 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert 3 == increment(store)


def test_close_leaves_no_connection(cluster):
    """After `close` the nodes know of no client of ours."""
    store = open_store(cluster.url)
    store.call(LoadAll(tuple(some_keys(50))))
    assert 3 == sum(b"name=phr-refresh" in node.ask("CLIENT", "LIST", "TYPE", "normal") for node in cluster.nodes)

    store.close()

    def is_gone() -> bool:
        return not any(b"name=phr-refresh" in node.ask("CLIENT", "LIST", "TYPE", "normal") for node in cluster.nodes)

    wait_until(is_gone, what="no connection is left")


def test_a_server_that_is_in_no_cluster_is_named(server):
    """redis+cluster:// on a standalone server says what is wrong."""
    with closing(open_store(f"redis+cluster://127.0.0.1:{server.port}")) as store:
        assert "not_a_cluster" == reason_of(lambda: store.call(Load(KEY)))


def test_a_plain_url_on_a_cluster_says_what_is_needed(cluster):
    """redis:// on a node of a cluster works for a third of the patients; the others are told why not."""
    key = key_on(cluster, cluster.nodes[2])
    with closing(open_store(f"redis://{LOGIN}{cluster.nodes[0].place}")) as store:
        assert "needs_a_cluster_client" == reason_of(lambda: store.call(Load(key)))


def test_wrong_credentials_are_told_of_and_not_shown(cluster):
    """Neither the error nor what it is chained to has the password in it."""
    with closing(open_store(f"redis+cluster://phr-refresh:hunter2@{cluster.places}")) as store:
        with pytest.raises(StoreUnavailable) as raised:
            store.call(Load(KEY))

    error: BaseException | None = raised.value
    assert "authentication_failed" == raised.value.reason
    assert str(raised.value).startswith(f"the store redis+cluster://{cluster.places} is unavailable")
    while error:
        assert "hunter2" not in str(error)
        assert PASSWORD not in str(error)
        error = error.__cause__ or error.__context__


@pytest.mark.once
def test_the_measuring_program_runs():
    """It prints a line for each arrangement; on one server, a cluster and behind Sentinel nobody sees an error."""
    program = Path(__file__).parents[1] / "programs" / "measure_fleets.py"
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(program), "0.5", "2"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert "" == done.stderr
    lines = [re.split(r"\s{2,}", line) for line in done.stdout.splitlines()]
    names = ["one server", "cluster of three", "behind Sentinel", "behind Sentinel, primary killed"]
    assert names == [line[0] for line in lines]
    assert ["errors none"] * 3 == [line[-1] for line in lines[:3]]
