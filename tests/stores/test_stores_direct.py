"""The short way to one server: connections of redis-py's without its client, by threads, by asyncio, and in time."""

import asyncio
import os
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import hiredis
import pytest
import redis
import redis.asyncio
from conftest import Server
from phr_refresh.adapters.ports import AnswersInTime, Row, Written
from phr_refresh.adapters.stores import open_async_store, open_store
from phr_refresh.adapters.stores.direct import AsyncDirectWire, DirectWire, Line
from phr_refresh.adapters.stores.redis_commands import OneServerCommands
from phr_refresh.statemachine.effects import Load, LoadAll
from phr_refresh.statemachine.errors import StoreUnavailable
from phr_refresh.statemachine.patient import key_of
from redis._parsers import _AsyncRESP2Parser, _RESP2Parser
from redis.exceptions import InvalidResponse, ResponseError
from support.edges_proxy import read_command
from support.store_load import next_number

ADA, BOB = key_of("ada"), key_of("bob")
#: On a busy machine a second is short.
UNHURRIED = {"socket_connect_timeout": 30, "socket_timeout": 30, "protocol": 2}
#: What a busy machine may add to a time limit, in seconds. The aim is one to two thousandths, on an idle one.
SCHEDULING = 1.0


def pool_of(port: int, **options: Any) -> redis.ConnectionPool:
    """Connections to a server on this host."""
    return redis.ConnectionPool(port=port, **UNHURRIED | options)


@pytest.fixture
def wire(server: Server) -> Iterator[DirectWire]:
    """The short way to each real server."""
    with closing(DirectWire(pool_of(server.port))) as opened:
        yield opened


def ask(wire: DirectWire, *command: Any) -> object:
    """The reply to one command."""
    [[reply]] = wire.send([(command,)])
    return reply


def connections_of(server: Server, name: str) -> list[dict[str, str]]:
    """What the server knows of the connections of that name."""
    with closing(server.client()) as client:
        return [found for found in client.client_list() if found["name"] == name]


def kill(server: Server, connection_id: object) -> None:
    """Have the server close a connection."""
    with closing(server.client()) as client:
        client.client_kill_filter(_id=connection_id)


# One after the other.


def test_one_connection_serves_one_thread(wire: DirectWire) -> None:
    """Commands that come one after the other share a connection, error replies among them."""
    ids = [ask(wire, "CLIENT", "ID")]
    assert isinstance(ask(wire, "EVALSHA", "0" * 40, 0), ResponseError)
    ids.append(ask(wire, "CLIENT", "ID"))

    assert 1 == len(set(ids))


def test_replies_come_back_by_exchange(wire: DirectWire) -> None:
    """Each exchange gets the replies to its own commands, all in one message."""
    exchanges = [(("ECHO", "a"),), (("SET", "k", b"\x00\r\n"), ("GET", "k")), (("ECHO", 7),)]

    assert [[b"a"], [b"OK", b"\x00\r\n"], [b"7"]] == wire.send(exchanges)


def test_threads_get_the_answers_to_their_own_questions(wire: DirectWire) -> None:
    """No two threads talk over one connection at once."""
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: ask(wire, "ECHO", f"{number}"), range(400)))

    assert [b"%d" % number for number in range(400)] == answers


def test_a_connection_that_the_server_closed_is_not_used(wire: DirectWire, server: Server) -> None:
    """It is noticed before anything is sent over it."""
    kill(server, ask(wire, "CLIENT", "ID"))

    assert b"PONG" == ask(wire, "PING")


