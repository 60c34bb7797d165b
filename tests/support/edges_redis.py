"""The table of what can go wrong with Redis, and how each of it is made."""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import redis
from phr_refresh.adapters.stores.keys import RedisKeys

from .edges_proxy import (
    Act,
    Fault,
    Proxy,
    breaks_off,
    hangs,
    hangs_after,
    late,
    resets,
    resets_after,
    says,
    stops_halfway,
)
from .edges_world import ADA, BOB, CARL, DORA

PEOPLE = (ADA, BOB, CARL, DORA)
_KEYS = RedisKeys()


@dataclass(frozen=True)
class Place:
    """A real server and the proxy before it. `client` goes round the proxy."""

    proxy: Proxy
    client: redis.Redis
    #: The server's.
    port: int


Begin = Callable[[Place], AbstractContextManager[Any]]


@dataclass(frozen=True)
class RedisCase:
    """One way to go wrong. `begin` makes it so for the length of a block, and so does each of `others`.

    `hurried`: it is met under the usual login budget; all others under a long one, so that a busy machine changes
    nothing. `patient`: the client's time-out is longer than any answer takes. `goes_on`: what the login began goes on
    behind its receipt.
    """

    fault: str
    begin: Begin
    others: tuple[Begin, ...] = ()
    hurried: bool = False
    patient: bool | None = None
    goes_on: bool = False

    @property
    def socket_timeout(self) -> float:
        """Of the client, in seconds."""
        patient = not self.hurried if self.patient is None else self.patient
        return 15.0 if patient else 0.5


def _wire(act: Act, *at: str, skip: int = 0, times: int | None = None) -> Begin:
    fault = Fault(act, at or ("load", "write", "due"), skip, times)
    return lambda place: place.proxy.striking(fault)


def _nth(act: Act, number: int) -> Begin:
    return _wire(act, "write", skip=number - 1, times=1)


def _away(place: Place) -> AbstractContextManager[None]:
    return place.proxy.away()


# The real thing, where a server can be brought to it.


@contextmanager
def _scripts_flushed(place: Place) -> Iterator[None]:
    place.client.script_flush()
    yield


@contextmanager
def _a_replica(place: Place) -> Iterator[None]:
    # Of a primary that is not there: what it holds is kept.
    place.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        place.client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def _full(place: Place) -> Iterator[None]:
    place.client.config_set("maxmemory", "1")
    try:
        yield
    finally:
        place.client.config_set("maxmemory", "0")


@contextmanager
def _lists_under_our_keys(place: Place) -> Iterator[None]:
    names = [_KEYS.record(person.key) for person in PEOPLE]
    for name in names:
        if place.client.exists(name):
            place.client.rename(name, f"{name}:aside")
        place.client.rpush(name, "theirs")
    try:
        yield
    finally:
        for name in names:
            place.client.delete(name)
            if place.client.exists(f"{name}:aside"):
                place.client.rename(f"{name}:aside", name)


@contextmanager
def _foreign_values_under_our_keys(place: Place) -> Iterator[None]:
    names = [_KEYS.record(person.key) for person in PEOPLE]
    kept = [place.client.get(name) for name in names]
    for name in names:
        place.client.set(name, "theirs")
    try:
        yield
    finally:
        for name, value in zip(names, kept, strict=True):
            place.client.delete(name) if value is None else place.client.set(name, value)


@contextmanager
def _too_few_replicas(place: Place) -> Iterator[None]:
    place.client.config_set("min-replicas-to-write", "1")
    try:
        yield
    finally:
        place.client.config_set("min-replicas-to-write", "0")


@contextmanager
def _busy_with_a_script(place: Place) -> Iterator[None]:
    place.client.config_set("busy-reply-threshold", "1")
    with socket.create_connection(("127.0.0.1", place.port)) as other:
        other.sendall(b"EVAL 'while true do end' 0\r\n")
        while _answers(place.client):
            pass
        try:
            yield
        finally:
            place.client.script_kill()
            # The script's own answer, an error: it has ended.
            other.recv(1024)
            place.client.config_set("busy-reply-threshold", "5000")


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ResponseError:
        return False


_EVERYTHING = ("other", "load", "write", "due")
_CLAIMS = ("1st", "2nd", "3rd")

