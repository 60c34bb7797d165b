"""Following: asking how a refresh stands, at most once per poll interval whoever asks (rule R6), and recording it."""

from .draft import Draft, Flow, commit, tell, up_to_date
from .effects import (
    UPSTREAM_OVERLOADED,
    Accepted,
    AnswerLost,
    AskStatus,
    Conflict,
    CouldNotAsk,
    KickOffAnswer,
    Loaded,
    NeverSent,
    Phase,
    Rejected,
    StatusReport,
)
from .errors import EventRefused, StoreUnavailable
from .patient import Patient, UserKey
from .policy import Instant, Policy
from .record import NEVER_SENT, KickOff, RefreshRecord, State
from .table import Event, EventName

# What the upstream's answer to a kick-off means to the lifecycle.


def event_of(answer: KickOffAnswer, refresh_id: str, *, claimed: Loaded, policy: Policy) -> Event:
    """The event that `answer` to the kick-off of `refresh_id` is to the lifecycle."""
    opens_at = answer.at + policy.ms.refresh_window
    poll_at = answer.at + policy.ms.poll_interval
    record = claimed.record or RefreshRecord()
    match answer:
        case Accepted(at) | AnswerLost(at=at):
            return Event(
                name=EventName.REFRESH_ACCEPTED if isinstance(answer, Accepted) else EventName.ANSWER_LOST,
                at=at,
                refresh_id=refresh_id,
                window_opens_at=opens_at,
                next_poll_at=poll_at,
                code="" if isinstance(answer, Accepted) else answer.reason,
            )
        case Rejected(reason, at):
            return Event(
                name=EventName.REFRESH_FAILED, at=at, refresh_id=refresh_id, code=reason, window_opens_at=opens_at
            )
    return _try_again(answer, refresh_id, record=record, policy=policy)


def _try_again(answer: NeverSent, refresh_id: str, *, record: RefreshRecord, policy: Policy) -> Event:
    at, failures = answer.at, record.failures
    deferred_since = 0
    if answer.reason == UPSTREAM_OVERLOADED:
        # Nobody's failure: it is not counted.
        code, pause = UPSTREAM_OVERLOADED, policy.deferral_after(answer.retry_after, refresh_id)
        deferred_since = deferred(record, at, policy)
    else:
        failures = record.failures_in_a_row(at, forgotten_after=policy.ms.retry_backoff_max) + 1
        code, pause = NEVER_SENT, policy.spread(policy.backoff_after(failures), refresh_id)
    return Event(
        name=EventName.REFRESH_FAILED,
        at=at,
        refresh_id=refresh_id,
        code=code,
        window_opens_at=at,
        retry_at=at + pause,
        failures=failures,
        deferred_since=deferred_since,
    )


def deferred(record: RefreshRecord, at: Instant, policy: Policy) -> Instant:
    """Since when a refresh that is deferred at `at` has been so; 0 where it was for a whole window: that is enough.

    Nobody waits for it any more by then, and the next login starts anew.
    """
    since = record.deferred_since or at
    return since if at - since < policy.ms.refresh_window else 0


