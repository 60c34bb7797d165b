"""Redis Cluster by redis-py's cluster clients, which know where everything lies, and learn it when something moves.

A message goes to the node of its key by that node's own connection, in one piece: redis-py's pipelines would ask a
server for the keys of each script, send each command of a node that hangs once more by itself, and let a `WAIT` go
elsewhere than its write. What turns out to lie elsewhere goes through redis-py's client, one by one, which follows it.

`Routing` says what to send, without sending it, for both wires. redis-py repeats nothing (`Retry(NoBackoff(), 0)`).
"""

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import redis.asyncio.cluster
from redis import exceptions as raised
from redis.cluster import ClusterNode

from ..per_process import PerProcess
from .redis_commands import Command, Commands, Replies, grouped, hold, hold_async
from .redis_errors import REDIS_ERRORS, is_broken, is_resharding

#: A node, or None for the client itself; and what to send there, together. To the client it is one command.
Parcel = tuple[Any, Commands]
_FIRST_KEY: Final = 3
_ASKING: Final[Command] = ("ASKING",)
_NOT_SENT: Final = (raised.ConnectionError, raised.TimeoutError)


@dataclass(frozen=True, slots=True)
class Look:
    """Ask anew where everything lies: the node that failed last, those of `known` besides the URL's hosts."""

    failed: str | None
    known: list[tuple[str, int]]


Steps = Generator[list[Parcel] | Look, list[Replies], list[Replies]]


class Routing:
    """Who gets what. `new_node` makes a node of redis-py's; `seconds`: for so long a time-out is remembered.

    Of all who meet a cluster that hangs one asks anew where everything lies, once in that time: the others would stand
    in a line, and each wait for several time-outs.
    """

    def __init__(self, new_node: Callable[..., Any], *, seconds: float) -> None:
        self._new_node = new_node
        self._seconds = seconds
        self._until = 0.0
        self._refused: Exception | None = None

    def check(self) -> None:
        """Before a first connection: raises what somebody else met just now."""
        if self._refused is not None and time.monotonic() < self._until:
            raise self._refused.with_traceback(None)

    def refuse(self, error: Exception) -> None:
        """No first connection came about."""
        self._until, self._refused = time.monotonic() + self._seconds, error

    def steps(self, cluster: Any, exchanges: list[Commands]) -> Steps:
        """Yields what to send at the same time, is sent the replies, and returns those to each of `exchanges`."""
        by_node: dict[str, tuple[Any, list[int]]] = {}
        for place, commands in enumerate(exchanges):
            node = yield from self._owner(cluster, commands)
            by_node.setdefault(node.name, (node, []))[1].append(place)
        told = yield [(node, tuple(one for at in places for one in exchanges[at])) for node, places in by_node.values()]
        answers: list[Replies] = [[]] * len(exchanges)
        for (node, places), replies in zip(by_node.values(), told, strict=True):
            yield from self._check(cluster, node, replies)
            for place, some in zip(places, grouped([exchanges[at] for at in places], replies), strict=True):
                answers[place] = some
        for place, replies in enumerate(answers):
            if _is_elsewhere(replies[0]):
                answers[place] = yield from self._followed(cluster, exchanges[place], replies[0])
        return answers

    def _owner(self, cluster: Any, commands: Commands) -> Generator[Look, list[Replies], Any]:
        try:
            return cluster.get_node_from_key(commands[0][_FIRST_KEY])
        except raised.SlotNotCoveredError:
            yield _look(cluster, None)
            return cluster.get_node_from_key(commands[0][_FIRST_KEY])

    def _followed(
        self, cluster: Any, commands: Commands, said: object
    ) -> Generator[list[Parcel] | Look, list[Replies], Replies]:
        if isinstance(said, raised.AskError) and not isinstance(said, raised.MovedError):
            # Not by the client: that of asyncio says ASKING over one connection, and the command over another.
            node = cluster.get_node(said.host, said.port)
            if node is None:
                # One that keeps nothing yet is in no list of slots.
                node = self._new_node(said.host, said.port, **cluster.get_connection_kwargs())
                cluster.nodes_manager.nodes_cache[node.name] = node
            [[asked, *replies]] = yield [(node, (_ASKING, *commands))]
            yield from self._check(cluster, node, [asked, *replies])
            if isinstance(asked, Exception):
                raise asked
            if not _is_elsewhere(replies[0]):
                return replies
        [replies] = yield [(None, commands[:1])]
        if error := _unsent(replies):
            raise error
        if len(commands) > 1 and not isinstance(replies[0], Exception):
            # The write has taken effect. Said again where it lies now, it is what the WAIT behind it is about.
            node = cluster.get_node_from_key(commands[0][_FIRST_KEY])
            [replies] = yield [(node, commands)]
            yield from self._check(cluster, node, replies)
        return replies

    def _check(self, cluster: Any, node: Any, replies: Replies) -> Generator[Look, list[Replies], None]:
        """Raises what is no server's answer, after a look whether other nodes know more."""
        error = _unsent(replies)
        if error is None:
            return
        if is_broken(error):
            # It will be repeated at once.
            yield _look(cluster, node.name)
        elif isinstance(error, raised.TimeoutError) and time.monotonic() >= self._until:
            self._until, self._refused = time.monotonic() + self._seconds, None
            yield _look(cluster, node.name)
        raise error


