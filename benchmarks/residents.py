"""Residents: patients who lie in the store before anything is measured, as the store itself would have left them."""

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from phr_refresh.adapters.stores.keys import RedisKeys
from phr_refresh.statemachine.codec import encode
from phr_refresh.statemachine.patient import key_of
from phr_refresh.statemachine.policy import Policy, milliseconds
from redis import RedisCluster
from redis.client import Pipeline

from .place import JWT
from .record import settled_record
from .server import client_of

_LOT = 1000

#: Queues the commands that bring one patient, by number.
Write = Callable[[Pipeline, int], object]


def name_of(number: int) -> str:
    """The user id of a resident."""
    return f"resident-{number}"


def fill(url: str, count: int, write: Write, *, after: int = 0) -> float:
    """`write` for so many patients, the first of which has the number `after`; bytes of the server's for each."""
    with closing(client_of(url)) as client:
        before = _used_memory(client)
        for start in range(after, after + count, _LOT):
            pipeline = client.pipeline(transaction=False)
            for number in range(start, min(start + _LOT, after + count)):
                write(pipeline, number)
            pipeline.execute()
        return (_used_memory(client) - before) / count


def _used_memory(client: Any) -> int:
    """In bytes, of all nodes where it is a cluster."""
    said = (
        client.info("memory", target_nodes="all").values()
        if isinstance(client, RedisCluster)
        else [client.info("memory")]
    )
    return sum(int(info["used_memory"]) for info in said)


def settled(*, with_token: bool = False) -> Write:
    """Writes a patient whose refresh completed just now: record, TTL and entry in the due index; the token if asked."""
    keys = RedisKeys()
    now = round(time.time() * 1000)
    value = b"01234567" + encode(settled_record(now))
    ends_at = now + milliseconds(Policy().refresh_window)
    keep_until = ends_at + milliseconds(Policy().retention)

    def write(pipeline: Pipeline, number: int) -> None:
        key = key_of(name_of(number))
        pipeline.set(keys.record(key), value, pxat=keep_until)
        pipeline.zadd(keys.due_index(key), {key: ends_at})
        if with_token:
            pipeline.set(keys.token(key), JWT, pxat=ends_at)

    return write
