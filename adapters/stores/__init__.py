"""Stores: where the records of all patients lie.

================================  ==============  ====================================================================
URL                               store           for
================================  ==============  ====================================================================
``memory://``                     `MemoryStore`   tests, and a single process
``sqlite:///file``,               `SqliteStore`   one machine, several processes; durable
``sqlite:////abs``
``redis://host``                  `DirectStore`   a fleet; ``redis+unix:///socket`` over a Unix socket
``redis+sentinel://h1,h2,h3/s``   `WiredStore`    a fleet that is to outlive a server: the primary of the service ``s``
``redis+cluster://h1,h2``         `WiredStore`    a fleet that has outgrown a server
================================  ==============  ====================================================================

``rediss://``, ``rediss+sentinel://`` and ``rediss+cluster://`` are the same with TLS. Redis URLs take a user and a
password, ports, and options: ``?prefix=phr`` (what every key begins with), ``socket_timeout`` and
``socket_connect_timeout`` (seconds, 1 each), ``max_connections`` (of each server), ``ssl_ca_certs``, ``ssl_certfile``
and others; see `redis_urls`, and ``docs/redis.md`` for which to choose. Nothing is imported before a URL asks for it.
"""

from ..ports import AsyncStore, Store
from .urls import check_memory, scheme_of, sqlite_path


def open_store(url: str) -> Store:
    """The store that `url` names. Nothing is connected: a store that is down lets a login service start.

    Raises `ConfigurationError` if the URL is malformed, or the directory of the file does not exist.
    """
    scheme = scheme_of(url)
    if scheme == "memory":
        check_memory(url)
        from .memory import MemoryStore

        return MemoryStore()
    if scheme == "sqlite":
        from .sqlite import SqliteStore

        return SqliteStore(sqlite_path(url))
    from .redis_urls import RedisTarget

    target = RedisTarget.parse(url)
    from .redis_stores import open_redis_store

    return open_redis_store(target)


def open_async_store(url: str) -> AsyncStore:
    """The same for asyncio. Memory and SQLite run in threads of their own. A Redis store belongs to one event loop."""
    if scheme_of(url) in ("memory", "sqlite"):
        from .threaded import ThreadedStore

        return ThreadedStore(open_store(url))
    from .redis_urls import RedisTarget

    target = RedisTarget.parse(url)
    from .redis_stores import open_async_redis_store

    return open_async_redis_store(target)
