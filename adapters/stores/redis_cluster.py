"""Redis Cluster by redis-py's cluster clients, which know where everything lies, and learn it when something moves.

A message goes to the node of its key by that node's own connection, in one piece: redis-py's pipelines would ask a
server for the keys of each script, send each command of a node that hangs once more by itself, and let a `WAIT` go
elsewhere than its write. What turns out to lie elsewhere goes through redis-py's client, one by one, which follows it.

`routed` says what to send, without sending it, for both wires. redis-py repeats nothing here (`Retry(NoBackoff(), 0)`).
"""

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Final

import redis
import redis.asyncio.cluster
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    RedisClusterException,
    ResponseError,
    TimeoutError,
)

from ..per_process import PerProcess
from .redis_commands import Command, Commands, Replies, grouped
from .redis_errors import REDIS_ERRORS, is_resharding

#: A node, or None for the client itself; and what to send there, together. To the client it is one command.
Parcel = tuple[Any, Commands]
_FIRST_KEY: Final = 3
_ASKING: Final[Command] = ("ASKING",)
#: After these the client asks anew where everything lies.
_IN_DOUBT: Final = (ConnectionError, TimeoutError, RedisClusterException)


def routed(
    cluster: Any, exchanges: list[Commands], new_node: Callable[[str, int], Any]
) -> Generator[list[Parcel], list[Replies], list[Replies]]:
    """Yields what to send at the same time, is sent the replies, and returns those to each of `exchanges`."""
    by_node: dict[str, tuple[Any, list[int]]] = {}
    for place, commands in enumerate(exchanges):
        node = cluster.get_node_from_key(commands[0][_FIRST_KEY])
        by_node.setdefault(node.name, (node, []))[1].append(place)
    answers: list[Replies] = [[]] * len(exchanges)
    told = yield [(node, tuple(word for at in places for word in exchanges[at])) for node, places in by_node.values()]
    for (_, places), replies in zip(by_node.values(), told, strict=True):
        _check(replies)
        for place, some in zip(places, grouped([exchanges[at] for at in places], replies), strict=True):
            answers[place] = some
    for place, replies in enumerate(answers):
        if _is_elsewhere(replies[0]):
            answers[place] = yield from _followed(cluster, exchanges[place], replies[0], new_node)
    return answers


def _followed(
    cluster: Any, commands: Commands, said: object, new_node: Callable[[str, int], Any]
) -> Generator[list[Parcel], list[Replies], Replies]:
    if isinstance(said, AskError) and not isinstance(said, MovedError):
        # Here, and not by the client: that of asyncio sends ASKING over one connection and the command over another.
        node = cluster.get_node(said.host, said.port)
        if node is None:
            # One that keeps nothing yet is in no list of slots.
            node = new_node(said.host, said.port)
            cluster.nodes_manager.nodes_cache[node.name] = node
        [[asked, *replies]] = yield [(node, (_ASKING, *commands))]
        _check(replies)
        if isinstance(asked, Exception):
            raise asked
        if not _is_elsewhere(replies[0]):
            return replies
    told = yield [(None, commands[:1])]
    if len(commands) > 1 and not isinstance(told[0][0], Exception):
        # The write has taken effect; said again, where it lies now, it is what the WAIT behind it is about.
        told = yield [(cluster.get_node_from_key(commands[0][_FIRST_KEY]), commands)]
    return told[0]


def _check(replies: Replies) -> None:
    """Raises what is no server's answer."""
    for reply in replies:
        if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
            raise reply


def _is_elsewhere(reply: object) -> bool:
    return isinstance(reply, AskError | ClusterDownError) or is_resharding(reply)


def _known(cluster: Any) -> list[tuple[str, int]]:
    """Whom to ask besides the URL's hosts, all of which may have been replaced."""
    return [(node.host, node.port) for node in cluster.get_primaries()]


