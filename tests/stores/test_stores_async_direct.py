"""AsyncDirectRedis: redis.asyncio's connections without its client."""

import asyncio
from contextlib import closing
from typing import Any

import pytest
from conftest import Server
from phr_refresh.adapters.stores.redis_async_clients import open_async_client
from phr_refresh.adapters.stores.redis_async_direct import AsyncDirectRedis
from phr_refresh.adapters.stores.redis_urls import RedisTarget
from redis.exceptions import ResponseError


def direct(server: Server, options: str = "") -> AsyncDirectRedis:
    """The client that a plain URL gives; to be called in the loop."""
    # On a busy machine a second is short.
    unhurried = f"{options or '?'}&socket_connect_timeout=30&socket_timeout=30"
    client = open_async_client(RedisTarget.parse(server.url + unhurried.replace("?&", "?")))
    assert isinstance(client, AsyncDirectRedis)
    return client


def test_tasks_get_the_answers_to_their_own_questions(server: Server, runner: asyncio.Runner) -> None:
    """No two tasks talk over one connection at once, and who finds none waits for one."""

    async def ask() -> list[object]:
        client = direct(server, "?max_connections=3")
        try:
            return await asyncio.gather(*(client.execute_command("ECHO", f"{number}") for number in range(200)))
        finally:
            await client.aclose()

    assert [b"%d" % number for number in range(200)] == runner.run(ask())


def test_one_connection_serves_one_task(server: Server, runner: asyncio.Runner) -> None:
    """An error reply is an answer, and the next command goes over the same connection."""

    async def ask() -> set[Any]:
        client = direct(server)
        try:
            before = await client.execute_command("CLIENT", "ID")
            with pytest.raises(ResponseError):
                await client.execute_command("EVALSHA", "0" * 40, 0)
            return {before, await client.execute_command("CLIENT", "ID")}
        finally:
            await client.aclose()

    assert 1 == len(runner.run(ask()))


def test_who_is_cancelled_leaves_no_answer_behind(server: Server, runner: asyncio.Runner) -> None:
    """An answer that was not read is nobody else's."""

    async def ask() -> object:
        client = direct(server)
        try:
            await client.execute_command("PING")
            task = asyncio.create_task(client.execute_command("BLPOP", "nothing", 30))
            with closing(server.client()) as other:
                while not any(found["cmd"] == "blpop" for found in other.client_list()):
                    await asyncio.sleep(0)
            # On Python 3.11 `wait_for`, by which redis-py sends, may swallow a cancellation: let it end before.
            for _ in range(50):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await client.execute_command("ECHO", "mine")
        finally:
            await client.aclose()

    assert b"mine" == runner.run(ask())


def test_a_connection_that_the_server_closed_is_opened_again(server: Server, runner: asyncio.Runner) -> None:
    """The caller does not notice."""

    async def ask() -> object:
        client = direct(server)
        try:
            number = await client.execute_command("CLIENT", "ID")
            with closing(server.client()) as other:
                other.client_kill_filter(_id=number)
            return await client.execute_command("ECHO", "again")
        finally:
            await client.aclose()

    assert b"again" == runner.run(ask())


def test_a_pipeline_finds_a_connection_where_there_may_be_one_only(server: Server, runner: asyncio.Runner) -> None:
    """Beside commands that come and go."""

    async def ask() -> tuple[list[object], object]:
        client = direct(server, "?max_connections=1")
        try:
            await client.execute_command("SET", "k", "v")
            pipeline = client.pipeline(transaction=False)
            pipeline.execute_command("GET", "k")
            return await asyncio.gather(pipeline.execute(), client.execute_command("ECHO", "beside"))
        finally:
            await client.aclose()

    assert [[b"v"], b"beside"] == list(runner.run(ask()))


def test_close_closes_every_connection(server: Server, runner: asyncio.Runner) -> None:
    """None is left at the server, nor open here."""

    async def ask() -> None:
        client = direct(server, "?client_name=async-closing")
        await asyncio.gather(*(client.execute_command("PING") for _ in range(4)))
        await client.aclose()

    runner.run(ask())
    with closing(server.client()) as other:
        for _ in range(200):
            left = [found for found in other.client_list() if found["name"] == "async-closing"]
            if not left:
                break
        assert [] == left
