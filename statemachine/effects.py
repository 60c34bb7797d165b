"""The I/O vocabulary of the flows: what a flow yields, and what it is sent back.

A flow is a generator. It yields one of the effects below, is sent the answer named beside it, and returns an
outcome (`outcomes.py`). It performs nothing itself, so that the same flow runs under a sync driver, under asyncio,
and under a test that steps it. All values are frozen. Every answer of an outside call carries `at`, the store's
clock when the answer came in, as the driver carries it forward from the last store call: never ahead of it, except
for the answers to `StartRefresh`, which are never behind it, since the window counts from there.

===============  ==============================================================  =================
effect           answer                                                          may raise
===============  ==============================================================  =================
`Load`           `Loaded`                                                        `StoreError`
`Commit`         `Committed` or `Conflict`                                       `StoreError`
`LoadAll`        tuple of `Loaded` or `RecordUnreadable`                         `StoreError`
`CommitAll`      tuple of `Committed`, `Conflict` or `RecordUnreadable`          `StoreError`
`ListDue`        tuple of store keys                                             `StoreError`
`OpenSession`    `SessionOpened` or `SessionFailed`                              nothing
`StartRefresh`   `Accepted`, `Rejected`, `NeverSent` or `AnswerLost`             nothing
`AskStatus`      `StatusReport` or `CouldNotAsk`                                 nothing
`ReadRecords`    `Records`, `NotReady` or `RecordsFailed`                        nothing
`HandOver`       bool: whether the worker took it                                nothing
`Pause`          None, when the time has passed                                  nothing
`Tell`           None                                                            nothing
===============  ==============================================================  =================
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from .patient import Patient, UserKey
from .policy import Instant
from .record import ExtractProgress, RefreshRecord
from .values import Value

# The session token: what FHIR calls carry. Its text is shown nowhere.


class SessionToken(Value, frozen=True):
    """A bearer token for FHIR calls. `repr` and `str` do not show it; `reveal()` does.

    `subject_id` is the id to find the FHIR Patient by. `expires_at` already allows for early expiry.
    """

    jwt: str
    subject_id: str
    expires_at: Instant

    def reveal(self) -> str:
        """The token itself, for the Authorization header of a FHIR call and nothing else."""
        return self.jwt

    def headers(self) -> dict[str, str]:
        """The request header that carries the token."""
        return {"Authorization": f"Bearer {self.jwt}"}

    def __repr__(self) -> str:
        return f"SessionToken(<withheld>, expires_at={self.expires_at})"


# What an observer is told: one frozen value per thing that happened, named by a dotted past-tense name.


class Fact(Value, frozen=True):
    """Something that happened.

    `name` without its prefix, such as "refresh_completed". `key` is the patient's store key, None where no patient is
    meant; observers show a keyed hash of it. `source` and `target` are states, set on a transition. `details` holds
    codes, ids and durations (named with their unit), never an identifier of a patient.
    """

    name: str
    key: UserKey | None = None
    source: str | None = None
    target: str | None = None
    details: Mapping[str, str | int | float | bool | None] = {}
    #: Whether somebody on call may need to act.
    is_warning: bool = False
    #: Whether it is but a quantity, told at each login or call: metrics are made of it, logs leave it out.
    is_measurement: bool = False


class TokenChange(StrEnum):
    """What a commit does to the cached session token, in the same atomic step."""

    KEEP = "keep"
    PUT = "put"
    DROP = "drop"


# The store.


class Load(Value, frozen=True):
    """Read a patient's record, its version and the store's clock in one round trip; the token only if asked for."""

    key: UserKey
    with_token: bool = False


class Loaded(Value, frozen=True):
    """`record` is None for a patient never seen. `version` is opaque, empty where there is no record."""

    record: RefreshRecord | None
    version: str
    now: Instant
    token: SessionToken | None = None


class Commit(Value, frozen=True, kw_only=True):
    """Replace the record if its version still is `expected_version`, atomically, in one round trip.

    The store refuses (as a conflict) what was decided longer ago than `Policy.decision_age`, by its own clock.
    `due_at`: when this record's state leaves by itself, None where it never does. `keep_until`: when to forget it.
    `told` are the facts that become true with this commit: they are told if, and only if, it is committed.
    `noted` names what else it changes, such as "session_claim". `is_claim`: it claims the kick-off.
    """

    key: UserKey
    record: RefreshRecord
    expected_version: str
    decided_at: Instant
    due_at: Instant | None
    keep_until: Instant
    token_change: TokenChange
    token: SessionToken | None
    noted: tuple[str, ...]
    told: tuple[Fact, ...]
    is_claim: bool


class Committed(Value, frozen=True):
    """The commit took effect. `version` is the record's new one. `is_replicated`: see `Policy.claim_replicas`."""

    version: str
    now: Instant
    is_replicated: bool = True


class Conflict(Value, frozen=True):
    """The commit changed nothing: another came first, or the decision was too old. `current` is how things stand."""

    current: Loaded


class LoadAll(Value, frozen=True):
    """`Load` for several patients, without tokens, in as few round trips as the store can."""

    keys: tuple[UserKey, ...]


