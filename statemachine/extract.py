"""How one extract of the record stands: the upstream loads a patient's data in parts that end separately."""

from enum import StrEnum
from typing import NamedTuple

from .policy import Instant


class ExtractState(StrEnum):
    """One wanted extract, as judged from the upstream's status rows."""

    IN_PROGRESS = "in_progress"
    CURRENT = "current"
    FAILED = "failed"


class ExtractProgress(NamedTuple):
    """One wanted extract: its name at the upstream, how it stands, when it last succeeded (None: never, or unknown).

    A NamedTuple, as the record is: every read of a record makes as many as there are extracts.
    """

    name: str
    state: ExtractState
    succeeded_at: Instant | None = None
