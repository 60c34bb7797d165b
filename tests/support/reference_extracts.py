"""An oracle for what a status answer means, from the upstream's facts (UPSTREAM, section 2), beside the library's own.

It asks of all rows at once which of them could still change, and only of what is left whether it went well:

- A load runs where the upstream has asked for it and not ended it, or was never asked to begin.
- What has ended counts for us only if it ended between our claim and the server's present, give or take the tolerance.
- What ended earlier counts once the grace after the kick-off's answer is over, and never where that answer was lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NEVER = float("-inf")


@dataclass(frozen=True)
class Asked:
    """What is known when the answer comes in: times in milliseconds; `retrieved` is by the server's clock."""

    claimed: int
    answered: int | None
    asked: int
    retrieved: int
    grace: int = 10_000
    tolerance: int = 120_000

    def counts(self, ended: float) -> bool:
        """Whether what ended then is ours, or has been left to stand by the upstream."""
        if self.answered is not None and self.asked >= self.answered + self.grace:
            return True
        ours_ended = ended - (self.retrieved - self.asked)
        return self.claimed - self.tolerance <= ours_ended and ours_ended <= self.asked + self.tolerance


Verdict = tuple[str, tuple[tuple[str, str, int | None], ...], int | None]


def verdict(rows: Sequence[Mapping[str, Any]], wanted: Sequence[str], asked: Asked) -> Verdict:
    """The phase; each wanted extract's name, state and oldest success; the time as of which the data are good."""
    extracts = tuple(_extract(name, [row for row in rows if row["extract"] == name], asked) for name in wanted)
    current = [success for _, state, success in extracts if state == "current"]
    if any(state == "in_progress" for _, state, _ in extracts):
        phase = "in_progress"
    else:
        phase = "complete" if current else "failed"
    return phase, extracts, min((success for success in current if success), default=None)


def _extract(name: str, rows: Sequence[Mapping[str, Any]], asked: Asked) -> tuple[str, str, int | None]:
    successes = [row["lastSuccessfulCompleted"] for row in rows]
    oldest = min(successes) if successes and None not in successes else None
    if not rows or any(_runs(row) or not asked.counts(_ended(row)) for row in rows):
        return name, "in_progress", oldest
    return name, "failed" if any(_went_wrong(row) for row in rows) else "current", oldest


def _is_error(row: Mapping[str, Any]) -> bool:
    return str(row["loadStatus"]).strip().lower() == "error"


def _runs(row: Mapping[str, Any]) -> bool:
    if row["lastRequested"] is None:
        return True
    if row["lastCompleted"] is None:
        return not _is_error(row)
    return bool(row["lastCompleted"] < row["lastRequested"])


def _went_wrong(row: Mapping[str, Any]) -> bool:
    return _is_error(row) or (row["lastSuccessfulCompleted"] or NEVER) < (row["lastCompleted"] or NEVER)


def _ended(row: Mapping[str, Any]) -> float:
    """When the load that is judged ended: an error that never completed, when it was requested."""
    if _went_wrong(row):
        return float(row["lastCompleted"] or row["lastRequested"])
    return float(row["lastSuccessfulCompleted"])
