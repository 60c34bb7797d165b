"""The servers behind a store's URL, each by a connection of its own: for who looks after them, not for the store."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
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
            return _of_cluster(target)
        if target.kind == "sentinel":
            return _of_sentinels(target)
        return cls(target, (Server(target.places[0], True),))

    def connected(self, server: Server) -> AbstractContextManager[Ask]:
        """What asks this very server, and no other."""
        return _asking(self.target.client_url(server.place))

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
    pool = redis.ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0), **CONNECTION_DEFAULTS)
    with closing(redis.Redis.from_pool(pool)) as client:
        yield client.execute_command


def _answers(target: RedisTarget, *questions: tuple[str, ...]) -> Iterator[tuple[Place, list[Any]]]:
    """What each of the URL's places that answers says to the questions. Raises the last error where none does."""
    failure: Exception | None = None
    answered = False
    for place in target.places:
        url = target.sentinel_url(place) if target.kind == "sentinel" else target.client_url(place)
        try:
            with _asking(url) as ask:
                # In pieces, so that redis-py finds no parser for the reply: versions of it differ in theirs.
                answers = [ask(*question) for question in questions]
        except REDIS_ERRORS as error:
            failure = error
            continue
        answered = True
        yield place, answers
    if failure and not answered:
        raise failure


def _of_cluster(target: RedisTarget) -> Inspection:
    asked, [reply] = next(_answers(target, ("CLUSTER", "SLOTS")))
    slots: dict[Place, list[tuple[int, int]]] = {}
    replicas: set[Place] = set()
    for first, last, primary, *others in reply:
        slots.setdefault(_place(primary, asked), []).append((first, last))
        replicas |= {_place(other, asked) for other in others}
    primaries = [Server(place, True, tuple(ranges)) for place, ranges in sorted(slots.items())]
    return Inspection(target, (*primaries, *_replicas(replicas)))


def _place(node: list[Any], asked: Place) -> Place:
    host, port = node[:2]
    name = cast("bytes", host or b"").decode()
    return place_of(name if name not in ("", "?") else asked.rpartition(":")[0], port)


def _of_sentinels(target: RedisTarget) -> Inspection:
    questions = ("GET-MASTER-ADDR-BY-NAME", "REPLICAS")
    answers = [said for _, said in _answers(target, *(("SENTINEL", word, target.service) for word in questions))]
    host, port = answers[0][0]
    flat = [replica for _, known in answers for replica in known]
    known = [dict(zip(facts[::2], facts[1::2], strict=True)) for facts in flat]
    alive = [facts for facts in known if b"down" not in facts.get(b"flags", b"")]
    replicas = {place_of(facts[b"ip"].decode(), int(facts[b"port"])) for facts in alive}
    servers = (Server(place_of(host.decode(), int(port)), True), *_replicas(replicas))
    return Inspection(target, servers, (len(answers), len(target.places)))


def _replicas(places: set[Place]) -> list[Server]:
    return [Server(place, False) for place in sorted(places)]
