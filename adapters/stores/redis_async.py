"""The Redis store for asyncio. What is said to Redis is `redis_commands`, as in `redis_sync`; here it is awaited."""

from collections.abc import Awaitable, Sequence
from typing import Protocol, TypeVar

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, NoScriptError

from ...statemachine.patient import UserKey
from ..ports import Change, Row, Written
from .keys import DEFAULT_PREFIX
from .redis_commands import (
    REDIS_ERRORS,
    Argument,
    Command,
    Encoder,
    RedisCommands,
    check_gives_bytes,
    first_due,
    unavailable,
)
from .urls import CONNECTION_DEFAULTS, RedisTarget, unusable_options

T = TypeVar("T")

#: How long a call waits for a connection that others use.
_QUEUE_SECONDS = 5.0


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


class AsyncRedisStore:
    """Keeps records in Redis, through `client`, for the tasks of one event loop. See `RedisStore` for the rest.

    A call that is cancelled may have taken effect.
    """

    def __init__(self, client: AsyncRedisClient, *, prefix: str = DEFAULT_PREFIX, name: str = "redis") -> None:
        check_gives_bytes(client.get_encoder())
        self._client = client
        self._commands = RedisCommands(prefix)
        self._name = name
        self._owns_client = False

    @classmethod
    def from_url(cls, url: str) -> "AsyncRedisStore":
        """A store with a client of its own. Nothing is connected yet. See `open_async_store` for the URL."""
        target = RedisTarget.parse(url)
        # See `RedisStore.from_url` for the reasons.
        retry = Retry(NoBackoff(), 1, supported_errors=(ConnectionError,))
        try:
            # Tasks are many: they queue for a connection. Another kind of pool would refuse the hundred and first.
            pool = redis.asyncio.BlockingConnectionPool.from_url(
                target.client_url, retry=retry, timeout=_QUEUE_SECONDS, **CONNECTION_DEFAULTS
            )
            pool.connection_class(**pool.connection_kwargs)
        except (ValueError, TypeError, redis.RedisError):
            raise unusable_options() from None
        store = cls(redis.asyncio.Redis.from_pool(pool), prefix=target.prefix, name=target.name)
        store._owns_client = True
        return store

    async def load(self, key: UserKey, *, with_token: bool = False) -> Row:
        """See `RedisStore.load`."""
        return await self._run(self._commands.load(key, with_token=with_token))

    async def write(self, change: Change) -> Written | Row:
        """See `RedisStore.write`."""
        return await self._run(self._commands.write(change))

    async def due(self, limit: int) -> Sequence[UserKey]:
        """See `RedisStore.due`."""
        commands = self._commands.due(limit) if limit > 0 else []
        try:
            replies = await self._run_all([command.by_hash() for command in commands])
            if any(isinstance(reply, NoScriptError) for reply in replies):
                replies = await self._run_all([command.in_full() for command in commands])
            return first_due(commands, replies, limit)
        except REDIS_ERRORS as error:
            raise unavailable(self._name, error) from error

    async def close(self) -> None:
        """Close the connections, if they are the store's own."""
        if self._owns_client:
            await self._client.aclose()

    async def _run(self, command: Command[T]) -> T:
        try:
            try:
                reply = await self._client.execute_command(*command.by_hash())
            except NoScriptError:
                reply = await self._client.execute_command(*command.in_full())
            return command.read(reply)
        except REDIS_ERRORS as error:
            raise unavailable(self._name, error) from error

    async def _run_all(self, commands: list[tuple[Argument, ...]]) -> list[object]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)