CASES = (
    # Nobody there, or nobody answers.
    RedisCase("nobody listens", _away),
    RedisCase("hangs", _wire(hangs), hurried=True),
    RedisCase("hangs from the greeting on", _wire(hangs, *_EVERYTHING), hurried=True),
    RedisCase("answers later than the login budget", _wire(late(0.15)), hurried=True, goes_on=True, patient=True),
    RedisCase("answers later than the client waits", _wire(late(0.8)), hurried=True),
    RedisCase("resets connections", _wire(resets)),
    RedisCase("resets connections after doing as told", _wire(resets_after)),
    RedisCase("breaks off in the middle of each answer", _wire(breaks_off)),
    RedisCase("stops in the middle of each answer", _wire(stops_halfway), hurried=True),
    # Something answers that is no Redis, or not to this question.
    RedisCase("answers in HTTP", _wire(says("HTTP/1.1 400 Bad Request\r\n\r"))),
    RedisCase(
        "answers another question",
        _wire(says(":1")),
        (
            _wire(says("+OK")),
            _wire(says("$-1")),
            _wire(says("*0")),
            _wire(says("*1\r\n:7")),
            _wire(says("$2\r\n??")),
            _wire(says("$5\r\n? ? ?")),
            _wire(says("$5\r\n1 2 x")),
            _wire(says("$5\r\n  2 -")),
            _wire(says("*2\r\n$5\r\n1 2 -\r\n:7")),
            _wire(says("*1\r\n" * 5000 + ":1")),
            _wire(says("*3\r\n:0\r\n$1\r\nx\r\n$1\r\ny")),
        ),
    ),
    RedisCase(
        "answers writes with what is no answer to them",
        _wire(says("+PONG"), "write"),
        (
            _wire(says("$-1"), "write"),
            _wire(says("*3\r\n:7\r\n:5\r\n:6"), "write"),
            _wire(says("*3\r\n$1\r\n1\r\n$1\r\n5\r\n$1\r\n6"), "write"),
        ),
    ),
    RedisCase("answers with lengths that are no numbers", _wire(says("$x")), (_wire(says(":?")), _wire(says("*-")))),
    # Error replies.
    RedisCase("forgets scripts (SCRIPT FLUSH, real)", _scripts_flushed),
    RedisCase("knows no script, not even in full: NOSCRIPT", _wire(says("-NOSCRIPT No matching script."))),
    RedisCase("is a replica: READONLY (real)", _a_replica),
    RedisCase("is full: OOM (real)", _full),
    RedisCase("has too few replicas: NOREPLICAS (real)", _too_few_replicas),
    RedisCase("runs a script that does not end: BUSY (real)", _busy_with_a_script),
    RedisCase("holds lists under our keys: WRONGTYPE (real)", _lists_under_our_keys),
    RedisCase("holds values of others under our keys (real)", _foreign_values_under_our_keys),
    RedisCase("LOADING", _wire(says("-LOADING Redis is loading the dataset in memory"))),
    RedisCase("NOAUTH", _wire(says("-NOAUTH Authentication required."))),
    RedisCase("NOPERM", _wire(says("-NOPERM User default has no permissions to run the 'evalsha' command"))),
    RedisCase(
        "MOVED",
        _wire(says("-MOVED 3999 127.0.0.1:6381")),
        (_wire(says("-MOVED 3999 :6381")), _wire(says("-MOVED 3999 [::1]:6381"))),
    ),
    RedisCase("MOVED, malformed", _wire(says("-MOVED 3999")), (_wire(says("-MOVED x y")), _wire(says("-ASK 1 h:x")))),
    RedisCase("ASK", _wire(says("-ASK 3999 127.0.0.1:6381"))),
    RedisCase("CLUSTERDOWN", _wire(says("-CLUSTERDOWN Hash slot not served"))),
    RedisCase("MASTERDOWN", _wire(says("-MASTERDOWN Link with MASTER is down"))),
    RedisCase("MISCONF at writes", _wire(says("-MISCONF Redis is configured to save RDB snapshots"), "write")),
    RedisCase("takes no more clients", _wire(says("-ERR max number of clients reached"), *_EVERYTHING)),
    RedisCase("an error of no known kind", _wire(says("-ERR something new"))),
    # One write of a flow, the n-th: claim on the session, claim on the kick-off, its answer.
    *(
        RedisCase(f"the {name} write is done, its answer reset", _nth(resets_after, number))
        for number, name in enumerate(_CLAIMS, 1)
    ),
    *(
        RedisCase(f"the {name} write is done, its answer never comes", _nth(hangs_after, number), patient=False)
        for number, name in enumerate(_CLAIMS, 1)
    ),
    RedisCase("the 2nd write is not done, and no answer comes", _nth(hangs, 2), patient=False),
    *(
        RedisCase(
            f"the {name} write meets READONLY", _nth(says("-READONLY You can't write against a replica."), number)
        )
        for number, name in enumerate(_CLAIMS, 1)
    ),
)
