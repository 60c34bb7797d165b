"""A store in Redis or Valkey: what a fleet uses."""

from collections.abc import Callable
from typing import TypeVar, cast

from redis.exceptions import NoScriptError

from ...statemachine.effects import ListDue, Load, LoadAll
from ..ports import Change, ChangeAll, StoreReply, StoreRequest
from . import redis_talks
from .keys import DEFAULT_PREFIX
from .redis_clients import RedisClient, open_client
from .redis_commands import Command, RedisCommands, check_gives_bytes
from .redis_errors import REDIS_ERRORS, unavailable
from .redis_talks import Sent, Talk
from .redis_urls import RedisTarget

T = TypeVar("T")


class RedisStore:
    """Keeps records in Redis, through `client`. Thread-safe and fork-safe, as the client is. Its clock is the server's.

    `client` must give bytes (`decode_responses=False`), should have time-outs, and may repeat a command after a
    broken connection: every write is safe to repeat. It stays the caller's, and `close` leaves it alone, unless
    the store came from `at`. `name` stands for the server in errors.

    Not guaranteed with a `redis.RedisCluster` of the caller's: that a node that hangs costs no more than one time-out,
    and changes that ask for replicas; with stores from URLs both are.

    Raises `StoreUnavailable`, with a reason such as "timed_out", "connection_failed", "authentication_failed",
    "tls_failed", "not_permitted", "read_only", "out_of_memory", "loading", "cluster_unavailable", "wrong_type". See
    `redis_commands` for what Redis does not guarantee.
    """

    def __init__(self, client: RedisClient, *, prefix: str = DEFAULT_PREFIX, name: str = "redis") -> None:
        check_gives_bytes(client.get_encoder())
        self._client = client
        self._commands = RedisCommands(prefix)
        self._name = name
        self._owns_client = False

    @classmethod
    def at(cls, target: RedisTarget) -> "RedisStore":
        """A store with a client of its own. Nothing is connected yet. See `open_store` for what URLs name."""
        store = cls(open_client(target), prefix=target.prefix, name=target.name)
        store._commands = RedisCommands(target.prefix, longest_wait=target.longest_wait)
        store._owns_client = True
        return store

    def call(self, request: StoreRequest) -> StoreReply:
        """See `Store.call`."""
        match request:
            case Load(key, with_token):
                return self._run(self._commands.load(key, with_token=with_token))
            case Change():
                command = self._commands.write(request)
                return self._hold(redis_talks.one(command)) if command.then else self._run(command)
            case LoadAll(keys):
                return tuple(self._hold(redis_talks.each([self._commands.load(key, with_token=False) for key in keys])))
            case ChangeAll(changes):
                return tuple(self._hold(redis_talks.each([self._commands.write(change) for change in changes])))
            case ListDue(limit):
                commands = self._commands.due(limit) if limit > 0 else []
                return self._hold(redis_talks.due(commands, limit))

    def close(self) -> None:
        """Close the connections, if they are the store's own."""
        if self._owns_client:
            self._client.close()

    def _run(self, command: Command[T], execute: Callable[..., object] | None = None) -> T:
        execute = execute or self._client.execute_command
        try:
            try:
                reply = execute(*command.by_hash())
            except NoScriptError:
                reply = execute(*command.in_full())
            return command.read(reply)
        except REDIS_ERRORS as error:
            raise unavailable(self._name, error) from error

    def _hold(self, talk: Talk[T]) -> T:
        try:
            sent = next(talk)
            while True:
                sent = talk.send(self._send(sent))
        except StopIteration as end:
            return cast("T", end.value)
        except REDIS_ERRORS as error:
            raise unavailable(self._name, error) from error

    def _send(self, commands: Sent) -> list[object]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return pipeline.execute(raise_on_error=False)
