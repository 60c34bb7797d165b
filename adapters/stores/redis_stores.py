"""Stores in Redis or Valkey, what a fleet uses, for threads and for asyncio.

A store holds the talks of `redis_commands` over a wire: `direct` for one server, `redis_cluster` for a cluster, and
here a client of redis-py: one that follows what Sentinel says, or one of the caller's. Nothing is connected before the
first call. The two kinds of everything here differ in `await` alone.
"""

import asyncio
from collections.abc import Awaitable
from itertools import chain
from typing import Any, Final, NamedTuple, Protocol

import redis
import redis.asyncio
from redis import exceptions as raised
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFoundError
from redis.backoff import NoBackoff
from redis.connection import SSLConnection, parse_url
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from ...statemachine.effects import Load
from ...statemachine.errors import ConfigurationError
from ..ports import Row, StoreReply, StoreRequest
from .direct import AsyncDirectWire, DirectWire
from .keys import DEFAULT_PREFIX
from .redis_cluster import AsyncClusterWire, ClusterWire, cluster_node
from .redis_commands import Commands, OneServerCommands, RedisCommands, Replies, grouped, hold, hold_async
from .redis_errors import REDIS_ERRORS, is_broken, unavailable
from .redis_urls import CONNECTION_DEFAULTS, RedisTarget, host_and_port, unusable_options

#: A moved slot is followed by itself: to learn all anew would close connections that others use.
_CLUSTER_OPTIONS: Final = {"require_full_coverage": False, "dynamic_startup_nodes": False, "reinitialize_steps": 0}
#: How long a task waits for a connection that others use, in seconds; and how many there are to a server, by default.
_QUEUE_SECONDS: Final = 5.0
_CONNECTIONS: Final = 50


class Wire(Protocol):
    """What carries exchanges to where they belong."""

    def send(self, exchanges: list[Commands]) -> list[Replies]:
        """The replies to each; what a server calls an error is a value. Raises `REDIS_ERRORS`."""

    def close(self) -> None:
        """Close what is the wire's own."""


class AsyncWire(Protocol):
    """The same, to be awaited."""

    def send(self, exchanges: list[Commands]) -> Awaitable[list[Replies]]:
        """See `Wire.send`."""

    def close(self) -> Awaitable[None]:
        """See `Wire.close`."""


class WiredStore:
    """Keeps records in Redis, over `wire`. Thread-safe and fork-safe, as the wire is. Its clock is the server's.

    `name` stands for the server in errors. A broken connection is tried once more, at once: every write is safe to
    repeat. A time-out is not.

    Raises `StoreUnavailable`, with a reason such as "timed_out", "connection_failed", "authentication_failed",
    "tls_failed", "not_permitted", "read_only", "out_of_memory", "loading", "cluster_unavailable", "wrong_type". See
    `redis_commands` for what Redis does not guarantee.
    """

    def __init__(self, wire: Wire, commands: RedisCommands, name: str) -> None:
        self._wire = wire
        self._commands = commands
        self._name = name

    def call(self, request: StoreRequest) -> StoreReply:
        """See `Store.call`."""
        try:
            return hold(self._commands.talk(request), self._send)
        except REDIS_ERRORS as error:
            raise unavailable(self._name, error) from error

    def close(self) -> None:
        """Close the connections, if they are the store's own."""
        self._wire.close()

    def _send(self, exchanges: list[Commands]) -> list[Replies]:
        try:
            return self._wire.send(exchanges)
        except raised.ConnectionError as error:
            if not is_broken(error):
                raise
            return self._wire.send(exchanges)


class DirectStore(WiredStore):
    """A store on one server, which can read within a time limit."""

    def __init__(self, wire: DirectWire, commands: RedisCommands, name: str) -> None:
        super().__init__(wire, commands, name)
        self._direct = wire

    def call_by(self, request: Load, ends_at: float) -> Row | None:
        """See `AnswersInTime.call_by`."""
        exchange = self._commands.load(request)
        return self._direct.send_by(exchange.commands, exchange.read, ends_at)


class RedisStore(WiredStore):
    """A store over `client`, of redis-py: `Redis`, `RedisCluster`, or one that its `Sentinel` gave. It stays yours.

    It must give bytes (`decode_responses=False`), should have time-outs, and may repeat by itself.
    """

    def __init__(self, client: Any, *, prefix: str = DEFAULT_PREFIX, name: str = "redis") -> None:
        _check_gives_bytes(client)
        is_cluster = isinstance(client, redis.RedisCluster)
        wire = ClusterWire(lambda: client, owns=False) if is_cluster else ClientWire(client)
        super().__init__(wire, RedisCommands(prefix), name)


