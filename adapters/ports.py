"""The seams of the outer ring: what a store, an upstream, a worker, a seal and an observer must be able to do.

Each is a `Protocol`: an adapter needs no import from here, only these methods. Store and upstream are one call each:
requests are values, so that what stands around a port (measuring, guarding, recording, scripting) is a few lines.
Stores hold bytes and know nothing of the lifecycle; whatever they raise must be a `StoreError`.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, runtime_checkable

from ..statemachine.effects import (
    AskStatus,
    CouldNotAsk,
    Fact,
    KickOffAnswer,
    ListDue,
    Load,
    LoadAll,
    OpenSession,
    ReadRecords,
    SessionFailed,
    SessionOpened,
    StartRefresh,
    StatusReport,
    Step,
    TokenChange,
)
from ..statemachine.effects import (
    NotReady as NotReady,
)
from ..statemachine.effects import (
    Records as Records,
)
from ..statemachine.effects import (
    RecordsFailed as RecordsFailed,
)
from ..statemachine.errors import RecordUnreadable
from ..statemachine.patient import UserKey
from ..statemachine.policy import Instant
from ..statemachine.values import Value


class Row(Value, frozen=True):
    """What a store holds for one patient: `value` None and `version` empty where there is nothing. `now`: its clock."""

    value: bytes | None
    version: str
    now: Instant
    token: bytes | None = None

    def __repr__(self) -> str:
        return f"Row(<{len(self.value or b'')} bytes>, version={self.version!r}, now={self.now})"


class Change(Value, frozen=True, kw_only=True):
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
    token: bytes | None = None
    token_expires_at: Instant = 0
    replicas: int = 0
    replicas_wait: int = 0

    def __repr__(self) -> str:
        return f"Change(key={self.key!r}, expected_version={self.expected_version!r}, due_at={self.due_at})"


class ChangeAll(Value, frozen=True):
    """Several changes, each for itself."""

    changes: tuple[Change, ...]


class Written(Value, frozen=True):
    """The change took effect under this new version, and on as many replicas as it asked for, if `is_replicated`."""

    version: str
    now: Instant
    is_replicated: bool = True


StoreRequest = Load | Change | LoadAll | ChangeAll | ListDue
StoreReply = Row | Written | tuple[Row | Written | RecordUnreadable, ...] | tuple[UserKey, ...]


class Store(Protocol):
    """Persists records. Thread-safe; several processes may share what it stands for.

    ===========  ==============================================  ===============================================
    request      what is done                                    reply
    ===========  ==============================================  ===============================================
    `Load`       read one patient, in one round trip             `Row`
    `Change`     compare and set, in one atomic round trip       `Written`, or the current `Row` where it changed
                                                                 nothing
    `LoadAll`    read several, without tokens, in as few round   tuple of `Row`, in this order
                 trips as can be
    `ChangeAll`  `Change` of several, likewise; where it         tuple of `Written` or `Row`
                 raises, some may have taken effect
    `ListDue`    keys whose `due_at` has passed, longest         tuple of keys
                 overdue first, at most `limit`
    ===========  ==============================================  ===============================================

    A row's `now` is read not before the row. A change must be safe to repeat: one whose answer was lost, sent again by
    the adapter itself, answers `Written`. What lies at a key and is none of ours is a `RecordUnreadable`: raised where
    one patient was asked for, and a value in the tuple among several, so that it hides no other.
    """

    def call(self, request: StoreRequest) -> StoreReply:
        """Do what `request` says."""

    def close(self) -> None:
        """Let go of connections and files. Nothing may be called afterwards."""


@runtime_checkable
class AnswersInTime(Protocol):
    """A store that can read one patient within a time limit that holds whatever its server does."""

    def call_by(self, request: Load, ends_at: float) -> Row | None:
        """The row, read in the caller's thread before `time.monotonic()` is `ends_at`.

        None where no connection is open and idle, or the answer did not come or was none: then nothing is known, and
        the connection is closed, so that nobody reads a late answer for theirs (rule R9). Never raises.
        """


class AsyncStore(Protocol):
    """The same as `Store`, to be awaited."""

    def call(self, request: StoreRequest) -> Awaitable[StoreReply]:
        """See `Store.call`."""

    def close(self) -> Awaitable[None]:
        """See `Store.close`."""


UpstreamRequest = OpenSession | StartRefresh | AskStatus | ReadRecords
RecordsAnswer = Records | NotReady | RecordsFailed
UpstreamAnswer = SessionOpened | SessionFailed | KickOffAnswer | StatusReport | CouldNotAsk | RecordsAnswer


class Upstream(Protocol):
    """The system that is driven. Thread-safe. Failures are answers, not exceptions; `at` is filled in by the driver.

    =============  =============================================================  =====================================
    request        what is done                                                   answer
    =============  =============================================================  =====================================
    `OpenSession`  create a session; its token's `expires_at` is by this host's   `SessionOpened`, `SessionFailed`
                   clock
    `StartRefresh`  send the kick-off, exactly once: never retried here           `Accepted`, `Rejected`, `NeverSent`,
                                                                                  `AnswerLost`
    `AskStatus`    ask once how the refresh stands                                `StatusReport`, `CouldNotAsk`
    `ReadRecords`  read one kind of the token's patient's records; raises for a   `Records`, `NotReady`,
                   kind that there is not                                         `RecordsFailed`
    =============  =============================================================  =====================================

    Calls may block: under asyncio they are made in threads.
    """

    #: The longest that a call can go on, in seconds: claims must outlast it, see `Policy`.
    longest_call: float

    def call(self, request: UpstreamRequest) -> UpstreamAnswer:
        """Do what `request` says."""

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


@runtime_checkable
class NeverWaits(Protocol):
    """A worker whose `hand_over` never waits for anybody, as one that has a queue in this process."""

    never_waits: bool


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
