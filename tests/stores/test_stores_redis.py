"""What only the Redis stores must do: round trips, scripts that get lost, servers that misbehave, keys."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
import redis
import redis.asyncio
from phr_refresh.adapters.ports import Change, ChangeAll, Row, Store, Written
from phr_refresh.adapters.stores import open_async_store, open_store
from phr_refresh.adapters.stores.keys import SHARDS, RedisKeys
from phr_refresh.adapters.stores.redis_async import AsyncRedisStore
from phr_refresh.adapters.stores.redis_commands import RedisCommands
from phr_refresh.adapters.stores.redis_errors import unavailable
from phr_refresh.adapters.stores.redis_sync import RedisStore
from phr_refresh.adapters.stores.redis_talks import MOST_TOGETHER
from phr_refresh.statemachine.effects import ListDue, Load, LoadAll, TokenChange
from phr_refresh.statemachine.errors import ConfigurationError, RecordUnreadable, StoreUnavailable
from phr_refresh.statemachine.patient import key_of
from redis.crc import key_slot
from support.values import replace

KEY = key_of("ada")
MINUTE = 60_000
KEYS = RedisKeys()
SECRET = "hunter2"
CLUSTER_SLOTS = 16384


def change(now: int, **fields) -> Change:
    """A change that creates a record with a token, due at once, unless `fields` say otherwise."""
    usual = Change(
        key=KEY,
        value=b"record",
        expected_version="",
        decided_at=now,
        max_age=10 * MINUTE,
        due_at=now,
        keep_until=now + 60 * MINUTE,
        token_change=TokenChange.PUT,
        token=b"token",
        token_expires_at=now + 15 * MINUTE,
    )
    return replace(usual, **fields)


@pytest.fixture
def store(server) -> Iterator[Store]:
    """A store on each real server."""
    with closing(open_store(server.url)) as opened:
        yield opened


@pytest.fixture
def client(server) -> Iterator[redis.Redis]:
    """A look behind the store's back."""
    with closing(server.client()) as opened:
        yield opened


# Round trips.


def test_each_call_is_one_round_trip(server):
    """Load, write and due each send once and read once; batches once for each so many, and not for nothing."""
    sent = []

    class Counting(redis.Connection):
        def send_packed_command(self, command, check_health=True):
            sent.append(command)
            super().send_packed_command(command, check_health=check_health)

    pool = redis.ConnectionPool(connection_class=Counting, port=server.port, protocol=2)
    with closing(redis.Redis(connection_pool=pool)) as counted:
        store = RedisStore(counted)
        trips = [_trips(sent, call) for call in (*_calls(store), *_calls(store))]
        pool.disconnect()

    # The first time, each script is unknown to the server and sent in full.
    assert [1, 1, 1, 1, 0, 0, 1, 1, 3, 1] == trips[10:]
    assert max(trips[:8]) <= 2


def _calls(store):
    now = store.call(Load(key_of("nobody"))).now
    key = key_of(f"patient {time.perf_counter_ns()}")
    return [
        lambda: store.call(Load(key)),
        lambda: store.call(Load(key, with_token=True)),
        lambda: store.call(change(now, key=key)),
        lambda: store.call(ListDue(5)),
        lambda: store.call(LoadAll(())),
        lambda: store.call(ChangeAll(())),
        lambda: store.call(LoadAll((key, KEY, key))),
        lambda: store.call(
            ChangeAll(tuple([change(now, key=key_of(f"{key} {number}")) for number in range(MOST_TOGETHER)]))
        ),
        lambda: store.call(LoadAll(tuple([key_of(str(number)) for number in range(2 * MOST_TOGETHER + 1)]))),
        lambda: store.call(change(now, key=key_of(f"{key} replicated"), replicas=1, replicas_wait=1)),
    ]


def _trips(sent: list, call) -> int:
    before = len(sent)
    call()
    return len(sent) - before


