"""Cached reads on real servers: who is told of what, and what is believed when nobody is told any more."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from itertools import count

import pytest
import redis
from conftest import Fleets, Server
from phr_refresh import PhrRefresh
from phr_refresh.adapters.ports import Row, Written
from phr_refresh.adapters.stores import open_store
from phr_refresh.adapters.stores.keys import RedisKeys
from phr_refresh.adapters.stores.redis_acl import acl_rule
from phr_refresh.adapters.stores.redis_async_tracked import AsyncTrackedRedisStore
from phr_refresh.adapters.stores.redis_listener import _Listener
from phr_refresh.adapters.stores.redis_tracked import TrackedRedisStore
from phr_refresh.adapters.stores.redis_urls import RedisTarget
from phr_refresh.adapters.stores.row_cache import TRUST, Listening, RowCache
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.statemachine.effects import Commit, Load
from phr_refresh.statemachine.errors import RecordUnreadable, StoreUnavailable
from phr_refresh.statemachine.patient import key_of
from support.fakes import ScriptedUpstream, Silent
from support.redis_servers import PASSWORD, wait_until
from support.samples import ADA, UNHURRIED
from support.stepping import World
from support.store_load import next_number
from test_row_cache import Clock
from test_stores import Driven

KEY, BOB, MARKER = ADA.key, key_of("bob"), key_of("marker")
RECORD = RedisKeys().record(KEY)
NAMES = count()
MINUTE = 60_000


class Cached:
    """A store that caches, sync or driven, with a clock that the test steps and a name for its connections."""

    def __init__(self, server: Server, runner: asyncio.Runner | None, *, most: int = 1000, options: str = "") -> None:
        self._server = server
        self.clock = Clock()
        self.name = f"cached-{next(NAMES)}"
        timeouts = options or "socket_timeout=30&socket_connect_timeout=30"
        target = RedisTarget.parse(f"{server.url}?cached_patients={most}&client_name={self.name}&{timeouts}")
        if runner:
            self._tracked = AsyncTrackedRedisStore(target, self.clock)
            self.store = Driven(self._tracked, runner)
        else:
            self.store = self._tracked = TrackedRedisStore(target, self.clock)
        self.load, self.write = self.store.load, self.store.write

    @property
    def cache(self) -> RowCache:
        """Its rows."""
        return self._tracked.cache

    def is_known(self, key: str = KEY) -> bool:
        """Whether a load is answered without asking the server."""
        before = self.cache.hits
        self.load(key)
        return self.cache.hits > before

    def warm(self, key: str = KEY) -> Row:
        """Load until the row is known, and nothing is on its way that tells of what was written before."""
        wait_until(lambda: self.is_known(MARKER), what="a row is known")
        with closing(self._server.client()) as client:
            client.set(RedisKeys().record(MARKER), "MMMMMMMM")
        # What is told comes in the order in which it was changed.
        wait_until(lambda: self.cache.get(MARKER) is None, what="the change is told")
        wait_until(lambda: self.is_known(key), what="the row is known")
        return self.load(key)


@pytest.fixture(params=["sync", "async"])
def open_cached(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Iterator[Callable[..., Cached]]:
    """Opens stores that cache, and closes them in the end."""
    opened: list[Cached] = []

    def open_one(server: Server, **options: object) -> Cached:
        opened.append(Cached(server, runner if request.param == "async" else None, **options))
        return opened[-1]

    yield open_one
    for cached in opened:
        cached.store.close()


@pytest.fixture
def cached_sync(server: Server) -> Iterator[Cached]:
    """A sync one, where the listener is what matters: both have the same."""
    opened = Cached(server, None)
    yield opened
    opened.store.close()


@pytest.fixture
def cached(open_cached: Callable[..., Cached], server: Server) -> Cached:
    """A store that caches."""
    return open_cached(server)


@pytest.fixture
def other(server: Server) -> Iterator[TrackedRedisStore]:
    """Another process's store on the same server."""
    with closing(open_store(server.url)) as store:
        yield store


def write_next(store: object, key: str = KEY) -> bytes:
    """Change the record to the next number; what it is now."""
    change = next_number(key, store.load(key))
    assert isinstance(store.write(change), Written)
    return change.value