def test_a_health_check_is_made_where_it_is_wanted(server: Server) -> None:
    """`health_check_interval` has its effect: a PING goes before what is asked on a connection that was long idle."""
    with closing(DirectWire(pool_of(server.port, health_check_interval=1))) as checked:
        ask(checked, "PING")
        line = checked._idle.get()[0]
        line.connection.next_health_check = 0
        with closing(server.client()) as client:
            before = client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"]
            ask(checked, "ECHO", "here")
            assert before + 1 == client.info("commandstats")["cmdstat_ping"]["calls"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_who_is_interrupted_leaves_no_answer_behind(
    wire: DirectWire, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    """An answer that was not read is nobody else's: the connection is dropped."""
    ask(wire, "PING")

    def interrupted(self: Line, *_: object) -> bool:
        raise interruption

    with monkeypatch.context() as patch:
        patch.setattr(Line, "take", interrupted)
        with pytest.raises(interruption):
            ask(wire, "ECHO", "not read")
    assert b"mine" == ask(wire, "ECHO", "mine")


def test_close_closes_idle_connections(server: Server) -> None:
    """None is left at the server."""
    wire = DirectWire(pool_of(server.port, client_name="closing"))
    gate = threading.Barrier(4)

    def at_once(_: int) -> object:
        gate.wait()
        return ask(wire, "PING")

    with ThreadPoolExecutor(4) as threads:
        assert [b"PONG"] * 4 == list(threads.map(at_once, range(4)))
    wire.close()
    _await(lambda: [] == connections_of(server, "closing"))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_a_fork_the_child_uses_none_of_the_parents_connections(wire: DirectWire) -> None:
    """Two processes on one socket would read each other's answers."""
    mine = ask(wire, "CLIENT", "ID")
    theirs = _in_a_child(lambda: b"%d" % ask(wire, "CLIENT", "ID"))

    assert b"%d" % mine != theirs
    assert mine == ask(wire, "CLIENT", "ID")


def _in_a_child(work: Callable[[], bytes]) -> bytes:
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writes, work())
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


def _await(holds: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(200):
        if holds():
            return
        waiting.wait(0.05)
    raise AssertionError("it never came to hold")


# By asyncio.


def awaiting(runner: asyncio.Runner, port: int, work: Callable[[AsyncDirectWire], Any], **options: Any) -> Any:
    """What `work` comes to with a wire of asyncio, which is closed afterwards."""

    async def run() -> Any:
        wire = AsyncDirectWire(redis.asyncio.ConnectionPool(port=port, **UNHURRIED | options))
        try:
            return await work(wire)
        finally:
            await wire.close()

    return runner.run(run())


async def ask_async(wire: AsyncDirectWire, *command: Any) -> object:
    """The reply to one command."""
    [[reply]] = await wire.send([(command,)])
    return reply


def test_tasks_get_the_answers_to_their_own_questions(server: Server, runner: asyncio.Runner) -> None:
    """No two tasks talk over one connection at once."""

    async def work(wire: AsyncDirectWire) -> list[object]:
        return await asyncio.gather(*(ask_async(wire, "ECHO", f"{number}") for number in range(90)))

    assert [b"%d" % number for number in range(90)] == awaiting(runner, server.port, work)


def test_one_connection_serves_one_task(server: Server, runner: asyncio.Runner) -> None:
    """An error reply is an answer, and the next command goes over the same connection."""

    async def work(wire: AsyncDirectWire) -> set[object]:
        before = await ask_async(wire, "CLIENT", "ID")
        assert isinstance(await ask_async(wire, "EVALSHA", "0" * 40, 0), ResponseError)
        return {before, await ask_async(wire, "CLIENT", "ID")}

    assert 1 == len(awaiting(runner, server.port, work))


def test_who_is_cancelled_leaves_no_answer_behind(server: Server, runner: asyncio.Runner) -> None:
    """An answer that was not read is nobody else's."""

    async def work(wire: AsyncDirectWire) -> object:
        await ask_async(wire, "PING")
        task = asyncio.create_task(ask_async(wire, "BLPOP", "nothing", 30))
        with closing(server.client()) as other:
            while not any(found["cmd"] == "blpop" for found in other.client_list()):
                await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await ask_async(wire, "ECHO", "mine")

    assert b"mine" == awaiting(runner, server.port, work)


def test_a_connection_that_was_closed_is_not_used_by_a_task(server: Server, runner: asyncio.Runner) -> None:
    """Nor is one on which something lies unread."""

    async def work(wire: AsyncDirectWire) -> object:
        kill(server, await ask_async(wire, "CLIENT", "ID"))
        while not wire._idle[0].connection._reader.at_eof():
            await asyncio.sleep(0)
        await ask_async(wire, "PING")
        first = await ask_async(wire, "CLIENT", "ID")
        wire._idle[0].connection._reader.feed_data(b"$4\r\nlate\r\n")
        assert b"mine" == await ask_async(wire, "ECHO", "mine")
        return first == await ask_async(wire, "CLIENT", "ID")

    assert not awaiting(runner, server.port, work)


def test_what_a_busy_loop_has_not_read_yet_is_nobodys(runner: asyncio.Runner) -> None:
    """A reply too many that still lies in the kernel is not the answer to the next task's question."""
    is_idle = threading.Event()

    def twice(words: list[bytes]) -> Iterator[bytes]:
        yield bulk(words[1])
        if words[1] == b"first":
            is_idle.wait()
            yield bulk(b"late")

    async def work(wire: AsyncDirectWire) -> object:
        await ask_async(wire, "ECHO", "first")
        arrives = select.poll()
        arrives.register(wire._idle[0].connection._writer.get_extra_info("socket").fileno(), select.POLLIN)
        is_idle.set()
        arrives.poll()
        return await ask_async(wire, "ECHO", "mine")

    with scripted(twice) as port:
        assert b"mine" == awaiting(runner, port, work)


def test_a_task_gives_a_silent_server_up_in_time(runner: asyncio.Runner) -> None:
    """One time-out, and the connection is closed."""

    async def work(wire: AsyncDirectWire) -> None:
        with pytest.raises(redis.TimeoutError):
            await ask_async(wire, "ECHO", "x")

    with scripted(lambda words: None) as port:
        started = time.perf_counter()
        awaiting(runner, port, work, socket_timeout=0.2)
        assert time.perf_counter() - started < 0.2 + SCHEDULING


def test_close_closes_every_connection_of_the_tasks(server: Server, runner: asyncio.Runner) -> None:
    """None is left at the server, nor open here."""

    async def work(wire: AsyncDirectWire) -> None:
        await asyncio.gather(*(ask_async(wire, "PING") for _ in range(4)))

    awaiting(runner, server.port, work, client_name="async-closing")
    _await(lambda: [] == connections_of(server, "async-closing"))


# A load, in one round trip.


def test_a_load_is_one_message_and_one_answer(server: Server) -> None:
    """`GET` and `TIME`, or `MGET` and `TIME`, in this order: the clock is read not before the record."""
    with passing_on(server.port) as (port, sent), closing(open_store(f"redis://127.0.0.1:{port}")) as store:
        now = store.call(Load(ADA)).now
        store.call(next_number(ADA, Row(None, "", now)))
        store.call(next_number(BOB, Row(None, "", now)))
        for call in (
            lambda: store.call(Load(ADA)),
            lambda: store.call(Load(ADA, with_token=True)),
            lambda: store.call_by(Load(ADA), time.monotonic() + 30),
            lambda: store.call(LoadAll((ADA, BOB))),
            lambda: store.call(next_number(ADA, Row(None, "", now))),
        ):
            sent.append([])
            call()

    names = [[message[4:].split(b"\r\n")[1].decode() for message in messages] for messages in sent[-5:]]
    assert [["GET"], ["MGET"], ["GET"], ["GET"], ["EVALSHA"]] == names
    assert [1, 1, 1, 2, 0] == [messages[0].count(b"$4\r\nTIME\r\n") for messages in sent[-5:]]
    assert all(messages[0].endswith(b"*1\r\n$4\r\nTIME\r\n") for messages in sent[-5:-1])


@contextmanager
def passing_on(port: int) -> Iterator[tuple[int, list[list[bytes]]]]:
    """A proxy for one connection at a time, and what came over it, message by message, in the last list of these."""
    sent: list[list[bytes]] = [[]]

    def serve(near: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port)) as far:
            while asked := near.recv(65_536):
                sent[-1].append(asked)
                far.sendall(asked)
                near.sendall(far.recv(65_536))

    with serving(serve) as listening:
        yield listening, sent


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server whose every connection is for `serve`."""
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as listener:

        def run(near: socket.socket) -> None:
            with near:
                try:
                    serve(near)
                except OSError:
                    return

        def accept() -> None:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                stack.callback(near.close)
                stack.callback(_shut, near)
                threading.Thread(target=run, args=(near,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _shut(near: socket.socket) -> None:
    try:
        near.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


Script = Callable[[list[bytes]], bytes | Iterator[bytes] | None]


@contextmanager
def scripted(script: Script) -> Iterator[int]:
    """A server that greets as usual, and then says what `script` gives for each command; None for nothing."""

    def serve(near: socket.socket) -> None:
        with near.makefile("rb") as file:
            while words := read_command(file):
                said = b"+OK\r\n" if words[0] == b"CLIENT" else script(words)
                for piece in [said] if isinstance(said, bytes) else said or ():
                    near.sendall(piece)

    with serving(serve) as port:
        yield port


# In time: `call_by`.


TIME = b"*2\r\n$10\r\n1700000000\r\n$6\r\n123456\r\n"


def bulk(value: bytes) -> bytes:
    """The reply that is this string."""
    return b"$%d\r\n%s\r\n" % (len(value), value)


def stored(value: bytes) -> bytes:
    """The reply that is a record of this value."""
    return bulk(b"AAAABBBB" + value)


class Words:
    """A script that says as Redis would, until `now_say` something else. `asked` are the loads that came."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._then: Script | None = None

    def now_say(self, script: Script) -> None:
        """From the next command on, until it gives None for the end of it."""
        self._then = script

    def as_usual(self) -> None:
        """As at first."""
        self._then = None

    def __call__(self, words: list[bytes]) -> bytes | Iterator[bytes] | None:
        """What to say."""
        if words[0] == b"GET":
            self.asked.append(words[1].decode()[-22:])
        if self._then is not None:
            return self._then(words)
        return TIME if words[0] == b"TIME" else stored(self.asked[-1].encode())


@pytest.fixture
def words() -> Words:
    """What the scripted server says."""
    return Words()


@pytest.fixture
def store(words: Words) -> Iterator[Any]:
    """A store at the scripted server, one connection of which is open and idle."""
    with scripted(words) as port, closing(open_store(f"redis://127.0.0.1:{port}?socket_timeout=10")) as opened:
        opened.call(Load(ADA))
        yield opened


def timed(store: Any, seconds: float, key: Any = ADA) -> tuple[Row | None, float]:
    """What `call_by` gives within `seconds`, and by how much it came back too late."""
    ends_at = time.monotonic() + seconds
    row = store.call_by(Load(key), ends_at)
    return row, time.monotonic() - ends_at


def idle_in(store: Any) -> int:
    """How many connections lie idle."""
    return len(store._direct._idle.get())


def test_a_row_comes_in_time(store: Any) -> None:
    """As from `call`, over the connection that lies idle, which lies there again."""
    row, late = timed(store, 5)

    assert (ADA.encode(), "AAAABBBB", 1_700_000_000_123, None) == (row.value, row.version, row.now, row.token)
    assert late < 0
    assert 1 == idle_in(store)
    assert 10 == store._direct._idle.get()[0].connection._sock.gettimeout()


def test_it_is_offered_where_it_can_be_kept(server: Server, tmp_path: Any) -> None:
    """By memory and by one server; not by SQLite, a cluster, behind Sentinel, nor with RESP3."""
    urls = ["memory://", server.url, f"sqlite:///{tmp_path}/s.db", "redis+cluster://h", "redis+sentinel://h/s"]
    offered = []
    for url in (*urls, f"{server.url}?protocol=3"):
        with closing(open_store(url)) as opened:
            offered.append(isinstance(opened, AnswersInTime))

    assert [True, True, False, False, False, False] == offered


def test_without_an_idle_connection_there_is_none_at_once(words: Words) -> None:
    """To connect may take as long as it likes: not here."""
    with scripted(words) as port, closing(open_store(f"redis://127.0.0.1:{port}")) as store:
        row, late = timed(store, 5)

        assert row is None
        assert late < -4
        assert [] == words.asked


def _drips(words: list[bytes]) -> Iterator[bytes]:
    waiting = threading.Event()
    for byte in stored(b"x" * 100):
        yield bytes([byte])
        waiting.wait(0.005)


@pytest.mark.parametrize("script", [lambda words: None, _drips], ids=["hangs", "drips"])
@pytest.mark.parametrize("seconds", [0.05, 0.0, -1.0])
def test_a_server_that_hangs_or_drips_costs_the_limit(store: Any, words: Words, script: Script, seconds: float) -> None:
    """A byte each 5 ms keeps nobody waiting; the connection is closed, and the next caller gets another."""
    words.now_say(script)
    row, late = timed(store, seconds)
    words.as_usual()

    assert row is None
    assert late < SCHEDULING + max(0.0, -seconds)
    assert 0 == idle_in(store)
    assert ADA.encode() == store.call(Load(ADA)).value


@pytest.mark.parametrize(
    "said",
    [
        b"$30\r\nhalf of it",
        b"-LOADING Redis is loading\r\n",
        b"-WRONGTYPE Operation against a key\r\n" + TIME,
        b"-NOAUTH Authentication required.\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"*1\r\n" * 5000 + b":1\r\n",
        b"$x\r\n",
        b":1\r\n" + TIME,
        b"$5\r\nwrong\r\n" + TIME,
        stored(b"x") + b"+OK\r\n",
        stored(b"x") + TIME + b"+more\r\n",
        b"",
    ],
    ids=repr,
)
def test_what_is_no_answer_is_none_and_closes_the_connection(store: Any, words: Words, said: bytes) -> None:
    """Whatever else is said: it does not raise, and nobody reads what is left of it."""
    words.now_say(lambda asked: said if asked[0] == b"GET" else None)
    row, late = timed(store, 0.1)
    words.as_usual()

    assert row is None
    assert late < SCHEDULING
    assert 0 == idle_in(store)
    assert BOB.encode() == store.call(Load(BOB)).value


def test_a_late_answer_is_never_anybody_elses(words: Words) -> None:
    """While answers about one patient come later than anybody waits, nobody who asks about another reads one."""
    chance = random.Random(7)
    waiting = threading.Event()
    people = [key_of(f"user {number}") for number in range(8)]

    def script(asked: list[bytes]) -> bytes:
        if asked[0] == b"TIME":
            return TIME
        waiting.wait(chance.choice([0, 0, 0.002, 0.02]))
        return stored(asked[1][-22:])

    words.now_say(script)
    with scripted(words) as port, closing(open_store(f"redis://127.0.0.1:{port}?socket_timeout=10")) as store:

        def visit(seed: int) -> list[tuple[Any, bytes]]:
            own = random.Random(seed)
            seen = []
            for _ in range(60):
                key = own.choice(people)
                row = store.call_by(Load(key), time.monotonic() + 0.01) or store.call(Load(key))
                seen.append((key, row.value))
            return seen

        with ThreadPoolExecutor(4) as threads:
            seen = [pair for pairs in threads.map(visit, range(4)) for pair in pairs]

    assert [] == [pair for pair in seen if pair[0].encode() != pair[1]]


def test_a_connection_with_something_unread_is_thrown_away(store: Any, words: Words) -> None:
    """What came unasked, or too late for somebody, is nobody's answer: `call_by` takes another, or none."""
    goes_on = threading.Event()

    def script(asked: list[bytes]) -> Iterator[bytes]:
        yield stored(b"ours") if asked[0] == b"GET" else TIME
        if asked[0] == b"TIME":
            goes_on.wait(10)
            yield stored(b"theirs") + TIME

    words.now_say(script)
    assert b"ours" == timed(store, 5)[0].value
    goes_on.set()
    line = store._direct._idle.get()[0]
    _await(lambda: line.connection.can_read(0))
    words.as_usual()
    asked = len(words.asked)
    row, _ = timed(store, 5)

    assert row is None
    assert asked == len(words.asked)
    assert 0 == idle_in(store)
    assert BOB.encode() == store.call(Load(BOB)).value


def test_a_connection_that_was_closed_is_thrown_away(own_server: Server) -> None:
    """None, at once; nothing is sent."""
    with closing(open_store(f"{own_server.url}?socket_timeout=10")) as store:
        store.call(Load(ADA))
        own_server.stop()
        line = store._direct._idle.get()[0]
        _await(lambda: _is_closed(line))
        row, late = timed(store, 5)

        assert row is None
        assert late < -4
        assert 0 == idle_in(store)


def _is_closed(line: Line) -> bool:
    return line.connection._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""


def test_of_two_idle_connections_the_sound_one_is_taken(server: Server) -> None:
    """The one that the server closed is passed over."""
    with closing(open_store(f"{server.url}?socket_timeout=10")) as store:
        gate = threading.Barrier(2)

        def at_once(_: int) -> None:
            gate.wait()
            store.call(Load(ADA))

        while idle_in(store) < 2:
            with ThreadPoolExecutor(2) as threads:
                list(threads.map(at_once, range(2)))
        line = store._direct._idle.get()[-1]
        line.connection._sock.shutdown(socket.SHUT_RDWR)

        assert isinstance(store.call_by(Load(ADA), time.monotonic() + 5), Row)
        assert 1 == idle_in(store)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_has_no_idle_connection(server: Server) -> None:
    """Those that lie idle at a fork are the parent's."""
    with closing(open_store(f"{server.url}?socket_timeout=10")) as store:
        store.call(Load(ADA))

        assert b"None" == _in_a_child(lambda: repr(timed(store, 5)[0]).encode())
        assert isinstance(timed(store, 5)[0], Row)


def test_who_is_interrupted_in_time_leaves_no_answer_behind(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal is no error of the store's: it goes on to whom it is for, and the connection is closed."""

    def interrupted(self: Line, *_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Line, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.call_by(Load(ADA), time.monotonic() + 5)

    assert 0 == idle_in(store)


def test_a_write_is_not_sent_again_after_a_time_out(words: Words) -> None:
    """What may have arrived is settled by reading, not by sending."""
    written: list[bytes] = []
    words.now_say(lambda asked: written.append(asked[0]))
    with scripted(words) as port, closing(open_store(f"redis://127.0.0.1:{port}?socket_timeout=0.1")) as store:
        with pytest.raises(StoreUnavailable, match="timed_out"):
            store.call(next_number(ADA, Row(None, "", 1)))

    assert [b"EVALSHA"] == written


# What is used of redis-py's, and that it reads the same.


def test_what_is_used_of_redis_pys_connections(server: Server, runner: asyncio.Runner) -> None:
    """Its socket or streams, and how its parser names errors: nothing else that it does not promise."""
    with closing(pool_of(server.port)) as pool:
        connection = pool.get_connection()
        assert isinstance(connection._sock, socket.socket)
        assert UNHURRIED["socket_timeout"] == connection._sock.gettimeout()
        assert isinstance(connection._parser.parse_error("NOSCRIPT x"), redis.exceptions.NoScriptError)
        assert connection.can_read(0) is False
        connection.disconnect()
        assert connection._sock is None

    async def look() -> None:
        pool = redis.asyncio.ConnectionPool(port=server.port, **UNHURRIED)
        connection = await pool.get_connection()
        assert isinstance(connection._reader, asyncio.StreamReader)
        assert isinstance(connection._writer, asyncio.StreamWriter)
        assert bytearray() == connection._reader._buffer
        assert isinstance(connection._parser.parse_error("NOSCRIPT x"), redis.exceptions.NoScriptError)
        await connection.disconnect(nowait=True)
        assert connection._reader is None
        await pool.disconnect()

    runner.run(look())


def test_with_tls_its_socket_is_used_as_well(fleets: Any) -> None:
    """redis-py's connection does the encrypting."""
    with closing(open_store(fleets.url("tls"))) as store:
        written = store.call(next_number(ADA, Row(None, "", store.call(Load(ADA)).now)))
        row, _ = timed(store, 5)

        assert isinstance(written, Written)
        assert (b"1", written.version) == (row.value, row.version)
        assert isinstance(store._direct._idle.get()[0].connection._sock, ssl.SSLSocket)


def _replies(chance: random.Random, depth: int = 0) -> bytes:
    """Some reply of RESP2."""
    text = bytes(chance.choices(b"abc \x00\xff", k=chance.randrange(9)))
    kind = chance.randrange(7 if depth < 3 else 5)
    if kind == 0:
        return b"+%s\r\n" % text.replace(b"\x00", b"0")
    if kind == 1:
        words = [b"ERR x", b"NOSCRIPT y", b"READONLY z", b"MOVED 7 h:1", b"WRONGTYPE", b"OOM m", b"NOPERM n"]
        return b"-%s\r\n" % chance.choice(words)
    if kind == 2:
        return b":%d\r\n" % chance.randrange(-9, 10**12)
    if kind == 3:
        return chance.choice([b"$-1\r\n", b"*-1\r\n"])
    if kind == 4:
        return b"$%d\r\n%s\r\n" % (len(text), text)
    return b"*%d\r\n" % (items := chance.randrange(4)) + b"".join(_replies(chance, depth + 1) for _ in range(items))


def _comparable(reply: object) -> object:
    if isinstance(reply, list):
        return [_comparable(item) for item in reply]
    return (type(reply), str(reply)) if isinstance(reply, Exception) else reply


@pytest.mark.parametrize("seed", range(40))
def test_replies_are_read_as_by_redis_pys_own_parser(seed: int) -> None:
    """In whatever pieces they come: its parser in Python, which needs no hiredis, makes the same of them."""
    chance = random.Random(seed)
    replies = [_replies(chance) for _ in range(12)]
    message = b"".join(replies)

    near, far = socket.socketpair()
    with near, far:
        connection = redis.Connection(parser_class=_RESP2Parser, protocol=2)
        connection._sock = near
        connection._parser.on_connect(connection)
        far.sendall(message)
        theirs = [_comparable(_read(connection)) for _ in replies]

    line, ours = Line(connection), []
    while message:
        size = chance.randrange(1, 9)
        is_complete, message = line.take(message[:size], ours, len(replies)), message[size:]
    assert theirs == [_comparable(reply) for reply in ours]
    assert is_complete


def _read(connection: redis.Connection) -> object:
    try:
        return connection._parser.read_response()
    except ResponseError as error:
        return error


def test_what_ends_a_connection_for_redis_py_ends_it_here() -> None:
    """A server that is loading or full says so, and closes: that is a broken connection, not an answer."""
    for said in (b"-LOADING x\r\n", b"-ERR max number of clients reached\r\n"):
        with pytest.raises(redis.ConnectionError):
            Line(redis.Connection()).take(said, [], 1)
    with pytest.raises(redis.ConnectionError, match="closed"):
        Line(redis.Connection()).take(b"", [], 1)
    with pytest.raises(InvalidResponse):
        Line(redis.Connection()).take(b"?\r\n", [], 1)


def test_commands_are_packed_as_by_redis_py() -> None:
    """hiredis makes the same bytes of them."""
    commands = OneServerCommands().write(next_number(ADA, Row(b"7", "AAAABBBB", 12))).commands

    packer: Any = redis.Connection()._command_packer
    for command in (*commands, ("MGET", "a", b"\x00"), ("SET", "ä", 10**15)):
        assert b"".join(packer.pack(*command)) == hiredis.pack_command(command)


def test_its_parser_for_asyncio_names_errors_alike() -> None:
    """Both kinds of connections may have either parser."""
    assert _AsyncRESP2Parser.parse_error("NOSCRIPT x").args == _RESP2Parser.parse_error("NOSCRIPT x").args


def test_resp3_is_left_to_redis_pys_own_client(server: Server, runner: asyncio.Runner) -> None:
    """It knows what to do with what a server says unasked."""
    url = f"{server.url}?protocol=3"
    with closing(open_store(url)) as store:
        assert isinstance(store.call(next_number(ADA, Row(None, "", store.call(Load(ADA)).now))), Written)

    async def load() -> Any:
        store = open_async_store(url)
        try:
            return await store.call(Load(ADA))
        finally:
            await store.close()

    assert b"1" == runner.run(load()).value
