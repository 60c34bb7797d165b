"""Many patients at once, in batches: the sweep of whom nobody asks about, and the statuses of a list of patients."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from .draft import Draft, Flow, tell, up_to_date
from .effects import CommitAll, Committed, Conflict, ListDue, LoadAll, Loaded
from .errors import RecordUnreadable
from .outcomes import Status, SweepReport
from .patient import UserKey
from .policy import Policy
from .views import status_of

#: Patients in one batch: enough that round trips cost little, and few enough that no decision ages meanwhile.
BATCH: Final = 500
#: Records that stay due whatever a sweep does, such as unreadable ones, are looked past up to so many times its limit.
_PAST: Final = 10
#: Of the unreadable records of one sweep so many are told one by one; the report counts them all.
_TOLD: Final = 10


def statuses(policy: Policy, keys: Sequence[UserKey]) -> Flow[dict[UserKey, Status | RecordUnreadable]]:
    """What the store knows of each patient. Asks nobody and changes nothing; an unreadable record is its error."""
    found: dict[UserKey, Status | RecordUnreadable] = {}
    for batch in _batches(keys):
        answers: tuple[Loaded | RecordUnreadable, ...] = yield LoadAll(batch)
        for key, loaded in zip(batch, answers, strict=True):
            if isinstance(loaded, Loaded):
                found[key] = status_of(up_to_date(loaded, policy), loaded.now)
            else:
                found[key] = loaded
    return found


@dataclass(slots=True)
class Sweep:
    """One sweep, which moves at most `limit` patients. `lot`: a number of its own.

    Any number of them may run at once. Each begins elsewhere in the list by its lot, or all would load the same
    patients at the same time; where they meet, the store lets one move a patient.
    """

    policy: Policy
    limit: int
    lot: int
    seen: set[UserKey] = field(default_factory=set)
    moves: Counter[str] = field(default_factory=Counter)
    conflicts: int = 0
    unreadable: int = 0

    def run(self) -> Flow[SweepReport]:
        """Apply what is due, however many deadlines each patient has missed."""
        while (left := self.limit - self.moves.total()) > 0 and len(self.seen) <= _PAST * self.limit:
            # Whom this sweep did not move may still head the list: so many more are asked for.
            most = self.limit + len(self.seen) - self.moves.total()
            listed: tuple[UserKey, ...] = yield ListDue(most)
            fresh = [key for key in listed if key not in self.seen][:left]
            begin = self.lot % max(len(fresh), 1)
            for batch in _batches(fresh[begin:] + fresh[:begin]):
                yield from self._move(batch)
            if not fresh or len(listed) < most:
                break
        moves = dict(sorted(self.moves.items()))
        return SweepReport(len(self.seen), self.moves.total(), self.conflicts, self.unreadable, moves)

    def _move(self, batch: tuple[UserKey, ...]) -> Flow[None]:
        self.seen.update(batch)
        loaded: tuple[Loaded | RecordUnreadable, ...] = yield LoadAll(batch)
        drafts = []
        for key, answer in zip(batch, loaded, strict=True):
            if isinstance(answer, RecordUnreadable):
                yield from self._leave(key, answer)
                continue
            draft = Draft(key, answer, self.policy)
            if draft.changed:
                drafts.append(draft)
            else:
                self.conflicts += 1
        if not drafts:
            return
        answers: tuple[Committed | Conflict | RecordUnreadable, ...] = yield CommitAll(
            tuple(draft.commit() for draft in drafts)
        )
        for draft, committed in zip(drafts, answers, strict=True):
            if isinstance(committed, Committed):
                self.moves[f"{draft.steps[0].before.state.value} -> {draft.record.state.value}"] += 1
            else:
                self.conflicts += 1

    def _leave(self, key: UserKey, error: RecordUnreadable) -> Flow[None]:
        self.unreadable += 1
        if self.unreadable <= _TOLD:
            yield from tell("record_unreadable", key, error=str(error))


def _batches(keys: Sequence[UserKey]) -> Iterator[tuple[UserKey, ...]]:
    return (tuple(keys[start : start + BATCH]) for start in range(0, len(keys), BATCH))
