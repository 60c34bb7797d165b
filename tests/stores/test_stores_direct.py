"""DirectRedis: redis-py's connections without redis-py's client."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import redis
from conftest import Server
from phr_refresh.adapters.stores.redis_clients import open_client
from phr_refresh.adapters.stores.redis_direct import DirectRedis
from phr_refresh.adapters.stores.redis_urls import RedisTarget
from redis.exceptions import ResponseError


def direct(server: Server, options: str = "") -> DirectRedis:
    """The client that a plain URL gives."""
    # On a busy machine a second is short.
    unhurried = f"{options or '?'}&socket_connect_timeout=30&socket_timeout=30"
    client = open_client(RedisTarget.parse(server.url + unhurried.replace("?&", "?")))
    assert isinstance(client, DirectRedis)
    return client


def connections_of(server: Server, name: str) -> list[dict[str, str]]:
    """What the server knows of the connections of that name."""
    with closing(server.client()) as client:
        return [found for found in client.client_list() if found["name"] == name]


def test_one_connection_serves_one_thread(server: Server) -> None:
    """Commands that come one after the other share a connection."""
    with closing(direct(server, "?client_name=alone")) as client:
        for number in range(3):
            client.execute_command("SET", "k", number)
        assert b"2" == client.execute_command("GET", "k")
        assert 1 == len(connections_of(server, "alone"))


def test_threads_get_the_answers_to_their_own_questions(server: Server) -> None:
    """No two threads talk over one connection at once."""
    with closing(direct(server)) as client, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: client.execute_command("ECHO", f"{number}"), range(400)))
    assert [b"%d" % number for number in range(400)] == answers


def test_an_error_reply_leaves_the_connection_as_it_was(server: Server) -> None:
    """It is the answer, and the next command goes over the same connection."""
    with closing(direct(server, "?client_name=erring")) as client:
        before = client.execute_command("CLIENT", "ID")
        with pytest.raises(ResponseError):
            client.execute_command("EVALSHA", "0" * 40, 0)
        assert before == client.execute_command("CLIENT", "ID")


def test_a_connection_that_the_server_closed_is_opened_again(server: Server) -> None:
    """The caller does not notice."""
    with closing(direct(server)) as client, closing(server.client()) as other:
        other.client_kill_filter(_id=client.execute_command("CLIENT", "ID"))
        assert b"PONG" == client.execute_command("PING")


def test_a_server_that_is_gone_is_an_error_after_one_repeat(own_server: Server) -> None:
    """Not a second one."""
    with closing(direct(own_server)) as client:
        client.execute_command("PING")
        own_server.stop()
        with pytest.raises(redis.ConnectionError):
            client.execute_command("PING")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_who_is_interrupted_leaves_no_answer_behind(
    server: Server, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    """An answer that was not read is nobody else's: the connection is dropped."""
    with closing(direct(server)) as client:
        client.execute_command("PING")

        def interrupted(self: redis.Connection, *args: object, **kwargs: object) -> object:
            raise interruption

        with monkeypatch.context() as patch:
            patch.setattr(redis.Connection, "read_response", interrupted)
            with pytest.raises(interruption):
                client.execute_command("ECHO", "not read")
        assert b"mine" == client.execute_command("ECHO", "mine")


def test_a_pipeline_finds_a_connection_where_there_may_be_one_only(server: Server) -> None:
    """It takes the one that lies idle."""
    with closing(direct(server, "?max_connections=1")) as client:
        for number in range(2):
            client.execute_command("SET", "k", number)
            pipeline = client.pipeline(transaction=False)
            pipeline.execute_command("GET", "k")
            assert [b"%d" % number] == pipeline.execute()


def test_close_closes_idle_connections(server: Server) -> None:
    """None is left at the server."""
    client = direct(server, "?client_name=closing")
    gate = threading.Barrier(4)

    def at_once(_: int) -> object:
        gate.wait()
        return client.execute_command("PING")

    with ThreadPoolExecutor(4) as threads:
        assert [b"PONG"] * 4 == list(threads.map(at_once, range(4)))
    client.close()
    _await(lambda: [] == connections_of(server, "closing"))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_a_fork_the_child_uses_none_of_the_parents_connections(server: Server) -> None:
    """Two processes on one socket would read each other's answers."""
    with closing(direct(server)) as client:
        mine = client.execute_command("CLIENT", "ID")
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writes, b"%d" % client.execute_command("CLIENT", "ID"))
            os._exit(0)
        os.close(writes)
        with os.fdopen(reads, "rb") as answer:
            theirs = int(answer.read())
        assert (child, 0) == os.waitpid(child, 0)
        assert mine != theirs
        assert mine == client.execute_command("CLIENT", "ID")


def test_resp3_is_left_to_redis_pys_own_client(server: Server) -> None:
    """It knows what to do with what a server says unasked."""
    with closing(open_client(RedisTarget.parse(f"{server.url}?protocol=3"))) as client:
        assert not isinstance(client, DirectRedis)
        assert b"said" == client.execute_command("ECHO", "said")


def _await(holds: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(200):
        if holds():
            return
        waiting.wait(0.05)
    raise AssertionError("it never came to hold")
