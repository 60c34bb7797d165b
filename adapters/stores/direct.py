"""The short way to one server: redis-py's connections without redis-py's client, for RESP2.

redis-py's client spends most of a short call's time on other things than the call. Here a message is packed by
`hiredis`, written to the socket that redis-py has opened (address, TLS, user, time-outs), and the replies are parsed by
a `hiredis.Reader`. Idle connections wait in a deque, which needs no lock.

Whatever goes wrong between the first byte written and the last one read closes the connection, and one on which
anything lies unread is not used: nobody ever reads an answer that is somebody else's (rule R9).

Not given: redis-py's own metrics, and what a server of RESP3 says unasked.
"""

import asyncio
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

import redis.asyncio
from hiredis import Reader, pack_command
from redis.exceptions import ConnectionError, InvalidResponse, RedisError
from redis.exceptions import TimeoutError as TimedOut

from ...statemachine.errors import RecordUnreadable
from ..per_process import PerProcess
from .redis_commands import Commands, Replies, grouped
from .redis_errors import REDIS_ERRORS

T = TypeVar("T")

_CHUNK: Final = 65_536
_MORE: Final = object()


class Line:
    """A connection that redis-py has opened, and what reads the replies that come over it."""

    __slots__ = ("_reader", "connection")

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        parse_error = connection._parser.parse_error
        self._reader = Reader(protocolError=InvalidResponse, replyError=parse_error, notEnoughData=_MORE)

    def take(self, received: bytes, replies: Replies, wanted: int) -> bool:
        """Add what came to `replies`; whether that is all. Raises at the end, for too much, for what is no reply."""
        if not received:
            raise ConnectionError("the server closed the connection")
        self._reader.feed(received)
        while len(replies) < wanted:
            reply = self._reader.gets()
            if reply is _MORE:
                return False
            if isinstance(reply, ConnectionError):
                # As redis-py does: a server that is loading, or has too many clients, may say so and close.
                raise reply
            replies.append(reply)
        if self._reader.has_data():
            raise InvalidResponse("more than was asked for")
        return True


def _packed(exchanges: list[Commands]) -> tuple[bytes, int]:
    """One message of all commands, and how many replies there will be."""
    messages = [pack_command(command) for commands in exchanges for command in commands]  # type: ignore[arg-type]
    return b"".join(messages), len(messages)


def _broken(error: OSError) -> RedisError:
    return TimedOut("no answer in time") if isinstance(error, TimeoutError) else ConnectionError("it broke")


class DirectWire:
    """Sends exchanges over `pool`'s connections. Thread-safe and fork-safe. Raises what redis-py raises."""

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._pool = pool
        self._checks_health = bool(pool.connection_kwargs.get("health_check_interval"))
        # After a fork the sockets are the parent's, too; the pool looks to its own.
        self._idle: PerProcess[deque[Line]] = PerProcess(deque)

    def send(self, exchanges: list[Commands]) -> list[Replies]:
        """The replies to each of `exchanges`; what the server calls an error is a value."""
        message, wanted = _packed(exchanges)
        replies: Replies = []
        line = self._take() or Line(self._pool.get_connection())
        try:
            if self._checks_health:
                line.connection.check_health()
            sock = line.connection._sock
            sock.sendall(message)
            while not line.take(sock.recv(_CHUNK), replies, wanted):
                pass
        except BaseException as error:
            self._drop(line)
            if isinstance(error, OSError):
                raise _broken(error) from error
            raise
        self._idle.get().append(line)
        return grouped(exchanges, replies)

    def send_by(self, commands: Commands, read: Callable[[Replies], T], ends_at: float) -> T | None:
        """What `read` makes of the replies; None if it is not there when `time.monotonic()` is `ends_at`.

        None at once where no connection is open and idle. Never raises what `send` or `read` do.
        """
        line = self._take()
        if line is None:
            return None
        replies: Replies = []
        try:
            sock = line.connection._sock
            usual = sock.gettimeout()
            message, wanted = _packed([commands])
            sock.settimeout(_left(ends_at))
            sock.sendall(message)
            is_complete = False
            while not is_complete:
                sock.settimeout(_left(ends_at))
                is_complete = line.take(sock.recv(_CHUNK), replies, wanted)
            sock.settimeout(usual)
            answer = read(replies)
        except BaseException as error:
            self._drop(line)
            if isinstance(error, (OSError, RecordUnreadable, *REDIS_ERRORS)):
                return None
            raise
        self._idle.get().append(line)
        return answer

    def close(self) -> None:
        """Close the connections."""
        while (line := self._take()) is not None:
            self._pool.release(line.connection)
        self._pool.disconnect()

    def _take(self) -> Line | None:
        """A connection that is open and idle, and on which nothing lies unread."""
        idle = self._idle.get()
        while True:
            try:
                line = idle.pop()
            except IndexError:
                return None
            try:
                if line.connection._sock is not None and not line.connection.can_read(0):
                    return line
            except (OSError, *REDIS_ERRORS):
                # The server has closed it.
                pass
            self._drop(line)

    def _drop(self, line: Line) -> None:
        line.connection.disconnect()
        self._pool.release(line.connection)


def _left(ends_at: float) -> float:
    left = ends_at - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


class AsyncDirectWire:
    """The same for the tasks of one event loop."""

    def __init__(self, pool: redis.asyncio.ConnectionPool) -> None:
        self._pool: Any = pool
        self._checks_health = bool(pool.connection_kwargs.get("health_check_interval"))
        self._seconds = pool.connection_kwargs["socket_timeout"]
        self._idle: deque[Line] = deque()

    async def send(self, exchanges: list[Commands]) -> list[Replies]:
        """See `DirectWire.send`."""
        message, wanted = _packed(exchanges)
        replies: Replies = []
        line = await self._take() or Line(await self._pool.get_connection())
        try:
            if self._checks_health:
                await line.connection.check_health()
            reader, writer = line.connection._reader, line.connection._writer
            writer.write(message)
            is_complete = False
            while not is_complete:
                async with asyncio.timeout(self._seconds):
                    await writer.drain()
                    is_complete = line.take(await reader.read(_CHUNK), replies, wanted)
        except BaseException as error:
            # A cancellation, too: its answer may still come.
            await self._drop(line)
            if isinstance(error, OSError):
                raise _broken(error) from error
            raise
        self._idle.append(line)
        return grouped(exchanges, replies)

    async def close(self) -> None:
        """Close the connections."""
        while self._idle:
            await self._pool.release(self._idle.pop().connection)
        await self._pool.disconnect()

    async def _take(self) -> Line | None:
        while self._idle:
            line = self._idle.pop()
            reader = line.connection._reader
            if reader is not None and not (reader._buffer or reader.at_eof() or reader.exception()):
                # What came while the loop was busy lies in the kernel only.
                socket = line.connection._writer.get_extra_info("socket")
                if not _is_readable(socket.fileno()):
                    return line
            await self._drop(line)
        return None

    async def _drop(self, line: Line) -> None:
        await line.connection.disconnect(nowait=True)
        await self._pool.release(line.connection)