class Following:
    """The polls of one patient's refresh. Without `patient` it can look at the record, but not ask the upstream."""

    __slots__ = ("key", "patient", "policy")

    def __init__(self, key: UserKey, policy: Policy, patient: Patient | None = None) -> None:
        self.key = key
        self.policy = policy
        self.patient = patient

    def look(self, loaded: Loaded) -> Flow[Loaded]:
        """How things stand: what is due is applied and committed, and the upstream is asked if it is time to."""
        while True:
            draft = Draft(self.key, loaded, self.policy)
            asks = self._is_time(draft.record, loaded)
            if asks:
                draft.note("poll_claim", next_poll_at=draft.now + self._interval(draft))
            if not draft.changed:
                return loaded
            try:
                result = yield from commit(draft)
            except StoreUnavailable as error:
                # The record could be read: that is worth more to who asks than an error.
                yield from tell("status_not_committed", self.key, error=str(error))
                return loaded
            if isinstance(result, Loaded):
                return (yield from self._ask(result)) if asks else result
            loaded = result.current

    def record(self, loaded: Loaded, event: Event) -> Flow[Loaded]:
        """Record an answer of the upstream, whatever has happened meanwhile; one that is refused is noted as such."""
        while True:
            draft = Draft(self.key, loaded, self.policy)
            refused = None
            try:
                draft.take(event)
            except EventRefused as error:
                refused = error
                draft.note_refusal(error)
            if not draft.changed:
                return loaded
            result = yield from commit(draft)
            if isinstance(result, Loaded):
                if refused is not None:
                    yield from tell("event_refused", self.key, refused=refused.event, guards=" ".join(refused.guards))
                return result
            loaded = result.current

    def next_step_in(self, loaded: Loaded, refresh_id: str) -> float | None:
        """Seconds until the next step of following `refresh_id`; None where there is nothing left to follow."""
        record = up_to_date(loaded, self.policy)
        running = record.state in (State.REFRESHING, State.NO_SESSION) and loaded.now < record.deadline_at
        if record.refresh_id != refresh_id or not running or not record.awaits_answer(loaded.now):
            return None
        # A poll that is due still was missed: not at once again, or a slow store would be hammered.
        wait = record.next_poll_at - loaded.now
        wait = wait if wait > 0 else self.policy.ms.poll_interval
        return min(wait, record.deadline_at - loaded.now) / 1000

    def _is_time(self, record: RefreshRecord, loaded: Loaded) -> bool:
        return self.patient is not None and record.awaits_answer(loaded.now) and loaded.now >= record.next_poll_at

    def _interval(self, draft: Draft) -> int:
        record = draft.record
        if draft.now >= record.deadline_at:
            return self.policy.ms.late_poll_interval
        return self.policy.poll_interval_after(draft.now - (record.claimed_at or draft.now))

    def _ask(self, loaded: Loaded) -> Flow[Loaded]:
        record = loaded.record
        if self.patient is None or record is None or record.claimed_at is None or record.refresh_id is None:
            return loaded
        answer: StatusReport | CouldNotAsk = yield AskStatus(
            self.patient,
            claimed_at=record.claimed_at,
            answered_at=record.answered_at if record.kick_off is KickOff.ACCEPTED else None,
            asked_at=loaded.now,
            turn_ends_at=record.next_poll_at,
        )
        standing = Loaded(record, loaded.version, answer.at)
        if isinstance(answer, CouldNotAsk):
            # A status call that fails is not a refresh that failed: the state stays, the deadline decides.
            warns = answer.reason != UPSTREAM_OVERLOADED
            yield from tell(
                "status_not_asked", self.key, reason=answer.reason, refresh_id=record.refresh_id, warning=warns
            )
            return (yield from self._hold_off(standing, answer))
        if answer.phase is Phase.IN_PROGRESS and answer.extracts == record.extracts:
            return standing
        try:
            return (yield from self.record(standing, _event_of(answer, record.refresh_id)))
        except StoreUnavailable as error:
            # As above; the next turn asks again.
            yield from tell("status_not_committed", self.key, error=str(error))
            return standing

    def _hold_off(self, loaded: Loaded, answer: CouldNotAsk) -> Flow[Loaded]:
        """Respect the upstream's Retry-After, up to the longest poll interval."""
        if answer.retry_after is None:
            return loaded
        pause = min(int(answer.retry_after * 1000), self.policy.ms.poll_interval_max)
        draft = Draft(self.key, loaded, self.policy)
        if loaded.now + pause <= draft.record.next_poll_at:
            return loaded
        draft.note("poll_held_off", next_poll_at=loaded.now + pause)
        result = yield from commit(draft)
        # Whoever came first knows better: this was only a courtesy.
        return result.current if isinstance(result, Conflict) else result


def _event_of(report: StatusReport, refresh_id: str) -> Event:
    names = {
        Phase.IN_PROGRESS: EventName.PROGRESS_REPORTED,
        Phase.COMPLETE: EventName.REFRESH_COMPLETED,
        Phase.FAILED: EventName.REFRESH_FAILED,
    }
    return Event(
        name=names[report.phase],
        at=report.at,
        refresh_id=refresh_id,
        extracts=report.extracts,
        as_of=report.as_of,
        ended_at=report.ended_at,
        code="all_extracts_failed" if report.phase is Phase.FAILED else "",
    )
