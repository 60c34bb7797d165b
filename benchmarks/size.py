"""Size: what a patient takes in Redis, whole and by its parts, and what other forms of the same record would take.

`python -m benchmarks.size`. Measured as the server's `used_memory` over many patients: keys, TTL, index and
what the allocator rounds up are in it.
"""

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from msgspec import msgpack
from phr_refresh.adapters.stores.keys import RedisKeys
from phr_refresh.statemachine.codec import encode
from phr_refresh.statemachine.patient import key_of
from phr_refresh.statemachine.record import RefreshRecord
from redis.client import Pipeline

from .record import settled_record
from .residents import Write, fill, name_of, settled
from .server import KINDS, serving

_COUNT = 30_000


def forms() -> Mapping[str, Write]:
    """Ways to store one patient, by what they are called."""
    now = round(time.time() * 1000)
    keep_until = now + 90_000_000
    record = encode(settled_record(now))
    whole = b"01234567" + record
    names = RefreshRecord._fields
    text = json.dumps(dict(zip(names, msgpack.decode(record)[1:], strict=False))).encode()
    keys = RedisKeys()

    def string(value: bytes, head: str = "") -> Write:
        def write(pipeline: Pipeline, number: int) -> None:
            key = key_of(name_of(number))
            pipeline.set(f"{head}{key}" if head else keys.record(key), value, pxat=keep_until)

        return write

    def indexed(pipeline: Pipeline, number: int) -> None:
        key = key_of(name_of(number))
        pipeline.zadd(keys.due_index(key), {key: now})

    return {
        "whole: record, TTL, due index": settled(),
        "whole, with a session token of 640 bytes": settled(with_token=True),
        "due index alone": indexed,
        f"record alone, {len(whole)} bytes": string(whole),
        "the same, under a key of 23 characters": string(whole, "r"),
        f"the record as JSON with names, {8 + len(text)} bytes": string(b"01234567" + text),
    }


def measure(kind: str, count: int = _COUNT) -> dict[str, float]:
    """Bytes for each patient, by the form they are stored in: of a new server each, which has nothing to free."""
    found = {}
    for name, write in forms().items():
        with tempfile.TemporaryDirectory() as folder, serving(kind, Path(folder)) as url:
            # What does not grow with patients is not theirs.
            fill(url, 2000, write, after=10_000_000)
            found[name] = fill(url, count, write)
    return found


def main() -> None:
    """Print the sizes as Markdown."""
    kind = sys.argv[1] if sys.argv[1:] and sys.argv[1] in KINDS else "valkey"
    print(f"{kind}, {_COUNT:,} patients\n\n| form | bytes per patient |\n|---|---|")  # noqa: T201
    for name, size in measure(kind).items():
        print(f"| {name} | {size:.0f} |")  # noqa: T201


if __name__ == "__main__":
    main()
