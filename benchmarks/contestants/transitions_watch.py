"""`transitions` with a Machine per user, its record changed under `WATCH` / `MULTI`.

The same promises as ours where they come cheap: one claim on the session, one kick-off per window, optimistic commits.
Not given: the store's clock (each host's own is used), retries, lost answers, deadlines.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import redis
from transitions import Machine

from ..place import SESSION_SECONDS, WINDOW_SECONDS, Place
from ..record import PlainRecord, from_bytes

_KEEP = WINDOW_SECONDS + 86_400
_CLAIM_SECONDS = 40
_WAIT_SECONDS = 0.1
_STATES = ["no_session", "session_created", "refreshing", "complete", "stale"]
_TRANSITIONS: list[Any] = [
    {"trigger": "open_session", "source": ["no_session", "stale"], "dest": "session_created"},
    {"trigger": "claim_refresh", "source": ["session_created", "stale"], "dest": "refreshing", "conditions": "is_open"},
    {"trigger": "accept", "source": "refreshing", "dest": None, "after": "note_accepted"},
    {"trigger": "complete", "source": "refreshing", "dest": "complete", "after": "note_complete"},
    {"trigger": "end_session", "source": "*", "dest": "no_session", "after": "drop_session"},
]


class PatientRefresh:
    """One patient's machine, for one change."""

    state: str
    open_session: Callable[[], bool]
    claim_refresh: Callable[[], bool]
    accept: Callable[[], bool]
    complete: Callable[[], bool]
    end_session: Callable[[], bool]

    def __init__(self, record: PlainRecord) -> None:
        self.record = record
        self.now = time.time()
        Machine(self, states=_STATES, transitions=_TRANSITIONS, initial=record.state, auto_transitions=False)

    def is_open(self) -> bool:
        """Whether the window is."""
        return self.now >= self.record.window_opens_at

    def note_accepted(self) -> None:
        """The kick-off was accepted."""
        self.record = replace(self.record, accepted=True)

    def note_complete(self) -> None:
        """The refresh has ended."""
        self.record = replace(self.record, as_of=round(self.now, 3))

    def drop_session(self) -> None:
        """The session is over; the window stays."""
        self.record = replace(self.record, session_expires_at=0.0)

    def saved(self) -> PlainRecord:
        """What to store."""
        return replace(self.record, state=self.state)


class TransitionsWatch:
    """Optimistic changes of one key per patient."""

    def __init__(self, place: Place) -> None:
        self._upstream = place.upstream
        self._redis = redis.Redis.from_url(place.url, protocol=2)

    def login(self, user: str) -> None:
        """Claim the session, open it, claim the kick-off, send it, record it."""
        while (record := self._load(user)).state not in ("refreshing", "complete"):
            if record.opening_until > time.time():
                time.sleep(_WAIT_SECONDS)
            elif self._change(user, _claim_session):
                token = self._upstream.open_session()
                opened = self._change(user, _open_and_claim, token=token)
                if opened and opened.state == "refreshing":
                    self._upstream.start_refresh()
                    self._change(user, lambda machine: machine.accept())
                return

    def status(self, user: str) -> str:
        """One `GET`."""
        return self._load(user).state

    def finish(self, user: str) -> None:
        """Ask, and record the end."""
        if self._upstream.ask_status():
            self._change(user, lambda machine: machine.complete())

    def logout(self, user: str) -> None:
        """Drop the session; the window stays."""
        self._change(user, lambda machine: machine.end_session(), token="")

    def _load(self, user: str) -> PlainRecord:
        return from_bytes(self._redis.get(f"watch:{user}"))

    def _change(
        self, user: str, step: Callable[[PatientRefresh], bool], *, token: str | None = None
    ) -> PatientRefresh | None:
        """Take `step` on the record as it stands when it is stored; the machine after it, None if it was not taken."""
        key = f"watch:{user}"
        with self._redis.pipeline() as pipe:
            while True:
                pipe.watch(key)  # type: ignore[no-untyped-call]
                machine = PatientRefresh(from_bytes(pipe.get(key)))
                if not step(machine):
                    return None
                pipe.multi()
                pipe.set(key, machine.saved().to_bytes(), ex=_KEEP)
                if token:
                    pipe.set(f"watch:token:{user}", token, ex=SESSION_SECONDS)
                elif token is not None:
                    pipe.delete(f"watch:token:{user}")
                try:
                    pipe.execute()
                except redis.WatchError:
                    continue
                return machine

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


def _claim_session(machine: PatientRefresh) -> bool:
    if machine.record.opening_until > machine.now or machine.state in ("refreshing", "complete"):
        return False
    machine.record = replace(machine.record, opening_until=round(machine.now + _CLAIM_SECONDS, 3))
    return True


def _open_and_claim(machine: PatientRefresh) -> bool:
    machine.open_session()
    expires_at = round(machine.now + SESSION_SECONDS, 3)
    machine.record = replace(machine.record, opening_until=0.0, session_expires_at=expires_at)
    if machine.claim_refresh():
        opens_at = round(machine.now + WINDOW_SECONDS, 3)
        machine.record = replace(machine.record, refresh_id=uuid4().hex[:11], window_opens_at=opens_at, accepted=False)
    return True


def open_transitions(place: Place) -> TransitionsWatch:
    """`transitions` under `WATCH`."""
    return TransitionsWatch(place)
