"""`redis_direct` for asyncio: a client of one server that talks to redis.asyncio's connections itself."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import redis.asyncio
from redis.exceptions import ConnectionError, ResponseError

from .redis_commands import Argument, Encoder
from .redis_direct import Arguments


class AsyncDirectRedis:
    """Sends commands over `pool`'s connections, for the tasks of one event loop. For RESP2. See `DirectRedis`.

    A task that finds no idle connection waits for one as long as the pool lets it.
    """

    def __init__(self, pool: redis.asyncio.BlockingConnectionPool) -> None:
        self._pool: Any = pool
        self._client: Any = redis.asyncio.Redis.from_pool(pool)
        self._idle: deque[Any] = deque()
        self._waiting = 0

    async def execute_command(self, *args: Argument) -> object:
        """The reply to a command. Raises what redis-py raises."""
        return await self._execute(self._ask, args)

    async def _execute(self, ask: Callable[[Any, Arguments], Awaitable[object]], args: Arguments) -> object:
        connection = self._idle.pop() if self._idle else await self._wait()
        try:
            try:
                return await ask(connection, args)
            except ConnectionError:
                return await ask(connection, args)
        finally:
            self._idle.append(connection)
            if self._waiting:
                await self._let_go()

    async def _ask(self, connection: Any, args: Arguments) -> object:
        try:
            await connection.send_command(*args)
            return await connection.read_response()
        except ResponseError:
            raise
        except BaseException:
            # As after a cancellation: the reply may still come, and nobody else may take it for theirs.
            await connection.disconnect(nowait=True)
            raise

    async def _wait(self) -> Any:
        # Who waits at the pool is woken by what is given back to the pool, not by what lies idle here.
        self._waiting += 1
        try:
            return await self._pool.get_connection()
        finally:
            self._waiting -= 1

    def pipeline(self, transaction: bool = True) -> "AsyncDirectPipeline":
        """A pipeline of redis.asyncio's."""
        return AsyncDirectPipeline(self, self._client.pipeline(transaction=transaction))

    async def execute_all(self, pipeline: Any, raise_on_error: bool) -> list[object]:
        """The replies to what `pipeline` has queued. It takes its connection out of the pool, which gets idle ones."""
        self._waiting += 1
        try:
            await self._let_go()
            return cast("list[object]", await pipeline.execute(raise_on_error=raise_on_error))
        finally:
            self._waiting -= 1

    def get_encoder(self) -> Encoder:
        """How replies are encoded."""
        return cast("Encoder", self._client.get_encoder())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._let_go()
        await self._client.aclose()
        await self._pool.disconnect()

    async def _let_go(self) -> None:
        while self._idle:
            await self._pool.release(self._idle.pop())


class AsyncDirectPipeline:
    """Commands to be sent together."""

    def __init__(self, client: AsyncDirectRedis, pipeline: Any) -> None:
        self._client = client
        self._pipeline = pipeline

    def execute_command(self, *args: Argument) -> object:
        """Queue a command."""
        return self._pipeline.execute_command(*args)

    async def execute(self, raise_on_error: bool = True) -> list[object]:
        """Send the queued commands and read all replies."""
        return await self._client.execute_all(self._pipeline, raise_on_error)