def reads_at(server: Server) -> int:
    """How many scripts the server has run."""
    with closing(server.client()) as client:
        return client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]


def connections(server: Server, name: str) -> list[int]:
    """The numbers of the connections of that name."""
    with closing(server.client()) as client:
        return [int(found["id"]) for found in client.client_list() if found["name"] == name]


def kill(server: Server, name: str) -> None:
    """Have the server close all connections of that name."""
    with closing(server.client()) as client:
        for number in connections(server, name):
            client.client_kill_filter(_id=number)


# What is cached.


def test_what_is_known_is_no_round_trip(cached: Cached, server: Server) -> None:
    """The same bytes each time."""
    written = write_next(cached.store)
    cached.warm()
    before = reads_at(server)
    rows = [cached.load(KEY) for _ in range(100)]
    assert {id(rows[0].value)} == {id(row.value) for row in rows}
    assert (written, before) == (rows[0].value, reads_at(server))


def test_a_known_row_tells_the_servers_clock(cached: Cached, other: TrackedRedisStore) -> None:
    """Not ahead of it, however long it is known."""
    row = cached.warm()
    cached.clock.now += TRUST * 0.9
    carried = cached.load(KEY).now - row.now
    assert int(TRUST * 0.9 * 999) == carried
    assert row.now <= other.load(KEY).now


def test_tokens_are_not_cached(cached: Cached, server: Server) -> None:
    """A load with the token asks each time, and is given the record as it is."""
    cached.warm()
    before = reads_at(server)
    for _ in range(3):
        cached.load(KEY, with_token=True)
    assert before + 3 == reads_at(server)


def test_a_status_is_no_round_trip(cached_sync: Cached, server: Server) -> None:
    """Through everything that stands above the store, and a login of a fresh patient neither."""
    cached = cached_sync
    ports = {"upstream": ScriptedUpstream(), "observer": Silent(), "policy": UNHURRIED}
    phr = PhrRefresh(store=cached.store, worker=InlineWorker(), **ports)
    phr.refresh(ADA)
    cached.warm()
    before = reads_at(server)
    assert 1 == len({phr.status("ada").refresh_id for _ in range(10)} | {phr.login(ADA).refresh_id})
    assert before == reads_at(server)


# Being told.


@pytest.mark.once
@pytest.mark.parametrize(
    "change",
    [
        lambda client: client.set(RECORD, "BBBBBBBB2"),
        lambda client: client.delete(RECORD),
        lambda client: client.pexpire(RECORD, 1),
        lambda client: client.flushall(),
        lambda client: client.flushdb(),
        lambda client: client.eval("redis.call('SET', KEYS[1], 'CCCCCCCC3')", 1, RECORD),
    ],
    ids=["set", "del", "expiry", "flushall", "flushdb", "script"],
)
def test_changes_are_told(cached: Cached, server: Server, change: Callable[[redis.Redis], object]) -> None:
    """Whoever makes them, by whatever command, and time too. The clock stands still: a row is not dropped by itself."""
    before = write_next(cached.store)
    cached.warm()
    with closing(server.client()) as client:
        change(client)
    wait_until(lambda: before != cached.load(KEY).value, what="the change is seen")


def test_what_another_process_writes_is_seen(cached: Cached, other: TrackedRedisStore) -> None:
    """Again and again, and the row is known again after each."""
    for _ in range(5):
        written = write_next(other)
        wait_until(lambda written=written: written == cached.load(KEY).value, what="the change is seen")
        cached.warm()


def test_a_patient_never_seen_is_known_as_such(cached: Cached, other: TrackedRedisStore) -> None:
    """That there is nothing is known, and so is when there is something."""
    assert cached.warm().value is None
    written = write_next(other)
    wait_until(lambda: written == cached.load(KEY).value, what="the new record is seen")


def test_who_writes_reads_what_was_written(cached: Cached) -> None:
    """At once, whether or not the server has told of it yet; one by one and in a batch."""
    for _ in range(50):
        cached.warm()
        assert write_next(cached.store) == cached.load(KEY).value
        cached.warm()
        batch = [next_number(KEY, cached.load(KEY))]
        cached.store.write_all(batch)
        assert batch[0].value == cached.load(KEY).value


