"""Clients for the targets that URLs name, for asyncio: `redis_clients`, awaited."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, Protocol, cast

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError

from .redis_async_direct import AsyncDirectRedis, AsyncPipeline
from .redis_clients import check_primary, router_of
from .redis_commands import Argument, Encoder
from .redis_errors import REDIS_ERRORS
from .redis_routing import Errand, Journey, Pause, Replies
from .redis_talks import Sent
from .redis_urls import CONNECTION_DEFAULTS, Place, RedisTarget, unusable_options

#: How long a call waits for a connection that others use.
_QUEUE_SECONDS: Final = 5.0


class AsyncRedisPipeline(Protocol):
    """What `AsyncRedisStore` needs of a pipeline of redis-py."""

    def execute_command(self, *args: Argument) -> object:
        """Queue a command."""

    def execute(self, raise_on_error: bool = True) -> Awaitable[list[object]]:
        """Send the queued commands and read all replies."""


class AsyncRedisClient(Protocol):
    """What `AsyncRedisStore` needs of a client of redis-py: of `redis.asyncio`, with or without Sentinel or Cluster."""

    def execute_command(self, *args: Argument) -> Awaitable[object]:
        """Send a command and read its reply."""

    def get_encoder(self) -> Encoder:
        """How it encodes and decodes."""

    def pipeline(self, transaction: bool = True) -> AsyncRedisPipeline:
        """A pipeline."""

    def aclose(self) -> Awaitable[None]:
        """Close the connections."""


def open_async_client(target: RedisTarget) -> AsyncRedisClient:
    """A client for `target`. Raises `ConfigurationError` if redis-py does not take its options."""
    if target.kind == "server":
        # See `open_client` for the reason.
        pool = open_async_pool(target.client_url(target.places[0]), repeats=1)
        return AsyncDirectRedis(pool) if pool.connection_kwargs["protocol"] in (2, "2") else _client_of(pool)
    return AsyncRoutedRedis(target)


class AsyncRoutedRedis:
    """`RoutedRedis` for the tasks of one event loop. Several servers are waited for at the same time."""

    def __init__(self, target: RedisTarget) -> None:
        self._target = target
        self._router = router_of(target)
        self._clients: dict[tuple[Place, bool], AsyncRedisClient] = {}
        self._encoder = self._client(target.places[0]).get_encoder()

    async def execute_command(self, *args: Argument) -> object:
        """The reply to a command about one key. Raises what redis-py raises."""
        met: tuple[Place, Exception] | None = None
        place = self._router.place_of(args)
        if place is not None:
            try:
                return await self._client(place).execute_command(*args)
            except REDIS_ERRORS as error:
                met = place, error
        [reply] = await self._travel(self._router.deliver([args], met=met))
        if isinstance(reply, Exception):
            raise reply
        return reply

    def pipeline(self, transaction: bool = True) -> AsyncPipeline:
        """A pipeline, never a transaction. A `WAIT` in it is about the command before it."""
        return AsyncPipeline(self.execute_all)

    async def execute_all(self, commands: Sent) -> Replies:
        """The reply to each command, errors as values."""
        return await self._travel(self._router.deliver(commands))

    def get_encoder(self) -> Encoder:
        """How replies are encoded."""
        return self._encoder

    async def aclose(self) -> None:
        """Close all connections."""
        for client in list(self._clients.values()):
            await client.aclose()

    async def _travel(self, journey: Journey) -> Replies:
        answers: list[Replies] = []
        try:
            stop = next(journey)
            while True:
                answers = await self._at(stop)
                stop = journey.send(answers)
        except StopIteration as end:
            return cast("Replies", end.value)

    async def _at(self, stop: list[Errand] | Pause) -> list[Replies]:
        if isinstance(stop, Pause):
            await asyncio.sleep(stop.seconds)
            return []
        return await asyncio.gather(*(self._run(errand) for errand in stop))

    async def _run(self, errand: Errand) -> Replies:
        client = self._client(errand.place, to_sentinel=errand.to_sentinel)
        try:
            if len(errand.commands) == 1:
                return [await client.execute_command(*errand.commands[0])]
            pipeline = client.pipeline(transaction=False)
            for command in errand.commands:
                pipeline.execute_command(*command)
            return await pipeline.execute(raise_on_error=False)
        except REDIS_ERRORS as error:
            return [error] * len(errand.commands)

    def _client(self, place: Place, *, to_sentinel: bool = False) -> AsyncRedisClient:
        client = self._clients.get((place, to_sentinel))
        if client is None:
            url = self._target.sentinel_url(place) if to_sentinel else self._target.client_url(place)
            checks = self._target.kind == "sentinel" and not to_sentinel
            client = _client(url, repeats=0, **({"redis_connect_func": _connect_to_primary} if checks else {}))
            self._clients[place, to_sentinel] = client
        return client


def _client(url: str, *, repeats: int, **options: Any) -> AsyncRedisClient:
    return _client_of(open_async_pool(url, repeats=repeats, **options))


def _client_of(pool: redis.asyncio.BlockingConnectionPool) -> AsyncRedisClient:
    return redis.asyncio.Redis.from_pool(pool)


def open_async_pool(url: str, *, repeats: int, **options: Any) -> redis.asyncio.BlockingConnectionPool:
    """See `open_pool`."""
    retry = Retry(NoBackoff(), repeats, supported_errors=(ConnectionError,))
    try:
        # Tasks are many: they queue for a connection. Another kind of pool would refuse the hundred and first.
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url, retry=retry, timeout=_QUEUE_SECONDS, **(CONNECTION_DEFAULTS | options)
        )
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError, redis.RedisError):
        raise unusable_options() from None
    return pool


async def _connect_to_primary(connection: redis.asyncio.Connection) -> None:
    # See `redis_clients`.
    await connection.on_connect()
    await connection.send_command("ROLE")
    check_primary(await connection.read_response())
