"""How one extract of the record stands: the upstream loads a patient's data in parts that end separately."""

from dataclasses import dataclass
from enum import StrEnum

from .policy import Instant


class ExtractState(StrEnum):
    """One wanted extract, as judged from the upstream's status rows."""

    IN_PROGRESS = "in_progress"
    CURRENT = "current"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ExtractProgress:
    """One wanted extract: its name at the upstream, how it stands, when it last succeeded (None: never, or unknown)."""

    name: str
    state: ExtractState
    succeeded_at: Instant | None = None