def test_who_loses_a_race_reads_who_won(cached: Cached, other: TrackedRedisStore) -> None:
    """A decision on a row that has aged changes nothing, and the next load gives what is there."""
    aged = cached.warm()
    written = write_next(other)
    lost = cached.write(next_number(KEY, aged))
    assert (written, written) == (lost.value, cached.load(KEY).value)


@pytest.mark.once
def test_evicted_records_are_told_of(open_cached: Callable[..., Cached], own_server: Server) -> None:
    """A server that is full forgets; what it forgets is not believed to be there."""
    cached = open_cached(own_server)
    write_next(cached.store)
    cached.warm()
    with closing(own_server.client()) as client:
        client.config_set("maxmemory-policy", "allkeys-random")
        client.config_set("maxmemory", 1)
        with suppress(redis.ResponseError):
            client.set("another", "1")
        assert not client.exists(RECORD)
        client.config_set("maxmemory", 0)
    wait_until(lambda: cached.load(KEY).value is None, what="the eviction is seen")


@pytest.mark.once
def test_a_server_that_remembers_few_keys_says_which_it_forgot(
    open_cached: Callable[..., Cached], own_server: Server
) -> None:
    """Its table of who has read what is bounded, too: rows that fall out of it are read anew."""
    cached = open_cached(own_server)
    with closing(own_server.client()) as client:
        client.config_set("tracking-table-max-keys", 5)
    cached.warm()
    keys = [key_of(f"user {number}") for number in range(50)]
    for key in keys:
        cached.load(key)
    wait_until(lambda: len(cached.cache._entries) <= 10, what="the server has forgotten most keys")
    with closing(open_store(own_server.url)) as other:
        written = {key: write_next(other, key) for key in keys}
    wait_until(lambda: written == {key: cached.load(key).value for key in keys}, what="every change is seen")


# Whatever breaks.


def test_a_record_that_cannot_be_read_is_not_kept(cached: Cached, server: Server) -> None:
    """It is the same error each time, until it is removed."""
    cached.warm()
    with closing(server.client()) as client:
        client.set(RECORD, "none of ours")
        for _ in range(3):
            with pytest.raises(RecordUnreadable):
                wait_until(lambda: cached.load(KEY).value is not None, what="it is noticed")
        assert {} == cached.cache._tickets
        client.delete(RECORD)
    wait_until(lambda: _loads(cached, None), what="it is gone")


def test_a_row_that_changed_on_its_way_is_not_kept(cached_sync: Cached, other: TrackedRedisStore) -> None:
    """The server read it, then it changed, that was told first, and only then does the reply arrive."""
    cached = cached_sync
    cached.warm()
    store, cache = cached.store, cached.cache
    cache.drop(KEY)
    ticket = cache.ticket(KEY)
    command = store._commands.load(KEY, with_token=False)
    row = store._run(command, partial(store._tracked.execute_tracked, ticket))
    written = write_next(other)
    wait_until(lambda: KEY not in cache._tickets, what="the change was told")
    cache.fill(ticket, row)
    assert (None, written) == (row.value, cached.load(KEY).value)


@pytest.mark.once
def test_a_listener_that_is_cut_off_costs_one_reading(
    cached_sync: Cached, other: TrackedRedisStore, server: Server
) -> None:
    """Every row is read anew, and told of as before; the clock stands still."""
    cached = cached_sync
    write_next(other)
    cached.warm()
    [before] = connections(server, f"{cached.name}-listener")
    kill(server, f"{cached.name}-listener")
    wait_until(lambda: cached.cache.ticket(BOB) is None, what="it is noticed")
    assert cached.cache.get(KEY) is None
    written = write_next(other)
    wait_until(lambda: written == cached.load(KEY).value, what="the change is seen")
    cached.warm()
    assert [before] != connections(server, f"{cached.name}-listener")
    written = write_next(other)
    wait_until(lambda: written == cached.load(KEY).value, what="the next change is seen")


def test_rows_of_a_connection_that_was_cut_off_are_not_believed_for_long(
    cached: Cached, other: TrackedRedisStore, server: Server
) -> None:
    """The server tells nobody of what a closed connection has read: the one whose row it is has to be heard."""
    write_next(other)
    aged = cached.warm()
    kill(server, cached.name)
    written = write_next(other)
    cached.clock.now += TRUST
    assert aged.value != written
    assert written == cached.load(KEY).value


