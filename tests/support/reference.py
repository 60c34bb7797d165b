"""A reference model of one patient's lifecycle, from the design (the states, rules R1 to R4 and R6) and `Policy` alone.

It knows no table, no record, no flow and no store: one clock, a few plain fields, and what each verb does to them.
"""

from dataclasses import dataclass

from phr_refresh.statemachine.policy import Policy, milliseconds

#: So long a worker may be late that holds a refresh back: the patient's status goes on to wait for it.
WAKING = 5_000
#: Kind, reason, and when to come back: what is compared of a receipt.
Said = tuple[str, str | None, int | None]


@dataclass(frozen=True)
class Script:
    """What the upstream answers to the calls of one verb, and how many milliseconds each of them takes."""

    session_life: int | None = 900_000  # None: no session is given
    kick_off: str = "accepted"  # or rejected, lost, never_sent; "dies": our process does, when it was sent
    status: str = "complete"  # or in_progress, failed, not_asked
    retry_after: int | None = None  # seconds, beside "not_asked" and what finds no room
    takes: int = 0
    has_room: bool = True  # for sessions and kick-offs; else neither leaves our side


class Model:
    """One patient. `opened`, `kicked_off` and `asked` count the calls that reached the upstream."""

    def __init__(self, policy: Policy, now: int) -> None:
        self.policy, self.now = policy, now
        self.opened = self.kicked_off = self.asked = 0
        self.forget()

    def forget(self) -> None:
        self.state, self.outcome = "no_session", None  # of the last refresh: None until it is known
        self.session_until = self.claimed_at = self.deadline_at = self.opens_at = self.next_poll_at = 0
        self.session_failed, self.failures, self.retry_at = False, 0, 0
        self.deferred_since = 0

    def wait(self, duration: int) -> None:
        self.now += duration
        if self.state == "session_created" and self.now >= self.session_until:
            self.state = "no_session"
        if self.state == "refreshing" and self.now >= self.deadline_at:
            self.state, self.outcome = "stale", "timed_out"
        if self.state == "complete" and self.now >= self.opens_at:
            self.state = "stale"

    def standing(self) -> Said | None:
        if self.state == "refreshing":
            return "joined", None, None
        if self.state == "complete":
            return "fresh", None, self.opens_at
        if self.state != "no_session" and self.now < self.opens_at:
            return "deferred", "window_closed", self.opens_at
        why = "upstream_overloaded" if self.deferred_since else "backoff"
        return ("deferred", why, self.retry_at) if self.now < self.retry_at else None

    def login(self) -> Said:
        kind, *rest = self.standing() or ("handed_over", None, None)
        return ("in_progress" if kind == "joined" else kind, *rest)

    def refresh(self, script: Script) -> Said | None:
        standing = self.standing()
        if standing is None and self.now >= self.session_until:
            if not self.open(script, wants_refresh=True):
                return "deferred", reason_of(script), self.retry_at
            standing = self.standing()  # the session resumes where this window stands
        return standing or self.kick_off(script)

    def session(self, script: Script) -> bool:
        if self.now < self.session_until:
            return True
        return not (self.session_failed and self.now < self.retry_at) and self.open(script)

    def open(self, script: Script, *, wants_refresh: bool = False) -> bool:
        self.opened += 1
        self.wait(script.takes)
        if not script.has_room:
            self.hold_back(script, wants=wants_refresh or self.deferred_since > 0)
            self.session_failed = True
            return False
        if not script.session_life:
            self.back_off()
            self.session_failed = True
            return False
        self.session_until = self.now + script.session_life
        if self.session_failed:
            self.session_failed, self.failures, self.retry_at = False, 0, 0
        if self.state in ("no_session", "stale"):
            if self.now >= self.opens_at:
                self.state = "session_created"
            elif self.outcome is None and self.now < self.deadline_at:
                self.state = "refreshing"
            else:
                self.outcome = self.outcome or "timed_out"
                self.state = "complete" if self.outcome == "complete" else "stale"
        return True

    def back_off(self) -> None:
        forgotten = self.now > self.retry_at + milliseconds(self.policy.retry_backoff_max)
        self.failures = 1 if forgotten else self.failures + 1
        self.retry_at = self.now + self.policy.backoff_after(self.failures)
        self.deferred_since = 0

    def hold_back(self, script: Script, *, wants: bool) -> None:
        since, longest = self.deferred_since or self.now, milliseconds(self.policy.refresh_window)
        self.deferred_since = since if wants and self.now - since < longest else 0
        asked = milliseconds(self.policy.retry_backoff) if script.retry_after is None else script.retry_after * 1000
        self.retry_at = self.now + min(asked, milliseconds(self.policy.retry_backoff_max))

    def is_held_back(self) -> bool:
        return self.state != "refreshing" and self.deferred_since > 0 and self.now < self.retry_at + WAKING

    def kick_off(self, script: Script) -> Said | None:
        window, margin = milliseconds(self.policy.refresh_window), milliseconds(self.policy.unanswered_margin)
        self.state, self.outcome, self.claimed_at = "refreshing", None, self.now
        self.deadline_at = self.now + milliseconds(self.policy.refresh_deadline)
        self.kicked_off += 1
        self.next_poll_at = self.now + milliseconds(self.policy.poll_interval)
        self.opens_at = self.now + window + margin
        self.wait(script.takes)
        if not script.has_room:
            self.state, self.outcome, self.opens_at = "stale", "upstream_overloaded", self.now
            self.hold_back(script, wants=True)
            return "deferred", "upstream_overloaded", self.retry_at
        if script.kick_off == "dies":
            return None  # whether it arrived, nobody knows: as if its answer had been lost, but for the time of that
        self.next_poll_at = self.now + milliseconds(self.policy.poll_interval)
        self.opens_at = max(self.opens_at, self.now + window) if script.kick_off == "lost" else self.now + window
        self.deferred_since = 0
        if script.kick_off in ("accepted", "lost"):
            return "started", None, None
        self.state, self.outcome = "stale", script.kick_off
        if script.kick_off == "never_sent":
            self.opens_at = self.now
            self.back_off()
            return "deferred", "never_sent", self.retry_at
        self.failures = self.retry_at = 0
        return "deferred", "http_503", self.opens_at

    def is_awaited(self) -> bool:
        return self.outcome in (None, "timed_out") and self.now < self.opens_at

    def status(self, script: Script) -> None:
        if not self.is_awaited() or self.now < self.next_poll_at:
            return
        self.asked += 1
        late, running = milliseconds(self.policy.late_poll_interval), self.now - self.claimed_at
        interval = late if self.now >= self.deadline_at else self.policy.poll_interval_after(running)
        self.next_poll_at = self.now + interval
        self.wait(script.takes)
        if script.status == "not_asked":
            pause = min((script.retry_after or 0) * 1000, milliseconds(self.policy.poll_interval_max))
            self.next_poll_at = max(self.next_poll_at, self.now + pause)
        may_end = self.is_awaited() and (self.state != "stale" or script.status == "complete")
        if script.status in ("complete", "failed") and may_end:
            self.outcome, self.deferred_since = script.status, 0
            if not self.session_failed:
                self.failures = self.retry_at = 0
            if self.state != "no_session":
                self.state = "complete" if script.status == "complete" else "stale"

    def logout(self) -> None:
        self.state, self.session_until = "no_session", 0
        if self.deferred_since:
            self.deferred_since = self.retry_at = 0


def reason_of(script: Script) -> str:
    """Why there is no session: there was no room, the upstream said no, or gave a token that was over."""
    if not script.has_room:
        return "upstream_overloaded"
    return "http_500" if script.session_life is None else "token_expired"