def test_each_awaited_call_is_one_round_trip(server, runner):
    """The same under asyncio."""
    sent = []

    class Counting(redis.asyncio.Connection):
        async def send_packed_command(self, command, check_health=True):
            sent.append(command)
            await super().send_packed_command(command, check_health=check_health)

    async def count_trips() -> list[int]:
        pool = redis.asyncio.ConnectionPool(connection_class=Counting, port=server.port, protocol=2)
        store = AsyncRedisStore(redis.asyncio.Redis(connection_pool=pool))
        trips = []
        for name in ("first", "second"):
            now = (await store.call(Load(KEY))).now
            several = [change(now, key=key_of(f"{name} {number}")) for number in range(3)]
            calls = (
                *(store.call(Load(KEY)), store.call(change(now, key=key_of(name))), store.call(ListDue(5))),
                *(
                    store.call(LoadAll(())),
                    store.call(ChangeAll(tuple(several))),
                    store.call(LoadAll(tuple([KEY] * (MOST_TOGETHER + 1)))),
                ),
            )
            for call in calls:
                before = len(sent)
                await call
                trips.append(len(sent) - before)
        await pool.disconnect()
        return trips

    assert [1, 1, 1, 0, 1, 2] == runner.run(count_trips())[6:]


# Scripts.


def test_forgotten_scripts_are_sent_again(store, client):
    """After SCRIPT FLUSH every call works as before."""
    now = store.call(Load(KEY)).now
    client.script_flush()
    written = store.call(change(now))
    client.script_flush()
    loaded = store.call(Load(KEY, with_token=True))
    client.script_flush()

    assert isinstance(written, Written)
    assert (b"record", b"token") == (loaded.value, loaded.token)
    assert (KEY,) == store.call(ListDue(5))


def test_forgotten_scripts_of_a_batch_are_sent_again(store, client):
    """After SCRIPT FLUSH a batch answers each patient, and what was written before the flush is not written twice."""
    now = store.call(Load(KEY)).now
    keys = [key_of(f"user {number}") for number in range(5)]
    client.script_flush()
    written = store.call(ChangeAll(tuple([change(now, key=key) for key in keys])))
    client.script_flush()
    rows = store.call(LoadAll(tuple(keys)))

    assert [answer.version for answer in written] == [row.version for row in rows]
    assert {b"record"} == {row.value for row in rows}


def test_what_is_none_of_ours_hides_no_other_patient(store, client):
    """In a batch a foreign value, or a key of another type, is an answer about one patient."""
    now = store.call(Load(KEY)).now
    client.hset(KEYS.record(key_of("hash")), "field", "theirs")
    client.set(KEYS.record(key_of("short")), b"short")
    keys = [key_of("hash"), KEY, key_of("short")]

    written = store.call(ChangeAll(tuple([change(now, key=key) for key in keys])))
    rows = store.call(LoadAll(tuple(keys)))

    assert [RecordUnreadable, Written, RecordUnreadable] == [type(answer) for answer in written]
    assert [RecordUnreadable, Row, RecordUnreadable] == [type(row) for row in rows]
    for unreadable in (rows[0], written[2]):
        assert str(unreadable) == (
            "a stored record cannot be read: what lies at its key was not written by phr-refresh; "
            "remove it, or use another prefix for the keys."
        )


def test_a_batch_that_is_refused_raises(store, client):
    """What says nothing about one patient alone is the store's failure, as for a single call."""
    now = store.call(Load(KEY)).now
    client.config_set("maxmemory", "1")
    try:
        assert "out_of_memory" == reason_of(
            lambda: store.call(ChangeAll((change(now), change(now, key=key_of("bob")))))
        )
    finally:
        client.config_set("maxmemory", "0")