def test_a_connection_that_was_opened_anew_vouches_for_nothing_that_was_read_before(
    cached: Cached, other: TrackedRedisStore, server: Server
) -> None:
    """Though it is the same object here."""
    write_next(other)
    cached.warm()
    cached.warm(BOB)
    kill(server, cached.name)
    written = write_next(other)
    cached.cache.drop(BOB)
    # Over the connection that the first row was read over, and which finds itself closed: now it is heard again.
    cached.clock.now += TRUST * 0.6
    cached.load(BOB)
    cached.load(BOB)
    cached.clock.now += TRUST * 0.6
    wait_until(lambda: cached.cache.is_told, what="changes are told of")
    assert cached.is_known(BOB)
    assert written == cached.load(KEY).value


@pytest.mark.once
def test_a_server_that_hangs_is_believed_for_two_seconds(own_server: Server) -> None:
    """Then whoever asks waits for it as if nothing were known; and when it goes on, all is as before."""
    cached = Cached(own_server, None, options="socket_timeout=0.5&socket_connect_timeout=0.5")
    written = write_next(cached.store)
    cached.warm()
    with closing(own_server.client()) as client:
        process = int(client.info("server")["process_id"])
    os.kill(process, signal.SIGSTOP)
    try:
        assert cached.is_known()
        cached.clock.now += TRUST
        with pytest.raises(StoreUnavailable) as raised:
            cached.load(KEY)
    finally:
        os.kill(process, signal.SIGCONT)
    assert "timed_out" == raised.value.reason
    wait_until(lambda: _loads(cached, written), what="the server answers")
    assert written == cached.warm().value
    cached.store.close()


@pytest.mark.once
def test_a_server_that_was_restarted_is_asked(own_server: Server) -> None:
    """It has lost everything here, and the numbers of its connections begin anew."""
    cached = Cached(own_server, None)
    write_next(cached.store)
    cached.warm()
    own_server.stop()
    own_server.start()
    wait_until(lambda: _loads(cached, None), what="the server answers")
    cached.warm()
    with closing(open_store(own_server.url)) as other:
        written = write_next(other)
    wait_until(lambda: written == cached.load(KEY).value, what="the change is seen")
    cached.store.close()


def _loads(cached: Cached, value: bytes | None) -> bool:
    try:
        return value == cached.load(KEY).value
    except (StoreUnavailable, RecordUnreadable):
        return False


