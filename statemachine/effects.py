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

# The session token: what FHIR calls carry. Its text is shown nowhere.


@dataclass(frozen=True, slots=True, repr=False)
class SessionToken:
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


# The session token (session_token.py) never enters the record.


class TokenChange(StrEnum):
    """What a commit does to the cached session token, in the same atomic step."""

    KEEP = "keep"
    PUT = "put"
    DROP = "drop"


# The store.


@dataclass(frozen=True, slots=True)
class Load:
    """Read a patient's record, its version and the store's clock in one round trip; the token only if asked for."""

    key: UserKey
    with_token: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """`record` is None for a patient never seen. `version` is opaque, empty where there is no record."""

    record: RefreshRecord | None
    version: str
    now: Instant
    token: SessionToken | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
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


@dataclass(frozen=True, slots=True)
class Committed:
    """The commit took effect. `version` is the record's new one. `is_replicated`: see `Policy.claim_replicas`."""

    version: str
    now: Instant
    is_replicated: bool = True


@dataclass(frozen=True, slots=True)
class Conflict:
    """The commit changed nothing: another came first, or the decision was too old. `current` is how things stand."""

    current: Loaded


@dataclass(frozen=True, slots=True)
class LoadAll:
    """`Load` for several patients, without tokens, in as few round trips as the store can."""

    keys: tuple[UserKey, ...]


@dataclass(frozen=True, slots=True)
class CommitAll:
    """`Commit` for several patients, each for itself, in as few round trips as the store can."""

    commits: tuple[Commit, ...]


@dataclass(frozen=True, slots=True)
class ListDue:
    """The keys of at most `limit` patients whose deadline has passed, longest overdue first."""

    limit: int


# The upstream.

#: The reason of a call that was not sent because the upstream has enough to do: not its failure, and not the patient's.
UPSTREAM_OVERLOADED: Final = "upstream_overloaded"


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Create an upstream session (JWT). Only the winner of the claim on it does so (rule R2)."""

    patient: Patient


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """The upstream gave a token."""

    token: SessionToken
    at: Instant = 0


@dataclass(frozen=True, slots=True)
class SessionFailed:
    """No token. `reason` is a code such as "http_500", "timed_out", "connection_refused", "bad_token".

    `retry_after`: with the reason `UPSTREAM_OVERLOADED`, the seconds after which there is room for a call again.
    """

    reason: str
    at: Instant = 0
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class StartRefresh:
    """Send the kick-off. Only the winner of the claim does so, once (rule R1)."""

    patient: Patient


@dataclass(frozen=True, slots=True)
class Accepted:
    """The upstream took the kick-off."""

    at: Instant = 0


@dataclass(frozen=True, slots=True)
class Rejected:
    """A definite answer that is no acceptance. `reason` is a code such as "http_401"."""

    reason: str
    at: Instant = 0


@dataclass(frozen=True, slots=True)
class NeverSent:
    """The call provably never left (connection refused, name not resolved): the only one that may be sent again.

    `retry_after` as in `SessionFailed`.
    """

    reason: str
    at: Instant = 0
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class AnswerLost:
    """It may have arrived: settled by asking for the status, never by sending again (rule R1)."""

    reason: str
    at: Instant = 0


@dataclass(frozen=True, slots=True)
class AskStatus:
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


@dataclass(frozen=True, slots=True)
class StatusReport:
    """`as_of`: the oldest success over the wanted extracts that are current, None while there is none.
    `ended_at`: since when a completion could have been seen, by the store's clock; None where that is not known."""

    phase: Phase
    extracts: tuple[ExtractProgress, ...] = ()
    as_of: Instant | None = None
    at: Instant = 0
    ended_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class CouldNotAsk:
    """The status call failed, which says nothing about the refresh. `retry_after`: seconds the upstream asked for."""

    reason: str
    retry_after: float | None = None
    at: Instant = 0


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


@dataclass(frozen=True, slots=True)
class HandOver:
    """Give `step` to the worker, to be run after `delay` seconds. Never waits: the answer False means it is full."""

    step: Step
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the observer a fact that no commit announces."""

    fact: Fact


Effect = (
    Load | Commit | LoadAll | CommitAll | ListDue | OpenSession | StartRefresh | AskStatus | HandOver | Pause | Tell
)
KickOffAnswer = Accepted | Rejected | NeverSent | AnswerLost