def test_a_restarted_server_is_used_again_at_once(own_server):
    """A pooled connection that broke, and scripts that are gone, cost nobody an error."""
    with closing(open_store(own_server.url)) as store:
        store.call(change(store.call(Load(KEY)).now))
        own_server.stop()
        own_server.start()

        assert store.call(Load(KEY)).value is None
        assert isinstance(store.call(change(store.call(Load(KEY)).now)), Written)
        assert (KEY,) == store.call(ListDue(5))


def test_a_restarted_server_is_used_again_under_asyncio(own_server, runner):
    """The same for the asyncio store."""

    async def restart_between() -> Row:
        store = open_async_store(own_server.url)
        try:
            await store.call(change((await store.call(Load(KEY))).now))
            own_server.stop()
            own_server.start()
            return await store.call(Load(KEY))
        finally:
            await store.close()

    assert runner.run(restart_between()).value is None


# Writes whose answer is lost.


def test_a_write_sent_twice_is_written_once(client):
    """The same command again finds its own version and says so."""
    now = _now(client)
    command = RedisCommands().write(change(now))

    answers = [command.read(client.execute_command(*command.in_full())) for _ in range(2)]

    assert [Written, Written] == [type(answer) for answer in answers]
    assert answers[0].version == answers[1].version


def _now(client: redis.Redis) -> int:
    seconds, microseconds = client.time()
    return seconds * 1000 + microseconds // 1000


@contextmanager
def losing_the_answer_to(marker: bytes, port: int) -> Iterator[int]:
    """A proxy that passes on the first request holding `marker`, and breaks the connection instead of answering."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        lost = threading.Event()

        def serve(near: socket.socket) -> None:
            with near, socket.create_connection(("127.0.0.1", port)) as far:
                while asked := near.recv(65536):
                    far.sendall(asked)
                    answer = far.recv(65536)
                    if marker in asked and not lost.is_set():
                        lost.set()
                        return
                    near.sendall(answer)

        def accept() -> None:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(near,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        assert lost.is_set()
        # Closing alone does not wake a thread that accepts.
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_write_whose_answer_is_lost_is_repeated_and_known(server, client):
    """The connection breaks after the server wrote: the caller still learns that it is written."""
    with closing(open_store(server.url)) as direct:
        now = direct.call(Load(KEY)).now
        direct.call(change(now, key=key_of("warm up the script")))
    with (
        losing_the_answer_to(b"precious", server.port) as port,
        closing(open_store(f"redis://127.0.0.1:{port}")) as store,
    ):
        answer = store.call(change(now, value=b"precious"))

    assert isinstance(answer, Written)
    assert client.get(KEYS.record(KEY)) == answer.version.encode() + b"precious"


def test_a_lost_answer_is_known_under_asyncio_too(server, client, runner):
    """The same for the asyncio store."""

    async def write(port: int, now: int) -> Written | Row:
        store = open_async_store(f"redis://127.0.0.1:{port}")
        try:
            return await store.call(change(now, value=b"precious"))
        finally:
            await store.close()

    now = _now(client)
    with closing(open_store(server.url)) as direct:
        direct.call(change(now, key=key_of("warm up the script")))
    with losing_the_answer_to(b"precious", server.port) as port:
        answer = runner.run(write(port, now))

    assert isinstance(answer, Written)


# Servers that misbehave.


def reason_of(call) -> str:
    """The reason of the `StoreUnavailable` that `call` raises; the client's error is chained to it."""
    with pytest.raises(StoreUnavailable) as raised:
        call()
    assert isinstance(raised.value.__cause__, redis.RedisError)
    return raised.value.reason


def test_a_stopped_server_is_unavailable(own_server):
    """The error names the server and the reason."""
    with closing(open_store(own_server.url)) as store:
        now = store.call(Load(KEY)).now
        own_server.stop()

        with pytest.raises(StoreUnavailable) as raised:
            store.call(Load(KEY))
        assert str(raised.value) == (
            f"the store {own_server.url} is unavailable (connection_failed); check that it runs and can be reached."
        )
        assert "connection_failed" == reason_of(lambda: store.call(change(now)))
        assert "connection_failed" == reason_of(lambda: store.call(ListDue(1)))


