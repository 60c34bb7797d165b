"""What a status answer means: the five rules by which each wanted extract is judged, and the refresh by its extracts.

Pure: no clock, no I/O. The upstream gives a refresh no id, so that an answer about this refresh can be told from one
about an earlier refresh only by its times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta, Struct, ValidationError, convert, field

from ...statemachine.effects import AskStatus, CouldNotAsk, Phase, StatusReport
from ...statemachine.policy import Instant
from ...statemachine.record import ExtractProgress, ExtractState

_UNREADABLE = CouldNotAsk("unreadable_answer")
_END_OF_CALENDAR = 253_402_300_800_000  # the year 10000, which datetime cannot show
_WORST_FIRST = (ExtractState.IN_PROGRESS, ExtractState.FAILED, ExtractState.CURRENT)


#: A clock reads neither 0 nor beyond the calendar.
_Time = Annotated[int, Meta(gt=0, lt=_END_OF_CALENDAR)]


class _Answer(Struct, frozen=True):
    """What is read of a status answer. Rows of extracts that nobody wants may hold anything."""

    retrieved: _Time = field(name="retrievedDate")
    rows: list[Any] = field(name="facilityExtractStatusList")


class _Row(Struct, frozen=True):
    """One station's load of one extract. The row's error text and ICN are never taken in."""

    extract: str
    requested: _Time | None = field(default=None, name="lastRequested")
    completed: _Time | None = field(default=None, name="lastCompleted")
    succeeded: _Time | None = field(default=None, name="lastSuccessfulCompleted")
    load_status: str | None = field(default=None, name="loadStatus")

    @property
    def is_error(self) -> bool:
        return self.load_status is not None and self.load_status.strip().upper() == "ERROR"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clock:
    """What the rows' times are held against, by the server's clock. `settles`: the grace after the kick-off is over.

    `ahead`: by how much that clock is ahead of ours, and the time that the call took to get there.
    """

    ahead: int
    ours_from: Instant
    ours_until: Instant
    settles: bool


def judge(
    body: Mapping[str, object],
    *,
    wanted: Sequence[str],
    question: AskStatus,
    grace: int,
    tolerance: int,
) -> StatusReport | CouldNotAsk:
    """How the refresh that `question` is about stands, by the answer `body`. `grace` and `tolerance` are milliseconds.

    With R `retrievedDate`, Q `lastRequested`, C `lastCompleted`, S `lastSuccessfulCompleted` of a row, the first rule
    that applies decides (UPSTREAM, section 2):

    1. no row, or no Q: not requested yet, so in progress.
    2. Q later than C, or no C and no explicit error: in progress.
    3. an explicit error, or S older than C, or no S: failed, if C (without one: Q) is of our refresh.
    4. S is of our refresh: current.
    5. S, or a failure of rule 3, is of an earlier refresh: in progress until the grace is over; after it the upstream
       has let its earlier load stand, and so do we: current as of S, or failed.

    "Of our refresh" is what is not older than the claim of our kick-off less the tolerance, and not later than R plus
    the tolerance, by the server's clock: our times are shifted by R minus the time of asking. The grace counts from the
    kick-off's answer, by our clock. Where that answer was lost there is no grace to be over: whether the kick-off ever
    arrived is not known, so rule 5 stays in progress and the deadline of the refresh decides.

    Of several stations' rows of one extract the worst counts: in progress first, as it may still become anything, then
    failed, then current. `succeeded_at` is the oldest S among them, None if one never succeeded. The refresh is in
    progress while any wanted extract is, failed when all have failed, and complete otherwise; `as_of` is the oldest S
    over the wanted extracts that are current.

    An answer of the wrong shape, where it concerns wanted extracts, proves nothing: `unreadable_answer`. Never raises.
    """
    try:
        retrieved, rows = _read(body, wanted)
    except ValidationError:
        return _UNREADABLE
    clock = _clock(retrieved, question, grace=grace, tolerance=tolerance)
    extracts = tuple(_progress(name, [row for row in rows if row.extract == name], clock) for name in wanted)
    ended_at = _ended_at(rows, clock, question) if _phase(extracts) is Phase.COMPLETE else None
    return StatusReport(_phase(extracts), extracts, as_of=_as_of(extracts), ended_at=ended_at)


def _read(body: Mapping[str, object], wanted: Sequence[str]) -> tuple[Instant, list[_Row]]:
    answer = convert(body, _Answer)
    rows = [row for row in answer.rows if isinstance(row, dict) and row.get("extract") in wanted]
    return answer.retrieved, convert(rows, list[_Row])


def _as_of(extracts: Sequence[ExtractProgress]) -> Instant | None:
    current = [item.succeeded_at for item in extracts if item.state is ExtractState.CURRENT]
    return min((at for at in current if at is not None), default=None)


def _ended_at(rows: Sequence[_Row], clock: _Clock, question: AskStatus) -> Instant | None:
    """When the last of `rows` ended, by our clock: a call at that moment would have been told so.

    None where any is of an earlier refresh, or all ended before the claim: that tells nothing of how long ours took.
    """
    ends = [_ended(row) for row in rows]
    at = min(max(ends) - clock.ahead, question.asked_at)
    return at if min(ends) >= clock.ours_from and at > question.claimed_at else None


def _phase(extracts: Sequence[ExtractProgress]) -> Phase:
    states = {item.state for item in extracts}
    if ExtractState.IN_PROGRESS in states or not states:
        return Phase.IN_PROGRESS
    return Phase.COMPLETE if ExtractState.CURRENT in states else Phase.FAILED


def _clock(retrieved: Instant, question: AskStatus, *, grace: int, tolerance: int) -> _Clock:
    answered, ahead = question.answered_at, retrieved - question.asked_at
    return _Clock(
        ahead=ahead,
        ours_from=question.claimed_at + ahead - tolerance,
        ours_until=retrieved + tolerance,
        settles=answered is not None and question.asked_at - answered >= grace,
    )


def _progress(name: str, rows: Sequence[_Row], clock: _Clock) -> ExtractProgress:
    states = {_state(row, clock) for row in rows} or {ExtractState.IN_PROGRESS}
    worst = next(state for state in _WORST_FIRST if state in states)
    successes = [row.succeeded for row in rows if row.succeeded is not None]
    oldest = min(successes) if successes and len(successes) == len(rows) else None
    return ExtractProgress(name, worst, oldest)


def _state(row: _Row, clock: _Clock) -> ExtractState:
    if row.requested is None:
        return ExtractState.IN_PROGRESS
    if row.completed is None and not row.is_error:
        return ExtractState.IN_PROGRESS
    if row.completed is not None and row.requested > row.completed:
        return ExtractState.IN_PROGRESS
    ended = _ended(row)
    if row.is_error or row.succeeded is None or row.succeeded < ended:
        return _if_ours(ended, clock, ExtractState.FAILED)
    return _if_ours(row.succeeded, clock, ExtractState.CURRENT)


def _ended(row: _Row) -> Instant:
    return row.completed or row.requested or 0


def _if_ours(ended: Instant, clock: _Clock, state: ExtractState) -> ExtractState:
    # A time later than the server's own present proves nothing either: it would pass for every refresh to come.
    is_ours = clock.ours_from <= ended <= clock.ours_until
    return state if is_ours or clock.settles else ExtractState.IN_PROGRESS
