"""The Redis store for asyncio. What is said to Redis is `redis_commands`, as in `redis_sync`; here it is awaited."""

from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from redis.exceptions import NoScriptError

from ...statemachine.effects import ListDue, Load, LoadAll
from ..ports import Change, ChangeAll, StoreReply, StoreRequest
from . import redis_talks
from .keys import DEFAULT_PREFIX
from .redis_async_clients import AsyncRedisClient, open_async_client
from .redis_commands import Command, RedisCommands, check_gives_bytes
from .redis_errors import REDIS_ERRORS, unavailable
from .redis_talks import Sent, Talk
from .redis_urls import RedisTarget

T = TypeVar("T")


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
    def at(cls, target: RedisTarget) -> "AsyncRedisStore":
        """A store with a client of its own. Nothing is connected yet. See `open_async_store` for what URLs name."""
        store = cls(open_async_client(target), prefix=target.prefix, name=target.name)
        store._commands = RedisCommands(target.prefix, longest_wait=target.longest_wait)
        store._owns_client = True
        return store

    async def call(self, request: StoreRequest) -> StoreReply:
        """See `Store.call`."""
        match request:
            case Load(key, with_token):
                return await self._run(self._commands.load(key, with_token=with_token))
            case Change():
                command = self._commands.write(request)
                return await (self._hold(redis_talks.one(command)) if command.then else self._run(command))
            case LoadAll(keys):
                return tuple(
                    await self._hold(redis_talks.each([self._commands.load(key, with_token=False) for key in keys]))
                )
            case ChangeAll(changes):
                return tuple(await self._hold(redis_talks.each([self._commands.write(change) for change in changes])))
            case ListDue(limit):
                commands = self._commands.due(limit) if limit > 0 else []
                return await self._hold(redis_talks.due(commands, limit))

    async def close(self) -> None:
        """Close the connections, if they are the store's own."""
        if self._owns_client:
            await self._client.aclose()

    async def _run(self, command: Command[T], execute: Callable[..., Awaitable[object]] | None = None) -> T:
        execute = execute or self._client.execute_command
        try:
            try:
                reply = await execute(*command.by_hash())
            except NoScriptError:
                reply = await execute(*command.in_full())
            return command.read(reply)
        except REDIS_ERRORS as error:
            raise unavailable(self._name, error) from error

    async def _hold(self, talk: Talk[T]) -> T:
        try:
            sent = next(talk)
            while True:
                sent = talk.send(await self._send(sent))
        except StopIteration as end:
            return cast("T", end.value)
        except REDIS_ERRORS as error:
            raise unavailable(self._name, error) from error

    async def _send(self, commands: Sent) -> list[object]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)
