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
from typing import Any, cast

import redis
from redis.exceptions import ConnectionError, ResponseError

from .redis_commands import Argument, Encoder

Arguments = tuple[Argument, ...]


class DirectRedis:
    """Sends commands over `pool`'s connections. Thread-safe and fork-safe. For RESP2.

    A command that met a broken connection is repeated once, at once; a time-out is not.
    """

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._pool = pool
        # It brings what is rare: pipelines.
        self._client = redis.Redis.from_pool(pool)
        self._forget_parent()

    def execute_command(self, *args: Argument) -> object:
        """The reply to a command. Raises what redis-py raises."""
        return self._execute(self._ask, args)

    def _execute(self, ask: Callable[[Any, Arguments], object], args: Arguments) -> object:
        connection = self._take()
        try:
            try:
                return ask(connection, args)
            except ConnectionError:
                return ask(connection, args)
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

    def pipeline(self, transaction: bool = True) -> Any:
        """A pipeline of redis-py's. It takes its connection out of the pool, which gets what is idle back for it."""
        self._let_go()
        return self._client.pipeline(transaction=transaction)

    def get_encoder(self) -> Encoder:
        """How replies are encoded."""
        return cast("Encoder", self._client.get_encoder())

    def close(self) -> None:
        """Close the connections."""
        self._let_go()
        self._client.close()

    def _let_go(self) -> None:
        if self._pid != os.getpid():
            self._forget_parent()
        while True:
            try:
                self._pool.release(self._idle.pop())
            except IndexError:
                return