class AsyncWiredStore:
    """`WiredStore` for the tasks of one event loop. A call that is cancelled may have taken effect.

    `connections`: so many tasks call at the same time, the others queue; 0 for as many as there are.
    """

    def __init__(self, wire: AsyncWire, commands: RedisCommands, name: str, *, connections: int = 0) -> None:
        self._wire = wire
        self._commands = commands
        self._name = name
        self._turns = asyncio.Semaphore(connections) if connections else None

    async def call(self, request: StoreRequest) -> StoreReply:
        """See `Store.call`."""
        try:
            return await hold_async(self._commands.talk(request), self._send)
        except REDIS_ERRORS as error:
            raise unavailable(self._name, error) from error

    async def close(self) -> None:
        """Close the connections, if they are the store's own."""
        await self._wire.close()

    async def _send(self, exchanges: list[Commands]) -> list[Replies]:
        turns = self._turns
        if turns is None:
            return await self._send_now(exchanges)
        if turns.locked():
            try:
                await asyncio.wait_for(turns.acquire(), _QUEUE_SECONDS)
            except TimeoutError:
                raise raised.MaxConnectionsError("no connection became free") from None
        else:
            await turns.acquire()
        try:
            return await self._send_now(exchanges)
        finally:
            turns.release()

    async def _send_now(self, exchanges: list[Commands]) -> list[Replies]:
        try:
            return await self._wire.send(exchanges)
        except raised.ConnectionError as error:
            if not is_broken(error):
                raise
            return await self._wire.send(exchanges)


class AsyncRedisStore(AsyncWiredStore):
    """`RedisStore` for a client of `redis.asyncio`."""

    def __init__(self, client: Any, *, prefix: str = DEFAULT_PREFIX, name: str = "redis") -> None:
        _check_gives_bytes(client)
        is_cluster = isinstance(client, redis.asyncio.RedisCluster)
        wire = AsyncClusterWire(lambda: client, owns=False) if is_cluster else AsyncClientWire(client)
        super().__init__(wire, RedisCommands(prefix), name)


def _check_gives_bytes(client: Any) -> None:
    if client.get_encoder().decode_responses:
        # Records and sealed tokens are no text.
        raise ConfigurationError("the Redis client", "it decodes replies", "create it with decode_responses=False")


# By a client of redis-py.


class ClientWire:
    """Sends exchanges through `client`, in one message of its pipeline. `owned`: what to close at the end."""

    def __init__(self, client: Any, *, owned: tuple[Any, ...] = ()) -> None:
        self._client = client
        self._owned = owned

    def send(self, exchanges: list[Commands]) -> list[Replies]:
        """See `Wire.send`."""
        pipeline = self._client.pipeline(transaction=False)
        for command in chain.from_iterable(exchanges):
            pipeline.execute_command(*command)
        return grouped(exchanges, pipeline.execute(raise_on_error=False))

    def close(self) -> None:
        """See `Wire.close`."""
        for client in self._owned:
            client.close()


class AsyncClientWire:
    """The same for asyncio."""

    def __init__(self, client: Any, *, owned: tuple[Any, ...] = ()) -> None:
        self._client = client
        self._owned = owned

    async def send(self, exchanges: list[Commands]) -> list[Replies]:
        """See `Wire.send`."""
        pipeline = self._client.pipeline(transaction=False)
        for command in chain.from_iterable(exchanges):
            pipeline.execute_command(*command)
        return grouped(exchanges, await pipeline.execute(raise_on_error=False))

    async def close(self) -> None:
        """See `Wire.close`."""
        for client in self._owned:
            await client.aclose()


# What URLs name.


def open_redis_store(target: RedisTarget) -> WiredStore:
    """A store on `target`. Raises `ConfigurationError` if redis-py does not take its options. See `open_store`."""
    kin = _Kin(redis, Retry, _Sentinel, _connect_to_primary, DirectWire, ClusterWire, ClientWire)
    wire = _wire(target, kin, CONNECTION_DEFAULTS)
    if isinstance(wire, DirectWire):
        return DirectStore(wire, OneServerCommands(target.prefix, longest_wait=target.longest_wait), target.name)
    return WiredStore(wire, RedisCommands(target.prefix, longest_wait=target.longest_wait), target.name)


def open_async_redis_store(target: RedisTarget) -> AsyncWiredStore:
    """The same for asyncio."""
    connect, wires = _async_connect_to_primary, (AsyncDirectWire, AsyncClusterWire, AsyncClientWire)
    connections = target.connections or _CONNECTIONS
    kin = _Kin(redis.asyncio, AsyncRetry, _AsyncSentinel, connect, *wires)
    wire = _wire(target, kin, CONNECTION_DEFAULTS | {"max_connections": connections})
    kind = OneServerCommands if isinstance(wire, AsyncDirectWire) else RedisCommands
    commands = kind(target.prefix, longest_wait=target.longest_wait)
    return AsyncWiredStore(wire, commands, target.name, connections=connections)


