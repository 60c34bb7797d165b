"""What handlers need done: the vocabulary between the contract and its drivers."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from ...statemachine.effects import Fact
from ...statemachine.patient import Patient


@dataclass(frozen=True, slots=True)
class ReadStatus:
    """Gives a `Status`: what the store knows.

    With `within`, the upstream is asked first if it is time to and this caller's turn, and waited for so many seconds
    at most. A question that takes longer goes on behind: its answer is in the store for who looks next.
    """

    patient: Patient
    within: float = 0.0


@dataclass(frozen=True, slots=True)
class Login:
    """Has a refresh started off this request's path, as a login does; gives a `Receipt`."""

    patient: Patient


@dataclass(frozen=True, slots=True)
class ReadRecords:
    """Gives a `RecordsAnswer`."""

    patient: Patient
    kind: str


@dataclass(frozen=True, slots=True)
class TakePlace:
    """Asks for one of the places of those who wait; gives whether there was one. It is given back at the end."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Waits so many seconds; gives the time by a monotonic clock, in seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Tell:
    """Tells the observer."""

    fact: Fact


@dataclass(frozen=True, slots=True)
class Send:
    """Sends a piece of a stream's body."""

    chunk: bytes


Need = ReadStatus | Login | ReadRecords | TakePlace | Pause | Tell | Send


@dataclass(frozen=True, slots=True)
class Streaming:
    """A response whose body `needs` sends piece by piece."""

    status: int
    headers: tuple[tuple[str, str], ...]
    needs: Generator[Need, Any, None]