class CommitAll(Value, frozen=True):
    """`Commit` for several patients, each for itself, in as few round trips as the store can."""

    commits: tuple[Commit, ...]


class ListDue(Value, frozen=True):
    """The keys of at most `limit` patients whose deadline has passed, longest overdue first."""

    limit: int


# The upstream.

#: The reason of a call that was not sent because the upstream has enough to do: not its failure, and not the patient's.
UPSTREAM_OVERLOADED: Final = "upstream_overloaded"


class OpenSession(Value, frozen=True):
    """Create an upstream session (JWT). Only the winner of the claim on it does so (rule R2)."""

    patient: Patient


class SessionOpened(Value, frozen=True):
    """The upstream gave a token."""

    token: SessionToken
    at: Instant = 0


class SessionFailed(Value, frozen=True):
    """No token. `reason` is a code such as "http_500", "timed_out", "connection_refused", "bad_token".

    `retry_after`: with the reason `UPSTREAM_OVERLOADED`, the seconds after which there is room for a call again.
    """

    reason: str
    at: Instant = 0
    retry_after: float | None = None


class StartRefresh(Value, frozen=True):
    """Send the kick-off. Only the winner of the claim does so, once (rule R1)."""

    patient: Patient


class Accepted(Value, frozen=True):
    """The upstream took the kick-off."""

    at: Instant = 0


class Rejected(Value, frozen=True):
    """A definite answer that is no acceptance. `reason` is a code such as "http_401"."""

    reason: str
    at: Instant = 0


class NeverSent(Value, frozen=True):
    """The call provably never left (connection refused, name not resolved): the only one that may be sent again.

    `retry_after` as in `SessionFailed`.
    """

    reason: str
    at: Instant = 0
    retry_after: float | None = None


class AnswerLost(Value, frozen=True):
    """It may have arrived: settled by asking for the status, never by sending again (rule R1)."""

    reason: str
    at: Instant = 0


class AskStatus(Value, frozen=True):
    """Ask how the refresh stands. The times let the answer be told from one of an earlier refresh.

    `answered_at` is None unless the kick-off was accepted. `asked_at` is the store's clock at the time of asking;
    `turn_ends_at` is when the next poll may be another's: from then on this one is not sent (rule R6).
    """

    patient: Patient
    claimed_at: Instant
    answered_at: Instant | None
    asked_at: Instant
    turn_ends_at: Instant = 1 << 62


class Phase(StrEnum):
    """How the whole refresh stands, judged over the wanted extracts."""

    IN_PROGRESS = "in_progress"
    COMPLETE = "complete"
    FAILED = "failed"


class StatusReport(Value, frozen=True):
    """`as_of`: the oldest success over the wanted extracts that are current, None while there is none.
    `ended_at`: since when a completion could have been seen, by the store's clock; None where that is not known."""

    phase: Phase
    extracts: tuple[ExtractProgress, ...] = ()
    as_of: Instant | None = None
    at: Instant = 0
    ended_at: Instant | None = None


class CouldNotAsk(Value, frozen=True):
    """The status call failed, which says nothing about the refresh. `retry_after`: seconds the upstream asked for."""

    reason: str
    retry_after: float | None = None
    at: Instant = 0


class ReadRecords(Value, frozen=True):
    """Read the patient's records of one kind, with their session's token."""

    kind: str
    token: SessionToken


class Records(Value, frozen=True):
    """The first page of the records of one kind: a FHIR Bundle as parsed JSON, and how many there are in all."""

    bundle: Mapping[str, object]
    total: int

    def __repr__(self) -> str:
        return f"Records(<bundle withheld>, total={self.total})"


class NotReady(Value, frozen=True):
    """The FHIR server does not know the patient yet: the first refresh has not ended."""


class RecordsFailed(Value, frozen=True):
    """Nothing could be read. `reason` is a code such as "http_401", "several_patients" or "timed_out"."""

    reason: str


# The worker, time, and whoever listens.


@dataclass(frozen=True, slots=True)
class Refresh:
    """A step for the worker: start the refresh, unless that was done. `seen` saves a load where it is still true."""

    patient: Patient
    seen: Loaded | None = field(default=None, compare=False, repr=False)
    #: How many logouts the record counted when the login asked for this; one more makes it void. None: as it finds it.
    logouts: int | None = field(default=None, compare=False)
    #: How often it failed because the store did.
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Follow:
    """A step for the worker: ask once how a refresh stands, and hand over the next step."""

    patient: Patient
    refresh_id: str
    tries: int = 0


Step = Refresh | Follow


class HandOver(Value, frozen=True):
    """Give `step` to the worker, to be run after `delay` seconds. Never waits: the answer False means it is full."""

    step: Step
    delay: float = 0.0


class Pause(Value, frozen=True):
    """Wait `seconds`."""

    seconds: float


class Tell(Value, frozen=True):
    """Tell the observer a fact that no commit announces."""

    fact: Fact


Effect = (
    Load
    | Commit
    | LoadAll
    | CommitAll
    | ListDue
    | OpenSession
    | StartRefresh
    | AskStatus
    | ReadRecords
    | HandOver
    | Pause
    | Tell
)
KickOffAnswer = Accepted | Rejected | NeverSent | AnswerLost
