"""`redis_direct` for asyncio: a client of one server that talks to redis.asyncio's connections itself."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import redis.asyncio
from redis.exceptions import ConnectionError, ResponseError

from .redis_commands import Argument, Encoder
from .redis_direct import Arguments, Sending, heard
from .redis_talks import Sent


class AsyncDirectRedis:
    """Sends commands over `pool`'s connections, for the tasks of one event loop. For RESP2. See `DirectRedis`.

    A task that finds no idle connection waits for one as long as the pool lets it.
    """

    def __init__(self, pool: redis.asyncio.BlockingConnectionPool) -> None:
        self._pool: Any = pool
        self._idle: deque[Any] = deque()
        self._waiting = 0

    async def execute_command(self, *args: Argument) -> object:
        """The reply to a command. Raises what redis-py raises."""
        return await self._execute(self._ask, args)

    async def execute_all(self, commands: Sent) -> list[object]:
        """See `DirectRedis.execute_all`."""
        return cast("list[object]", await self._execute(self._ask_all, commands))

    async def _execute(self, ask: Callable[[Any, Sending], Awaitable[object]], what: Sending) -> object:
        connection = self._idle.pop() if self._idle else await self._wait()
        try:
            try:
                return await ask(connection, what)
            except ConnectionError:
                return await ask(connection, what)
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

    async def _ask_all(self, connection: Any, commands: Sent) -> list[object]:
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            return [await _reply(connection) for _ in commands]
        except BaseException:
            # As above.
            await connection.disconnect(nowait=True)
            raise

    async def _wait(self) -> Any:
        # Who waits at the pool is woken by what is given back to the pool, not by what lies idle here.
        self._waiting += 1
        try:
            return await self._pool.get_connection()
        finally:
            self._waiting -= 1

    def pipeline(self, transaction: bool = True) -> "AsyncPipeline":
        """A pipeline, never a transaction."""
        return AsyncPipeline(self.execute_all)

    def get_encoder(self) -> Encoder:
        """How replies are encoded."""
        return cast("Encoder", self._pool.get_encoder())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._let_go()
        await self._pool.disconnect()

    async def _let_go(self) -> None:
        while self._idle:
            await self._pool.release(self._idle.pop())


async def _reply(connection: Any) -> object:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


class AsyncPipeline:
    """`Pipeline` for asyncio."""

    def __init__(self, execute_all: Callable[[Sent], Awaitable[list[object]]]) -> None:
        self._execute_all = execute_all
        self._commands: Sent = []

    def execute_command(self, *args: Argument) -> object:
        """Queue a command."""
        self._commands.append(args)
        return self

    async def execute(self, raise_on_error: bool = True) -> list[object]:
        """Send the queued commands and read all replies."""
        commands, self._commands = self._commands, []
        return heard(await self._execute_all(commands), raise_on_error=raise_on_error)
