"""The servers behind a store's URL, each by a connection of its own: for who looks after them, not for the store."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from .keys import RedisKeys
from .redis_errors import REDIS_ERRORS
from .redis_urls import CONNECTION_DEFAULTS, Place, RedisTarget, place_of

#: Sends a command and gives redis-py's form of the reply. Raises what redis-py raises.
Ask = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Server:
    """One server. `slots`: the pairs of first and last slot that it serves, of a cluster's primaries only."""

    place: Place
    is_primary: bool
    slots: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Inspection:
    """Servers, primaries first, and how many sentinels answer. Raises what redis-py raises."""

    target: RedisTarget = field(repr=False)
    servers: tuple[Server, ...]
    sentinels: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, url: str) -> "Inspection":
        """Ask who there is. Raises `ConfigurationError` if the URL is malformed."""
        target = RedisTarget.parse(url)
        if target.kind == "cluster":
            return cls(target, _of_cluster(target))
        if target.kind == "sentinel":
            return _of_sentinels(target)
        return cls(target, (Server(target.places[0], True),))

    @contextmanager
    def connected(self, server: Server) -> Iterator[Ask]:
        """What asks this very server, and no other."""
        with _asking(self.target.client_url(server.place)) as ask:
            yield ask

    def shard_at(self, server: Server) -> tuple[str, str]:
        """A due index that this server keeps, and what the keys of records beside it begin with."""
        for index, head in RedisKeys(self.target.prefix).shards():
            slot = key_slot(index.encode())
            if not server.slots or any(first <= slot <= last for first, last in server.slots):
                return index, head
        raise redis.RedisError("no shard lies here")


@contextmanager
def _asking(url: str) -> Iterator[Ask]:
    # No repeats: what goes wrong is what there is to see.
    retry = Retry(NoBackoff(), 0)
    pool = redis.ConnectionPool.from_url(url, retry=retry, **CONNECTION_DEFAULTS)
    with closing(redis.Redis.from_pool(pool)) as client:
        yield client.execute_command


def _ask_first(target: RedisTarget, *question: str) -> tuple[Place, Any]:
    """Who of the URL's places answers first, and what. Raises the last one's error."""
    failure: Exception = redis.RedisError("nobody to ask")
    for place in target.places:
        url = target.sentinel_url(place) if target.kind == "sentinel" else target.client_url(place)
        try:
            with _asking(url) as ask:
                # In pieces, so that redis-py finds no parser for the reply: versions of it differ in theirs.
                return place, ask(*question)
        except REDIS_ERRORS as error:
            failure = error
    raise failure


def _of_cluster(target: RedisTarget) -> tuple[Server, ...]:
    asked, reply = _ask_first(target, "CLUSTER", "SLOTS")
    slots: dict[Place, list[tuple[int, int]]] = {}
    replicas: dict[Place, None] = {}
    for first, last, primary, *others in reply:
        slots.setdefault(_place(primary, asked), []).append((first, last))
        replicas |= dict.fromkeys(_place(other, asked) for other in others)
    primaries = [Server(place, True, tuple(ranges)) for place, ranges in sorted(slots.items())]
    return (*primaries, *(Server(place, False) for place in sorted(replicas)))


def _place(node: list[Any], asked: Place) -> Place:
    host, port = node[:2]
    name = cast("bytes", host or b"").decode()
    return place_of(name if name not in ("", "?") else asked.rpartition(":")[0], port)


def _of_sentinels(target: RedisTarget) -> Inspection:
    _, found = _ask_first(target, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", target.service)
    if found is None:
        raise redis.RedisError("no such service")
    host, port = found
    primary = Server(place_of(host.decode(), int(port)), True)
    answering = 0
    replicas: dict[Place, None] = {}
    for place in target.places:
        try:
            with _asking(target.sentinel_url(place)) as ask:
                known = ask("SENTINEL", "REPLICAS", target.service)
        except REDIS_ERRORS:
            continue
        answering += 1
        for flat in known:
            facts = dict(zip(flat[::2], flat[1::2], strict=True))
            if b"down" not in facts.get(b"flags", b""):
                replicas[place_of(facts[b"ip"].decode(), int(facts[b"port"]))] = None
    servers = (primary, *(Server(place, False) for place in sorted(replicas)))
    return Inspection(target, servers, (answering, len(target.places)))
