"""What stores need: the clock of this hostand versions that never come back."""

import datetime
import os
from base64 import urlsafe_b64encode
from typing import Final, cast

from ...statemachine.effects import Load
from ...statemachine.patient import UserKey
from ...statemachine.policy import Instant
from ..ports import Row, Store

#: Characters in a version.
VERSION_LENGTH: Final = 8


def host_clock() -> Instant:
    """Now, by this host: the store's clock where the store lives on this host alone.

    Asked through `datetime`, looked up at each call: freezegun then moves the stores in every thread, while its
    `time.time()` stays real when called close to the root of a thread, which is where `ThreadedStore` calls from.
    """
    return round(datetime.datetime.now(datetime.UTC).timestamp() * 1000)


def read_row(store: Store, key: UserKey, *, with_token: bool = False) -> Row:
    """One patient's row."""
    return cast("Row", store.call(Load(key, with_token)))


def new_version() -> str:
    """A version for one write: 48 random bits as 8 URL-safe characters.

    Random, not counted: a counter starts again once a record was forgotten, and a writer who had slept through that
    would find "its" version there. Two writes to one patient draw the same one with a chance of 2**-48.
    """
    return urlsafe_b64encode(os.urandom(6)).decode("ascii")