@pytest.fixture
def black_hole() -> Iterator[int]:
    """The port of a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_server_that_never_answers_is_given_up_in_time(black_hole):
    """One time-out, not several: a time-out is not tried again."""
    with closing(open_store(f"redis://127.0.0.1:{black_hole}?socket_timeout=0.2")) as store:
        started = time.perf_counter()
        assert "timed_out" == reason_of(lambda: store.call(Load(KEY)))
        assert time.perf_counter() - started < 0.4


def test_a_server_that_never_answers_is_given_up_under_asyncio(black_hole, runner):
    """The same for the asyncio store."""

    async def load() -> None:
        store = open_async_store(f"redis://127.0.0.1:{black_hole}?socket_timeout=0.2")
        try:
            await asyncio.wait_for(store.call(Load(KEY)), timeout=0.4)
        finally:
            await store.close()

    assert "timed_out" == reason_of(lambda: runner.run(load()))


@pytest.mark.parametrize("login", [f":{SECRET}@", f"nobody:{SECRET}@", ""], ids=["password", "user", "none"])
def test_a_wrong_password_is_said_but_not_shown(own_server, login):
    """Wrong or missing credentials give a reason of their own, and no credentials."""
    with closing(own_server.client()) as client:
        client.config_set("requirepass", "correct")
    with closing(open_store(f"redis://{login}127.0.0.1:{own_server.port}")) as store:
        with pytest.raises(StoreUnavailable) as raised:
            store.call(Load(KEY))

    error: BaseException | None = raised.value
    assert "authentication_failed" == raised.value.reason
    while error:
        assert SECRET not in str(error)
        error = error.__cause__ or error.__context__


def test_the_right_password_opens(own_server):
    """Credentials in the URL are used, escapes decoded."""
    with closing(own_server.client()) as client:
        client.config_set("requirepass", "p/#@?")
    with closing(open_store(f"redis://:p%2F%23%40%3F@127.0.0.1:{own_server.port}")) as store:
        assert isinstance(store.call(change(store.call(Load(KEY)).now)), Written)


def test_a_replica_is_read_only(own_server):
    """After a failover the old primary refuses writes, and says why."""
    with closing(open_store(own_server.url)) as store, closing(own_server.client()) as client:
        now = store.call(Load(KEY)).now
        client.execute_command("REPLICAOF", "127.0.0.1", "1")

        assert "read_only" == reason_of(lambda: store.call(change(now)))


def test_a_full_server_is_out_of_memory(own_server):
    """A server that evicts nothing refuses to grow."""
    with closing(open_store(own_server.url)) as store, closing(own_server.client()) as client:
        now = store.call(Load(KEY)).now
        client.config_set("maxmemory", "1")

        assert "out_of_memory" == reason_of(lambda: store.call(change(now)))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "cannot_persist"),
        (redis.ResponseError("BUSY Redis is busy running a script"), "busy_with_a_script"),
        (redis.ResponseError("NOREPLICAS Not enough good replicas to write."), "not_enough_replicas"),
        (redis.ResponseError("Error running script: @user_script:9: -READONLY You can't write"), "read_only"),
        (redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "loading"),
        (redis.exceptions.NoPermissionError("this user has no permissions"), "not_permitted"),
        (redis.exceptions.MasterDownError("Link with MASTER is down"), "primary_down"),
        (redis.exceptions.RedisClusterException("no node can be reached"), "cluster_unavailable"),
        (redis.exceptions.MaxConnectionsError("Too many connections"), "too_many_connections"),
        (redis.ResponseError(f"something new about {SECRET}"), "redis_error"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_error_has_a_reason(error, reason):
    """Error replies become reasons to act upon, and nothing of their text is taken over."""
    translated = unavailable("redis", error)

    assert reason == translated.reason
    assert SECRET not in str(translated)


def test_a_key_of_another_type_is_reported_and_kept(store, client):
    """What is none of ours is neither taken for nothing nor written over."""
    client.hset(KEYS.record(KEY), "field", "theirs")

    assert "wrong_type" == reason_of(lambda: store.call(Load(KEY)))
    assert "wrong_type" == reason_of(lambda: store.call(change(_now(client))))
    assert {b"field": b"theirs"} == client.hgetall(KEYS.record(KEY))


@pytest.mark.parametrize("value", [b"", b"short", b"\x00" * 20, b'{"v": 1, "theirs": true}'])
def test_a_foreign_value_is_reported_and_kept(store, client, value):
    """A value without a version is unreadable, and never reset."""
    client.set(KEYS.record(KEY), value)

    for call in (lambda: store.call(Load(KEY)), lambda: store.call(change(_now(client)))):
        with pytest.raises(RecordUnreadable, match="what lies at its key was not written by phr-refresh"):
            call()
    assert value == client.get(KEYS.record(KEY))


def test_a_client_that_decodes_is_refused(server):
    """Records are bytes: a client that turns them into text is a mistake of the caller."""
    with closing(redis.Redis(port=server.port, decode_responses=True)) as decoding:
        with pytest.raises(ConfigurationError, match="decode_responses=False"):
            RedisStore(decoding)


def test_a_client_of_the_caller_stays_open(server, client):
    """The store closes only a client of its own."""
    store = RedisStore(client)
    store.call(Load(KEY))
    pooled = client.connection_pool
    store.close()

    assert client.ping()
    assert pooled is client.connection_pool


# Keys.


def test_all_keys_of_a_patient_share_a_slot():
    """Whatever one script touches lies in one slot of a cluster, and the shards spread over the slots."""
    patients = [key_of(f"user {number}") for number in range(2000)]
    slots = set()
    for key in patients:
        of_patient = {key_slot(name.encode()) for name in (KEYS.record(key), KEYS.token(key), KEYS.due_index(key))}
        assert len(of_patient) == 1
        slots |= of_patient

    assert len(slots) == SHARDS
    assert {KEYS.due_index(key) for key in patients} == {index for index, _ in KEYS.shards()}


def test_keys_hold_nothing_but_the_hash(store, client):
    """The keys that a write leaves are those of the table in `keys`, with their lifetimes."""
    now = store.call(Load(KEY)).now
    store.call(change(now))

    found = {name.decode() for name in client.keys()}
    assert {KEYS.record(KEY), KEYS.token(KEY), KEYS.due_index(KEY)} == found
    assert 59 * MINUTE < client.pttl(KEYS.record(KEY)) <= 60 * MINUTE
    assert 14 * MINUTE < client.pttl(KEYS.token(KEY)) <= 15 * MINUTE
    assert -1 == client.pttl(KEYS.due_index(KEY))


def test_writes_clean_up_after_the_forgotten_where_nobody_sweeps(store, client):
    """The entry of a forgotten record goes with a later write to its shard: no sweeper is needed."""
    now = store.call(Load(KEY)).now
    shard = KEYS.due_index(KEY)
    same_shard = next(key for number in range(10_000) if KEYS.due_index(key := key_of(f"user-{number}")) == shard)
    client.zadd(shard, {same_shard: now - 5 * MINUTE})

    store.call(change(now, due_at=now, keep_until=now + 3 * MINUTE))
    assert [same_shard, KEY] == [member.decode() for member in client.zrange(shard, 0, -1)]
    store.call(change(now, expected_version=store.call(Load(KEY)).version, due_at=now, keep_until=now + 2 * MINUTE))
    assert [KEY] == [member.decode() for member in client.zrange(shard, 0, -1)]


def test_due_cleans_up_after_the_forgotten(store, client):
    """An entry whose record is gone is listed no more, and removed."""
    store.call(change(store.call(Load(KEY)).now))
    client.delete(KEYS.record(KEY))

    assert () == store.call(ListDue(5))
    assert not client.exists(KEYS.due_index(KEY))


def test_prefixes_keep_stores_apart(server):
    """Two services may share a server."""
    with closing(open_store(f"{server.url}?prefix=a")) as one, closing(open_store(f"{server.url}?prefix=b")) as other:
        now = one.call(Load(KEY)).now
        one.call(change(now))

        assert (b"record", None) == (one.call(Load(KEY)).value, other.call(Load(KEY)).value)
        assert ((KEY,), ()) == (one.call(ListDue(5)), other.call(ListDue(5)))


def test_memory_of_a_patient(store, client, record_property, capsys):
    """How much a settled patient costs, to be read, not judged: it depends on the server's allocator."""
    store.call(change(store.call(Load(KEY)).now, value=b"x" * 200, due_at=None, token_change=TokenChange.DROP))

    used = client.memory_usage(KEYS.record(KEY))
    record_property("bytes_per_patient", used)
    with capsys.disabled():
        print(f"\n{client.info('server')['redis_version']}: {used} bytes for a record of 200")


