"""What an observer is told: one frozen value per thing that happened, named by a dotted past-tense name."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .patient import UserKey


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that happened.

    `name` without its prefix, such as "refresh_completed". `key` is the patient's store key, None where no patient is
    meant; observers show a keyed hash of it. `source` and `target` are states, set on a transition. `details` holds
    codes, ids and durations (named with their unit), never an identifier of a patient.
    """

    name: str
    key: UserKey | None = None
    source: str | None = None
    target: str | None = None
    details: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    #: Whether somebody on call may need to act.
    is_warning: bool = False
    #: Whether it is but a quantity, told at each login or call: metrics are made of it, logs leave it out.
    is_measurement: bool = False