class _Kin(NamedTuple):
    """What differs between wires for threads and for asyncio. The two halves of redis-py name everything alike."""

    library: Any
    retry: Any
    sentinel: Any
    connect_to_primary: Any
    direct: Any
    cluster: Any
    client: Any


def _wire(target: RedisTarget, kin: _Kin, defaults: dict[str, Any]) -> Any:
    try:
        return _made(target, kin, defaults | {"retry": kin.retry(NoBackoff(), 0)})
    except (ValueError, TypeError, raised.RedisError):
        raise unusable_options() from None


def _made(target: RedisTarget, kin: _Kin, defaults: dict[str, Any]) -> Any:
    url = target.client_url(target.places[0])
    if target.kind == "server":
        pool = kin.library.ConnectionPool.from_url(url, **defaults)
        client = kin.library.Redis.from_pool(pool)
        _check(client)
        # A server of RESP3 may say something unasked, which redis-py's own client knows how to take.
        is_resp2 = str(pool.connection_kwargs["protocol"]) == "2"
        return kin.direct(pool) if is_resp2 else kin.client(client, owned=(client,))
    options, places = _options(url, defaults), [host_and_port(place) for place in target.places]
    _check(kin.library.Redis(**options))
    if target.kind == "cluster":
        options |= {"startup_nodes": [cluster_node(*place) for place in places]} | _CLUSTER_OPTIONS
        return kin.cluster(lambda: kin.library.RedisCluster(**options), seconds=target.seconds)
    to_sentinels = _options(target.sentinel_url(target.places[0]), defaults)
    sentinel = kin.sentinel(places, 0, to_sentinels, redis_connect_func=kin.connect_to_primary, **options)
    client = sentinel.master_for(target.service)
    return kin.client(client, owned=(client, *sentinel.sentinels))


def _options(url: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """What redis-py's clients are told of `url`, but for the place."""
    options = defaults | parse_url(url)  # type: ignore[no-untyped-call]
    is_tls = options.pop("connection_class", None) is SSLConnection
    return {name: value for name, value in options.items() if name not in ("host", "port")} | {"ssl": is_tls}


def _check(client: Any) -> None:
    # Options that fit no connection would be noticed at the first login only.
    pool = client.connection_pool
    pool.connection_class(**pool.connection_kwargs)


# Behind Sentinel. Each new connection asks who is the primary. It is looked at, too: sentinels may not all have heard
# of a failover yet, and a replica that was the primary would answer loads, out of date.


class _TellsWhy:
    """Sentinels that name no primary: the name that nobody knows, the primary that is down, or what went wrong."""

    _is_down = False

    def check_master_state(self, state: Any, service_name: str) -> bool:
        """As redis-py's, which skips what is down."""
        is_up = bool(super().check_master_state(state, service_name))  # type: ignore[misc]
        self._is_down = not is_up
        return is_up

    def _why(self, error: Exception) -> Exception:
        # redis-py keeps what it met with each sentinel in the text alone.
        for kind in (raised.AuthenticationError, raised.TimeoutError, raised.ConnectionError):
            if kind.__name__ in str(error):
                return kind("no sentinel answered")
        return raised.MasterDownError("the primary is down") if self._is_down else error


class _Sentinel(_TellsWhy, redis.Sentinel):
    def discover_master(self, service_name: str) -> Any:
        """As redis-py's."""
        self._is_down = False
        try:
            return super().discover_master(service_name)  # type: ignore[no-untyped-call]
        except MasterNotFoundError as error:
            raise self._why(error) from error


class _AsyncSentinel(_TellsWhy, redis.asyncio.Sentinel):
    async def discover_master(self, service_name: str) -> Any:
        """As redis-py's."""
        self._is_down = False
        try:
            return await super().discover_master(service_name)
        except AsyncMasterNotFoundError as error:
            raise self._why(error) from error


def _connect_to_primary(connection: Any) -> None:
    connection.on_connect()
    connection.send_command("ROLE")
    _check_primary(connection.read_response())


async def _async_connect_to_primary(connection: Any) -> None:
    await connection.on_connect()
    await connection.send_command("ROLE")
    _check_primary(await connection.read_response())


def _check_primary(role: object) -> None:
    if not isinstance(role, list) or role[0] not in (b"master", "master"):
        raise raised.ReadOnlyError("this is a replica now")
