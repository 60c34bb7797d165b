"""Durations and rules, in one frozen value."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final
from zlib import crc32

from .errors import ConfigurationError
from .values import Value

#: A point in time: milliseconds since 1970-01-01T00:00Z, read from the store's clock.
Instant = int
_NUMBERS: Final[dict[str, tuple[type, ...]]] = {
    **dict.fromkeys(("poll_growth", "retry_jitter"), (int, float)),
    **dict.fromkeys(("retry_limit", "claim_replicas"), (int,)),
}
#: The fields of `Policy` that are no durations.
NO_DURATIONS: Final = (*_NUMBERS, "poll_schedule", "ms")
_MILLISECOND = timedelta(milliseconds=1)
_TOO_MUCH = 1_000_000
_LONGEST = timedelta(days=366)
_SHORTEST_DECISION = timedelta(milliseconds=100)


def milliseconds(duration: timedelta) -> int:
    """The whole milliseconds in `duration`.

    >>> milliseconds(timedelta(seconds=1.5))
    1500
    """
    return duration // _MILLISECOND


def as_datetime(instant: Instant) -> datetime:
    """`instant` as an aware UTC datetime.

    >>> as_datetime(1_500).isoformat()
    '1970-01-01T00:00:01.500000+00:00'
    """
    return datetime.fromtimestamp(instant / 1000, UTC)


class Milliseconds(Value, frozen=True):
    """The durations of a policy in whole milliseconds, computed once."""

    refresh_window: int = 0
    unanswered_margin: int = 0
    refresh_deadline: int = 0
    poll_interval: int = 0
    poll_interval_max: int = 0
    late_poll_interval: int = 0
    session_claim: int = 0
    session_wait_interval: int = 0
    session_wait: int = 0
    retry_backoff: int = 0
    retry_backoff_max: int = 0
    claim_replicas_wait: int = 0
    decision_age: int = 0
    retention: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How often, how long, how patient. All durations are positive; a wrong one raises `ConfigurationError`.

    Every process that shares a store should use the same policy. Times that follow from it are computed when they
    are stored, so that a changed policy holds from each patient's next refresh on.
    """

    #: At most one kick-off per patient in this time (rule R1; "any given 60-minute period" in the source document).
    refresh_window: timedelta = timedelta(minutes=60)
    #: The window counts from the answer to the kick-off. Where there is none, because the process died, it counts from
    #: the claim, and this is added: by then the call has arrived if it ever will. Longer than a call can take, and
    #: twice `decision_age`.
    unanswered_margin: timedelta = timedelta(seconds=60)
    #: A refresh that has not ended by then counts as timed out. The portal promises up to 2 minutes for a first one.
    refresh_deadline: timedelta = timedelta(minutes=5)
    #: The login hook never takes longer than this (rule R5).
    login_budget: timedelta = timedelta(milliseconds=50)

    #: The first status call comes this long after the kick-off, and no two are ever closer (rule R6).
    poll_interval: timedelta = timedelta(seconds=1)
    #: Each second that a refresh has been running makes the interval this much longer (0.05: 5 % per poll).
    poll_growth: float = 0.05
    #: ... up to this.
    poll_interval_max: timedelta = timedelta(seconds=30)
    #: When status calls come, counted from the claim; behind the last of them the intervals above hold, and their
    #: shortest and longest always. The default fits the durations that were recorded of the real upstream (4.1 to 6.3
    #: s): 1.4 calls per refresh at a mean lag of 0.44 s, where a call every second takes 5.3 at 0.54 s. (): none.
    poll_schedule: tuple[timedelta, ...] = (timedelta(seconds=4.7),)
    #: How often a refresh that timed out is still asked about, when somebody reads its status.
    late_poll_interval: timedelta = timedelta(seconds=30)

    #: Longer than a session call can take, or R2 is at risk: the claim on creating a session lapses by itself after
    #: this, and after the two `decision_age` by which claim and call may be late.
    session_claim: timedelta = timedelta(seconds=40)
    #: How often, and how long at most, a caller waits for a session that somebody else is creating.
    session_wait_interval: timedelta = timedelta(milliseconds=100)
    #: With the default, longer than the claim of a creator that died.
    session_wait: timedelta = timedelta(seconds=60)

    #: Pause before a failed session call, or a kick-off that never left, is tried again. It doubles each time.
    retry_backoff: timedelta = timedelta(seconds=2)
    retry_backoff_max: timedelta = timedelta(minutes=5)
    #: Each of these pauses is longer by up to so much of itself (0.5: half), evenly spread over patients, so that those
    #: whom the same outage turned away do not come back as a herd.
    retry_jitter: float = 0.5
    #: After so many failures in a row nothing is tried on its own; the next login starts anew.
    retry_limit: int = 5

    #: On so many replicas of the store the claim on a kick-off must be before the kick-off is sent: then a failover to
    #: one of them cannot cost a second one. 0: it is sent once the store has acknowledged the claim.
    claim_replicas: int = 0
    #: How long that is waited for. A claim that is not replicated by then is given back, and nothing is sent.
    claim_replicas_wait: timedelta = timedelta(milliseconds=500)

    #: A decision older than this is not committed, a claimed call older than this is not sent:
    #: what a process did before it was paused is no longer true when it wakes up.
    decision_age: timedelta = timedelta(seconds=5)
    #: A record is kept this long after its window and its session have ended; then the store forgets the patient.
    retention: timedelta = timedelta(hours=24)

    ms: Milliseconds = field(default=Milliseconds(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        durations = {}
        for name, value in asdict(self).items():
            if name in _NUMBERS:
                self._check_number(name, value, _NUMBERS[name])
            elif name not in NO_DURATIONS:
                self._check_positive(name, value)
                durations[name] = milliseconds(value)
        durations.pop("login_budget")
        object.__setattr__(self, "ms", Milliseconds(**durations))
        self._check_polling()
        if self.claim_replicas and self.claim_replicas_wait >= self.decision_age:
            raise ConfigurationError(
                "Policy.claim_replicas_wait", "it is not shorter than decision_age", "give a shorter one"
            )
        if self.decision_age < _SHORTEST_DECISION:
            raise ConfigurationError(
                "Policy.decision_age", "a round trip to the store may take longer", "give at least 100 ms"
            )
        if self.refresh_deadline > self.refresh_window:
            raise ConfigurationError(
                "Policy.refresh_deadline", "it is longer than refresh_window", "give a shorter one"
            )

    def _check_polling(self) -> None:
        times = self.poll_schedule
        fits = isinstance(times, tuple) and all(isinstance(time, timedelta) for time in times)
        if not fits or not all(earlier < later for earlier, later in pairwise((timedelta(), *times))):
            raise ConfigurationError(
                "Policy.poll_schedule",
                "it is not a tuple of rising timedeltas above 0",
                "give the time from the claim until each status call, or ()",
            )

    @staticmethod
    def _check_number(name: str, value: float, types: tuple[type, ...]) -> None:
        if not isinstance(value, types) or isinstance(value, bool):
            raise ConfigurationError(f"Policy.{name}", "it is not a number of the right kind", "give 0 or more")
        if value < 0:
            raise ConfigurationError(f"Policy.{name}", "it is negative", "give 0 or more")
        if not value < _TOO_MUCH:
            raise ConfigurationError(f"Policy.{name}", "it is not a finite number", "give 0 or more")

    @staticmethod
    def _check_positive(name: str, value: object) -> None:
        if not isinstance(value, timedelta):
            raise ConfigurationError(f"Policy.{name}", "it is not a timedelta", "give a datetime.timedelta")
        if milliseconds(value) <= 0:
            raise ConfigurationError(f"Policy.{name}", "it is not a positive duration", "give at least 1 millisecond")
        if value > _LONGEST:
            raise ConfigurationError(f"Policy.{name}", "it is longer than a year", "give a shorter one")

    def poll_interval_after(self, running: int) -> int:
        """Milliseconds until the next status call of a refresh that has been running for `running` milliseconds.

        A poll every second with each interval 5 % longer is, without counting polls, one second plus
        5 % of the time already spent. A schedule says otherwise, up to its last call.

        >>> [Policy().poll_interval_after(running) for running in (0, 4000, 4700, 60_000)]
        [4700, 1000, 1235, 4000]
        >>> Policy(poll_schedule=()).poll_interval_after(0)
        1000
        """
        running, shortest = max(running, 0), self.ms.poll_interval
        ahead = next((at for time in self.poll_schedule if (at := milliseconds(time)) > running), None)
        wanted = max(ahead - running, shortest) if ahead is not None else shortest + int(running * self.poll_growth)
        return min(wanted, max(self.ms.poll_interval_max, shortest))

    def backoff_after(self, failures: int) -> int:
        """Milliseconds to wait after `failures` failures in a row (at least one).

        >>> [Policy().backoff_after(n) for n in (1, 2, 3, 20)]
        [2000, 4000, 8000, 300000]
        """
        return min(self.ms.retry_backoff << min(failures - 1, 20), self.ms.retry_backoff_max)

    def spread(self, pause: int, lot: str) -> int:
        """`pause` with its jitter: always the same for the same `lot`, an id, and spread evenly over many.

        >>> Policy().spread(2000, "a"), Policy().spread(2000, "b"), Policy(retry_jitter=0).spread(2000, "a")
        (2909, 2444, 2000)
        """
        return pause + int(pause * self.retry_jitter * crc32(lot.encode()) / (1 << 32))

    def deferral_after(self, retry_after: float | None, lot: str) -> int:
        """Milliseconds after which a call is tried again that found no room at the upstream; `retry_after` in seconds.

        >>> Policy(retry_jitter=0).deferral_after(30, "a"), Policy(retry_jitter=0).deferral_after(None, "a")
        (30000, 2000)
        """
        asked = self.ms.retry_backoff if retry_after is None else int(retry_after * 1000)
        return self.spread(min(max(asked, 0), self.ms.retry_backoff_max), lot)