class SlowLine:
    """A connection on which the answer to PING takes a second, and which breaks after it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._said = [[b"pong", b""]]

    def send_command(self, *command: str) -> None:
        """It is sent."""
        assert ("PING",) == command

    def can_read(self, timeout: float) -> bool:
        """There is something, after a second."""
        self._clock.now += 1
        return True

    def read_response(self) -> list[bytes]:
        """It comes."""
        if not self._said:
            raise redis.ConnectionError
        return self._said.pop()


def test_a_listener_is_heard_as_of_when_it_asked() -> None:
    """What the server did while its answer was on the way may not have been told yet."""
    clock = Clock()
    cache, listening = RowCache(1, clock), Listening(7)
    listener = _Listener(cache, RedisKeys(), lambda: None)
    with pytest.raises(redis.ConnectionError):
        listener._hears(SlowLine(clock), listening)
    assert clock.now - 2 == listening.heard_at


class SilentLine(SlowLine):
    """One on which nothing is ever said, and which nobody closes."""

    def can_read(self, timeout: float) -> bool:
        """There is nothing."""
        return False


def test_a_listener_that_hears_nothing_begins_anew() -> None:
    """What keeps silent may be silent for ever, as behind a firewall."""
    clock = Clock()
    cache = RowCache(1, clock)
    with pytest.raises(redis.TimeoutError):
        _Listener(cache, RedisKeys(), lambda: None)._hears(SilentLine(clock), Listening(7))


def test_after_a_commit_without_an_answer_the_store_itself_is_asked() -> None:
    """No row that was read before: the time of a kick-off that follows counts from what it says."""
    world = World()
    process = world.refresh()
    while not isinstance(process.effect, Commit):
        process.step()
    world.store_failures = 1
    process.step()
    assert Load(KEY, with_token=True) == process.effect


# Whom it is for.


def test_nothing_is_started_before_the_first_load(server: Server) -> None:
    """Neither a connection nor a thread."""
    before = set(threading.enumerate())
    with closing(open_store(f"{server.url}?cached_patients=10&client_name=idle")) as store:
        assert TrackedRedisStore is type(store)
        assert (set(), []) == (set(threading.enumerate()) - before, connections(server, "idle-listener"))


@pytest.mark.once
def test_a_closed_store_listens_no_more(cached_sync: Cached, server: Server) -> None:
    """Soon its connections are closed."""
    cached = cached_sync
    cached.warm()
    cache = cached.cache
    cached.store.close()
    assert (None, False) == (cache.get(KEY), cache.is_told)
    wait_until(lambda: [] == connections(server, f"{cached.name}-listener"), what="the listener has gone")
    assert [] == connections(server, cached.name)


@pytest.mark.once
def test_a_store_that_was_forgotten_listens_no_more(server: Server) -> None:
    """As one that nobody closed."""
    cached = Cached(server, None)
    cached.warm()
    name = f"{cached.name}-listener"
    assert 1 == len(connections(server, name))
    del cached
    wait_until(lambda: [] == connections(server, name), what="the listener has gone")


@pytest.mark.once
def test_threads_read_what_was_written(server: Server) -> None:
    """While one thread writes, no other ever reads what was over before it began to read."""
    cached = Cached(server, None)
    with closing(cached.store) as store:
        cached.warm()
        done = [0]
        is_over = threading.Event()

        def read() -> int:
            reads = 0
            while not is_over.is_set():
                least = done[0]
                assert int(store.load(KEY).value or 0) >= least
                reads += 1
            return reads

        with ThreadPoolExecutor(4) as threads:
            readers = [threads.submit(read) for _ in range(4)]
            for _ in range(40):
                done[0] = int(write_next(store))
            is_over.set()
            assert all(reader.result() for reader in readers)
        assert b"40" == cached.warm().value


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_a_fork_the_child_has_rows_and_a_listener_of_its_own(server: Server) -> None:
    """What the parent knows is told to the parent."""
    cached = Cached(server, None)
    with closing(cached.store):
        cached.warm()
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                was_known = cached.is_known()
                cached.warm()
                listeners = len(connections(server, f"{cached.name}-listener"))
                os.write(writes, f"{was_known} {listeners}".encode())
            os._exit(0)
        os.close(writes)
        with os.fdopen(reads, "rb") as answer:
            said = answer.read()
        os.waitpid(child, 0)
        assert (b"False 2", True) == (said, cached.is_known())


@pytest.mark.once
@pytest.mark.parametrize("fleet", ["user on valkey", "tls"])
def test_the_user_who_may_do_the_least_is_told(fleets: Fleets, fleet: str) -> None:
    """The rule that is shipped is enough; over TLS as well."""
    url = fleets.url(fleet)
    with closing(open_store(f"{url}{'&' if '?' in url else '?'}cached_patients=10")) as store:
        wait_until(lambda: store.cache.is_told, what="the server tells of changes")
        store.load(KEY)
        store.load(KEY)
        assert 1 == store.cache.hits


@pytest.mark.once
@pytest.mark.parametrize("lack", ["+client|tracking", "+client|id", "+subscribe", "&__redis__:invalidate", "+ping"])
def test_who_may_not_be_told_reads_from_the_server(server: Server, caplog: pytest.LogCaptureFixture, lack: str) -> None:
    """Every time, told once; nothing else is different."""
    user = "uncached"
    with closing(server.client()) as client:
        _, name, *rule = acl_rule(user=user, password=PASSWORD).split()
        assert lack in rule
        client.execute_command("ACL", "SETUSER", name, *(word for word in rule if word != lack))
        with caplog.at_level(logging.WARNING, "phr_refresh"):
            cached = Cached(server, None, options=f"username={user}&password=p%2Fw%40%3A%25")
            cached.load(KEY)
            wait_until(lambda: caplog.records, what="it is told")
        assert [False] * 3 == [cached.is_known() for _ in range(3)]
        assert write_next(cached.store) == cached.load(KEY).value
        cached.store.close()
        client.execute_command("ACL", "DELUSER", name)
    assert ["phr_refresh.reads_not_cached (NoPermissionError)"] == caplog.messages