def _look(cluster: Any, failed: str | None) -> Look:
    asked_anyway = cluster.nodes_manager.startup_nodes
    known = [(node.host, node.port) for node in cluster.get_primaries() if node.name not in asked_anyway]
    return Look(failed, known)


def _unsent(replies: Replies) -> Exception | None:
    """What is no server's answer, if anything is: what it came of is the first."""
    return next(
        (one for one in replies if isinstance(one, Exception) and not isinstance(one, raised.ResponseError)), None
    )


def _is_elsewhere(reply: object) -> bool:
    return isinstance(reply, raised.AskError | raised.ClusterDownError) or is_resharding(reply)


class ClusterWire:
    """Sends exchanges to the nodes of a cluster. Thread-safe and fork-safe; `connect` is called at first use.

    A node that hangs costs one time-out; whoever asks the others then where things lie, one more for each that hangs.
    """

    def __init__(self, connect: Callable[[], Any], *, seconds: float = 0.0, owns: bool = True) -> None:
        self._connect = connect
        self._owns = owns
        self._cluster: PerProcess[Any] = PerProcess(self._connected)
        self._routing = Routing(cluster_node, seconds=seconds)

    def send(self, exchanges: list[Commands]) -> list[Replies]:
        """The replies to each of `exchanges`; what a server calls an error is a value."""
        cluster = self._cluster.get()
        return hold(self._routing.steps(cluster, exchanges), partial(_done, cluster))

    def close(self) -> None:
        """Close the connections."""
        cluster = self._cluster.take()
        if cluster is not None and self._owns:
            cluster.close()

    def _connected(self) -> Any:
        self._routing.check()
        try:
            return self._connect()
        except REDIS_ERRORS as error:
            self._routing.refuse(error)
            raise


def cluster_node(host: str, port: int, **_: Any) -> Any:
    """A node, as redis-py's clients want them."""
    return ClusterNode(host, port)  # type: ignore[no-untyped-call]


def _done(cluster: Any, step: list[Parcel] | Look) -> list[Replies]:
    if isinstance(step, Look):
        with suppress(*REDIS_ERRORS):
            cluster.nodes_manager.initialize(step.known, last_failed_node_name=step.failed)
        return []
    told: list[Replies] = []
    for node, commands in step:
        try:
            told.append(_sent(cluster, node, commands))
        except _NOT_SENT as error:
            # One after the other: with a second node that hangs nobody waits twice.
            return told + [[error]] * (len(step) - len(told))
    return told


def _sent(cluster: Any, node: Any, commands: Commands) -> Replies:
    if node is None:
        try:
            return [cluster.execute_command(*commands[0])]
        except raised.ResponseError as error:
            return [error]
    pipeline = cluster.get_redis_connection(node).pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    return pipeline.execute(raise_on_error=False)  # type: ignore[no-any-return]


class AsyncClusterWire:
    """The same for the tasks of one event loop. Several nodes are waited for at the same time."""

    def __init__(self, connect: Callable[[], Any], *, seconds: float = 0.0, owns: bool = True) -> None:
        self._cluster = connect()
        self._owns = owns
        self._routing = Routing(redis.asyncio.cluster.ClusterNode, seconds=seconds)

    async def send(self, exchanges: list[Commands]) -> list[Replies]:
        """See `ClusterWire.send`."""
        await self._connect()
        return await hold_async(self._routing.steps(self._cluster, exchanges), self._done)

    async def close(self) -> None:
        """Close the connections."""
        if self._owns:
            await self._cluster.aclose()

    async def _connect(self) -> None:
        self._routing.check()
        try:
            # Once: redis-py asks for nothing as long as it is in no doubt.
            await self._cluster.initialize()
        except REDIS_ERRORS as error:
            self._routing.refuse(error)
            raise

    async def _done(self, step: list[Parcel] | Look) -> list[Replies]:
        if isinstance(step, Look):
            with suppress(*REDIS_ERRORS):
                await self._cluster.nodes_manager.initialize(step.known, last_failed_node_name=step.failed)
            return []
        return list(await asyncio.gather(*(self._sent(*parcel) for parcel in step)))

    async def _sent(self, node: Any, commands: Commands) -> Replies:
        try:
            if node is None:
                return [await self._cluster.execute_command(*commands[0])]
            sent = [redis.asyncio.cluster.PipelineCommand(place, *words) for place, words in enumerate(commands)]
            await node.execute_pipeline(sent)
            return [command.result for command in sent]
        except (raised.ResponseError, *_NOT_SENT) as error:
            return [error] * len(commands)
