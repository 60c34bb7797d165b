"""The seams of the outer ring: what a store, an upstream, a worker, a seal and an observer must be able to do.

Each is a `Protocol`: an adapter needs no import from here, only these methods. Stores hold bytes and know nothing of
the lifecycle; whatever they raise must be a `StoreError`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..statemachine.effects import (
    AskStatus,
    CouldNotAsk,
    Fact,
    KickOffAnswer,
    SessionFailed,
    SessionOpened,
    SessionToken,
    StatusReport,
    Step,
    TokenChange,
)
from ..statemachine.errors import RecordUnreadable
from ..statemachine.patient import Patient, UserKey
from ..statemachine.policy import Instant


@dataclass(frozen=True, slots=True)
class Row:
    """What a store holds for one patient: `value` None and `version` empty where there is nothing. `now`: its clock."""

    value: bytes | None
    version: str
    now: Instant
    token: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One compare-and-set. See `statemachine.effects.Commit` for the fields; times are in store milliseconds.

    `max_age`: the change is a conflict if `decided_at` lies longer ago than so many milliseconds, by the store's clock.
    `token_expires_at`: when the store drops the token by itself. `replicas`: on so many replicas the change must have
    arrived within `replicas_wait` milliseconds for `Written.is_replicated`; stores without replicas ignore it.
    """

    key: UserKey
    value: bytes
    expected_version: str
    decided_at: Instant
    max_age: int
    due_at: Instant | None
    keep_until: Instant
    token_change: TokenChange = TokenChange.KEEP
    token: bytes | None = field(default=None, repr=False)
    token_expires_at: Instant = 0
    replicas: int = 0
    replicas_wait: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """The change took effect under this new version, and on as many replicas as it asked for, if `is_replicated`."""

    version: str
    now: Instant
    is_replicated: bool = True


class Store(Protocol):
    """Persists records. Thread-safe; several processes may share what it stands for.

    `write` answers the current `Row` where it changed nothing. It must be safe to repeat: a write whose answer was
    lost, sent again by the adapter itself, answers `Written`.
    """

    def load(self, key: UserKey, *, with_token: bool = False) -> Row:
        """The patient's row, in one round trip."""

    def write(self, change: Change) -> Written | Row:
        """Compare and set, in one atomic round trip."""

    def load_all(self, keys: Sequence[UserKey]) -> Sequence[Row | RecordUnreadable]:
        """The rows of several patients, in this order, without tokens, in as few round trips as can be.

        What lies at a key and is none of ours is a value, so that it hides no other patient. All else raises.
        """

    def write_all(self, changes: Sequence[Change]) -> Sequence[Written | Row | RecordUnreadable]:
        """`write` of several patients, each for itself, in this order, in as few round trips as can be.

        Where it raises, some of them may have taken effect.
        """

    def due(self, limit: int) -> Sequence[UserKey]:
        """Keys whose `due_at` has passed, longest overdue first, at most `limit`."""

    def close(self) -> None:
        """Let go of connections and files. Nothing may be called afterwards."""


class AsyncStore(Protocol):
    """The same as `Store`, to be awaited."""

    def load(self, key: UserKey, *, with_token: bool = False) -> Awaitable[Row]:
        """See `Store.load`."""

    def write(self, change: Change) -> Awaitable[Written | Row]:
        """See `Store.write`."""

    def load_all(self, keys: Sequence[UserKey]) -> Awaitable[Sequence[Row | RecordUnreadable]]:
        """See `Store.load_all`."""

    def write_all(self, changes: Sequence[Change]) -> Awaitable[Sequence[Written | Row | RecordUnreadable]]:
        """See `Store.write_all`."""

    def due(self, limit: int) -> Awaitable[Sequence[UserKey]]:
        """See `Store.due`."""

    def close(self) -> Awaitable[None]:
        """See `Store.close`."""


@dataclass(frozen=True, slots=True, repr=False)
class Records:
    """The first page of the records of one kind: a FHIR Bundle as parsed JSON, and how many there are in all."""

    bundle: Mapping[str, object]
    total: int

    def __repr__(self) -> str:
        return f"Records(<bundle withheld>, total={self.total})"


@dataclass(frozen=True, slots=True)
class NotReady:
    """The FHIR server does not know the patient yet: the first refresh has not ended."""


@dataclass(frozen=True, slots=True)
class RecordsFailed:
    """Nothing could be read. `reason` is a code such as "http_401", "several_patients" or "timed_out"."""

    reason: str


RecordsAnswer = Records | NotReady | RecordsFailed


class Upstream(Protocol):
    """The system that is driven. Thread-safe. Failures are answers, not exceptions; `at` is filled in by the driver.

    Its calls may block: under asyncio they are made in threads.
    """

    #: The longest that a call can go on, in seconds: claims must outlast it, see `Policy`.
    longest_call: float

    def open_session(self, patient: Patient) -> SessionOpened | SessionFailed:
        """Create a session. `SessionOpened.token.expires_at` is by this host's clock."""

    def start_refresh(self, patient: Patient) -> KickOffAnswer:
        """Send the kick-off, exactly once: never retry here."""

    def ask_status(self, question: AskStatus) -> StatusReport | CouldNotAsk:
        """Ask once how the refresh stands."""

    def read_records(self, kind: str, token: SessionToken) -> RecordsAnswer:
        """Read the records of one kind that the upstream keeps for the token's patient. Raises for an unknown kind."""

    def close(self) -> None:
        """Let go of connections."""


Runner = Callable[[Step], object]


class Worker(Protocol):
    """Runs steps off the login path. `start` gives it what runs one; that never raises."""

    def start(self, run: Runner) -> None:
        """Called once, before the first step."""

    def hand_over(self, step: Step, delay: float = 0.0) -> bool:
        """Take `step`, to be run after `delay` seconds. Never waits, never raises; False where it is full or closed."""

    def close(self) -> int:
        """Finish what is due now, within a bounded time, and let go of the rest: how many steps that were."""


class AsyncWorker(Protocol):
    """The same for an event loop."""

    def start(self, run: Callable[[Step], Awaitable[None]]) -> None:
        """See `Worker.start`."""

    def hand_over(self, step: Step, delay: float = 0.0) -> bool | Awaitable[bool]:
        """See `Worker.hand_over`."""

    def close(self) -> Awaitable[int]:
        """See `Worker.close`."""


class TakesSteps(Protocol):
    """The part of a worker that flows see."""

    def hand_over(self, step: Step, delay: float = 0.0) -> bool | Awaitable[bool]:
        """See `Worker.hand_over`."""


class Seal(Protocol):
    """Encrypts tokens at rest."""

    def seal(self, plain: bytes) -> bytes:
        """The sealed form of `plain`."""

    def unseal(self, sealed: bytes) -> bytes | None:
        """What was sealed; None where no key opens it."""


class Observer(Protocol):
    """Is told what happened. Must not raise and must not wait."""

    def __call__(self, fact: Fact) -> None:
        """Take note of `fact`."""
