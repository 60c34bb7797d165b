"""Draft: a loaded record on its way to a commit, and the typed sub-flows for load and commit."""

from collections.abc import Generator
from typing import Any, TypeVar

from .effects import (
    UPSTREAM_OVERLOADED,
    Commit,
    Committed,
    Conflict,
    Effect,
    Fact,
    Load,
    Loaded,
    SessionToken,
    Tell,
    TokenChange,
)
from .errors import EventRefused
from .lifecycle import Step, catch_up, deadline_of, step
from .patient import UserKey
from .policy import Policy
from .record import RefreshRecord, Refusal
from .table import FINGERPRINT, Event, EventName, Kind

T = TypeVar("T")
#: A flow yields effects, is sent their answers (`effects.py` says which), and returns a `T`.
Flow = Generator[Effect, Any, T]


_FAR = 4


class Draft:
    """What a flow decided so far: the record with all that was due applied first, and what is to be told about it.

    `now` is the store's clock at the load. `changed` says whether there is anything to commit.
    """

    __slots__ = (
        "changed",
        "is_replicated",
        "key",
        "noted",
        "now",
        "policy",
        "record",
        "steps",
        "token",
        "token_change",
        "version",
    )

    def __init__(self, key: UserKey, loaded: Loaded, policy: Policy) -> None:
        self.key = key
        self.policy = policy
        self.version = loaded.version
        self.now = loaded.now
        self.record = _within_reach(loaded, policy)
        self.steps: list[Step] = list(catch_up(self.record, self.now))
        self.changed = bool(self.steps)
        self.noted: list[str] = []
        self.token_change = TokenChange.KEEP
        self.token: SessionToken | None = None
        #: Whether a committed claim is on as many replicas as the policy asks for.
        self.is_replicated = False
        if self.steps:
            self.record = self.steps[-1].after

    def take(self, event: Event) -> None:
        """Take `event`. Raises `EventRefused`, which leaves the draft as it was."""
        taken = step(self.record, event)
        if taken.kind is not Kind.IGNORED:
            self.steps.append(taken)
            self.record = taken.after
            self.changed = True

    def note(self, why: str, **fields: Any) -> None:
        """Set bookkeeping fields of the record that are no business of the machine's; `why` names the reason."""
        self.record = self.record._replace(fingerprint=FINGERPRINT, **fields)
        self.noted.append(why)
        self.changed = True

    def note_refusal(self, refused: EventRefused) -> None:
        """Keep what was refused for `explain`."""
        refusal = Refusal(event=refused.event, state=refused.state, guards=refused.guards, at=self.now)
        self.note("refusal", refusal=refusal)

    def put_token(self, token: SessionToken) -> None:
        """Cache `token` with the commit."""
        self.token, self.token_change = token, TokenChange.PUT

    def drop_token(self) -> None:
        """Drop the cached token with the commit."""
        self.token, self.token_change = None, TokenChange.DROP

    @property
    def is_claim(self) -> bool:
        """Whether it claims the kick-off."""
        return any(taken.event.name is EventName.REFRESH_CLAIMED for taken in self.steps)

    def commit(self) -> Commit:
        """The effect that persists the draft."""
        record = self.record
        ends = max(
            record.window_opens_at, record.session_expires_at or 0, record.opening_until, record.retry_at, self.now
        )
        return Commit(
            key=self.key,
            record=record,
            expected_version=self.version,
            decided_at=self.now,
            due_at=deadline_of(record),
            keep_until=ends + self.policy.ms.retention,
            token_change=self.token_change,
            token=self.token,
            noted=tuple(self.noted),
            told=tuple(fact_of(self.key, taken) for taken in self.steps),
            is_claim=self.is_claim,
        )

    def committed(self, answer: Committed) -> Loaded:
        """How things stand after the commit."""
        self.is_replicated = answer.is_replicated
        return Loaded(self.record, answer.version, answer.now)


def up_to_date(loaded: Loaded, policy: Policy) -> RefreshRecord:
    """The record with all that was due at the load applied, for who only reads it."""
    record = _within_reach(loaded, policy)
    steps = catch_up(record, loaded.now)
    return steps[-1].after if steps else record


def _within_reach(loaded: Loaded, policy: Policy) -> RefreshRecord:
    """The record with what lies further ahead than any policy can have set it counted as due (rule R4).

    A store's clock that was set back, as at the boot of a machine, would let everybody wait for it to come round. Not
    so the window: there waiting is the safe side (rule R1).
    """
    now = loaded.now
    record = loaded.record or RefreshRecord(since=now)
    reach = now + _FAR * policy.ms.refresh_deadline
    if max(record.deadline_at, record.next_poll_at, record.opening_until, record.retry_at) <= reach:
        return record
    return record._replace(
        deadline_at=now if record.deadline_at > reach else record.deadline_at,
        next_poll_at=now if record.next_poll_at > reach else record.next_poll_at,
        opening_until=now if record.opening_until > reach else record.opening_until,
        retry_at=now if record.retry_at > reach else record.retry_at,
    )


def fact_of(key: UserKey, taken: Step) -> Fact:
    """What an observer is told of a step: names, ids and durations."""
    before, after, event = taken.before, taken.after, taken.event
    details: dict[str, str | int | float | bool | None] = {"seconds_in_state": (event.at - before.since) / 1000}
    if after.refresh_id is not None and event.name is not EventName.SESSION_EXPIRED:
        details["refresh_id"] = after.refresh_id
    if event.code:
        details["reason"] = event.code
    if after.claimed_at is not None and event.name in _ENDS:
        details["refresh_seconds"] = (event.at - after.claimed_at) / 1000
    if after.claimed_at is not None and event.ended_at is not None:
        # The rest is how late it was seen.
        details["upstream_seconds"] = (event.ended_at - after.claimed_at) / 1000
    warns = event.name in _WARNINGS and event.code != UPSTREAM_OVERLOADED
    return Fact(event.name.value, key, before.state.value, after.state.value, details, warns)


_ENDS = {EventName.REFRESH_COMPLETED, EventName.REFRESH_FAILED, EventName.REFRESH_TIMED_OUT}
_WARNINGS = {EventName.REFRESH_FAILED, EventName.REFRESH_TIMED_OUT, EventName.ANSWER_LOST}


def load(key: UserKey, *, with_token: bool = False) -> Flow[Loaded]:
    """Load, typed."""
    loaded: Loaded = yield Load(key, with_token)
    return loaded


def commit(draft: Draft) -> Flow[Loaded | Conflict]:
    """Commit the draft: how things stand now, or the conflict that kept it from being committed."""
    answer: Committed | Conflict = yield draft.commit()
    return answer if isinstance(answer, Conflict) else draft.committed(answer)


def tell(name: str, key: UserKey | None, *, warning: bool = True, **details: str | float | bool | None) -> Flow[None]:
    """Tell the observer something that no commit announces."""
    yield Tell(Fact(name, key, details=details, is_warning=warning))