class _Patience:
    """Lets one of all who meet a cluster that hangs ask again where everything lies, once in `seconds`.

    The others would stand in a line, and each wait for several time-outs of its own.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = 0.0
        self._error: Exception | None = None

    def check(self) -> None:
        """Raises what somebody else met just now."""
        if self._error is not None and time.monotonic() < self._until:
            raise self._error.with_traceback(None)

    def note(self, error: Exception | None) -> None:
        """Remember what came of asking."""
        self._until = time.monotonic() + self._seconds
        self._error = error

    def may_ask(self, error: Exception) -> bool:
        """Whether to ask again after `error`. A broken connection is repeated at once: that wants to know."""
        if isinstance(error, ConnectionError):
            return True
        if time.monotonic() < self._until:
            return False
        self.note(None)
        return True


class ClusterWire:
    """Sends exchanges to the nodes of a cluster. Thread-safe and fork-safe; `connect` is called at first use.

    A node that hangs costs one time-out; whoever asks the others then where things lie, one more for each that hangs.
    """

    def __init__(self, connect: Callable[[], Any], *, seconds: float = 0.0, owns: bool = True) -> None:
        self._connect = connect
        self._owns = owns
        self._cluster: PerProcess[Any] = PerProcess(self._connected)
        self._patience = _Patience(seconds)

    def _connected(self) -> Any:
        self._patience.check()
        try:
            return self._connect()
        except REDIS_ERRORS as error:
            self._patience.note(error)
            raise

    def send(self, exchanges: list[Commands]) -> list[Replies]:
        """The replies to each of `exchanges`; what a server calls an error is a value."""
        cluster = self._cluster.get()
        steps = routed(cluster, exchanges, redis.cluster.ClusterNode)
        try:
            parcels = next(steps)
            while True:
                parcels = steps.send([_sent(cluster, node, commands) for node, commands in parcels])
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except _IN_DOUBT as error:
            if self._patience.may_ask(error):
                with suppress(*REDIS_ERRORS):
                    cluster.nodes_manager.initialize(additional_startup_nodes_info=_known(cluster))
            raise

    def close(self) -> None:
        """Close the connections."""
        cluster = self._cluster.take()
        if cluster is not None and self._owns:
            cluster.close()


def _sent(cluster: Any, node: Any, commands: Commands) -> Replies:
    if node is None:
        try:
            return [cluster.execute_command(*commands[0])]
        except ResponseError as error:
            return [error]
    pipeline = cluster.get_redis_connection(node).pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    return pipeline.execute(raise_on_error=False)  # type: ignore[no-any-return]


class AsyncClusterWire:
    """The same for the tasks of one event loop. Several nodes are waited for at the same time."""

    def __init__(self, cluster: Any, *, seconds: float = 0.0, owns: bool = True) -> None:
        self._cluster = cluster
        self._owns = owns
        self._patience = _Patience(seconds)

    async def send(self, exchanges: list[Commands]) -> list[Replies]:
        """See `ClusterWire.send`."""
        await self._connect()
        steps = routed(self._cluster, exchanges, self._new_node)
        try:
            parcels = next(steps)
            while True:
                parcels = steps.send(list(await asyncio.gather(*(self._sent(*parcel) for parcel in parcels))))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except _IN_DOUBT as error:
            if self._patience.may_ask(error):
                with suppress(*REDIS_ERRORS):
                    await self._cluster.nodes_manager.initialize(additional_startup_nodes_info=_known(self._cluster))
            raise

    async def close(self) -> None:
        """Close the connections."""
        if self._owns:
            await self._cluster.aclose()

    async def _connect(self) -> None:
        self._patience.check()
        try:
            # Once: redis-py asks for nothing as long as it is in no doubt.
            await self._cluster.initialize()
        except REDIS_ERRORS as error:
            self._patience.note(error)
            raise

    async def _sent(self, node: Any, commands: Commands) -> Replies:
        if node is None:
            try:
                return [await self._cluster.execute_command(*commands[0])]
            except ResponseError as error:
                return [error]
        sent = [redis.asyncio.cluster.PipelineCommand(place, *words) for place, words in enumerate(commands)]
        await node.execute_pipeline(sent)
        return [command.result for command in sent]

    def _new_node(self, host: str, port: int) -> Any:
        options = self._cluster.nodes_manager.connection_kwargs
        return redis.asyncio.cluster.ClusterNode(host, port, **options)
