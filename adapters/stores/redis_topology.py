"""Which server keeps what: the slots of a cluster, or the primary of a service that Sentinel watches. No I/O here.

redis-py has clients for both. Ours differ in what a login service needs of them: nothing is asked before the first
call; an answer is waited for once, where theirs go on to the next server, and the next, with a time-out each (and
repeat each command of a pipeline by itself); the keys of a script in a pipeline are not looked up on the server, with
a round trip each; tasks of asyncio queue for a connection; `WAIT` follows the write that it is about. Connections,
TLS, authentication and errors are redis-py's. A client of theirs may still be given to `RedisStore`.
"""

import random
from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

from redis.crc import key_slot
from redis.exceptions import AskError, ResponseError

from .redis_commands import Argument
from .redis_errors import Unroutable
from .redis_urls import Place, place_of

# Where the first key is. All keys of one command of ours lie in one slot.
_FIRST_KEY: Final = {"EVAL": 3, "EVALSHA": 3}


class Topology(Protocol):
    """What is known about where things lie. `question` is what to ask; sentinels are asked where `asks_sentinels`."""

    question: tuple[Argument, ...]
    asks_sentinels: bool

    def slot_of(self, command: Sequence[Argument]) -> int:
        """What the command is about."""

    def owner(self, slot: int) -> Place | None:
        """The server for a slot, None where none is known."""

    def whom_to_ask(self) -> list[Place]:
        """Who may know, the likeliest first."""

    def learn(self, place: Place, reply: object) -> Exception | None:
        """Take over what `place` replied; what is wrong with it, if anything is."""

    def moved(self, slot: int, place: Place) -> None:
        """A server said that `slot` lies at `place` now."""

    def doubt(self, place: Place) -> None:
        """`place` did not answer: ask others first."""


class ClusterTopology:
    """The slots of a cluster."""

    question: tuple[Argument, ...] = ("CLUSTER", "SLOTS")
    asks_sentinels = False

    def __init__(self, seeds: Sequence[Place]) -> None:
        self._seeds = tuple(seeds)
        self._owners: dict[int, Place] = {}
        self._doubted: Place | None = None

    def slot_of(self, command: Sequence[Argument]) -> int:
        """The slot of the command's first key; any slot for other commands, which are about a server, whichever."""
        place = _FIRST_KEY.get(str(command[0]))
        return 0 if place is None else key_slot(str(command[place]).encode())

    def owner(self, slot: int) -> Place | None:
        """The primary that serves `slot`."""
        return self._owners.get(slot)

    def whom_to_ask(self) -> list[Place]:
        """Known primaries in any order, so that not everybody asks the same; then the URL's hosts."""
        known = list(set(self._owners.values()))
        random.shuffle(known)
        places = list(dict.fromkeys([*known, *self._seeds]))
        return sorted(places, key=lambda place: place == self._doubted)

    def learn(self, place: Place, reply: object) -> Exception | None:
        """Take over a reply to CLUSTER SLOTS."""
        if isinstance(reply, ResponseError) and "cluster support disabled" in str(reply):
            return Unroutable("not_a_cluster")
        if isinstance(reply, Exception):
            return reply
        asked_host = place.rpartition(":")[0]
        owners: dict[int, Place] = {}
        for first, last, (host, port, *_), *_ in cast("list[Any]", reply):
            # A node that knows no address of its own leaves it out: it is where it was asked.
            name = (host or b"").decode()
            owner = place_of(name if name not in ("", "?") else asked_host, port)
            owners |= dict.fromkeys(range(first, last + 1), owner)
        if not owners:
            return Unroutable("cluster_unavailable")
        self._owners, self._doubted = owners, None
        return None

    def moved(self, slot: int, place: Place) -> None:
        """One slot lies elsewhere. The others are left: each is told of when it is asked for, 256 at most."""
        self._owners[slot] = place

    def doubt(self, place: Place) -> None:
        """Ask this node last."""
        self._doubted = place


class SentinelTopology:
    """The primary of one service."""

    asks_sentinels = True

    def __init__(self, sentinels: Sequence[Place], service: str) -> None:
        self.question: tuple[Argument, ...] = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        self._sentinels = list(sentinels)
        self._primary: Place | None = None

    def slot_of(self, command: Sequence[Argument]) -> int:
        """All the same: one server keeps everything."""
        return 0

    def owner(self, slot: int) -> Place | None:
        """The primary, as far as is known."""
        return self._primary

    def whom_to_ask(self) -> list[Place]:
        """The sentinels; one that did not answer comes last."""
        return list(self._sentinels)

    def learn(self, place: Place, reply: object) -> Exception | None:
        """Take over a sentinel's word."""
        if isinstance(reply, Exception):
            self.doubt(place)
            return reply
        if reply is None:
            return Unroutable("service_unknown")
        host, port = cast("list[bytes]", reply)
        self._primary = place_of(host.decode(), int(port))
        return None

    def moved(self, slot: int, place: Place) -> None:
        """A server that speaks of slots is none that Sentinel watches."""

    def doubt(self, place: Place) -> None:
        """Ask this sentinel last. A primary that does not answer is in doubt anyway."""
        if place in self._sentinels:
            self._sentinels = [*(other for other in self._sentinels if other != place), place]


def redirected_to(error: AskError, asked: Place) -> Place:
    """Where a MOVED or ASK points. Without a host it is another port of the same."""
    host = cast("str", error.host)
    return place_of(host or asked.rpartition(":")[0], error.port)
