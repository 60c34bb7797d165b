"""The flows: what phr-refresh does, written once, as generators that yield effects (effects.py).

Each flow loads (record, version, now), applies what is due, decides, and commits with compare-and-set on the
version. Only the winner of a commit performs the outside call that it announces; the loser looks again and joins.
So a process may die between any two lines here: what it had claimed stands in the record with a deadline.

Where R1 (never twice) and recovery cannot both hold, R1 wins: a process that dies between claiming the kick-off
and sending it leaves a refresh that was never sent and is not sent again; it times out at its deadline.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from zlib import crc32

from .draft import Draft, Flow, commit, load, tell, up_to_date
from .effects import (
    UPSTREAM_OVERLOADED,
    Accepted,
    AnswerLost,
    Follow,
    HandOver,
    KickOffAnswer,
    Loaded,
    NeverSent,
    NotReady,
    Pause,
    ReadRecords,
    Records,
    RecordsFailed,
    Refresh,
    Rejected,
    SessionToken,
    StartRefresh,
    Step,
)
from .errors import NotEligible, RecordUnreadable, SessionUnavailable, StoreError
from .following import Following, event_of
from .opening import Advance, Ended, Opening
from .outcomes import Explanation, Receipt, ReceiptKind, Status, SweepReport
from .patient import Patient, UserKey
from .policy import Instant, Policy
from .record import NEVER_SENT, State
from .sweeping import Sweep, statuses
from .table import Event, EventName
from .views import explanation_of, receipt_of, standing_receipt, status_of

_TRIES_TO_RECORD = 3


@dataclass(frozen=True, slots=True)
class Flows:
    """All flows under one policy. `new_id` makes ids that no other process makes: they fence late answers."""

    policy: Policy
    new_id: Callable[[], str]

    # What login services call.

    def login(self, patient: Patient) -> Flow[Receipt]:
        """The login hook: one load, at most one hand-over, nothing else (rule R5)."""
        if not patient.is_member:
            return Receipt(kind=ReceiptKind.NOT_ELIGIBLE)
        try:
            loaded = yield from load(patient.key)
        except StoreError as error:
            reason = "record_unreadable" if isinstance(error, RecordUnreadable) else "store_unavailable"
            yield from tell("login_deferred", patient.key, reason=reason, error=str(error))
            return Receipt(kind=ReceiptKind.DEFERRED, reason=reason)
        record = up_to_date(loaded, self.policy)
        receipt = standing_receipt(record, loaded.now, ReceiptKind.IN_PROGRESS)
        if receipt is not None:
            return receipt
        if (yield HandOver(Refresh(patient, loaded, _logouts(loaded)))):
            return receipt_of(ReceiptKind.HANDED_OVER, record)
        yield from tell("login_deferred", patient.key, reason="worker_full")
        return receipt_of(ReceiptKind.DEFERRED, record, reason="worker_full")

    def refresh(
        self, patient: Patient, *, seen: Loaded | None = None, logouts: int | None = None, wait: bool = True
    ) -> Flow[Receipt]:
        """Start the refresh of this window unless that was done; what the worker runs.

        While another process creates the patient's session, `wait` says whether to wait for it, or to hand this step
        over again. `seen` is what the login loaded: it saves a load, and the store refuses a commit on it if it has
        aged. `logouts` is how many the login saw: after another one, nothing is started.
        """
        if not patient.is_member:
            return Receipt(kind=ReceiptKind.NOT_ELIGIBLE)
        refresh_id = self.new_id()
        loaded = seen or (yield from load(patient.key))
        logouts = _logouts(loaded) if logouts is None else logouts
        step = Refresh(patient, logouts=logouts)
        advance = yield from self._opening(patient, logouts, refresh_id).advance(loaded, wait=wait)
        if isinstance(advance, Ended):
            yield from self._try_again(step, advance.again_in)
            return advance.receipt
        return (yield from self._kick_off(step, advance, refresh_id))

    def follow(self, patient: Patient, refresh_id: str) -> Flow[Status]:
        """One step of following a refresh: ask once if it is time to, and hand over the next step."""
        loaded = yield from load(patient.key)
        following = Following(patient.key, self.policy, patient)
        loaded = yield from following.look(loaded)
        delay = following.next_step_in(loaded, refresh_id)
        if delay is not None and not (yield HandOver(Follow(patient, refresh_id), delay)):
            yield from tell("follow_dropped", patient.key, refresh_id=refresh_id, reason="worker_full")
        return status_of(up_to_date(loaded, self.policy), loaded.now)

    def status(self, key: UserKey, patient: Patient | None = None) -> Flow[Status]:
        """Where the refresh stands: one load for a settled patient.

        With `patient`, whoever is first after the poll interval asks the upstream (rule R6); everybody else, and
        whoever asks by key alone, gets what is known.
        """
        if patient is not None and not patient.is_member:
            return Status(state=State.NO_SESSION, eligible=False)
        loaded = yield from Following(key, self.policy, patient).look((yield from load(key)))
        return status_of(up_to_date(loaded, self.policy), loaded.now)

    def session(self, patient: Patient) -> Flow[SessionToken]:
        """The cached session token, created if needed. Raises `NotEligible`, `SessionUnavailable`, `StoreError`."""
        if not patient.is_member:
            raise NotEligible
        while True:
            loaded = yield from load(patient.key, with_token=True)
            record = up_to_date(loaded, self.policy)
            if record.has_session(loaded.now):
                if loaded.token is not None:
                    return loaded.token
                # The store has evicted it, or no key opens it any more: as good as expired.
                yield from tell("token_missing", patient.key)
                loaded = Loaded(record._replace(session_expires_at=loaded.now), loaded.version, loaded.now)
            advance = yield from self._opening(patient, _logouts(loaded), None).advance(loaded, wait=True)
            if isinstance(advance, Ended):
                raise SessionUnavailable(advance.receipt.reason or "unknown", advance.receipt.retry_at)
            if advance.token is not None:
                if advance.loaded.record is not None and advance.loaded.record.state is State.SESSION_CREATED:
                    yield HandOver(Refresh(patient, logouts=_logouts(loaded)))
                return advance.token

    def records(self, patient: Patient, kind: str) -> Flow[Records | NotReady | RecordsFailed]:
        """One kind of the patient's records, read with their session. Raises what `session` raises."""
        token = yield from self.session(patient)
        answer: Records | NotReady | RecordsFailed = yield ReadRecords(kind, token)
        return answer

    def logout(self, key: UserKey) -> Flow[None]:
        """End the session and drop its token. The window stays: logging in again starts no second refresh."""
        loaded = yield from load(key)
        while True:
            # Committed even where there is nothing to end: a refresh may be waiting in a worker.
            draft = Draft(key, loaded, self.policy)
            draft.take(Event(name=EventName.SESSION_ENDED, at=draft.now))
            draft.drop_token()
            result = yield from commit(draft)
            if isinstance(result, Loaded):
                return
            loaded = result.current

    def explain(self, key: UserKey) -> Flow[Explanation]:
        """Everything the record can tell. Asks nobody and changes nothing."""
        loaded = yield from load(key)
        return explanation_of(up_to_date(loaded, self.policy), loaded.now)

    def statuses(self, keys: Sequence[UserKey]) -> Flow[dict[UserKey, Status | RecordUnreadable]]:
        """What is known of many patients, in batches. Asks nobody and changes nothing."""
        return (yield from statuses(self.policy, keys))

    def sweep(self, limit: int) -> Flow[SweepReport]:
        """Apply what is due for patients whom nobody asks about, in batches: an optimisation, not a need."""
        return (yield from Sweep(self.policy, limit, lot=crc32(self.new_id().encode())).run())

    # What the worker runs.

    def step(self, step: Step) -> Flow[None]:
        """Run one step that was handed over. A store that fails is tried again later, a bounded number of times."""
        try:
            if isinstance(step, Refresh):
                yield from self.refresh(step.patient, seen=step.seen, logouts=step.logouts, wait=False)
            else:
                yield from self.follow(step.patient, step.refresh_id)
        except StoreError as error:
            again = step.tries < self.policy.retry_limit
            again = again and (yield HandOver(_tried(step), self.policy.backoff_after(step.tries + 1) / 1000))
            yield from tell("step_failed", step.patient.key, step=type(step).__name__, error=str(error), again=again)

    # Their parts.

    def _opening(self, patient: Patient, logouts: int, refresh_id: str | None) -> Opening:
        return Opening(patient, self.policy, opening_id=self.new_id(), refresh_id=refresh_id, logouts=logouts)

    def _try_again(self, step: Refresh, again_in: int | None) -> Flow[None]:
        """Hand over the step again, in so many milliseconds, where its failure can pass by itself."""
        if again_in is not None and not (yield HandOver(step, again_in / 1000)):
            yield from tell("retry_dropped", step.patient.key, reason="worker_full")

    def _kick_off(self, step: Refresh, advance: Advance, refresh_id: str) -> Flow[Receipt]:
        """Send the one call that this claim allows, record its answer, and see to what comes next."""
        patient, claimed = step.patient, advance.loaded
        answer: KickOffAnswer
        if claimed.now - _claimed_at(claimed) > self.policy.ms.decision_age:
            # The claim's answer was lost, and it took too long to find the claim again.
            answer = NeverSent("too_late", claimed.now)
        elif not advance.is_replicated:
            # A failover could bring back a store that knows of no claim, and let another send.
            answer = NeverSent("not_replicated", claimed.now)
        else:
            answer = yield StartRefresh(patient)
        if isinstance(answer, NeverSent):
            is_deferred = answer.reason == UPSTREAM_OVERLOADED
            name = "kick_off_deferred" if is_deferred else "kick_off_not_sent"
            yield from tell(name, patient.key, refresh_id=refresh_id, reason=answer.reason, warning=not is_deferred)
        event = event_of(answer, refresh_id, claimed=claimed, policy=self.policy)
        recorded = yield from self._recorded(patient, Loaded(claimed.record, claimed.version, answer.at), event)
        standing = recorded or claimed
        record = up_to_date(standing, self.policy)
        match answer:
            case Accepted() | AnswerLost():
                until_poll = max(record.next_poll_at - standing.now, self.policy.ms.poll_interval)
                if not (yield HandOver(Follow(patient, refresh_id), until_poll / 1000)):
                    yield from tell("follow_dropped", patient.key, refresh_id=refresh_id, reason="worker_full")
                return receipt_of(ReceiptKind.STARTED, record)
            case NeverSent() if recorded is None:
                # The store still holds the claim, and nobody can take it back.
                return receipt_of(ReceiptKind.DEFERRED, record, reason=NEVER_SENT, retry_at=record.window_opens_at)
            case NeverSent():
                counts = event.code != UPSTREAM_OVERLOADED
                again = record.failures < self.policy.retry_limit if counts else event.deferred_since > 0
                receipt = receipt_of(ReceiptKind.DEFERRED, record, reason=event.code, retry_at=event.retry_at)
                yield from self._try_again(step, max(event.retry_at - standing.now, 0) if again else None)
                return receipt
        rejected: Rejected = answer
        return receipt_of(ReceiptKind.DEFERRED, record, reason=rejected.reason, retry_at=record.window_opens_at)

    def _recorded(self, patient: Patient, standing: Loaded, event: Event) -> Flow[Loaded | None]:
        """Record the answer, with a few tries if the store fails; None if it could not be.

        Then the claim stands in the store, and following it settles what can be settled.
        """
        following = Following(patient.key, self.policy)
        for left in reversed(range(_TRIES_TO_RECORD)):
            try:
                return (yield from following.record(standing, event))
            except StoreError as error:
                yield from tell("answer_not_recorded", patient.key, refresh_id=event.refresh_id, error=str(error))
            if left:
                yield Pause(self.policy.ms.session_wait_interval / 1000)
                try:
                    standing = yield from load(patient.key)
                except StoreError:
                    continue
        return None


def _claimed_at(loaded: Loaded) -> Instant:
    claimed_at = loaded.record.claimed_at if loaded.record else None
    return loaded.now if claimed_at is None else claimed_at


def _logouts(loaded: Loaded) -> int:
    return loaded.record.logouts if loaded.record else 0


def _tried(step: Step) -> Step:
    if isinstance(step, Refresh):
        return Refresh(step.patient, logouts=step.logouts, tries=step.tries + 1)
    return Follow(step.patient, step.refresh_id, step.tries + 1)
