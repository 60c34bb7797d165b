"""Clients for the targets that URLs name: of redis-py for one server; for a cluster or Sentinel, many such behind one.

Nothing is connected before the first command.
"""

import time
from typing import Any, Protocol, cast

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, ReadOnlyError, TimeoutError
from redis.retry import Retry

from .redis_commands import Argument, Encoder
from .redis_direct import DirectRedis, Pipeline
from .redis_errors import REDIS_ERRORS
from .redis_routing import Errand, Journey, Pause, Replies, Router
from .redis_talks import Sent
from .redis_topology import ClusterTopology, SentinelTopology
from .redis_urls import CONNECTION_DEFAULTS, Place, RedisTarget, unusable_options


class RedisPipeline(Protocol):
    """What `RedisStore` needs of a pipeline of redis-py."""

    def execute_command(self, *args: Argument) -> object:
        """Queue a command."""

    def execute(self, raise_on_error: bool = True) -> list[object]:
        """Send the queued commands and read all replies."""


class RedisClient(Protocol):
    """What `RedisStore` needs of a client of redis-py: `Redis`, `RedisCluster`, or one that Sentinel gave."""

    def execute_command(self, *args: Argument) -> object:
        """Send a command and read its reply."""

    def get_encoder(self) -> Encoder:
        """How it encodes and decodes."""

    def pipeline(self, transaction: bool = True) -> RedisPipeline:
        """A pipeline."""

    def close(self) -> None:
        """Close the connections."""


class _Connection(Protocol):
    """The part of a connection of redis-py that is used while it is being opened."""

    def on_connect(self) -> None:
        """Log in, and what else redis-py does at first."""

    def send_command(self, *args: Argument) -> None:
        """Send a command."""

    def read_response(self) -> object:
        """Read a reply."""


def open_client(target: RedisTarget) -> RedisClient:
    """A client for `target`. Raises `ConfigurationError` if redis-py does not take its options."""
    if target.kind == "server":
        # One repeat, at once, of what met a broken connection: a pooled one that the server closed meanwhile. Not of a
        # time-out: whoever waits for a login has waited long enough.
        return _client(target.client_url(target.places[0]), repeats=1)
    return RoutedRedis(target)


def router_of(target: RedisTarget) -> Router:
    """What knows where things lie."""
    if target.kind == "cluster":
        return Router(ClusterTopology(target.places))
    return Router(SentinelTopology(target.places, target.service))


class RoutedRedis:
    """A client of a cluster, or of the primary that Sentinel names. Thread-safe and fork-safe, as redis-py's pools are.

    It has one client of redis-py for each server. A call waits for one time-out at most; see `redis_routing`.
    """

    def __init__(self, target: RedisTarget) -> None:
        self._target = target
        self._router = router_of(target)
        self._clients: dict[tuple[Place, bool], RedisClient] = {}
        # Options that fit no connection would be noticed at the first login only.
        self._encoder = self._client(target.places[0]).get_encoder()

    def execute_command(self, *args: Argument) -> object:
        """The reply to a command about one key. Raises what redis-py raises."""
        met: tuple[Place, Exception] | None = None
        place = self._router.place_of(args)
        if place is not None:
            try:
                return self._client(place).execute_command(*args)
            except REDIS_ERRORS as error:
                met = place, error
        [reply] = self._travel(self._router.deliver([args], met=met))
        if isinstance(reply, Exception):
            raise reply
        return reply

    def pipeline(self, transaction: bool = True) -> Pipeline:
        """A pipeline, never a transaction. A `WAIT` in it is about the command before it."""
        return Pipeline(self.execute_all)

    def execute_all(self, commands: Sent) -> Replies:
        """The reply to each command, errors as values."""
        return self._travel(self._router.deliver(commands))

    def get_encoder(self) -> Encoder:
        """How replies are encoded."""
        return self._encoder

    def close(self) -> None:
        """Close all connections."""
        for client in list(self._clients.values()):
            client.close()

    def _travel(self, journey: Journey) -> Replies:
        answers: list[Replies] = []
        try:
            stop = next(journey)
            while True:
                answers = self._at(stop)
                stop = journey.send(answers)
        except StopIteration as end:
            return cast("Replies", end.value)

    def _at(self, stop: list[Errand] | Pause) -> list[Replies]:
        if isinstance(stop, Pause):
            time.sleep(stop.seconds)
            return []
        answers: list[Replies] = []
        for errand in stop:
            timed_out = next(
                (reply for replies in answers for reply in replies if isinstance(reply, TimeoutError)), None
            )
            # One after the other: with a second server that hangs nobody waits twice.
            answers.append([timed_out] * len(errand.commands) if timed_out else self._run(errand))
        return answers

    def _run(self, errand: Errand) -> Replies:
        client = self._client(errand.place, to_sentinel=errand.to_sentinel)
        try:
            if len(errand.commands) == 1:
                return [client.execute_command(*errand.commands[0])]
            pipeline = client.pipeline(transaction=False)
            for command in errand.commands:
                pipeline.execute_command(*command)
            return pipeline.execute(raise_on_error=False)
        except REDIS_ERRORS as error:
            return [error] * len(errand.commands)

    def _client(self, place: Place, *, to_sentinel: bool = False) -> RedisClient:
        client = self._clients.get((place, to_sentinel))
        if client is None:
            # The router asks where things lie before it repeats.
            url = self._target.sentinel_url(place) if to_sentinel else self._target.client_url(place)
            checks = self._target.kind == "sentinel" and not to_sentinel
            client = _client(url, repeats=0, **({"redis_connect_func": _connect_to_primary} if checks else {}))
            # No lock, which a fork would copy: of two that are made at once one is used.
            client = self._clients.setdefault((place, to_sentinel), client)
        return client


def _client(url: str, *, repeats: int, **options: Any) -> RedisClient:
    pool = open_pool(url, repeats=repeats, **options)
    # RESP3 servers may say something unasked, which redis-py's own client knows how to take.
    return DirectRedis(pool) if pool.connection_kwargs["protocol"] in (2, "2") else redis.Redis.from_pool(pool)


def open_pool(url: str, *, repeats: int, **options: Any) -> redis.ConnectionPool:
    """Connections to the server that redis-py calls `url`. Raises `ConfigurationError` for options it does not take."""
    retry = Retry(NoBackoff(), repeats, supported_errors=(ConnectionError,))
    try:
        pool = redis.ConnectionPool.from_url(url, retry=retry, **(CONNECTION_DEFAULTS | options))
        # Options that fit no connection would be noticed at the first login only.
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError, redis.RedisError):
        raise unusable_options() from None
    return pool


def _connect_to_primary(connection: _Connection) -> None:
    # A connection that broke at a failover is opened again by its pool, to what is a replica now: that would go on
    # answering loads, out of date, for ever.
    connection.on_connect()
    connection.send_command("ROLE")
    check_primary(connection.read_response())


def check_primary(role: object) -> None:
    """Raises `ReadOnlyError` unless `role`, the answer to ROLE, is that of a primary."""
    if not isinstance(role, list) or role[0] not in (b"master", "master"):
        raise ReadOnlyError("this is a replica now")
