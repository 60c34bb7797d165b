"""A client of one server that talks to redis-py's connections itself: what every login and status read goes through.

redis-py's client spends half of a short call's time on choosing a connection under a lock, looking whether it is still
open, timing for its own metrics and preparing to repeat. Here idle connections wait in a deque, which needs no lock,
and one that turns out to be closed is opened again by the one repeat that every call of ours may make.

Not given: redis-py's own OpenTelemetry metrics, and the notices of RESP3. Connecting, authenticating, TLS, reading and
errors are redis-py's.
"""

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import redis
from redis.exceptions import ConnectionError, ResponseError

from .redis_commands import Argument, Encoder
from .redis_talks import Sent

Arguments = tuple[Argument, ...]
Sending = TypeVar("Sending", Arguments, Sent)


class DirectRedis:
    """Sends commands over `pool`'s connections. Thread-safe and fork-safe. For RESP2.

    A command that met a broken connection is repeated once, at once; a time-out is not.
    """

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._pool = pool
        self._forget_parent()

    def execute_command(self, *args: Argument) -> object:
        """The reply to a command. Raises what redis-py raises."""
        return self._execute(self._ask, args)

    def execute_all(self, commands: Sent) -> list[object]:
        """The replies to `commands`, sent together; what the server calls an error is a value."""
        return cast("list[object]", self._execute(self._ask_all, commands))

    def _execute(self, ask: Callable[[Any, Sending], object], what: Sending) -> object:
        connection = self._take()
        try:
            try:
                return ask(connection, what)
            except ConnectionError:
                return ask(connection, what)
        finally:
            self._idle.append(connection)

    def _ask(self, connection: Any, args: Arguments) -> object:
        try:
            connection.send_command(*args)
            return connection.read_response()
        except ResponseError:
            raise
        except BaseException:
            # Whatever it was, the reply may still come: nobody else may take it for theirs.
            connection.disconnect()
            raise

    def _ask_all(self, connection: Any, commands: Sent) -> list[object]:
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            return [_reply(connection) for _ in commands]
        except BaseException:
            # As above.
            connection.disconnect()
            raise

    def _take(self) -> Any:
        if self._pid != os.getpid():
            self._forget_parent()
        try:
            return self._idle.pop()
        except IndexError:
            return self._pool.get_connection()

    def _forget_parent(self) -> None:
        # After a fork the sockets are the parent's, too; the pool looks to its own.
        self._pid = os.getpid()
        self._idle: deque[Any] = deque()

    def pipeline(self, transaction: bool = True) -> "Pipeline":
        """A pipeline, never a transaction."""
        return Pipeline(self.execute_all)

    def get_encoder(self) -> Encoder:
        """How replies are encoded."""
        return cast("Encoder", self._pool.get_encoder())

    def close(self) -> None:
        """Close the connections."""
        if self._pid != os.getpid():
            self._forget_parent()
        with suppress(IndexError):
            while True:
                self._pool.release(self._idle.pop())
        self._pool.disconnect()


def _reply(connection: Any) -> object:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


class Pipeline:
    """Commands to be sent together by `execute_all`, which gives the reply to each, errors as values."""

    def __init__(self, execute_all: Callable[[Sent], list[object]]) -> None:
        self._execute_all = execute_all
        self._commands: Sent = []

    def execute_command(self, *args: Argument) -> object:
        """Queue a command."""
        self._commands.append(args)
        return self

    def execute(self, raise_on_error: bool = True) -> list[object]:
        """Send the queued commands and read all replies."""
        commands, self._commands = self._commands, []
        return heard(self._execute_all(commands), raise_on_error=raise_on_error)


def heard(replies: list[object], *, raise_on_error: bool) -> list[object]:
    """`replies`; raises the first error among them, if asked to."""
    for reply in replies if raise_on_error else ():
        if isinstance(reply, Exception):
            raise reply
    return replies
