"""The Redis store that answers rows it has read before, while the server tells of changes to them: one server, RESP2.

What is believed, and for how long, is `row_cache`. Only `load` without a token is answered so. Each write forgets its
patients' rows: who writes reads what was written.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import redis
from redis.exceptions import ResponseError

from ...statemachine.errors import RecordUnreadable
from ...statemachine.patient import UserKey
from ..per_process import PerProcess
from ..ports import Change, Row, Written
from .redis_clients import open_pool
from .redis_commands import Argument, RedisCommands
from .redis_direct import Arguments, DirectRedis
from .redis_listener import Sources, open_cache, track
from .redis_sync import RedisStore
from .redis_urls import RedisTarget
from .row_cache import Listening, RowCache, Source, Ticket


class TrackedRedis(DirectRedis):
    """`DirectRedis` that can have reads tracked. `sources` must be told when a connection of `pool` is opened."""

    def __init__(self, pool: redis.ConnectionPool, sources: Sources) -> None:
        self._sources = sources
        super().__init__(pool)

    def execute_tracked(self, ticket: Ticket, *args: Argument) -> object:
        """The reply to a read. `ticket.source` is what it was read over, if the server will tell of changes."""
        return self._execute(partial(self._ask_tracked, ticket), args)

    def _ask_tracked(self, ticket: Ticket, connection: Any, args: Arguments) -> object:
        source = self._sources.get(connection, ticket.listening)
        try:
            if source is not None:
                connection.send_command(*args)
            else:
                # In one message: that costs no round trip.
                connection.send_packed_command(connection.pack_commands([track(ticket.listening), args]))
                source = self._tracked(connection, ticket.listening)
            reply = connection.read_response()
        except ResponseError:
            raise
        except BaseException:
            # See `DirectRedis`.
            connection.disconnect()
            raise
        if self._sources.get(connection, ticket.listening) is source:
            # Else sending has opened the connection anew.
            ticket.source = source
        return reply

    def _tracked(self, connection: Any, listening: Listening) -> Source | None:
        try:
            connection.read_response()
        except ResponseError:
            # Nobody listens there any more, or this user may not say it. The row will be read, and not kept.
            return None
        return self._sources.add(connection, listening)


class TrackedRedisStore(RedisStore):
    """`RedisStore` for a URL with `cached_patients`. What `load` gives is behind the server by 2 seconds at most.

    A thread listens from the first load until `close`, and about as long after that as it believes a row.
    `monotonic` gives seconds from anywhen.
    """

    def __init__(self, target: RedisTarget, monotonic: Callable[[], float] = lambda: time.monotonic()) -> None:
        self.cached_patients = target.cached_patients
        sources = Sources()

        def connected(connection: Any) -> None:
            connection.on_connect()
            sources.forget(connection)

        pool = open_pool(target.client_url(target.places[0]), repeats=1, redis_connect_func=connected)
        self._tracked = TrackedRedis(pool, sources)
        super().__init__(self._tracked, prefix=target.prefix, name=target.name)
        self._commands = RedisCommands(target.prefix, longest_wait=target.longest_wait)
        self._owns_client = True
        self._caches = PerProcess(partial(open_cache, target, monotonic))

    @property
    def cache(self) -> RowCache:
        """The rows that this process keeps. Asking for them starts the listener."""
        return self._caches.get()

    def load(self, key: UserKey, *, with_token: bool = False) -> Row:
        """The patient's row, in no round trip where it is known and in one where it is not, or the token is wanted."""
        if with_token:
            return super().load(key, with_token=True)
        cache = self._caches.get()
        row = cache.get(key)
        if row is not None:
            return row
        ticket = cache.ticket(key)
        if ticket is None:
            return super().load(key)
        command = self._commands.load(key, with_token=False)
        try:
            row = self._run(command, partial(self._tracked.execute_tracked, ticket))
        except BaseException:
            cache.drop(key)
            raise
        cache.fill(ticket, row)
        return row

    def write(self, change: Change) -> Written | Row:
        """Compare and set, in one atomic round trip."""
        try:
            return super().write(change)
        finally:
            # Whatever came of it. Rows that are read from now on are read after it.
            self._forget([change])

    def write_all(self, changes: Sequence[Change]) -> Sequence[Written | Row | RecordUnreadable]:
        """Compare and set of several patients, each for itself, in one round trip for each hundreds of them."""
        try:
            return super().write_all(changes)
        finally:
            self._forget(changes)

    def close(self) -> None:
        """Close the connections. The listener ends by itself."""
        cache = self._caches.take()
        if cache is not None:
            cache.close()
        super().close()

    def _forget(self, changes: Sequence[Change]) -> None:
        cache = self._caches.made
        if cache is not None:
            for change in changes:
                cache.drop(change.key)
