"""Opening: the part of a flow that gets a patient a session and, for a refresh, the claim on its kick-off."""

from dataclasses import dataclass

from .draft import Draft, Flow, commit, load, tell
from .effects import (
    UPSTREAM_OVERLOADED,
    Conflict,
    Loaded,
    OpenSession,
    Pause,
    SessionFailed,
    SessionOpened,
    SessionToken,
)
from .errors import StoreUnavailable
from .following import deferred
from .outcomes import Receipt, ReceiptKind
from .patient import Patient
from .policy import Policy
from .record import Failure, RefreshRecord, State, cancelled
from .table import Event, EventName
from .views import receipt_of, standing_receipt


@dataclass(frozen=True, slots=True)
class Advance:
    """How far it came: `loaded` is how things stand, `token` the session's where it was created here."""

    loaded: Loaded
    token: SessionToken | None = None
    #: Of a claim: whether it is on as many replicas as the policy asks for.
    is_replicated: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """It goes no further; `receipt` says why.

    `again_in`: milliseconds after which the step is worth handing over again, None where it is not.
    """

    receipt: Receipt
    again_in: int | None = None


_STUMBLES = 2


class Opening:
    """One attempt, under one `opening_id`. `refresh_id` None: only a session is wanted."""

    __slots__ = ("is_replicated", "logouts", "opening_id", "patient", "policy", "refresh_id", "stumbles", "waited")

    def __init__(
        self, patient: Patient, policy: Policy, *, opening_id: str, refresh_id: str | None, logouts: int
    ) -> None:
        self.patient = patient
        self.logouts = logouts
        self.policy = policy
        self.opening_id = opening_id
        self.refresh_id = refresh_id
        self.waited = 0
        self.stumbles = 0
        # Where the answer to its commit is lost, nobody knows.
        self.is_replicated = policy.claim_replicas == 0

    def advance(self, loaded: Loaded, *, wait: bool) -> Flow[Advance | Ended]:
        """Go on to a session and, if one is wanted, our claim on the kick-off; or to a receipt that says why not.

        A session that is created and the claim that it allows are one commit.
        """
        token: SessionToken | None = None
        while True:
            draft = Draft(self.patient.key, loaded, self.policy)
            if self.refresh_id is not None and draft.record.refresh_id == self.refresh_id:
                # Also where the commit's answer was lost: nobody else can have used this id.
                return Advance(loaded, is_replicated=self.is_replicated)
            # A token in hand is committed first, whatever else has happened.
            found = self._found(draft, loaded, wait=wait) if token is None else None
            if found is not None:
                return found
            if token is None and not draft.record.has_session(draft.now):
                step = yield from self._create(draft, wait=wait)
                if isinstance(step, Ended):
                    return step
                loaded, token = step.loaded, step.token
                continue
            self._decide(draft, token)
            result = yield from self._commit(draft)
            if isinstance(result, Loaded):
                if self.refresh_id is None:
                    return Advance(result, token)
                loaded, token = result, None
                continue
            loaded = result.current
            if token is not None and not self._is_ours(loaded.record):
                if self._is_cancelled(loaded.record):
                    return (yield from self._give_back(loaded))
                # Our claim lapsed and another went on: its session counts, ours is dropped unseen.
                token = None

    def _commit(self, draft: Draft) -> Flow[Loaded | Conflict]:
        """Commit; where the store does not answer, look what became of it, a few times.

        A claim that took effect without our hearing of it would otherwise stand for a call that nobody makes.
        """
        try:
            result = yield from commit(draft)
            if draft.is_claim:
                self.is_replicated = self.is_replicated or draft.is_replicated
            return result
        except StoreUnavailable:
            self.stumbles += 1
            if self.stumbles > _STUMBLES:
                raise
        # With the token: that is never answered from a cache, whose clock is a little behind. A kick-off may come next,
        # and its window counts from this clock.
        return Conflict((yield from load(self.patient.key, with_token=True)))

    def _found(self, draft: Draft, loaded: Loaded, *, wait: bool) -> Advance | Ended | None:
        """What there is already: a session where only that is wanted, or a reason to go no further."""
        record = draft.record
        if record.logouts > self.logouts:
            return Ended(receipt_of(ReceiptKind.DEFERRED, record, reason="logged_out"))
        if self.refresh_id is None:
            return Advance(loaded) if record.has_session(draft.now) else self._backoff(draft)
        receipt = standing_receipt(record, draft.now, ReceiptKind.JOINED)
        if receipt is None:
            return None
        # A worker that wakes up a moment before the pause is over must not lose the step.
        again = receipt.reason == UPSTREAM_OVERLOADED or (
            receipt.reason == "backoff" and record.failures < self.policy.retry_limit
        )
        early = again and not wait
        return Ended(receipt, again_in=record.retry_at - draft.now if early else None)

    def _backoff(self, draft: Draft) -> Ended | None:
        record = draft.record
        if record.session_failure is None or draft.now >= record.retry_at:
            return None
        reason = record.session_failure.code
        return Ended(receipt_of(ReceiptKind.DEFERRED, record, reason=reason, retry_at=record.retry_at))

    def _decide(self, draft: Draft, token: SessionToken | None) -> None:
        if token is not None:
            draft.take(Event(name=EventName.SESSION_OPENED, at=draft.now, session_expires_at=token.expires_at))
            draft.put_token(token)
        record = draft.record
        may_claim = record.state in (State.SESSION_CREATED, State.STALE) and record.window_is_open(draft.now)
        if self.refresh_id is not None and may_claim and draft.now >= record.retry_at and record.has_session(draft.now):
            draft.take(
                Event(
                    name=EventName.REFRESH_CLAIMED,
                    at=draft.now,
                    refresh_id=self.refresh_id,
                    deadline_at=draft.now + self.policy.ms.refresh_deadline,
                    window_opens_at=draft.now + self.policy.ms.refresh_window + self.policy.ms.unanswered_margin,
                    next_poll_at=draft.now + self.policy.poll_interval_after(0),
                )
            )

    def _is_ours(self, record: RefreshRecord | None) -> bool:
        return record is not None and record.opening_id == self.opening_id

    def _is_cancelled(self, record: RefreshRecord | None) -> bool:
        return record is not None and record.opening_id == cancelled(self.opening_id)

    def _create(self, draft: Draft, *, wait: bool) -> Flow[Advance | Ended]:
        """Claim the creation of the session and create it; or wait for who has claimed it (rule R2)."""
        record = draft.record
        age = self.policy.ms.decision_age
        lasts = self.policy.ms.session_claim + 2 * age
        # Ours already where the commit's answer was lost; claimed anew if that took too long to find out.
        if not self._is_ours(record) or record.opening_until - draft.now < lasts - age:
            if not self._is_ours(record) and draft.now < record.opening_until:
                return (yield from self._wait(draft, wait=wait))
            draft.note("session_claim", opening_id=self.opening_id, opening_until=draft.now + lasts)
            result = yield from self._commit(draft)
            if isinstance(result, Conflict):
                return Advance(result.current)
            draft = Draft(self.patient.key, result, self.policy)
        answer: SessionOpened | SessionFailed = yield OpenSession(self.patient)
        standing = Loaded(draft.record, draft.version, answer.at)
        if isinstance(answer, SessionFailed):
            return (yield from self._failed(standing, answer))
        if answer.token.expires_at <= answer.at:
            return (yield from self._failed(standing, SessionFailed("token_expired", answer.at)))
        return Advance(standing, answer.token)

    def _wait(self, draft: Draft, *, wait: bool) -> Flow[Advance | Ended]:
        interval = self.policy.ms.session_wait_interval
        if wait and self.waited < self.policy.ms.session_wait:
            self.waited += interval
            yield Pause(interval / 1000)
            return Advance((yield from load(self.patient.key)))
        receipt = receipt_of(
            ReceiptKind.DEFERRED,
            draft.record,
            reason="session_being_created",
            retry_at=draft.record.opening_until,
        )
        return Ended(receipt, again_in=max(interval, 1000))

    def _failed(self, standing: Loaded, answer: SessionFailed) -> Flow[Ended]:
        """Give the claim back, with a pause before anybody calls again."""
        is_deferred = answer.reason == UPSTREAM_OVERLOADED
        name = "session_deferred" if is_deferred else "session_failed"
        yield from tell(name, self.patient.key, reason=answer.reason, warning=not is_deferred)
        while True:
            draft = Draft(self.patient.key, standing, self.policy)
            record = draft.record
            pause, again = self._note_failure(draft, answer)
            receipt = receipt_of(ReceiptKind.DEFERRED, record, reason=answer.reason, retry_at=draft.record.retry_at)
            again_in = pause if again else None
            result = yield from commit(draft)
            if isinstance(result, Loaded):
                return Ended(receipt, again_in)
            standing = result.current
            if self._is_cancelled(standing.record):
                return (yield from self._give_back(standing))
            if not self._is_ours(standing.record):
                return Ended(receipt, again_in)

    def _note_failure(self, draft: Draft, answer: SessionFailed) -> tuple[int, bool]:
        """The pause in milliseconds, and whether the step is worth trying again after it."""
        policy, record = self.policy, draft.record
        deferred_since, failures = 0, record.failures
        if answer.reason == UPSTREAM_OVERLOADED:
            # Nobody's failure: it is not counted. Only a refresh has a worker that tries again.
            pause = policy.deferral_after(answer.retry_after, self.opening_id)
            wants = self.refresh_id is not None or record.deferred_since > 0
            deferred_since = deferred(record, draft.now, policy) if wants else 0
            again = deferred_since > 0
        else:
            forgotten_after = policy.ms.retry_backoff_max
            failures = record.failures_in_a_row(draft.now, forgotten_after=forgotten_after) + 1
            pause = policy.spread(policy.backoff_after(failures), self.opening_id)
            again = failures < policy.retry_limit
        draft.note(
            "session_failure",
            opening_id=None,
            opening_until=0,
            failures=failures,
            retry_at=draft.now + pause,
            session_failure=Failure(code=answer.reason, at=answer.at),
            deferred_since=deferred_since,
        )
        return pause, again

    def _give_back(self, loaded: Loaded) -> Flow[Ended]:
        """The patient logged out while the session was being created: nobody gets it, the claim is cleared."""
        while self._is_cancelled(loaded.record):
            draft = Draft(self.patient.key, loaded, self.policy)
            draft.note("session_claim_cleared", opening_id=None, opening_until=0)
            result = yield from commit(draft)
            loaded = result if isinstance(result, Loaded) else result.current
        record = loaded.record or RefreshRecord()
        return Ended(receipt_of(ReceiptKind.DEFERRED, record, reason="logged_out"))
