"""What stores need: the clock of this host, versions that never come back, and how counts of durations are merged."""

import datetime
import os
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Final

from ...statemachine.policy import Instant

#: Characters in a version.
VERSION_LENGTH: Final = 8


def host_clock() -> Instant:
    """Now, by this host: the store's clock where the store lives on this host alone.

    Asked through `datetime`, looked up at each call: freezegun then moves the stores in every thread, while its
    `time.time()` stays real when called close to the root of a thread, which is where `ThreadedStore` calls from.
    """
    return round(datetime.datetime.now(datetime.UTC).timestamp() * 1000)


def new_version() -> str:
    """A version for one write: 48 random bits as 8 URL-safe characters.

    Random, not counted: a counter starts again once a record was forgotten, and a writer who had slept through that
    would find "its" version there. Two writes to one patient draw the same one with a chance of 2**-48.
    """
    return urlsafe_b64encode(os.urandom(6)).decode("ascii")


def merged(kept: Sequence[int], counts: Sequence[int], most: int) -> list[int]:
    """What `Store.merge_durations` keeps and gives. `lua/durations.lua` is the same for Redis.

    >>> merged([4, 1], [1, 0], 9), merged([4, 1], [1, 0], 5), merged([9, 9, 9], [1, 0], 9)
    ([5, 1], [2, 0], [1, 0])
    """
    # Those of another length were counted otherwise, by another version.
    old = kept if len(kept) == len(counts) else [0] * len(counts)
    both = [before + count for before, count in zip(old, counts, strict=True)]
    return both if sum(both) <= most else [count // 2 for count in both]