# Ways to connect.


def test_a_unix_socket_is_a_way(start_server, tmp_path_factory):
    """redis+unix:// reaches a server by its socket."""
    path = tmp_path_factory.mktemp("s") / "s"
    start_server("valkey", unixsocket=str(path))
    with closing(open_store(f"redis+unix://{path}")) as store:
        assert isinstance(store.call(change(store.call(Load(KEY)).now)), Written)


def test_a_database_number_is_used(server):
    """redis://host/1 is another database than redis://host/0."""
    with closing(open_store(f"{server.url}/1")) as one, closing(open_store(f"{server.url}/0")) as other:
        one.call(change(one.call(Load(KEY)).now))

        assert (b"record", None) == (one.call(Load(KEY)).value, other.call(Load(KEY)).value)


@pytest.fixture
def cluster_port(start_server) -> int:
    """A cluster of one node, which holds all slots."""
    server = start_server("valkey", **{"cluster-enabled": "yes"})
    with closing(server.client()) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, CLUSTER_SLOTS - 1)
        for _ in range(1000):
            if b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO", NEVER_DECODE=True):
                break
    return server.port


def test_a_cluster_client_works(cluster_port):
    """The scripts and the pipeline of `due` run on Redis Cluster."""
    with closing(redis.RedisCluster(host="127.0.0.1", port=cluster_port)) as client:
        store = RedisStore(client)
        now = store.call(Load(KEY)).now
        for number in range(20):
            store.call(change(now, key=key_of(f"user {number}")))

        assert {key_of(f"user {number}") for number in range(20)} == set(store.call(ListDue(100)))
        assert b"token" == store.call(Load(key_of("user 3"), with_token=True)).token


def test_an_asyncio_cluster_client_works(cluster_port, runner):
    """The same under asyncio."""

    async def drive() -> tuple:
        client = redis.asyncio.RedisCluster(host="127.0.0.1", port=cluster_port)
        store = AsyncRedisStore(client)
        await store.call(change((await store.call(Load(KEY))).now))
        found = await store.call(ListDue(5)), (await store.call(Load(KEY))).value
        await client.aclose()
        return found

    assert ((KEY,), b"record") == runner.run(drive())


def test_tasks_queue_for_a_connection(server, runner):
    """Of five hundred tasks at the same moment every one is answered, over a few connections."""
    url = f"{server.url}?max_connections=3"

    async def work():
        store = open_async_store(url)
        try:
            return await asyncio.gather(*(store.call(Load(key_of(f"user-{number}"))) for number in range(500)))
        finally:
            await store.close()

    assert 500 == len(runner.run(work()))
