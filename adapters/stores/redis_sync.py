"""A store in Redis or Valkey: what a fleet uses."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, NoScriptError
from redis.retry import Retry

from ...statemachine.patient import UserKey
from ..ports import Change, Row, Written
from .keys import DEFAULT_PREFIX
from .redis_commands import (
    REDIS_ERRORS,
    Argument,
    Command,
    Encoder,
    RedisCommands,
    check_gives_bytes,
    first_due,
    unavailable,
)
from .urls import CONNECTION_DEFAULTS, RedisTarget, unusable_options

T = TypeVar("T")


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


class RedisStore:
    """Keeps records in Redis, through `client`. Thread-safe and fork-safe, as the client is. Its clock is the server's.

    `client` must give bytes (`decode_responses=False`), should have time-outs, and may repeat a command after a
    broken connection: every write is safe to repeat. It stays the caller's, and `close` leaves it alone, unless
    the store came from `from_url`. `name` stands for the server in errors.

    Raises `StoreUnavailable`, with a reason such as "timed_out", "connection_failed", "authentication_failed",
    "read_only", "out_of_memory", "loading", "wrong_type". See `redis_commands` for what Redis does not guarantee.
    """

    def __init__(self, client: RedisClient, *, prefix: str = DEFAULT_PREFIX, name: str = "redis") -> None:
        check_gives_bytes(client.get_encoder())
        self._client = client
        self._commands = RedisCommands(prefix)
        self._name = name
        self._owns_client = False

    @classmethod
    def from_url(cls, url: str) -> "RedisStore":
        """A store with a client of its own. Nothing is connected yet. See `open_store` for the URL."""
        target = RedisTarget.parse(url)
        # One repeat, at once, of what met a broken connection: a pooled one that the server closed meanwhile. Not of a
        # time-out: whoever waits for a login has waited long enough.
        retry = Retry(NoBackoff(), 1, supported_errors=(ConnectionError,))
        try:
            pool = redis.ConnectionPool.from_url(target.client_url, retry=retry, **CONNECTION_DEFAULTS)
            # Options that fit no connection would be noticed at the first login only.
            pool.connection_class(**pool.connection_kwargs)
        except (ValueError, TypeError, redis.RedisError):
            raise unusable_options() from None
        store = cls(redis.Redis.from_pool(pool), prefix=target.prefix, name=target.name)
        store._owns_client = True
        return store

    def load(self, key: UserKey, *, with_token: bool = False) -> Row:
        """The patient's row, in one round trip."""
        return self._run(self._commands.load(key, with_token=with_token))

    def write(self, change: Change) -> Written | Row:
        """Compare and set, in one atomic round trip."""
        return self._run(self._commands.write(change))

    def due(self, limit: int) -> Sequence[UserKey]:
        """Keys whose `due_at` has passed, from all shards in one round trip."""
        commands = self._commands.due(limit) if limit > 0 else []
        try:
            replies = self._run_all([command.by_hash() for command in commands])
            if any(isinstance(reply, NoScriptError) for reply in replies):
                replies = self._run_all([command.in_full() for command in commands])
            return first_due(commands, replies, limit)
        except REDIS_ERRORS as error:
            raise unavailable(self._name, error) from error

    def close(self) -> None:
        """Close the connections, if they are the store's own."""
        if self._owns_client:
            self._client.close()

    def _run(self, command: Command[T]) -> T:
        try:
            try:
                reply = self._client.execute_command(*command.by_hash())
            except NoScriptError:
                reply = self._client.execute_command(*command.in_full())
            return command.read(reply)
        except REDIS_ERRORS as error:
            raise unavailable(self._name, error) from error

    def _run_all(self, commands: list[tuple[Argument, ...]]) -> list[object]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return pipeline.execute(raise_on_error=False)
