"""What a server says of rows that change, heard by a thread of its own on a connection of its own.

``CLIENT TRACKING ON REDIRECT <number>``, said on a connection that reads, lets the server remember which keys it has
read and tell the connection of that number when one of them changes, expires or is evicted: in RESP2 as a message of
the channel `__redis__:invalidate`. Such keys are those that a script reads, too.

The thread is a daemon's. It holds no cache alive: it ends with the cache, or within about `TRUST` after its `close`.
"""

import logging
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Any, Final

from redis.exceptions import ConnectionError, TimeoutError

from .keys import RedisKeys
from .redis_acl import INVALIDATIONS
from .redis_clients import open_pool
from .redis_commands import Argument
from .redis_errors import REDIS_ERRORS
from .redis_urls import RedisTarget
from .row_cache import TRUST, Listening, RowCache, Source

# Seconds.
_PERIOD: Final = 1.0
_PAUSE: Final = 1.0
_LONG_PAUSE: Final = 60.0


class Sources:
    """Which connections the server tracks, and for whom. One that was opened anew is tracked no longer."""

    def __init__(self) -> None:
        self._sources: dict[Any, Source] = {}

    def get(self, connection: Any, listening: Listening) -> Source | None:
        """What `connection` is, if what it reads is told of to `listening`."""
        source = self._sources.get(connection)
        return source if source is not None and source.listening is listening else None

    def add(self, connection: Any, listening: Listening) -> Source:
        """From now on what `connection` reads is told of to `listening`."""
        source = self._sources[connection] = Source(listening)
        return source

    def forget(self, connection: Any) -> None:
        """`connection` was opened anew."""
        self._sources.pop(connection, None)


def track(listening: Listening) -> tuple[Argument, ...]:
    """What a connection says so that `listening` is told of changes to what it reads from then on."""
    return ("CLIENT", "TRACKING", "ON", "REDIRECT", listening.number)


def open_cache(target: RedisTarget, monotonic: Callable[[], float]) -> RowCache:
    """A cache that is kept told of changes at `target`. Nothing is waited for."""
    pool = open_pool(target.client_url(target.places[0]), repeats=0)
    options = dict(pool.connection_kwargs)
    # A check of its health would open it anew, and the server would call it by another number.
    options |= {"health_check_interval": 0, "client_name": f"{options['client_name']}-listener"}
    cache = RowCache(target.cached_patients, monotonic)
    listener = _Listener(cache, RedisKeys(target.prefix), partial(pool.connection_class, **options))
    # Where the interpreter is about to end, or there are too many threads, rows are read from the server.
    with suppress(RuntimeError):
        Thread(target=listener.run, name="phr-refresh-listener", daemon=True).start()
    return cache


class _Listener:
    def __init__(self, cache: RowCache, keys: RedisKeys, connect: Callable[[], Any]) -> None:
        self._cache = weakref.ref(cache)
        self._ended = cache.ended
        self._keys = keys
        self._connect = connect
        self._has_warned = False

    def run(self) -> None:
        """Listen until the cache is closed or gone; again after whatever breaks."""
        while not self._is_over():
            connection = self._connect()
            pause = _PAUSE
            try:
                self._listen(connection)
            except (ConnectionError, TimeoutError):
                # A store that is away is told of by those who need it.
                pass
            except (*REDIS_ERRORS, OSError) as error:
                pause = _LONG_PAUSE
                self._warn(error)
            finally:
                self._switch(None)
                connection.disconnect()
            self._ended.wait(pause)

    def _listen(self, connection: Any) -> None:
        listening = Listening(_ask(connection, "CLIENT", "ID"))
        # It changes nothing here, and tells whether this user may say what readers will say.
        _ask(connection, "CLIENT", "TRACKING", "OFF")
        _ask(connection, "SUBSCRIBE", INVALIDATIONS)
        self._switch(listening)
        while self._hears(connection, listening):
            pass

    def _hears(self, connection: Any, listening: Listening) -> bool:
        """Ask, and take what is said until it is time to ask again; False when all is over."""
        asked_at = self._clock()
        ends_at = time.monotonic() + _PERIOD
        connection.send_command("PING")
        is_answered = False
        while not is_answered or time.monotonic() < ends_at:
            if self._is_over():
                return False
            # An answer may take its time: until then rows are less and less believed.
            patience = ends_at - time.monotonic() + (0 if is_answered else TRUST)
            if connection.can_read(timeout=max(0, patience)):
                if self._take(connection.read_response()):
                    is_answered = True
                    listening.heard_at = asked_at
            elif not is_answered:
                raise TimeoutError("no answer to PING")
        return True

    def _take(self, said: Any) -> bool:
        """Heed what the server says; whether it is the answer to PING."""
        if said[0] == b"pong":
            return True
        cache, names = self._cache(), said[2]
        if cache is None:
            return False
        if names is None:
            # The whole database was emptied.
            cache.flush()
        for name in names or ():
            cache.drop(self._keys.owner(name))
        return False

    def _clock(self) -> float:
        cache = self._cache()
        return cache.clock() if cache else 0.0

    def _switch(self, listening: Listening | None) -> None:
        cache = self._cache()
        if cache and not cache.ended.is_set():
            cache.listen(listening)

    def _is_over(self) -> bool:
        return self._ended.is_set() or self._cache() is None

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            logging.getLogger("phr_refresh").warning("phr_refresh.reads_not_cached (%s)", type(error).__name__)


def _ask(connection: Any, *command: Argument) -> Any:
    connection.send_command(*command)
    return connection.read_response()
