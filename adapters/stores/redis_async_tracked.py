"""`redis_tracked` for asyncio. The listener is the same thread: the event loop never waits for it."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import redis.asyncio
from redis.exceptions import ResponseError

from ...statemachine.errors import RecordUnreadable
from ...statemachine.patient import UserKey
from ..per_process import PerProcess
from ..ports import Change, Row, Written
from .redis_async import AsyncRedisStore
from .redis_async_clients import open_async_pool
from .redis_async_direct import AsyncDirectRedis
from .redis_commands import Argument, RedisCommands
from .redis_direct import Arguments
from .redis_listener import Sources, open_cache, track
from .redis_urls import RedisTarget
from .row_cache import Listening, RowCache, Source, Ticket


class AsyncTrackedRedis(AsyncDirectRedis):
    """`AsyncDirectRedis` that can have reads tracked. See `TrackedRedis`."""

    def __init__(self, pool: redis.asyncio.BlockingConnectionPool, sources: Sources) -> None:
        self._sources = sources
        super().__init__(pool)

    async def execute_tracked(self, ticket: Ticket, *args: Argument) -> object:
        """See `TrackedRedis.execute_tracked`."""
        return await self._execute(partial(self._ask_tracked, ticket), args)

    async def _ask_tracked(self, ticket: Ticket, connection: Any, args: Arguments) -> object:
        source = self._sources.get(connection, ticket.listening)
        try:
            if source is not None:
                await connection.send_command(*args)
            else:
                await connection.send_packed_command(connection.pack_commands([track(ticket.listening), args]))
                source = await self._tracked(connection, ticket.listening)
            reply = await connection.read_response()
        except ResponseError:
            raise
        except BaseException:
            # See `AsyncDirectRedis`.
            await connection.disconnect(nowait=True)
            raise
        if self._sources.get(connection, ticket.listening) is source:
            ticket.source = source
        return reply

    async def _tracked(self, connection: Any, listening: Listening) -> Source | None:
        try:
            await connection.read_response()
        except ResponseError:
            # See `TrackedRedis`.
            return None
        return self._sources.add(connection, listening)


class AsyncTrackedRedisStore(AsyncRedisStore):
    """`AsyncRedisStore` for a URL with `cached_patients`. See `TrackedRedisStore`."""

    def __init__(self, target: RedisTarget, monotonic: Callable[[], float] = lambda: time.monotonic()) -> None:
        self.cached_patients = target.cached_patients
        sources = Sources()

        async def connected(connection: Any) -> None:
            await connection.on_connect()
            sources.forget(connection)

        pool = open_async_pool(target.client_url(target.places[0]), repeats=1, redis_connect_func=connected)
        self._tracked = AsyncTrackedRedis(pool, sources)
        super().__init__(self._tracked, prefix=target.prefix, name=target.name)
        self._commands = RedisCommands(target.prefix, longest_wait=target.longest_wait)
        self._owns_client = True
        self._caches = PerProcess(partial(open_cache, target, monotonic))

    @property
    def cache(self) -> RowCache:
        """See `TrackedRedisStore.cache`."""
        return self._caches.get()

    async def load(self, key: UserKey, *, with_token: bool = False) -> Row:
        """See `TrackedRedisStore.load`."""
        if with_token:
            return await super().load(key, with_token=True)
        cache = self._caches.get()
        row = cache.get(key)
        if row is not None:
            return row
        ticket = cache.ticket(key)
        if ticket is None:
            return await super().load(key)
        command = self._commands.load(key, with_token=False)
        try:
            row = await self._run(command, partial(self._tracked.execute_tracked, ticket))
        except BaseException:
            cache.drop(key)
            raise
        cache.fill(ticket, row)
        return row

    async def write(self, change: Change) -> Written | Row:
        """See `TrackedRedisStore.write`."""
        try:
            return await super().write(change)
        finally:
            self._forget([change])

    async def write_all(self, changes: Sequence[Change]) -> Sequence[Written | Row | RecordUnreadable]:
        """See `TrackedRedisStore.write_all`."""
        try:
            return await super().write_all(changes)
        finally:
            self._forget(changes)

    async def close(self) -> None:
        """Close the connections. The listener ends by itself."""
        cache = self._caches.take()
        if cache is not None:
            cache.close()
        await super().close()

    def _forget(self, changes: Sequence[Change]) -> None:
        cache = self._caches.made
        if cache is not None:
            for change in changes:
                cache.drop(change.key)
